"""The byte tokenizer as AutoTokenizer sees it: the ids of `Vocabulary`, and any text there and back."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tinywave_core.errors import TokenError
from tinywave_core.tokenizers.text import write_tokenizer
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, Vocabulary

VOCABULARY = Vocabulary(text=BYTE_TEXT, hubert=100, pitch=32, style=16)
quick = settings(max_examples=60)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(VOCABULARY, folder)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_prompt_has_bos_and_no_word_boundary(tokenizer: PreTrainedTokenizerFast) -> None:
    pitch = VOCABULARY.first["pitch"]
    assert tokenizer("[Speech][Hu3][Pi1]").input_ids == [1, 260, 264, pitch + 1]
    assert len(tokenizer) == VOCABULARY.tokens


@quick
@given(ids=st.lists(st.integers(BYTE_TEXT, VOCABULARY.tokens - 1), max_size=50))
def test_unit_ids_are_those_of_the_vocabulary_both_ways(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> None:
    string = VOCABULARY.decode(ids)
    assert tokenizer(string).input_ids == [1, *ids]
    assert tokenizer.decode(ids) == string


@quick
@given(text=st.text(max_size=40).filter(lambda t: "<" not in t and "[" not in t))
def test_text_is_its_utf8_bytes_and_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text).input_ids
    assert ids == [1, *(byte + 3 for byte in text.encode())]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_text_and_speech_mix(tokenizer: PreTrainedTokenizerFast) -> None:
    mixed = "[Text]Grüße, 世界[Speech][Hu99][St15]"
    assert tokenizer.decode(tokenizer(mixed).input_ids, skip_special_tokens=True) == mixed


def test_files_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in "ab":
        write_tokenizer(VOCABULARY, tmp_path / name)
    names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert json.loads((tmp_path / "a" / names[0]).read_text())["model"]["byte_fallback"] is True


def test_other_text_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="32000 text pieces"):
        write_tokenizer(Vocabulary(text=32_000, hubert=501), tmp_path)
