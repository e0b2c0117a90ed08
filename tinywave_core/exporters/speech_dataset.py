"""The utterances of a corpus as a dataset that other tools read: audiofolder, Parquet, WebDataset or lhotse.

FLAC is copied, never decoded. Files are named by utterance id; each has its transcript, speaker, recording and split. What is written
here gives the same utterances, transcripts and speakers when it is a source again.
"""

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinywave_core.progress import Progress
from tinywave_core.storage.schemas import SAMPLE_RATE

Row = dict[str, Any]
"""Of the schema AUDIO."""
SPLITS = {"train": "train", "held_out": "test"}  # as most tools call them
SHARD_BYTES = 256 << 20  # of a tar or Parquet file
SHARD_ROWS = 10_000

_PARQUET = pa.schema(
    [
        pa.field("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("id", pa.string()),
        pa.field("transcription", pa.string()),
        pa.field("speaker_id", pa.string()),
        pa.field("recording_id", pa.string()),
        pa.field("duration", pa.float64()),  # seconds
    ],
    # By this `datasets` knows that the column is sound.
    metadata={
        "huggingface": json.dumps(
            {
                "info": {
                    "features": {
                        "audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"},
                        **{
                            name: {"dtype": "string", "_type": "Value"}
                            for name in ("id", "transcription", "speaker_id", "recording_id")
                        },
                        "duration": {"dtype": "float64", "_type": "Value"},
                    }
                }
            }
        )
    },
)


def write_dataset(form: str, rows: Iterator[Row], folder: Path, total: int, progress: Progress) -> dict[str, int]:
    """Write rows into a folder that is there and empty, in one of FORMS; utterances by split."""
    counts = dict.fromkeys(SPLITS.values(), 0)

    def told() -> Iterator[tuple[str, Row]]:
        for number, row in enumerate(rows, start=1):
            split = SPLITS[row["split"]]
            counts[split] += 1
            yield split, row
            progress(number, total, "utterances")

    FORMS[form](told(), folder)
    return {split: count for split, count in counts.items() if count}


def _audiofolder(rows: Iterator[tuple[str, Row]], folder: Path) -> None:
    """<split>/<id>.flac with <split>/metadata.csv, as `load_dataset("audiofolder", data_dir=…)` takes it."""
    with ExitStack() as files:
        tables: dict[str, Any] = {}
        for split, row in rows:
            if split not in tables:
                (folder / split).mkdir()
                file = files.enter_context((folder / split / "metadata.csv").open("w", encoding="utf-8", newline=""))
                tables[split] = csv.writer(file, lineterminator="\n")
                tables[split].writerow(["file_name", "transcription", "speaker", "recording_id"])
            name = f"{row['utterance_id']}.flac"
            (folder / split / name).write_bytes(row["flac"])
            tables[split].writerow([name, row["transcript"] or "", row["speaker"] or "", row["recording_id"]])


def _parquet(rows: Iterator[tuple[str, Row]], folder: Path) -> None:
    """data/<split>-00000.parquet with a column `audio`, as `load_dataset(FOLDER)` takes it."""
    (folder / "data").mkdir()
    for split, number, batch in _shards(rows):
        records = [
            {
                "audio": {"bytes": row["flac"], "path": f"{row['utterance_id']}.flac"},
                "id": row["utterance_id"],
                "transcription": row["transcript"],
                "speaker_id": row["speaker"],
                "recording_id": row["recording_id"],
                "duration": row["num_samples"] / SAMPLE_RATE,
            }
            for row in batch
        ]
        table = pa.Table.from_pylist(records, schema=_PARQUET)
        pq.write_table(table, folder / "data" / f"{split}-{number:05d}.parquet", row_group_size=100)


def _webdataset(rows: Iterator[tuple[str, Row]], folder: Path) -> None:
    """<split>-000000.tar of <id>.flac and <id>.json."""
    for split, number, batch in _shards(rows):
        with tarfile.TarFile(folder / f"{split}-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in batch:
                about = {"text": row["transcript"], "speaker": row["speaker"], "recording_id": row["recording_id"]}
                _add(tar, f"{row['utterance_id']}.flac", row["flac"])
                _add(tar, f"{row['utterance_id']}.json", json.dumps(about, ensure_ascii=False).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # without owner and time: the same corpus gives the same bytes
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _lhotse(rows: Iterator[tuple[str, Row]], folder: Path) -> None:
    """audio/<id>.flac with <split>_cuts.jsonl.gz, as `CutSet.from_file` takes it."""
    (folder / "audio").mkdir()
    with ExitStack() as files:
        tables: dict[str, Any] = {}
        for split, row in rows:
            if split not in tables:
                raw = files.enter_context((folder / f"{split}_cuts.jsonl.gz").open("wb"))
                tables[split] = files.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0))
            (folder / "audio" / f"{row['utterance_id']}.flac").write_bytes(row["flac"])
            tables[split].write(json.dumps(_cut(row), ensure_ascii=False).encode() + b"\n")


def _cut(row: Row) -> Row:
    name, seconds = row["utterance_id"], row["num_samples"] / SAMPLE_RATE
    supervision: Row = {"id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0}
    supervision |= {key: row[own] for key, own in (("text", "transcript"), ("speaker", "speaker")) if row[own]}
    return {
        "id": name,
        "start": 0,
        "duration": seconds,
        "channel": 0,
        "supervisions": [supervision],
        "recording": {
            "id": name,
            "sources": [{"type": "file", "channels": [0], "source": f"audio/{name}.flac"}],
            "sampling_rate": SAMPLE_RATE,
            "num_samples": row["num_samples"],
            "duration": seconds,
        },
        "custom": {"recording_id": row["recording_id"]},
        "type": "MonoCut",
    }


def _shards(rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, int, Sequence[Row]]]:
    """Rows of one split at a time, about SHARD_BYTES each, numbered by split."""
    held: dict[str, list[Row]] = {split: [] for split in SPLITS.values()}
    sizes, numbers = dict.fromkeys(held, 0), dict.fromkeys(held, 0)
    for split, row in rows:
        held[split].append(row)
        sizes[split] += len(row["flac"])
        if sizes[split] >= SHARD_BYTES or len(held[split]) == SHARD_ROWS:
            yield split, numbers[split], held[split]
            held[split], sizes[split], numbers[split] = [], 0, numbers[split] + 1
    yield from ((split, numbers[split], batch) for split, batch in held.items() if batch)


FORMS: dict[str, Callable[[Iterator[tuple[str, Row]], Path], None]] = {
    "audiofolder": _audiofolder,
    "parquet": _parquet,
    "webdataset": _webdataset,
    "lhotse": _lhotse,
}
