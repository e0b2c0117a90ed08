"""Speech and text through all stages: words get times, spans are drawn, everything that follows works on mixed sequences."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.cli import main
from tests.fixtures.tiny import CLIPS, EXAMPLES, Computed, copy_clips, run_tiny, tiny_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError, MissingInputError
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.sequences.index import load_sequences
from tinywave_core.sequences.interleaving import EncodeText, text_encoder
from tinywave_core.sequences.validation import split_validation
from tinywave_core.stages.evaluation.summary import ScoresSummary
from tinywave_core.stages.evaluation.words import comparison_rows
from tinywave_core.stages.export.model import trained_on
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.schemas import INTERLEAVED, SAMPLE_RATE
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.tokenizers.speech import Streams, merge
from tinywave_core.tokenizers.text import build_tokenizer
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

MIXED = {"interleaving": {"policy": "patterns", "variants": 3}}
FIELDS = ("utterance_id", "split", "ids", "variant", "modalities", "words", "word_starts", "word_ends", "num_samples")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recordings with the transcripts that there are, and one more that nobody transcribed."""
    source = copy_clips(tmp_path_factory.mktemp("transcribed"))
    for clip in CLIPS:
        for path in (EXAMPLES / clip).parent.glob("*.trans.txt"):
            shutil.copyfile(path, (source / clip).parent / path.name)
    shutil.copyfile(EXAMPLES / "LJSpeech" / "metadata.csv", source / "LJSpeech" / "metadata.csv")
    return source


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    lines = [f"This is sentence number {n}, which nobody speaks." for n in range(40)]
    (folder / "stories.txt").write_text("\n\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def config(source: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    return tiny_config(
        source,
        tmp_path_factory.mktemp("mixed") / "store",
        tokenization={**MIXED, "text": {"source": str(text), "share": 0.1}},
        evaluation={"cloze_min_words": 2},
        ingestion={"held_out_fraction": 0.8},
    )


@pytest.fixture(scope="module")
def outputs(config: PipelineConfig) -> Outputs:
    return run_tiny(config)[0]


def rows_of(tokens: Artifact, part: str = "interleaved") -> list[dict]:
    shards = [tokens.store.find(s["id"], s["part"]) for s in tokens.summary["shards"] if s["part"] == part]
    assert all(read_table(shard.path("tokens.parquet")).schema.names == INTERLEAVED.names for shard in shards)
    return [row for shard in shards for row in read_table(shard.path("tokens.parquet")).to_pylist()]


def test_words_of_a_transcribed_utterance_stand_in_order_within_it(outputs: Outputs):
    rows = [row for row in rows_of(outputs["tokens"]) if row["words"]]
    assert len(rows) >= 2
    for row in rows:
        edges = [edge for pair in zip(row["word_starts"], row["word_ends"], strict=True) for edge in pair]
        assert edges == sorted(edges) and edges[-1] <= row["num_samples"] + SAMPLE_RATE // 50


def test_what_has_no_words_is_speech_in_every_epoch_and_counted_by_reason(outputs: Outputs):
    tokens = outputs["tokens"].summary
    untimed = [row for row in rows_of(outputs["tokens"]) if row["variant"] == -1]
    assert {row["modalities"] for row in untimed} == {"S"}
    assert (
        len(untimed)
        == sum(tokens["refused"].values())
        == tokens["aligned"]["utterances"] - tokens["aligned"]["aligned"]
    )
    assert tokens["refused"]["no_transcript"] >= 1


def test_each_utterance_has_its_drawings_and_speech_alone_is_its_merged_units(outputs: Outputs):
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    rows = rows_of(outputs["tokens"])
    timed = {row["utterance_id"] for row in rows if row["words"]}
    streams = {
        row["utterance_id"]: Streams(*(np.array(row[n], np.int64) for n in ("units", "pitch", "style")))
        for row in rows
        if row["variant"] <= 0
    }
    for name in timed:
        assert sorted(row["variant"] for row in rows if row["utterance_id"] == name) == [0, 1, 2]
    for row in rows:
        if row["modalities"] == "S":
            expected = merge(streams[row["utterance_id"]], vocabulary).tolist()
            assert row["ids"] == [1, vocabulary.speech_marker, *expected, 2]


def test_plain_text_stands_beside_the_speech_in_its_share(outputs: Outputs):
    tokens = outputs["tokens"].summary
    documents = rows_of(outputs["tokens"], "text")
    train = sum(len(row["ids"]) for row in documents if row["split"] == "train")
    speech = sum(s["train_tokens"] for s in tokens["shards"] if s["part"] == "interleaved")
    longest = max(len(row["ids"]) for row in documents)
    assert train / (train + speech) >= 0.1 and (train - longest) / (train - longest + speech) < 0.1
    assert tokens["documents"] == len(documents)


