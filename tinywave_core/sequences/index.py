"""Token shards -> a table of training sequences: each shard is read once, and its sequences are kept in a form to be read from.

One sequence is one utterance, cut in equal pieces only where it is longer than a row. It carries an id of its own content, so cached
logits belong to a sequence and not to a row or a run. Beside a shard lie, for each split and row length: its tokens one
behind the other (uint16), and arrays that say where each sequence begins. Both are made from the shard, never from one another, and
made again when they are gone; a shard never changes, so that they cannot be out of date.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinywave_core.errors import DamagedArtifactError
from tinywave_core.sequences.table import SequenceTable
from tinywave_core.storage.blocks import BlockFile, checksums
from tinywave_core.storage.indices import CHECKSUMS, Arrays, index_folder, kept_arrays, written_whole
from tinywave_core.storage.schemas import SAMPLE_RATE, TOKENS_FILE
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact

_VERSION = 1  # of what lies beside a shard
_COLUMNS = ("utterance_id", "num_samples", "ids", "split", "variant")


def load_sequences(shards: Iterable[Artifact], split: str, max_length: int) -> SequenceTable:
    """All sequences of one split (train or held_out) in the token shards, sorted by id."""
    return SequenceTable.joined([_of_shard(shard, split, max_length) for shard in shards])


def _of_shard(shard: Artifact, split: str, max_length: int) -> SequenceTable:
    name = f"sequences-{_VERSION}-{split}-{max_length}"
    tokens = index_folder(shard) / f"{name}.u16"
    if not tokens.is_file():  # then the arrays are of no use
        tokens.with_suffix(".npz").unlink(missing_ok=True)

    def make() -> Arrays:
        arrays, ids = _sequences(shard, split, max_length)
        written_whole(shard, tokens, ids.tofile)
        return {**arrays, CHECKSUMS: checksums(ids.tobytes())}

    arrays = kept_arrays(shard, name, make)
    count = len(arrays["row"])
    return SequenceTable(
        (_ShardSource(shard, arrays, name),),
        np.zeros(count, np.int32),
        np.arange(count, dtype=np.int32),
        arrays["seq_id"],
        arrays["n_tokens"],
        arrays["variant"],
        arrays["seconds"],
    )


class _ShardSource:
    """Tokens and names of one shard's sequences."""

    def __init__(self, shard: Artifact, arrays: Arrays, name: str) -> None:
        self._shard, self._name, self._row = shard, name, arrays["row"]
        self._starts = np.concatenate([[0], np.cumsum(arrays["n_tokens"], dtype=np.int64)]) * 2
        tokens = index_folder(shard) / f"{name}.u16"
        self._file = BlockFile(tokens, int(self._starts[-1]), arrays[CHECKSUMS], self._broken)

    def tokens(self, rows_R: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint16]]:
        starts = self._starts[rows_R]
        return [np.frombuffer(data, "<u2") for data in self._file.read(starts, self._starts[rows_R + 1] - starts)]

    def names(self, name: str) -> pa.Array:
        # What is read is held against the checksums of its pages; a digest of the whole file would read all of it.
        column = read_table(self._shard.opened(TOKENS_FILE), [name])[name].combine_chunks()
        return column.take(pa.array(self._row))

    def _broken(self) -> Exception:
        folder = index_folder(self._shard)
        for path in folder.glob(f"{self._name}.*"):
            path.unlink(missing_ok=True)
        return DamagedArtifactError(
            f"the tokens of {self._shard.id} that were kept in {folder} are gone or damaged, and were deleted: run again, and they are "
            "made anew from the shard"
        )


def _sequences(shard: Artifact, split: str, max_length: int) -> tuple[dict[str, Any], npt.NDArray[np.uint16]]:
    """The arrays of one shard's sequences, sorted by id, and their tokens one behind the other."""
    pieces = sorted(_pieces(shard, split, max_length), key=lambda piece: piece[0])
    ids, rows, tokens, seconds, variants = zip(*pieces, strict=True) if pieces else ((),) * 5
    arrays = {
        "seq_id": np.array(ids, "S16"),
        "row": np.array(rows, np.int32),
        "n_tokens": np.array([len(t) for t in tokens], np.int32),
        "seconds": np.array(seconds, np.float64),
        "variant": np.array(variants, np.int16),
    }
    return arrays, np.concatenate([np.empty(0, "<u2"), *tokens]).astype("<u2")


def _pieces(
    shard: Artifact, split: str, max_length: int
) -> Iterator[tuple[bytes, int, npt.NDArray[np.uint16], float, int]]:
    """Id, row in the shard, tokens, seconds and variant of each sequence."""
    path = shard.path(TOKENS_FILE)
    file = pq.ParquetFile(path, page_checksum_verification=True)
    columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
    first = 0
    for batch in file.iter_batches(columns=columns):
        names, samples = batch["utterance_id"].to_pylist(), batch["num_samples"].to_numpy()
        ids = batch["ids"]
        values, ends = ids.values.to_numpy(), ids.offsets.to_numpy()
        variants = batch["variant"].to_numpy() if "variant" in columns else np.zeros(batch.num_rows, np.int32)
        is_wanted = pc.equal(batch["split"], split).to_numpy(zero_copy_only=False)
        if split != "train":
            is_wanted &= variants <= 0  # held-out speech is scored in one drawing
        for row in np.flatnonzero(is_wanted).tolist():
            whole = values[ends[row] : ends[row + 1]]
            pieces = -(-len(whole) // max_length)
            for number, piece in enumerate([whole] if pieces == 1 else np.array_split(whole, pieces)):
                if len(piece) > 1:  # one token alone predicts nothing
                    digest = hashlib.sha256(f"{names[row]}/{number}/".encode() + piece.tobytes()).digest()
                    seconds = int(samples[row]) / SAMPLE_RATE * len(piece) / len(whole)
                    yield digest[:16], first + row, piece, seconds, int(variants[row])
        first += batch.num_rows
