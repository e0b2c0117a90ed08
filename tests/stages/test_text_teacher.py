"""A text model as teacher, of grouped heads and tied embeddings as SmolLM's, with fewer tokens than it had: text beside speech through all
stages, to GGUF.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.fixtures.text_models import WORDS, text_tokenizer, write_text_model
from tests.fixtures.tiny import run_tiny, tiny_config
from tinywave_core.models.llama import load_llama
from tinywave_core.runtimes.llama_cpp import LlamaCppRuntime
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.shards import read_table
from tinywave_core.teacher.logit_cache import LogitCache
from tinywave_core.tokenizers.vocabulary import Vocabulary

KEPT = 280  # of 299, and with <unk>, <s> and </s>


@pytest.fixture(scope="module")
def outputs(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    folder = tmp_path_factory.mktemp("text_teacher")
    (folder / "words.txt").write_text("\n\n".join(f"{WORDS[:60]} number {n}." for n in range(20)))
    config = tiny_config(
        tiny_source,
        folder / "store",
        adaptation={"teacher": str(write_text_model(folder / "lm")), "most_text_tokens": KEPT},
        tokenization={"text": {"source": str(folder / "words.txt"), "share": 0.2}},
        export={"gguf": ("f16",)},
    )
    return run_tiny(config)[0]


def vocabulary_of(outputs: Outputs) -> Vocabulary:
    return Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])


def test_ids_of_text_and_units_are_those_of_the_enlarged_vocabulary(outputs: Outputs):
    text = text_tokenizer()
    vocabulary = vocabulary_of(outputs)
    assert (vocabulary.text, vocabulary.hubert) == (KEPT, 20) and text.get_vocab_size() + 3 > KEPT
    shard = next(s for s in outputs["tokens"].summary["shards"] if s["part"] == "text")
    ids = read_table(outputs["tokens"].store.find(shard["id"], "text").path("tokens.parquet"))["ids"].to_pylist()
    for row in ids:
        assert (row[:2], row[-1]) == ([1, vocabulary.text_marker], 2)
        assert text.decode([i - 3 for i in row[2:-1]]).startswith(WORDS[:60])


def test_heads_stay_grouped_and_embeddings_tied_from_teacher_to_export(outputs: Outputs):
    for part, place in (("teacher", "teacher"), ("student", "model"), ("model", "model")):
        model = load_llama(outputs[part].path(place))
        assert (model.config.num_key_value_heads, model.config.tie_word_embeddings) == (2, True)
        assert model.config.vocab_size == vocabulary_of(outputs).tokens


def test_the_cache_names_text_and_units(outputs: Outputs):
    shards = outputs["logits"].store.find_all(outputs["logits"].summary["shards"], "shard")
    found = LogitCache.of_shards(shards, {})
    ids = np.concatenate([found.read(np.array([place])).ids.ravel() for place in range(len(found))])
    text = vocabulary_of(outputs).text
    assert ids.min() < text <= ids.max() < vocabulary_of(outputs).tokens


def test_plain_transformers_reads_and_continues_text_and_speech(outputs: Outputs):
    folder = outputs["model"].path("model")
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    prompt = tokenizer("[Text]the cat[Speech][Hu1]", return_tensors="pt")
    made = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert made.shape[1] <= prompt["input_ids"].shape[1] + 5 and made[0, 0] == 1
    about = json.loads((folder / "speech.json").read_text())
    assert set(about["inputs"]) == {"speech", "text"}
    assert model.generation_config.eos_token_id == 2


def test_llama_cpp_gives_the_probabilities_of_transformers(outputs: Outputs):
    """To the rounding of activations to 16 bits: 0.02 nats, as in tests/core/runtimes."""
    folder = outputs["model"].path("model")
    ids = AutoTokenizer.from_pretrained(folder, local_files_only=True)("[Text]the cat[Speech][Hu1][Hu2]")["input_ids"]
    theirs = LlamaCppRuntime.open(folder, "f16", threads=1)
    found = theirs.logprobs(ids)
    theirs.close()
    with torch.no_grad():
        expected = load_llama(folder)(torch.tensor([ids])).logits[0, -1].log_softmax(-1).numpy()
    assert np.abs(found - expected).max() < 0.02
