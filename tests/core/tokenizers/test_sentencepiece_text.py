"""tokenizer.json gives the slow LlamaTokenizer's ids: on the recorded texts, on every piece, on whatever hypothesis mixes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from tests.fixtures.release import FOLDER, PARTS, STRINGS
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers import sentencepiece_text
from tinywave_core.tokenizers.sentencepiece_text import read_vocabulary, write_release_tokenizer
from tinywave_core.tokenizers.speech import Streams, encode_utterance
from tinywave_core.tokenizers.vocabulary import Vocabulary

MODEL = FOLDER / "toy_tokenizer.model"
TOY = Vocabulary(text=600, hubert=501, pitch=64, style=100, padded=1280, boundary=521)
quick = settings(max_examples=150)

units = st.lists(st.sampled_from(TOY.names()), max_size=20).map("".join)
malformed = st.sampled_from(
    [
        "[Hu501]",
        "[Hu5",
        "[Hu05]",
        "[Hu",
        "[",
        "]",
        "[[",
        "[Text",
        "Hu5]",
        "[hu5]",
        "[Hu٣]",
        "[Pi64]",
        "[St100]",
        "[Hu5 ]",
    ]
)
texts = st.one_of(
    st.text(max_size=12),
    st.text(alphabet=" \n\t▁", max_size=6),
    st.sampled_from([" license", "The cat", "ations", "<0x41>", "<0x0A>", "the   GNU", "\r\n\n", "aaaaaaa", "----"]),
    st.sampled_from(
        ["Привет, мир", "世界 你好", "مرحبا", "नमस्ते", "ไทย", "한국어", "é ü ß", "🙂👩‍👩‍👧", "\x00", "\u200b"]
    ),
)
mixed = st.lists(st.one_of(units, malformed, texts), max_size=8).map("".join)
no_symbols = mixed.filter(lambda text: not any(symbol in text for symbol in ("<s>", "</s>", "<unk>")))


@pytest.fixture(scope="module")
def slow() -> LlamaTokenizer:
    return LlamaTokenizer(str(MODEL), legacy=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    source, folder = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("written")
    shutil.copyfile(MODEL, source / "tokenizer.model")
    write_release_tokenizer(source, folder)
    assert (folder / "tokenizer.model").read_bytes() == MODEL.read_bytes()
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize(("text", "ids"), PARTS["toy_tokenizer"])
def test_recorded_texts_have_the_recorded_ids(
    written: PreTrainedTokenizerFast, slow: LlamaTokenizer, text: str, ids: list[int]
) -> None:
    assert slow(text).input_ids == ids
    assert written(text).input_ids == ids


@quick
@given(mixed)
def test_ids_are_those_of_the_slow_tokenizer(written: PreTrainedTokenizerFast, slow: LlamaTokenizer, text: str) -> None:
    assert written(text).input_ids == slow(text).input_ids


@settings(quick, max_examples=50)
@given(no_symbols)
def test_without_symbols_it_does_not_matter_which_slow_tokenizer(written: PreTrainedTokenizerFast, text: str) -> None:
    assert written(text).input_ids == LlamaTokenizer(str(MODEL), legacy=False)(text).input_ids


@pytest.mark.parametrize("text", ["<s>", "a<s>b", "[Speech]<unk>[Hu4]", "</s> a </s>", "<s></s>[Text] b<unk>", "< s >"])
def test_control_symbols_in_a_text_are_the_symbols(
    written: PreTrainedTokenizerFast, slow: LlamaTokenizer, text: str
) -> None:
    assert written(text).input_ids == slow(text).input_ids


def test_every_piece_is_encoded_alike_wherever_it_stands(
    written: PreTrainedTokenizerFast, slow: LlamaTokenizer
) -> None:
    for piece in slow.convert_ids_to_tokens(range(len(slow))):
        for text in (piece, f"[Text]{piece}", f"{piece}[Hu1]{piece}", f"[Hu1]{piece}[Hu2]", f"the {piece}s"):
            assert written(text).input_ids == slow(text).input_ids, text


def test_bytes_spelled_out_between_markers_stay_text(written: PreTrainedTokenizerFast) -> None:
    # The byte piece <0x41> has id 3 + 0x41 and would be decoded to "A".
    spelled = written("[Text]<0x41>[Speech]").input_ids
    assert 3 + 0x41 not in spelled and written.decode(spelled, skip_special_tokens=True) == "[Text]<0x41>[Speech]"


@pytest.mark.parametrize("case", STRINGS["prompts"])
def test_recorded_prompts_decode_to_themselves_as_with_the_slow_one(
    written: PreTrainedTokenizerFast, slow: LlamaTokenizer, case: dict[str, str]
) -> None:
    ids = written(case["prompt"]).input_ids
    assert written.decode(ids, skip_special_tokens=True) == case["prompt"]
    assert slow.decode(ids, skip_special_tokens=True, spaces_between_special_tokens=False) == case["prompt"]


@quick
@given(no_symbols.filter(lambda text: "▁" not in text))
def test_every_text_decodes_to_itself(written: PreTrainedTokenizerFast, text: str) -> None:
    assert written.decode(written(text).input_ids, skip_special_tokens=True) == text


@quick
@given(units)
def test_ids_of_shards_are_those_of_the_tokenizer(written: PreTrainedTokenizerFast, string: str) -> None:
    ids = TOY.prompt_ids(TOY.speech_marker) + TOY.encode(string)
    assert written(f"[Speech]{string}").input_ids == ids


def test_ids_of_an_utterance_are_those_of_the_tokenizer(written: PreTrainedTokenizerFast) -> None:
    streams = Streams(np.array([5, 5, 500]), np.array([63]), np.array([0]))
    ids = encode_utterance(streams, TOY).tolist()
    assert ids == [*written("[Speech][St0][Pi63][Hu5][Hu500]").input_ids, 2]
    assert ids[:3] == [1, 521, 601]


def test_vocabulary_is_counted_from_the_pieces() -> None:
    assert read_vocabulary(MODEL, rows=1280) == TOY
    assert TOY.convention == "slow" and TOY.tokens == 1267 and TOY.rows == 1280


def test_every_unit_has_the_id_that_sentencepiece_gives() -> None:
    processor = SentencePieceProcessor(str(MODEL))
    assert [processor.piece_to_id(name) for name in TOY.names()] == list(range(600, 1267))


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(CheckpointError, match="1267 pieces but the model has 1000 rows"):
        read_vocabulary(MODEL, rows=1000)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_vocabulary(tmp_path / "tokenizer.model", rows=1280)
    whole, path = MODEL.read_bytes(), tmp_path / "tokenizer.model"
    for damaged in (b"", b"not a model", whole[:-1], whole[: len(whole) // 2], bytes(reversed(whole))):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            read_vocabulary(path, rows=1280)


@pytest.mark.parametrize("at", range(20_300, 20_497, 3))
def test_no_truncation_goes_unnoticed(tmp_path: Path, at: int) -> None:
    (tmp_path / "tokenizer.model").write_bytes(MODEL.read_bytes()[:at])
    with pytest.raises(CheckpointError):
        read_vocabulary(tmp_path / "tokenizer.model", rows=1280)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"[Text]", b"[Test]", r"has no piece \[Text\]"),
        (b"[Hu7]", b"[Hx7]", r"has \[Hx7\] at id 609, expected \[Hu7\]"),
        (b"[Pi0]", b"[Pi_]", r"has \[Pi_\] at id 1103, expected \[Pi0\]"),
        (b"[St99]", b"[St9_]", r"has \[St9_\] at id 1266, expected no more pieces"),
        ("▁".encode() + b"\x15", b"abc\x15", "has no piece ▁"),
    ],
)
def test_foreign_pieces_are_refused_by_name(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    path, whole = tmp_path / "tokenizer.model", MODEL.read_bytes()
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(CheckpointError, match=message):
        read_vocabulary(path, rows=1280)


def test_a_tokenizer_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(MODEL, tmp_path / "tokenizer.model")
    monkeypatch.setattr(sentencepiece_text, "_broken_rule", lambda _: "never")
    with pytest.raises(CheckpointError, match="tokenizer.json would give"):
        write_release_tokenizer(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_need_no_code_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    shutil.copyfile(MODEL, tmp_path / "tokenizer.model")
    for name in "ab":
        write_release_tokenizer(tmp_path, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    config = json.loads((tmp_path / "a" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and "auto_map" not in config