def test_scores_are_told_by_modality_at_the_switches_and_in_four_directions(outputs: Outputs):
    scores = outputs["scores"].summary
    for model in scores["models"].values():
        assert {"text", "hubert", "switch"} <= model["nll_by_kind"].keys()
        assert model["bits_per_second"] is None and not model["by_stream"]
        assert model["nll_by_modality"].keys() == {"speech", "text"}
    assert list(scores["directions"]) == ["S→S", "S→T", "T→S", "T→T"]
    for figures in scores["directions"].values():
        low, high = figures["student"]["interval"]
        assert 0 <= low <= figures["student"]["accuracy"] <= high <= 1


def test_counts_are_of_the_first_drawing_of_each_utterance_and_of_all_text_and_told_by_modality(
    config: PipelineConfig, outputs: Outputs
):
    tokens = outputs["tokens"]
    shards = tokens.store.find_all([shard["id"] for shard in tokens.summary["shards"]])
    sequences = load_sequences(shards, "train", config.distillation.training.sequence_length)
    train, validation = split_validation(sequences, config.validation, config.ingestion.split_by)
    first = sum(len(s.ids) for s in train if s.variant <= 0)
    floors = outputs["scores"].summary["floors"]
    assert validation and {s.variant for s in train} > {-1, 0}
    assert floors["counted_tokens"] == floors["training_tokens"] == first < sum(len(s.ids) for s in train)
    for of_order in floors["counts"]:
        assert of_order["nll_by_modality"].keys() == {"speech", "text"}
        assert of_order["bits_per_second"] is None and not of_order["by_stream"]
    assert [row["bits per second"] for row in comparison_rows(ScoresSummary.of(outputs["scores"]))] == ["–"] * 8


def test_samples_continue_speech_with_speech(outputs: Outputs):
    assert outputs["samples"].summary["new_tokens"] > 0


def test_the_export_records_what_was_trained_on_and_that_it_takes_text(outputs: Outputs):
    model, student = outputs["model"], outputs["student"]
    about = json.loads((model.path("model") / "speech.json").read_text())
    rows = [row for part in ("interleaved", "text") for row in rows_of(outputs["tokens"], part)]
    forms = [row["modalities"] for row in rows if row["split"] == "train"]
    mixed = sum(len(set(form)) == 2 for form in forms)
    counted = {"speech": forms.count("S"), "text": forms.count("T"), "mixed": mixed}
    assert mixed and about["trained_on"] == model.summary["trained_on"] == counted
    assert about["inputs"] == ["speech", "text"] and about["outputs"] == ["speech", "text", "mixed"]
    assert (
        "It takes speech and text, and gives speech, text or mixed" in (model.path("model") / "README.md").read_text()
    )
    # Without rows of text it can do nothing with it, whatever it was trained on.
    alone = trained_on(student, Vocabulary.from_json(about["vocabulary"]).speech_only())
    assert (alone.modalities, alone.outputs) == (["speech"], ["speech"])


def test_another_policy_tokenizes_and_aligns_nothing_again(config: PipelineConfig, outputs: Outputs):
    tokenization = config.tokenization
    poisson = tokenization.interleaving.model_copy(update={"policy": "poisson", "poisson_words": 2.0})
    other = config.model_copy(update={"tokenization": tokenization.model_copy(update={"interleaving": poisson})})
    computed = Computed()
    run_pipeline(other, Store(config.root), computed, "tokenization")
    assert {step.part for step in computed.ran} == {"interleaved", "text", "tokens"}


def test_the_same_spans_are_drawn_however_the_corpus_is_sharded(
    config: PipelineConfig, outputs: Outputs, tmp_path: Path
):
    ingestion = config.ingestion.model_copy(update={"shard_megabytes": 1.0})
    codebooks = outputs["tokens"].summary["tokenizer"]
    other = config.model_copy(update={"root": str(tmp_path / "store"), "ingestion": ingestion})
    again, _ = run_tiny(other, "tokenization")
    assert codebooks.partition("/")[0] == "tokenization"

    def spans(tokens: Artifact) -> dict:
        return {(row["utterance_id"], row["variant"]): row["modalities"] for row in rows_of(tokens)}

    assert len(again["tokens"].summary["shards"]) < len(outputs["tokens"].summary["shards"])
    assert spans(again["tokens"]) == spans(outputs["tokens"])


