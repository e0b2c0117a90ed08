"""A text model's tokenizer with units: text splits as before, ids are those of the vocabulary, what cannot be enlarged is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from tests.fixtures.text_models import WORDS, cut_as, text_tokenizer, write_text_model
from tests.fixtures.tiny import tiny_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import exported_rows, student_parameters, teacher_parameters, vocabulary_rows
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.exporters.gguf_tokens import pieces_of
from tinywave_core.models.llama import load_llama
from tinywave_core.sequences.interleaving import text_encoder
from tinywave_core.stages.tokenization.tokens import check_speech_tokenizer
from tinywave_core.tokenizers.byte_pairs import rule_of
from tinywave_core.tokenizers.directory import load_tokenizer, read_directory
from tinywave_core.tokenizers.enlarged import (
    enlarged_tokenizer,
    is_text_model,
    read_text_part,
    write_enlarged_tokenizer,
)
from tinywave_core.tokenizers.text_model import sources_of, text_tokens
from tinywave_core.tokenizers.vocabulary import Vocabulary

TEXTS = ("the cat sat", "Grüße, 世界\n", "  two  spaces", "he said that<|im_end|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return Vocabulary(text=len(read_text_part(folder).names), hubert=20, pitch=6, style=4)


def test_text_splits_as_before_three_ids_later(folder: Path, vocabulary: Vocabulary):
    before, now = text_tokenizer(), enlarged_tokenizer(folder, vocabulary)
    for text in TEXTS:
        assert now.encode(text).ids == [1, *(i + 3 for i in before.encode(text).ids)]
        assert now.decode(now.encode(text).ids, skip_special_tokens=False) == "<s>" + text
    encode = text_encoder(now, vocabulary)
    assert encode("the cat") == [i + 3 for i in before.encode("the cat").ids]


def test_units_and_markers_have_the_ids_of_the_vocabulary(folder: Path, vocabulary: Vocabulary, tmp_path: Path):
    write_enlarged_tokenizer(folder, tmp_path, vocabulary)
    string = "[Speech][St3][Pi5][Hu0][Hu19]"
    ids = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)(string)["input_ids"]
    assert ids == [1, *vocabulary.encode(string)]
    assert read_directory(tmp_path) == vocabulary and not is_text_model(tmp_path)
    assert load_tokenizer(folder, vocabulary).encode(string).ids == ids


def test_edges_of_a_text_become_ours_with_their_old_rows(folder: Path):
    part = read_text_part(folder)
    assert part.names[:4] == ("<unk>", "<s>", "</s>", "<|endoftext|>")
    assert part.sources[:5] == (None, 0, 0, 0, 1)
    assert part.of_speech_alone().sources == (None, 0, 0)


def test_a_vocabulary_that_begins_as_ours_keeps_its_numbers(tmp_path: Path):
    """As Llama 2's; OPT's has the same names in another order."""
    for names, sources in (
        (["<unk>", "<s>", "</s>", "a", "b"], (0, 1, 2, 3, 4)),
        (["<s>", "<pad>", "</s>", "<unk>", "a"], (3, 0, 2, 1, 4)),
    ):
        Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [])).save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 4, "eos_token_id": [4, 3]}))
        assert read_text_part(tmp_path).sources == sources


def test_an_edge_of_several_is_the_first_and_a_missing_beginning_is_the_end(tmp_path: Path):
    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [1, 0]}))
    assert read_text_part(tmp_path).sources == (None, 1, 1, 0, 1)


def changed(folder: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(folder, to)
    about = json.loads((to / "tokenizer.json").read_text())
    (to / "tokenizer.json").write_text(json.dumps(about | changes))
    return to


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, "of kind 'Unigram', which cannot be enlarged"),
        ({"added_tokens": [{"id": 0, "content": "x"}]}, "gives two tokens one number"),
        (
            {"added_tokens": [{"id": 9000, "content": "[Huge]"}, {"id": 9001, "content": "[Hu7]"}]},
            r"a token \[Hu7\] of",
        ),
        ({"added_tokens": [{"id": 9000, "content": "[Speech]"}]}, r"a token \[Speech\] of its own"),
        ({"added_tokens": [{"id": "9", "content": "x"}]}, "a token without a number"),
        ({"added_tokens": [{"id": 9}]}, "added_tokens that are none"),
    ],
)
def test_a_tokenizer_that_cannot_be_enlarged_is_refused_by_name(changes, fault: str, folder: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=fault):
        read_text_part(changed(folder, tmp_path / "lm", **changes))


def test_a_tokenizer_that_changed_since_the_speech_was_tokenized_is_refused(folder: Path, vocabulary: Vocabulary):
    with pytest.raises(CheckpointError, match="was changed since"):
        enlarged_tokenizer(folder, Vocabulary(text=vocabulary.text + 1, hubert=20))
    with pytest.raises(CheckpointError, match="was changed since"):
        sources_of(folder, Vocabulary(text=vocabulary.text - 1, hubert=20), None)


# Fewer text tokens ---------------------------------------------------------------------------------------------------


def test_a_token_that_went_is_written_as_the_parts_that_were_merged_before(folder: Path, vocabulary: Vocabulary):
    whole, least = text_tokenizer(), fewest(folder)
    merges = json.loads(whole.to_str())["model"]["merges"]
    for kept in (0, 3, 10, len(merges) - 1):
        now = enlarged_tokenizer(folder, Vocabulary(text=least + kept, hubert=20))
        reference = text_tokenizer()
        reference.model = models.BPE(whole.get_vocab(), [tuple(pair) for pair in merges[:kept]])
        for text in (*TEXTS, WORDS):
            assert now.encode(text).tokens == ["<s>", *reference.encode(text).tokens]
            assert now.decode(now.encode(text).ids, skip_special_tokens=False) == "<s>" + text


def test_rows_of_the_tokens_that_stay_are_those_they_had(folder: Path):
    part = read_text_part(folder)
    fewer = part.within(fewest(folder) + 5)
    rows = dict(zip(part.names, part.sources, strict=True))
    assert [rows[name] for name in fewer.names] == list(fewer.sources)
    assert fewer.names[:3] == ("<unk>", "<s>", "</s>") and "<|im_end|>" in fewer.names
    assert part.within(None) == part.within(len(part.names)) == part


def test_fewer_tokens_than_every_text_needs_are_refused(folder: Path):
    least = fewest(folder)
    read_text_part(folder).within(least)
    with pytest.raises(
        CheckpointError, match=f"too few for this text model: {least} of its .*most_text_tokens to {least}"
    ):
        text_tokens(config_of(folder, adaptation={"text_rows": "keep", "most_text_tokens": least - 1}))


@pytest.mark.parametrize(
    ("adaptation", "why"),
    [({"teacher": "fresh"}, "the teacher is no text model"), ({}, "no text is trained on, so none is kept")],
)
def test_a_number_of_text_tokens_that_nobody_keeps_is_refused(adaptation, why: str, folder: Path):
    with pytest.raises(ConfigError, match=f"most_text_tokens is 270, but {why}: leave it out"):
        check_speech_tokenizer(config_of(folder, adaptation={"most_text_tokens": 270, **adaptation}))


def fewest(folder: Path) -> int:
    """<unk>, <s>, </s>, the bytes, and two tokens of the model's own."""
    return 3 + 256 + 2


