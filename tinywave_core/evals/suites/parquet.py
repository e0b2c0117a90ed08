"""Recordings out of Parquet tables, as data set hubs keep them: a struct {bytes, path} per recording."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.base import AUDIO, entries, some
from tinywave_core.storage import foreign_parquet


def tables(folder: Path) -> list[Path]:
    """Parquet files of a folder by name."""
    return [path for path in entries(folder) if path.suffix == ".parquet" and path.name[0] not in "._"]


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
    names = foreign_parquet.schema(path).names
    if missing := [name for name in columns if name not in names]:
        raise SourceError(f"{path} has no column {some(missing)}, but {some(names, 8)}: is it SALMon's?")
    for row in foreign_parquet.rows(path, columns):
        if type(row[columns[0]]) is not int:
            raise SourceError(
                f"{path} has the {columns[0]} {row[columns[0]]!r:.40}; expected whole numbers: is it SALMon's?"
            )
        yield row


def _write(audio: dict | None, target: Path, where: str) -> None:
    data = (audio or {}).get("bytes")
    if not data:
        raise SourceError(f"{where} holds no recording: expected its bytes in the table, not a path to it elsewhere")
    suffix = Path((audio or {}).get("path") or "").suffix.lower()
    place = target.with_suffix(suffix if suffix in AUDIO else ".wav")
    if place.exists():
        raise SourceError(f"{where}: a second recording of that number; expected one pair for each")
    place.write_bytes(data)