def test_given_word_times_are_used_and_those_of_other_recordings_change_nothing(source: Path, tmp_path: Path):
    given = tmp_path / "words"
    given.mkdir()
    said = ["TELL", "ME", "WHAT", "HAPPENED", "QUOTH", "ZAU", "AL", "MAKAN"]
    times = [round(0.1 + 0.25 * number, 2) for number in range(len(said))]
    # MFA writes lower case, and <unk> for what its dictionary lacks; the words come out as the transcript has them.
    aligned_as = ["<unk>" if word == "ZAU" else word.lower() for word in said]
    ctm = [f"2033-164914-0005 1 {at} 0.2 {word}" for at, word in zip(times, aligned_as, strict=True)]
    (given / "2033-164914-0005.ctm").write_text("\n".join(ctm))
    # Times of other words than the transcript's are refused.
    (given / "2414-128291-0006.ctm").write_text("2414-128291-0006 1 0.1 0.4 nobody\n2414-128291-0006 1 0.6 0.4 said\n")
    aligned = {"kind": "given", "path": str(given)}
    settings = tiny_config(source, tmp_path / "store", tokenization={**MIXED, "alignment": aligned})
    outputs, _ = run_tiny(settings, "tokenization")
    (row,) = [row for row in rows_of(outputs["tokens"]) if row["words"]]
    assert row["words"] == said and row["word_starts"] == [round(16_000 * at) for at in times]
    (given / "somebody-else.ctm").write_text("somebody-else 1 0.0 0.5 hello\n")
    again = Computed()
    run_pipeline(settings, Store(settings.root), again, "tokenization")
    assert not again.ran


def test_spiritlm_teachers_read_interleaved_sequences_as_their_own_tokenizer_does(
    source: Path, small_release: Path, tmp_path: Path
):
    from transformers import LlamaTokenizer

    settings = tiny_config(
        source,
        tmp_path / "store",
        spiritlm_dir=str(small_release),
        tokenization={"tokens": "base", **MIXED},
        adaptation={"teacher": "spiritlm", "method": "lora"},
    )
    outputs, _ = run_tiny(settings, "tokenization")
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    slow = LlamaTokenizer.from_pretrained(small_release / "spiritlm_model" / "spirit-lm-base-7b", add_eos_token=False)
    mixed = [row for row in rows_of(outputs["tokens"]) if "T" in row["modalities"]]
    assert mixed
    for row in mixed:
        string = slow.decode(row["ids"][1:-1], spaces_between_special_tokens=False)
        assert slow(string)["input_ids"] == row["ids"][:-1] and vocabulary.boundary == row["ids"][1]


def test_tokens_go_to_slamkits_files(config: PipelineConfig, outputs: Outputs, tmp_path: Path):
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    assert main(["slamkit", outputs["tokens"].id, str(tmp_path), "--root", config.root]) == 0
    features, tokens = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("features", "tokens")
    )
    rows = [*rows_of(outputs["tokens"]), *rows_of(outputs["tokens"], "text")]
    assert {row["file_name"]: np.repeat(row["units"], row["duration"]).tolist() for row in features} == {
        row["utterance_id"]: row["units"] for row in rows if row["units"]
    }
    encode = text_encoder(build_tokenizer(vocabulary), vocabulary)
    written = [(row["file_name"], *_units_and_text(row["audio_repr"], encode)) for row in tokens]
    expected = []
    for row in rows:
        kinds = [KINDS[kind] for kind in vocabulary.kinds(row["ids"])]
        of = {name: [i for i, kind in zip(row["ids"], kinds, strict=True) if kind == name] for name in KINDS}
        units = [i - vocabulary.first["hubert"] for i in of["hubert"]]
        expected.append((row["utterance_id"], units, of["text"]))
    assert sorted(written) == sorted(expected)


def _units_and_text(representation: str, encode: EncodeText) -> tuple[list[int], list[int]]:
    """Units and ids of the text of slamkit's form, in order."""
    texts = [part.strip() for part in re.split("<Un[0-9]+>|<speech>|<text>", representation) if part]
    units = [int(unit) for unit in re.findall("<Un([0-9]+)>", representation)]
    return units, [i for text in texts for i in encode(text)]


@pytest.mark.parametrize(
    ("tokenization", "said"),
    [
        ({**MIXED, "alignment": {"kind": "ctc", "path": "nowhere"}}, "no config.json.*Wav2Vec2ForCTC"),
        ({"text": {"source": "nowhere"}}, "tokenization.text.source 'nowhere' does not exist"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_computed(
    source: Path, tmp_path: Path, tokenization: dict, said: str
):
    ran = Computed()
    settings = tiny_config(source, tmp_path / "store", tokenization=tokenization)
    with pytest.raises((MissingInputError, ConfigError), match=said):
        run_pipeline(settings, Store(settings.root), ran)
    assert not ran.ran


def test_alignment_by_a_model_needs_its_path(source: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="needs tokenization.alignment.path"):
        tiny_config(source, tmp_path, tokenization={"alignment": {"kind": "ctc"}})
    with pytest.raises(ValueError, match="takes no"):
        tiny_config(source, tmp_path, tokenization={"alignment": {"path": "x"}})
