"""What plain transformers loads of an export: config.json, generation_config.json and processor_config.json are written, and the
directory is checked."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PretrainedConfig

from tinywave_core.exporters.weights import Weights
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.tokenizers.text import SPECIALS
from tinywave_core.tokenizers.vocabulary import Vocabulary

PAD_ID = 0
"""<unk>, which no recording has: Llama's vocabulary has no token for padding alone."""

PROCESSOR = "processor_config.json"


def processor_config() -> dict[str, Any]:
    """The class by which AutoProcessor opens an export, once tinywave/transformers.py was imported."""
    return {"processor_class": "TinyWaveProcessor", "sampling_rate": SAMPLE_RATE}


def write_processor_config(folder: Path) -> None:
    """processor_config.json."""
    (folder / PROCESSOR).write_text(json.dumps(processor_config(), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_config(
    student: Path, folder: Path, vocabulary: Vocabulary, dtype: torch.dtype, *, temperature: float, top_p: float
) -> PretrainedConfig:
    """config.json and generation_config.json, with the sampling that the pipeline used."""
    shape = AutoConfig.from_pretrained(student, local_files_only=True, trust_remote_code=False)
    shape.vocab_size, shape.dtype = vocabulary.rows, dtype
    shape.save_pretrained(folder)
    generation = GenerationConfig.from_pretrained(student, local_files_only=True)
    generation.do_sample, generation.pad_token_id = True, PAD_ID
    generation.temperature, generation.top_p = temperature, top_p
    generation.save_pretrained(folder)
    return shape


def pad_on_the_left(folder: Path) -> None:
    """Let the tokenizer of an export pad batches as a model that continues them needs it; a tokenizer whose first token is another than
    <unk> keeps the token that it pads with, if it has one."""
    unknown = SPECIALS["unk_token"]
    has_unknown = Tokenizer.from_file(str(folder / "tokenizer.json")).id_to_token(PAD_ID) == unknown
    pad = {"pad_token": unknown} if has_unknown else {}
    for name, added in (
        ("tokenizer_config.json", {**pad, "padding_side": "left"}),
        ("special_tokens_map.json", pad),
    ):
        if (path := folder / name).is_file():
            settings = json.loads(path.read_text(encoding="utf-8")) | added
            path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_export(folder: Path, vocabulary: Vocabulary, prompts: Iterable[tuple[str, list[int]]]) -> int:
    """AutoTokenizer gives the golden ids, and the weights are those of the model that config.json tells; its parameters."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for string, expected_ids in prompts:
        ids = tokenizer(string)["input_ids"]
        assert ids == expected_ids, f"the exported tokenizer gives {ids} for {string}, expected {expected_ids}"
    with torch.device("meta"):  # the weights of a large model would not fit twice
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        )
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id in (PAD_ID, None)
    weights = Weights(folder)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}  # tied weights once
    assert {name: weights.shape(name) for name in weights.names()} == expected
    assert model.config.vocab_size == vocabulary.rows
    return sum(p.numel() for p in model.parameters())