# Settings ------------------------------------------------------------------------------------------------------------


def config_of(folder: Path, **settings: Any) -> PipelineConfig:
    return tiny_config(
        None, "memory://x", adaptation={"teacher": str(folder), **settings.pop("adaptation", {})}, **settings
    )


def test_text_is_kept_where_it_is_trained_on_or_asked_for(folder: Path, vocabulary: Vocabulary):
    mixed = {"tokenization": {"interleaving": {"policy": "patterns"}}}
    assert text_tokens(config_of(folder)) == 3
    assert text_tokens(config_of(folder, adaptation={"text_rows": "keep"})) == vocabulary.text
    assert text_tokens(config_of(folder, **mixed)) == vocabulary.text
    assert text_tokens(tiny_config(None, "memory://x")) is None


def test_a_plan_counts_the_parameters_that_the_models_have(folder: Path, vocabulary: Vocabulary):
    """Grouped heads and tied embeddings, by the model's own config.json; 20 units, 8 pitch codes, 4 styles, two markers."""
    config = config_of(folder, adaptation={"text_rows": "keep"})
    model = load_llama(folder)
    own = sum(p.numel() for p in model.parameters())
    rows = vocabulary.text + 34
    assert vocabulary_rows(config) == rows and exported_rows(config) == rows
    assert teacher_parameters(config) == own + 32 * (rows - model.config.vocab_size)
    block = sum(p.numel() for p in model.model.layers[0].parameters())
    assert student_parameters(config) == teacher_parameters(config) - 2 * block
    assert vocabulary_rows(config_of(folder)) == 37


