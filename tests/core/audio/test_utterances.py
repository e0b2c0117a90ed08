"""Audio shards: what was written comes back, sample for sample, and damage is found."""

from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.summaries import Anything
from tinywave_core.audio import utterances as module
from tinywave_core.audio.utterances import (
    AUDIO_FILE,
    UtteranceWriter,
    decode_flac,
    encode_flac,
    read_ahead,
    read_utterances,
)
from tinywave_core.config.base import Config
from tinywave_core.errors import DamagedArtifactError
from tinywave_core.steps.base import Output, Step, Summary, compute
from tinywave_core.storage.store import Artifact, Store


def test_flac_keeps_16_bit_samples_exactly_and_is_the_same_each_time() -> None:
    samples = np.random.default_rng(0).integers(-32_768, 32_767, 5_000).astype(np.int16)
    assert np.array_equal(decode_flac(encode_flac(samples)) * 32_768, samples)
    assert encode_flac(samples) == encode_flac(samples)


def shard(folder: Path, number: int) -> Artifact:
    def run(step: Step, output: Output) -> Summary:
        with UtteranceWriter(output.folder) as writer:
            for index in range(number):
                samples = np.full(8_000, index, dtype=np.int16)
                row = {"utterance_id": f"{index:04d}", "recording_id": "r", "path": "a.wav", "start_samples": 0}
                row |= {"num_samples": 8_000, "speaker": None, "transcript": "hi", "split": "train"}
                writer.add({**row, "flac": encode_flac(samples)})
        return Anything()

    return compute(Step(Store(str(folder)), "ingestion", "shard", 1, run, Config()))


def test_utterances_come_back_in_order(tmp_path: Path) -> None:
    utterances = list(read_utterances(shard(tmp_path, 150)))
    assert [utterance.utterance_id for utterance in utterances] == [f"{index:04d}" for index in range(150)]
    assert utterances[149].samples.tolist() == [149 / 32_768] * 8_000
    assert (utterances[0].transcript, utterances[0].speaker) == ("hi", None)


@pytest.mark.parametrize(("samples", "read"), [(0, 1), (7_999, 1), (8_000, 2), (20_000, 3), (1_000_000, 5)])
def test_reading_ahead_gives_all_in_order_and_holds_no_more_than_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, read: int
) -> None:
    artifact, taken = shard(tmp_path, 5), []
    rows = module.read_rows
    monkeypatch.setattr(module, "read_rows", lambda artifact: (taken.append(row) or row for row in rows(artifact)))
    ahead = read_ahead(artifact, samples)
    first = next(ahead)
    assert len(taken) == read
    found = [first, *ahead]
    assert [utterance.utterance_id for utterance in found] == [f"{index:04d}" for index in range(5)]
    assert [utterance.samples[0] * 32_768 for utterance in found] == [0, 1, 2, 3, 4]


def test_an_empty_shard_has_no_utterances(tmp_path: Path) -> None:
    assert list(read_utterances(shard(tmp_path, 0))) == []


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    artifact = shard(tmp_path, 3)
    path = Path(artifact.url) / AUDIO_FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArtifactError, match="is damaged"):
        list(read_utterances(artifact))
