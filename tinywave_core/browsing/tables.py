"""Parquet files of artifacts, read by pages: some rows of some columns, whatever the size of the file.

Row groups before the page are passed over by their counts; within one, batches of a page's size are read from a buffered stream, so that
neither the file nor a whole group is ever in memory. Checksums of pages are verified. Binary columns are not read.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinywave_core.errors import DamagedArtifactError, MissingInputError
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.store import Artifact

ROWS = 50
MOST_COLUMNS = 9
"""That a table shows by itself; all where somebody asks."""
_BUFFER_BYTES = 1 << 20
_SCAN_ROWS = 4096
"""Of a column of ids that is searched."""
_TEXT, _ITEMS, _DIGITS = 90, 6, 12
_DIGEST = re.compile(r"[0-9a-f]{24,64}")
# What tells most about a row, first; a column that is not here comes after these, as stored.
_FIRST = (
    "path",
    "utterance_id",
    "word",
    "label",
    "token",
    "speaker",
    "status",
    "reason",
    "detail",
    "transcript",
    "split",
    "num_samples",
    "start_samples",
    "end_samples",
    "duration_s",
    "units",
    "source",
    "kind",
    "place",
    "probe",
    "model",
    "measure",
    "group",
    "value",
    "interval",
    "step",
    "loss",
    "validation",
    "teacher_nll",
    "student_nll",
    "control_nll",
    "snr_db",
    "dnsmos",
)
# Of the store more than of the row: shown where somebody asks for all columns.
_LAST = ("recording_id", "sha256", "decoder", "ids", "unvoiced_chunks")


@dataclass(frozen=True)
class Cell:
    """One value as text."""

    text: str
    note: str = ""
    """The same in another unit, or how much is not shown."""
    is_number: bool = False
    is_whole: bool = False
    """To be kept on one line."""


@dataclass(frozen=True)
class TablePage:
    """Some rows of a table."""

    columns: Sequence[str]
    left_out: Sequence[str]
    """Columns that are there and not shown."""
    binary: Sequence[str]
    """Columns that cannot be shown."""
    rows: Sequence[Sequence[Cell]]
    ids: Sequence[str | None]
    """Of the utterance that a row is about."""
    first: int
    """Number of the first row, from 0."""
    total: int

    def is_numeric(self, column: int) -> bool:
        """Whether what is shown of a column are numbers."""
        return any(row[column].is_number for row in self.rows)


@contextlib.contextmanager
def opened(artifact: Artifact, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of an artifact, to be read in parts; DamagedArtifactError where what is read is not what was written."""
    if name not in artifact.files:
        raise MissingInputError(f"{artifact.id} has no file {name!r}")
    try:
        with contextlib.ExitStack() as stack:
            yield stack.enter_context(parquet(stack.enter_context(_stream(artifact, name))))
    except (OSError, pa.ArrowException) as error:
        raise DamagedArtifactError(
            f"{artifact.id}/{name} cannot be read ({error}). Run `tinywave verify --root {artifact.store.url}`, which says what is wrong"
        ) from error


def parquet(source: BinaryIO) -> pq.ParquetFile:
    """Read by a small buffer, and checked."""
    return pq.ParquetFile(source, page_checksum_verification=True, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _stream(artifact: Artifact, name: str) -> BinaryIO:
    """Of a store elsewhere only what is read comes here; nothing is kept."""
    store = artifact.store
    if store.local:
        return artifact.opened(name).open("rb")
    return store.filesystem.open(f"{store.root.rstrip('/')}/{artifact.id}/{name}", "rb")  # type: ignore[no-any-return]


def table_page(file: pq.ParquetFile, first: int, *, everything: bool = False) -> TablePage:
    """The page from row `first` on."""
    schema, total = file.schema_arrow, file.metadata.num_rows
    first = max(0, min(first, (total - 1) // ROWS * ROWS if total else 0))
    readable = [field.name for field in schema if not _is_binary(field.type)]
    rows = rows_at(file, first, ROWS, readable) if readable else []
    columns = readable if everything else chosen(readable, rows)
    return TablePage(
        columns,
        [name for name in readable if name not in columns],
        [field.name for field in schema if _is_binary(field.type)],
        [[cell(name, row[name]) for name in columns] for row in rows],
        [row.get("utterance_id") for row in rows],
        first,
        total,
    )


def rows_at(file: pq.ParquetFile, first: int, count: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    """`count` rows from row `first` on, or as many as there are."""
    found: list[dict[str, Any]] = []
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if first >= size:
            first -= size
            continue
        for batch in file.iter_batches(count, [group], list(columns)):
            found += batch.slice(min(first, len(batch)), count - len(found)).to_pylist()
            first = max(0, first - len(batch))
            if len(found) == count:
                return found
    return found


def row_number(file: pq.ParquetFile, column: str, value: str) -> int | None:
    """The first row that has this value there; only that column is read."""
    before = 0
    for batch in file.iter_batches(_SCAN_ROWS, columns=[column]):
        at = pc.index(batch[column], pa.scalar(value, batch[column].type)).as_py()
        if at >= 0:
            return before + int(at)
        before += len(batch)
    return None


def row_of(file: pq.ParquetFile, column: str, value: str, columns: Sequence[str]) -> dict[str, Any] | None:
    """Some columns of the first row that has this value there."""
    number = row_number(file, column, value)
    return None if number is None else rows_at(file, number, 1, columns)[0]


def rows_where(
    file: pq.ParquetFile, columns: Sequence[str], keep: Callable[[pa.RecordBatch], Any]
) -> Iterator[dict[str, Any]]:
    """Rows that `keep` keeps, as they come."""
    for batch in file.iter_batches(_SCAN_ROWS, columns=list(columns)):
        yield from batch.filter(keep(batch)).to_pylist()


def chosen(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns that tell most, in the order in which they are stored; those that are empty on this page are last of all, and come last."""
    empty = {name for name in columns if all(row[name] in (None, [], "") for row in rows)}

    def rank(name: str) -> tuple[bool, int]:
        return name in empty, _FIRST.index(name) if name in _FIRST else len(_FIRST) + columns.index(name)

    telling = [name for name in columns if name not in _LAST] or columns
    best = set(sorted(telling, key=rank)[:MOST_COLUMNS])
    return sorted((name for name in columns if name in best), key=lambda name: name in empty)


def cell(column: str, value: Any) -> Cell:
    """A value as a person reads it; long text and long lists are cut, and say so."""
    if value is None:
        return Cell("")
    if isinstance(value, list):
        shown = ", ".join(cell("", item).text for item in value[:_ITEMS])
        if len(value) <= _ITEMS:
            return Cell(shown)
        return Cell(f"{shown}, …", f"{len(value):,}", is_whole=True)
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(value)
        if _DIGEST.fullmatch(text):
            return Cell(f"{text[:_DIGITS]}…", is_whole=True)
        return Cell(text) if len(text) <= _TEXT else Cell(text[:_TEXT].rstrip() + "…", f"{len(text):,} characters")
    if column.endswith("_samples"):
        return Cell(f"{value:,}", f"{value / SAMPLE_RATE:.2f} s", is_number=True)
    return Cell(f"{value:,}" if isinstance(value, int) else f"{value:.5g}", is_number=True)


def _is_binary(type_: pa.DataType) -> bool:
    return any(check(type_) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary))
