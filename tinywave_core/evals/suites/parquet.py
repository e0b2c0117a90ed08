"""Recordings out of Parquet tables, as data set hubs keep them: a struct {bytes, path} per recording."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.base import AUDIO, some

_ROWS = 32


def tables(folder: Path) -> list[Path]:
    """Parquet files of a folder by name."""
    return sorted(path for path in folder.glob("*.parquet") if path.name[0] not in "._")


def unpack(paths: Sequence[Path], number: str, versions: Sequence[str], target: Path) -> None:
    """Write each row's recordings as sample_<number>_<j>, j counting `versions`: names of columns; `number` is one, too.

    SourceError where a table has other columns, cannot be read, or names a file in place of its bytes.
    """
    for path in paths:
        try:
            for row in _rows(path, [number, *versions]):
                for j, version in enumerate(versions):
                    _write(
                        row[version], target / f"sample_{row[number]}_{j}", f"{path}, {number} {row[number]}, {version}"
                    )
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{path} cannot be read as Parquet ({error}): copy it again") from error


def _rows(path: Path, columns: list[str]) -> Iterator[dict]:
    file = pq.ParquetFile(path)
    missing = [name for name in columns if name not in file.schema_arrow.names]
    if missing:
        raise SourceError(
            f"{path} has no column {some(missing)}, but {some(file.schema_arrow.names, 8)}: is it SALMon's?"
        )
    for batch in file.iter_batches(_ROWS, columns=columns):
        yield from batch.to_pylist()


def _write(audio: dict | None, target: Path, where: str) -> None:
    data = (audio or {}).get("bytes")
    if not data:
        raise SourceError(f"{where} holds no recording: expected its bytes in the table, not a path to it elsewhere")
    suffix = Path((audio or {}).get("path") or "").suffix.lower()
    place = target.with_suffix(suffix if suffix in AUDIO else ".wav")
    if place.exists():
        raise SourceError(f"{where}: a second recording of that number; expected one pair for each")
    place.write_bytes(data)
