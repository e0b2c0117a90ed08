"""Llama models: fresh, from a checkpoint directory, or a student made of chosen blocks of a teacher."""

import json
import threading
from pathlib import Path
from typing import Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
            f"{folder} has no config.json; expected the directory of a Llama checkpoint in Hugging Face layout "
            "(config.json and model.safetensors, or shards with an index)"
        )
    kind = _model_type(folder / "config.json")
    if kind != "llama":
        raise CheckpointError(
            f"{folder} is a model of type {kind!r}; expected 'llama', as SpiritLM and its students are"
        )
    check_directory(folder, "Llama checkpoint")
    try:
        with _building:
            model, about = LlamaForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                attn_implementation="sdpa",
                weights_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as a Llama checkpoint: {error}") from error
    # transformers fills in random weights for what is missing and says so in a warning only.
    faults = {name: sorted(map(str, about[name])) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    wrong = [f"{name.replace('_', ' ')} such as {found[0]}" for name, found in faults.items() if found]
    if wrong:
        raise CheckpointError(f"{folder} does not have the weights that its config.json promises: {', '.join(wrong)}")
    return model


def _model_type(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); expected the config.json of a Llama checkpoint: copy it again"
        ) from error


def student_from(teacher: LlamaForCausalLM, layers: LayerMap) -> LlamaForCausalLM:
    """A student with the teacher's embeddings, final norm, head and the copied blocks."""
    config = LlamaConfig.from_dict(teacher.config.to_dict())
    config.num_hidden_layers = len(layers.copied)
    with _building, torch.random.fork_rng(devices=[]):
        student = LlamaForCausalLM(config)
    source = teacher.state_dict()
    for block, copied in enumerate(layers.copied):
        _copy(source, f"model.layers.{copied}.", student.model.layers[block])
    _copy(source, "model.embed_tokens.", student.model.embed_tokens)
    _copy(source, "model.norm.", student.model.norm)
    _copy(source, "lm_head.", student.lm_head)
    return student


def reset(model: LlamaForCausalLM, seed: int) -> None:
    """Random weights drawn from `seed`, as those of a fresh model of this shape."""
    model.config.initializer_range = model.config.hidden_size**-0.5
    with _building, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.load_state_dict(LlamaForCausalLM(model.config).state_dict())


def _copy(source: dict[str, torch.Tensor], prefix: str, module: torch.nn.Module) -> None:
    module.load_state_dict({k.removeprefix(prefix): v for k, v in source.items() if k.startswith(prefix)}, strict=True)


def save_llama(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config.json, generation_config.json and safetensors."""
    model.save_pretrained(folder, safe_serialization=True)
