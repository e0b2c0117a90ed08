"""A tokenizer of another rate: one row in KINDS, and tokens, exports, prompts and times are of its rate."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.fixtures.tiny import run_tiny, tiny_config
from tinywave_core.alignment.words import Word
from tinywave_core.checkpoints.spiritlm import Kind
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.costs.estimates import vocabulary_rows
from tinywave_core.errors import ConfigError
from tinywave_core.evals.pair_tokens import Ears, tokenize_pairs
from tinywave_core.evals.suites.base import Pair
from tinywave_core.sequences.interleaving import Span, interleaved_ids
from tinywave_core.stages.export import vocoder
from tinywave_core.stages.export.model import rate_fields
from tinywave_core.stages.tokenization.stage import STAGE, TOKEN_BYTES
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Outputs, compute
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import read_table
from tinywave_core.synthesis.continuation import prompt_ids
from tinywave_core.synthesis.speaking import load_speaker
from tinywave_core.tokenizers import opening
from tinywave_core.tokenizers.base import Places, Sizes, SpeechTokenizer, TokenizerKind
from tinywave_core.tokenizers.speech import EMPTY, Streams, merged_before, merged_times_s
from tinywave_core.tokenizers.streams import SPIRITLM_RATES, Rates
from tinywave_core.tokenizers.vocabulary import Vocabulary

RATES = Rates(units=12.5)
HOP = 1280
LEVELS = 7


@dataclass(frozen=True)
class Loudness:
    """Seven levels of loudness at 12.5 Hz, and nothing else."""

    tokens: Kind = "base"
    kind: str = "loudness"
    is_fitted: bool = False
    uses_gpu: bool = False
    tokens_per_s: float = 10.0

    @property
    def expected_sizes(self) -> Sizes:
        return Sizes(LEVELS)

    def settings(self) -> TokenizationConfig:
        return TokenizationConfig(tokens="base")

    def given(self) -> dict:
        return {"digests": {"loudness": "0" * 64}, "sizes": {"hubert": LEVELS, "pitch": 0, "style": 0}}

    def check(self, vocabulary: Vocabulary | None) -> None:
        pass

    def vocoder(self) -> None:
        return None

    def seconds_per_hour(self, device: str) -> float:
        return 1.0


def tokenize(recordings: list[np.ndarray]) -> list[Streams]:
    frames = [samples[: len(samples) // HOP * HOP].reshape(-1, HOP) for samples in recordings]
    levels = [np.minimum(np.abs(each).mean(axis=1) * 40, LEVELS - 1).astype(np.int64) for each in frames]
    return [Streams(units, EMPTY, EMPTY) for units in levels]


def open_loudness(folder: Path, vocabulary: Vocabulary | None, places: Places, device: str) -> SpeechTokenizer:
    own = Sizes(**json.loads((folder / "loudness.json").read_text())["sizes"]).with_bytes(RATES)
    return SpeechTokenizer("loudness", vocabulary or own, "loudness", tokenize)


LOUDNESS = TokenizerKind("loudness", "loudness.json", RATES, lambda config: Loudness(), open_loudness)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "KINDS", (LOUDNESS, *opening.KINDS))
        yield


@pytest.fixture(scope="module")
def outputs(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """The stages up to the tokens."""
    config = tiny_config(tiny_source, tmp_path_factory.mktemp("loudness") / "store", tokenization={"tokens": "base"})
    return run_tiny(config, "tokenization")[0]


@pytest.fixture(scope="module")
def vocabulary(outputs: Outputs) -> Vocabulary:
    return TokensSummary.of(outputs["tokens"]).vocabulary


def rows_of(outputs: Outputs) -> list[dict]:
    tokens = outputs["tokens"]
    shards = [tokens.store.find(shard.id) for shard in TokensSummary.of(tokens).shards]
    return [row for shard in shards for row in read_table(shard.path("tokens.parquet")).to_pylist()]


def streams_of(seconds: float) -> Streams:
    """No two units alike in a row, so that all become tokens."""
    return Streams(np.arange(round(seconds * 12.5)) % LEVELS, EMPTY, EMPTY)


def test_tokens_are_of_its_rate_and_say_so(outputs: Outputs):
    summary = TokensSummary.of(outputs["tokens"])
    assert (summary.tokenizer_kind, summary.drift) == ("loudness", {})
    assert all(len(row["units"]) == row["num_samples"] // HOP for row in rows_of(outputs))
    shard = outputs["tokens"].store.find(summary.shards[0].id)
    metadata = pq.read_schema(shard.path("tokens.parquet")).metadata
    assert json.loads(metadata[b"rates_hz"])["units"] == 12.5
    assert Vocabulary.from_json(json.loads(shard.path("vocabulary.json").read_text())).rates == RATES


def test_a_model_hears_with_it(outputs: Outputs, vocabulary: Vocabulary, tmp_path: Path):
    tokenizer = TokensSummary.of(outputs["tokens"]).tokenizer_artifact(outputs["tokens"])
    shutil.copytree(tokenizer.path(), tmp_path / opening.SPEECH_TOKENIZER)
    opened = opening.open_of_model(tmp_path, vocabulary, Places(), "cpu")
    assert (opened.kind, opened.vocabulary.rates.units) == ("loudness", 12.5)
    (streams,) = opened.tokenize([np.zeros(2 * SAMPLE_RATE, np.float32)])
    assert len(streams.units) == 25


def test_two_seconds_of_prompt_are_25_units(vocabulary: Vocabulary):
    units = vocabulary.first["hubert"] + np.arange(25) % LEVELS
    assert prompt_ids(streams_of(4.0), 2.0, vocabulary).tolist() == [1, vocabulary.speech_marker, *units]
    assert merged_before(streams_of(4.0), 2.0, vocabulary.rates) == 25
    assert merged_times_s(streams_of(4.0), vocabulary.rates)[25] == 2.0


def test_a_text_after_two_seconds_follows_25_units(vocabulary: Vocabulary):
    words = [Word("one", 0, SAMPLE_RATE), Word("two", 3 * SAMPLE_RATE, 4 * SAMPLE_RATE)]
    spans = [Span("speech", 0, 1, 0, 2 * SAMPLE_RATE), Span("text", 1, 2, 2 * SAMPLE_RATE, 4 * SAMPLE_RATE)]
    made = interleaved_ids(streams_of(4.0), words, spans, vocabulary, lambda text: [9])
    assert (made.tokens("speech"), made.tokens("text")) == (25, 1)


def test_the_prompt_of_a_pair_of_recordings_is_25_units(vocabulary: Vocabulary, tmp_path: Path):
    for name in ("prompt", "positive", "negative"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(2 * SAMPLE_RATE), SAMPLE_RATE)
    tokenizer = SpeechTokenizer(
        "loudness", vocabulary, "counting", lambda w: [streams_of(len(x) / SAMPLE_RATE) for x in w]
    )
    pair = Pair("a", tmp_path / "positive.wav", tmp_path / "negative.wav", prompt=tmp_path / "prompt.wav")
    (made,) = tokenize_pairs([pair], vocabulary, lambda text: [9], lambda: Ears(tokenizer), 500)
    assert made.positive is not None and made.positive.prompt_length == 2 + 25


def test_export_states_its_rate(vocabulary: Vocabulary):
    assert rate_fields(vocabulary.rates)["unit_rate_hz"] == 12.5
    assert rate_fields(SPIRITLM_RATES) == {"unit_rate_hz": 25, "pitch_rate_hz": 12.5, "style_rate_hz": 1}


def test_a_voice_speaks_units_of_its_rate(outputs: Outputs, vocabulary: Vocabulary):
    config = tiny_config(None, outputs["tokens"].store.root, tokenization={"tokens": "base"})
    made = vocoder.build(config, outputs["tokens"], lambda steps: [compute(step) for step in steps])["vocoder"]
    speaker = load_speaker(made.path(), vocabulary, None)
    units = (np.arange(50) * 3) % LEVELS
    # Each unit lasts as long as it did where it was recorded: a frame of 80 ms or some.
    assert len(speaker(vocabulary.first["hubert"] + units)) >= 50 * HOP


def test_estimates_ask_it(tiny_source: Path, tmp_path: Path):
    config = tiny_config(tiny_source, tmp_path)
    assert vocabulary_rows(config) == 259 + 2 + LEVELS
    cost = STAGE.cost(config, 2.0, "cpu")
    assert (cost.seconds, cost.bytes) == (2.0 / config.runtime.workers, 2 * 3600 * 10.0 * TOKEN_BYTES)


def test_the_same_ids_at_another_rate_are_another_vocabulary(vocabulary: Vocabulary):
    with pytest.raises(ConfigError, match="rates"):
        vocabulary.require_same(replace(vocabulary, rates=SPIRITLM_RATES), "the model", "the tokens")
