"""Ids are the contract: llama.cpp's own tokenizer on our files, beside the tokenizers that made the shards."""

import json
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.fixtures.gguf_model import VOCABULARY, write_model
from tests.fixtures.text_models import cut_as, write_text_model
from tinywave_core.errors import CheckpointError
from tinywave_core.exporters.gguf_tokens import pieces_of
from tinywave_core.tokenizers.directory import copy_tokenizer, read_directory, write_speech_tokenizer
from tinywave_core.tokenizers.enlarged import read_text_part, write_enlarged_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

SPEECH = ("[Speech][Hu1]", "[Speech][Hu29][Hu0][Hu29]", "[Hu3]", "[Speech][St3][Pi5][Hu0][Pi0][Hu1]")
TEXT = (
    "[Text]The cat",
    "[Text] The  cat sat.\n",
    "[Text]So[Speech][Hu1][Hu2][Text]and [Hu3]",
    "[Text]Grüße, 世界 🙂",
    "no marker",
)


def llama_cpp(path: Path) -> Callable[[str], list[int]]:
    """llama.cpp's tokenizer of a file: the server inside has a page for it, on this machine alone."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_gpu_layers, params.verbosity = str(path), 64, 0, 0
    params.n_parallel = params.cpuparams.n_threads = 1
    params.warmup, key = False, os.urandom(8).hex()
    params.api_keys = [key]
    server = xllamacpp.Server(params)
    server.handle_completions({"prompt": [1], "n_predict": 0})  # it has begun

    def tokenize(text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": True, "parse_special": True}).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["tokens"]

    return tokenize


@pytest.fixture(scope="module")
def of_bytes(gguf_folder: Path) -> Callable[[str], list[int]]:
    return llama_cpp(gguf_folder / "tiny-q8_0.gguf")


@pytest.mark.parametrize("text", SPEECH + TEXT)
def test_bytes_and_units_have_the_ids_of_auto_tokenizer(text: str, of_bytes, gguf_folder: Path):
    assert of_bytes(text) == AutoTokenizer.from_pretrained(gguf_folder, local_files_only=True)(text)["input_ids"]


# Without text --------------------------------------------------------------------------------------------------------

SLOW = Vocabulary(text=400, hubert=30, pitch=6, style=4, padded=512, boundary=371)


@pytest.mark.parametrize(("whole", "prefix"), [(VOCABULARY, ""), (SLOW, " ")], ids=["fast", "slow"])
def test_a_vocabulary_without_text_has_the_same_ids_of_units(whole: Vocabulary, prefix: str, tmp_path: Path):
    vocabulary = whole.speech_only()
    write_model(tmp_path, vocabulary, ("q4_0",))
    write_speech_tokenizer(tmp_path, vocabulary)
    ours, theirs = (
        AutoTokenizer.from_pretrained(tmp_path, local_files_only=True),
        llama_cpp(tmp_path / "tiny-q4_0.gguf"),
    )
    for text in SPEECH:
        assert theirs(prefix + text) == ours(text)["input_ids"]
    if prefix:  # <s> ▁ [Speech]: the lone word boundary
        assert theirs(" [Speech]") == [1, 3, vocabulary.speech_marker]
    assert theirs("text is left out[Hu1]")[-1] == ours("text is <unk>[Hu1]")["input_ids"][-1]


# SpiritLM's sentencepiece --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["slow", "fast"])
def spiritlm(request: pytest.FixtureRequest, small_release: Path, tmp_path_factory: pytest.TempPathFactory):
    """(convention, folder of a model with a release's tokenizer.model, llama.cpp's tokenizer of it)."""
    source = small_release / "spiritlm_model" / "spirit-lm-expressive-7b"
    vocabulary = read_directory(source, request.param)
    folder = tmp_path_factory.mktemp("spiritlm")
    copy_tokenizer(source, folder, vocabulary)
    write_model(folder, vocabulary, ("q8_0",))
    return request.param, folder, llama_cpp(folder / "tiny-q8_0.gguf")


@pytest.mark.parametrize("text", SPEECH + TEXT)
def test_spiritlms_ids_come_out_of_llama_cpp(text: str, spiritlm):
    """Slow: with one space before the prompt, which stands for the word boundary there; fast: as it is."""
    convention, folder, theirs = spiritlm
    ours = AutoTokenizer.from_pretrained(folder, local_files_only=True)(text)["input_ids"]
    assert theirs(" " + text if convention == "slow" else text) == ours


def test_without_the_space_a_slow_prompt_lacks_its_boundary(spiritlm):
    convention, folder, theirs = spiritlm
    if convention == "slow":
        ours = AutoTokenizer.from_pretrained(folder, local_files_only=True)("[Speech][Hu1]")["input_ids"]
        assert theirs("[Speech][Hu1]") == [ours[0], *ours[2:]] and ours[1] == read_directory(folder).boundary


# Byte-level pairs of a text model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fewer", [0, 20])
@pytest.mark.parametrize("rule", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_ids_of_an_enlarged_text_model_come_out_of_llama_cpp(rule: str, fewer: int, tmp_path: Path):
    source = write_text_model(tmp_path / "lm")
    file = source / "tokenizer.json"
    file.write_text(json.dumps(cut_as(rule, json.loads(file.read_text()))))
    vocabulary = Vocabulary(text=len(read_text_part(source).names) - fewer, hubert=30, pitch=6, style=4)
    write_enlarged_tokenizer(source, tmp_path, vocabulary)
    write_model(tmp_path, vocabulary, ("q8_0",))
    ours, theirs = (
        AutoTokenizer.from_pretrained(tmp_path, local_files_only=True),
        llama_cpp(tmp_path / "tiny-q8_0.gguf"),
    )
    for text in (*SPEECH, *TEXT, "[Text]the cat sat on 1234 mats", "THE CAT'S he'LL  it\n\n  go!?\n"):
        assert theirs(text) == ours(text)["input_ids"]


def test_text_without_scores_is_refused(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no tokenizer.model, and its 400 text pieces are no bytes"):
        pieces_of(tmp_path, Vocabulary(text=400, hubert=30))
