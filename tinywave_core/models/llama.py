"""Decoders: a fresh Llama, a model from a directory, or a student made of chosen blocks of a teacher.

A directory may hold a Llama, as SpiritLM and its students are, or another of models/parts.py.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PretrainedConfig, PreTrainedModel

from tinywave_core.checkpoints.architectures import block_prefix, require_architecture
from tinywave_core.checkpoints.bounds import check_directory
from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.teacher.layer_map import LayerMap
from tinywave_core.tokenizers.vocabulary import BOS_ID, EOS_ID

# transformers builds models under process-wide switches (meta tensors, no initialisation), and the seed is the process's
# too: of two shards' threads that loaded a teacher at once, one got a model without weights.
_building = threading.Lock()


def on_device(model: LlamaForCausalLM, device: torch.device) -> LlamaForCausalLM:
    """`model.to(device)`; transformers decorates that method in a way that hides its arguments from type checkers."""
    torch.nn.Module.to(model, device)
    return model


def fresh_llama(shape: FreshTeacherConfig, vocabulary_rows: int, max_length: int, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights drawn from `seed`."""
    config = LlamaConfig(
        vocab_size=vocabulary_rows,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=max_length,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=False,
        initializer_range=shape.width**-0.5,  # 0.02 suits a width of 2,500; small models learn much slower with it
    )
    with _building, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def load_llama(folder: Path, *, dtype: torch.dtype | Literal["auto"] = torch.float32) -> LlamaForCausalLM:
    """A LlamaForCausalLM from a directory in Hugging Face layout; weights only, nothing is unpickled or fetched.

    `auto` keeps the type of the stored weights.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json; expected the directory of a causal language model in Hugging Face layout "
            "(config.json and model.safetensors, or shards with an index)"
        )
    require_architecture(read_config(folder / "config.json"), folder)
    check_directory(folder, "Llama checkpoint")
    try:
        with _building:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                weights_only=True,
                output_loading_info=True,
            )
            model, about = loaded
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as a Llama checkpoint: {error}") from error
    # transformers fills in random weights for what is missing and says so in a warning only.
    faults = {name: sorted(map(str, about[name])) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    wrong = [f"{name.replace('_', ' ')} such as {found[0]}" for name, found in faults.items() if found]
    if wrong:
        raise CheckpointError(f"{folder} does not have the weights that its config.json promises: {', '.join(wrong)}")
    return cast("LlamaForCausalLM", without_own_dropout(model))


def without_own_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """The model without the dropout that its config asks for: training has its own, drawn so that a resumed run draws the same."""
    for name in ("attention_dropout", "hidden_dropout", "dropout", "activation_dropout", "layerdrop"):
        if getattr(model.config, name, None):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def read_config(path: Path) -> dict[str, Any]:
    """A config.json; CheckpointError where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found.get("model_type")
        return cast("dict[str, Any]", found)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); expected the config.json of a Llama checkpoint: copy it again"
        ) from error


def student_from(teacher: LlamaForCausalLM, layers: LayerMap) -> LlamaForCausalLM:
    """A student with the teacher's embeddings, final norm, head and the copied blocks; tied where the teacher's are."""
    with _building, torch.random.fork_rng(devices=[]):
        student = type(teacher)(config_of_blocks(teacher.config, layers.copied))
    source, prefix = teacher.state_dict(), block_prefix(teacher.config.model_type)
    wanted = {}
    for name in student.state_dict():
        if name.startswith(prefix):
            block, _, rest = name.removeprefix(prefix).partition(".")
            wanted[name] = source[f"{prefix}{layers.copied[int(block)]}.{rest}"]
        else:
            wanted[name] = source[name]
    student.load_state_dict(wanted, strict=True)
    return cast("LlamaForCausalLM", without_own_dropout(student))


def config_of_blocks(config: PretrainedConfig, copied: Sequence[int]) -> Any:
    """The config of a model of some of the blocks."""
    values = config.to_dict()
    values["num_hidden_layers"] = len(copied)
    if values.get("layer_types"):  # one for each block, as Qwen's configs have them
        values["layer_types"] = [values["layer_types"][block] for block in copied]
    return type(config).from_dict(values)


def reset(model: LlamaForCausalLM, seed: int) -> None:
    """Random weights drawn from `seed`, as those of a fresh model of this shape."""
    model.config.initializer_range = model.config.hidden_size**-0.5
    with _building, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.load_state_dict(type(model)(model.config).state_dict())


def save_llama(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config.json, generation_config.json and safetensors."""
    model.save_pretrained(folder, safe_serialization=True)
