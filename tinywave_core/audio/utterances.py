"""Audio shards: utterances as FLAC inside Parquet, written and read one after the other.

`audio.parquet` has the sound (schema AUDIO); `utterances.parquet` has the same rows without it, so that counting and
splitting need not touch the sound.
"""

import io
from collections import deque
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from tinywave_core.audio.levels import CHANNELS
from tinywave_core.errors import DamagedArtifactError
from tinywave_core.storage.schemas import AUDIO, SAMPLE_RATE
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact

AUDIO_FILE, UTTERANCES_FILE, FILES_FILE = ("audio.parquet", "utterances.parquet", "files.parquet")
# Planning counts and splits utterances: reading the sound for it would be the whole corpus.
UTTERANCES = AUDIO.remove(AUDIO.get_field_index("flac"))
# Rows are written and read in groups of this many bytes of FLAC: what a reader holds at once.
GROUP_BYTES, GROUP_ROWS = 32 << 20, 1024


@dataclass(frozen=True)
class Utterance:
    """One utterance with its sound."""

    utterance_id: str
    recording_id: str
    path: str
    start_samples: int
    speaker: str | None
    transcript: str | None
    split: str
    samples: npt.NDArray[np.float32]  # [N], mono, 16 kHz, -1..1


def encode_flac(samples_N: npt.NDArray[np.int16]) -> bytes:
    """16-bit mono samples at 16 kHz as FLAC; the same samples give the same bytes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples_N, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(data: bytes) -> npt.NDArray[np.float32]:
    """Samples [N] in -1..1; exactly the 16-bit samples divided by 32768."""
    samples_N, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == SAMPLE_RATE
    return np.asarray(samples_N, dtype=np.float32)


def read_utterances(artifact: Artifact, ids: Container[str] | None = None) -> Iterator[Utterance]:
    """The utterances of an audio shard, or those with these `ids`, in order; digest and page checksums are
    checked first."""
    return (_utterance(row) for row in read_rows(artifact) if ids is None or row["utterance_id"] in ids)


def read_ahead(artifact: Artifact, samples: int) -> Iterator[Utterance]:
    """The utterances of an audio shard in order, as read_utterances gives them; while one is worked on, a thread decodes those after it,
    until they have so many samples together."""
    # One: it decodes 5,000 hours an hour, ten times what a GPU makes tokens of.
    with ThreadPoolExecutor(1, thread_name_prefix="decoding") as pool:
        waiting: deque[Future[Utterance]] = deque()
        held = 0
        for row in read_rows(artifact):
            held += row["num_samples"]
            waiting.append(pool.submit(_utterance, row))
            while held > samples:
                held -= len((first := waiting.popleft().result()).samples)
                yield first
        while waiting:
            yield waiting.popleft().result()


def read_rows(artifact: Artifact) -> Iterator[dict[str, Any]]:
    """The rows of an audio shard as they lie there, in order, their sound as FLAC; digest and page checksums are checked first."""
    path = artifact.path(AUDIO_FILE)
    try:
        for batch in pq.ParquetFile(path, page_checksum_verification=True).iter_batches(batch_size=64):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DamagedArtifactError(
            f"{artifact.id}/{AUDIO_FILE} cannot be read ({error}): delete it and run again"
        ) from error


def channels_of(artifact: Artifact) -> dict[str, int]:
    """The channel, 1 or 2, of the recordings of an audio shard that are one of a file, by their id."""
    table = pq.read_table(artifact.path(FILES_FILE), columns=["recording_id", "channel_mix"]).to_pydict()
    found = zip(table["recording_id"], table["channel_mix"], strict=True)
    return {recording: CHANNELS.index(mix) + 1 for recording, mix in found if mix in CHANNELS}


def flac_of(artifact: Artifact, ids: Container[str]) -> dict[str, bytes]:
    """FLAC of the utterances with these `ids`, by id. Only the groups of rows that have some are read: of a large shard, little."""
    file = pq.ParquetFile(artifact.path(AUDIO_FILE), page_checksum_verification=True)
    found: dict[str, bytes] = {}
    for group in range(file.num_row_groups):
        own = file.read_row_group(group, ["utterance_id"])["utterance_id"].to_pylist()
        if wanted := [row for row, i in enumerate(own) if i in ids]:
            sounds = file.read_row_group(group, ["flac"])["flac"].take(wanted).to_pylist()
            found |= dict(zip((own[row] for row in wanted), sounds, strict=True))
    return found


def recordings(artifacts: Iterable[Artifact], ids: set[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Samples of the utterances with these `ids`, from the audio shards that have them."""
    return {u.utterance_id: u.samples for artifact in artifacts for u in read_utterances(artifact, ids)}


def _utterance(row: dict[str, Any]) -> Utterance:
    samples_N = decode_flac(row.pop("flac"))
    assert len(samples_N) == row.pop("num_samples")
    return Utterance(**row, samples=samples_N)


class UtteranceWriter:
    """Writes the two tables of a shard row by row. Use as a context manager; same rows, same bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[dict[str, Any]] = []
        self._held_bytes = 0
        self._index: list[dict[str, Any]] = []
        self._writer = pq.ParquetWriter(
            folder / AUDIO_FILE,
            AUDIO,
            # FLAC does not get smaller, and a dictionary of sounds is of no use.
            compression={name: "none" if name == "flac" else "zstd" for name in AUDIO.names},
            use_dictionary=["speaker", "split"],
            write_page_checksum=True,
            write_statistics=False,
        )

    def __enter__(self) -> Self:
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Append one row of the schema AUDIO."""
        self._rows.append(row)
        self._index.append({name: row[name] for name in UTTERANCES.names})
        self._held_bytes += len(row["flac"])
        if self._held_bytes >= GROUP_BYTES or len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=AUDIO), row_group_size=GROUP_ROWS)
        self._rows, self._held_bytes = [], 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            write_table(pa.Table.from_pylist(self._index, schema=UTTERANCES), self._folder / UTTERANCES_FILE)
        self._writer.close()
