"""The tokenization stage on a corpus that was put into the store by hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from tests.fixtures import summaries
from tests.fixtures.summaries import Anything
from tinywave_core.audio.utterances import UtteranceWriter, encode_flac
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.tokenization import tokens as tokenization
from tinywave_core.steps.base import Output, Step, Summary, compute, compute_all
from tinywave_core.storage.schemas import TOKENS
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, NotYetComputedError, Store
from tinywave_core.tokenizers.speech import Streams, encode_utterance
from tinywave_core.tokenizers.vocabulary import Vocabulary

CONFIG = PipelineConfig.model_validate(
    {
        "tokenization": {"units": {"clusters": 10}, "pitch": {"clusters": 5}, "style": {"clusters": 3}},
        "adaptation": {"teacher": "fresh"},
    }
)


def _vowels(number: int) -> npt.NDArray[np.int16]:
    random = np.random.default_rng(number)
    time = np.arange(4000) / 16_000
    pieces = []
    for _ in range(8):
        f0, formant = random.uniform(90, 200), random.uniform(300, 2000)
        gains = [np.exp(-(((h * f0 - formant) / 300) ** 2)) for h in range(1, 20)]
        pieces.append(sum(g * np.cos(2 * np.pi * h * f0 * time) for h, g in enumerate(gains, 1)) * np.hanning(4000))
    sound = np.concatenate(pieces) + 0.01 * random.standard_normal(32_000)
    return np.rint(sound * 3000).astype(np.int16)


def _audio_shard(store: Store, numbers: Sequence[int]) -> Artifact:
    """An audio shard with 2 s of utterance `number` each; every fourth is held out."""

    def run(step: Step, output: Output) -> Summary:
        with UtteranceWriter(output.folder) as writer:
            for number in step.params["numbers"]:
                split = "held_out" if number % 4 == 3 else "train"
                names = {"utterance_id": f"u{number:02d}", "recording_id": f"r{number}", "path": f"{number}.wav"}
                about = {"start_samples": 0, "num_samples": 32_000, "speaker": None, "transcript": "la", "split": split}
                writer.add({**names, **about, "flac": encode_flac(_vowels(number))})
        return Anything(**summaries.audio_shard())

    step = Step(store, "ingestion", "shard", 1, run, CONFIG.ingestion, params={"numbers": list(numbers)})
    return compute(step)


def _corpus(store: Store, *shards: Sequence[int]) -> Artifact:
    audio = [_audio_shard(store, numbers) for numbers in shards]
    seen: set[int] = set()
    duplicates = {}
    for shard, numbers in zip(audio, shards, strict=True):
        duplicates[shard.id] = [f"u{n:02d}" for n in numbers if n in seen]
        seen |= set(numbers)
    hours = sum(2 / 3600 for n in seen if n % 4 != 3)
    summary = summaries.corpus(shards=[shard.id for shard in audio], duplicates=duplicates, hours_train=hours)
    inputs = {"shards": audio}
    return compute(Step(store, "ingestion", "corpus", 1, lambda *_: Anything(**summary), CONFIG.ingestion, inputs))


def _rows(tokens: Artifact) -> dict[str, dict]:
    shards = [tokens.store.find(shard["id"]) for shard in tokens.summary["shards"]]
    return {
        row["utterance_id"]: row for shard in shards for row in read_table(shard.path("tokens.parquet")).to_pylist()
    }


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    store = Store(str(tmp_path_factory.mktemp("store")))
    return tokenization.build(CONFIG, _corpus(store, [3, 1, 2, 0], [4, 5, 1]), compute_all)


def test_every_utterance_is_tokenized_once_in_the_order_of_ids(tokens: Artifact) -> None:
    first, second = (tokens.store.find(s["id"]) for s in tokens.summary["shards"])
    assert [row["utterance_id"] for row in read_table(first.path("tokens.parquet")).to_pylist()] == [
        "u00",
        "u01",
        "u02",
        "u03",
    ]
    assert read_table(second.path("tokens.parquet"))["utterance_id"].to_pylist() == ["u04", "u05"]


def test_ids_are_the_merge_of_the_streams_of_the_same_row(tokens: Artifact) -> None:
    vocabulary = Vocabulary.from_json(tokens.summary["vocabulary"])
    for row in _rows(tokens).values():
        streams = Streams(*(np.array(row[name], dtype=np.int64) for name in ("units", "pitch", "style")))
        assert encode_utterance(streams, vocabulary).tolist() == row["ids"]
        assert (len(row["units"]), len(row["pitch"]), len(row["style"])) == (49, 25, 2)


def test_shards_describe_themselves(tokens: Artifact) -> None:
    shard = tokens.store.find(tokens.summary["shards"][0]["id"])
    schema = pq.read_schema(shard.path("tokens.parquet"))
    assert schema.equals(TOKENS) and schema.metadata[b"id_convention"] == b"fast"
    vocabulary = json.loads(shard.path("vocabulary.json").read_text())
    assert (
        vocabulary
        == json.loads(schema.metadata[b"vocabulary"])
        == {
            "text": 259,
            "hubert": 10,
            "pitch": 5,
            "style": 3,
            "padded": 0,
            "boundary": None,
        }
    )
    assert json.loads(schema.metadata[b"rates_hz"]) == {"units": 24.99, "pitch": 12.5, "style": 1.0}


def test_summary_adds_up(tokens: Artifact) -> None:
    summary, rows = tokens.summary, _rows(tokens)
    assert [(s["train_utterances"], s["held_out_utterances"]) for s in summary["shards"]] == [(3, 1), (2, 0)]
    assert summary["tokens"] == sum(len(row["ids"]) for row in rows.values()) == sum(summary["streams"].values())
    assert summary["streams"]["marker"] == 3 * 6 and summary["streams"]["style"] == 2 * 6
    assert sum(summary["unit_histogram"]) == 49 * 6 and sum(summary["pitch_histogram"]) == 25 * 6
    assert summary["tokens_per_s"] == summary["tokens"] / 12
    assert all(0 <= drift < 1 for drift in summary["drift"].values()) and len(summary["drift"]) == 2


def test_tokens_do_not_depend_on_shards_and_codebooks_are_the_same_bytes(tokens: Artifact, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    again = tokenization.build(CONFIG, _corpus(store, [5], [4, 3], [0, 1, 2]), compute_all)
    assert _rows(again) == _rows(tokens)
    books = [t.store.find(t.summary["tokenizer"]) for t in (tokens, again)]
    for name in books[0].files:
        assert books[0].path(name).read_bytes() == books[1].path(name).read_bytes()


def test_new_audio_costs_only_its_own_shard(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    tokenization.build(CONFIG, _corpus(store, [0, 1, 2, 3]), compute_all)
    ran: list[str] = []

    def watched(steps: Sequence[Step]) -> list[Artifact]:
        ran.extend(step.part for step in steps if not step.find().complete)
        return compute_all(steps)

    tokenization.build(CONFIG, _corpus(store, [0, 1, 2, 3], [4]), watched)
    assert ran == ["shard", "tokens"]


def test_plan_of_a_new_corpus_lists_all_steps_and_computes_nothing(tmp_path: Path) -> None:
    corpus = _corpus(Store(str(tmp_path)), [0, 1], [2])
    planned: list[str] = []

    def look(steps: Sequence[Step]) -> list[Artifact]:
        planned.extend(step.part for step in steps)
        return [step.find() for step in steps]

    plan = tokenization.build(CONFIG, corpus, look)
    assert planned == ["codebooks", "shard", "shard", "tokens"]
    with pytest.raises(NotYetComputedError):
        _ = plan.summary


def test_divergence_is_nothing_for_equal_shapes_and_one_bit_for_strangers() -> None:
    assert tokenization.jensen_shannon_bits(np.array([1.0, 3.0]), np.array([2.0, 6.0])) == 0
    assert tokenization.jensen_shannon_bits(np.array([5.0, 0.0]), np.array([0.0, 2.0])) == 1