@pytest.mark.parametrize("kind", ["gpt_neox", "opt", "qwen2"])
def test_a_plan_counts_other_architectures_to_a_percent(kind: str, tmp_path: Path):
    """Biases, which are few, are not counted; here, at a width of 32, they are up to six percent."""
    model = load_llama(write_text_model(tmp_path, kind))
    config = config_of(tmp_path)
    expected = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    tied = 1 if model.config.tie_word_embeddings else 2
    expected -= tied * 32 * (model.config.vocab_size - 37)
    norms = 4 * 2 * 32 + 32
    assert teacher_parameters(config) == expected + norms


@pytest.mark.parametrize(
    ("kind", "settings", "fault"),
    [
        ("llama", {"adaptation": {"method": "lora"}}, "adapters would leave the embeddings"),
        ("opt", {}, "not written as GGUF files. Export without"),
        (
            "opt",
            {"export": {"gguf": ()}, "distillation": {"training": {"sequence_length": 600}}},
            "knows 512 positions",
        ),
    ],
)
def test_what_cannot_end_well_is_refused_before_it_begins(kind: str, settings, fault: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=fault):
        check_speech_tokenizer(config_of(write_text_model(tmp_path, kind), **settings))


def test_more_tokens_than_16_bits_name_are_refused_with_text_and_taken_without(tmp_path: Path):
    """Qwen's 151,000."""
    write_text_model(tmp_path, "qwen2")
    about = json.loads((tmp_path / "tokenizer.json").read_text())
    about["model"]["vocab"] |= {f"word{i}": 1000 + i for i in range(65_500)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(about))
    check_speech_tokenizer(config_of(tmp_path))
    with pytest.raises(ConfigError, match="more than the 65,536 ids .*most_text_tokens 65502"):
        check_speech_tokenizer(config_of(tmp_path, adaptation={"text_rows": "keep"}))


def test_a_text_that_llama_cpp_would_cut_otherwise_is_refused_for_gguf(folder: Path, tmp_path: Path):
    cut = {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel"}]}
    other = changed(folder, tmp_path / "lm", pre_tokenizer=cut)
    check_speech_tokenizer(config_of(other))
    with pytest.raises(ConfigError, match="its text has no form that GGUF files"):
        check_speech_tokenizer(config_of(other, adaptation={"text_rows": "keep"}))


@pytest.mark.parametrize(
    ("cut", "name"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), "gpt-2"),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), None),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            ),
            "smollm",
        ),
        (pre_tokenizers.Whitespace(), None),
    ],
)
def test_rules_have_llama_cpps_names_only_where_they_are_the_same(cut, name: str | None):
    tokenizer = text_tokenizer()
    tokenizer.pre_tokenizer = cut
    assert rule_of(json.loads(tokenizer.to_str())) == name


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda _: None, "llama-bpe"),
        (lambda about: about["model"].update(ignore_merges=False), None),
        (lambda about: about.update(normalizer={"type": "NFC"}), None),
        (lambda about: split_of(about).update(invert=True), None),
        (lambda about: split_of(about).update(behavior="Removed"), None),
        (lambda about: split_of(about)["pattern"].update(Regex=r"\p{N}{1,2}"), None),
    ],
)
def test_a_rule_that_differs_in_any_part_has_no_name(change, name: str | None):
    about = cut_as("llama-bpe", json.loads(text_tokenizer().to_str()))
    change(about)
    assert rule_of(about) == name


def split_of(about: dict[str, Any]) -> dict[str, Any]:
    return about["pre_tokenizer"]["pretokenizers"][0]


def test_pieces_of_a_gguf_file_are_in_the_order_of_ids(folder: Path, vocabulary: Vocabulary, tmp_path: Path):
    write_enlarged_tokenizer(folder, tmp_path, vocabulary)
    pieces = pieces_of(tmp_path, vocabulary)
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab()
    assert [ids[name] for name in pieces.tokens] == list(range(vocabulary.tokens))
    assert (pieces.model, pieces.pre) == ("gpt2", "gpt-2") and "h e" in pieces.merges
