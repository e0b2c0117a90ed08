"""Training data where it lies: what is read is what the shards hold, damage is found, and nothing grows with the corpus but numbers."""

import errno
import hashlib
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Finished
from tests.fixtures.small_artifact import commit
from tests.fixtures.tiny import copy_store
from tinywave_core.errors import DamagedArtifactError, StoreFullError
from tinywave_core.sequences.dataset import PackedDataset
from tinywave_core.sequences.index import load_sequences
from tinywave_core.steps.inputs import training_shards
from tinywave_core.storage.indices import index_folder
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.teacher.logit_cache import INDEX, LogitCache

LENGTH = 48  # shorter than the longest utterance, so that some are cut


@pytest.fixture
def shards(finished: Finished, tmp_path: Path) -> list[Artifact]:
    """Token shards of a store of their own."""
    copy_store(finished.config, tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    return store.find_all([shard.id for shard in training_shards(finished.outputs["tokens"])])


def by_definition(shards: list[Artifact]) -> dict[str, list[int]]:
    """Tokens by sequence id, straight from the tables."""
    found = {}
    for shard in shards:
        for row in read_table(shard.path(TOKENS_FILE)).to_pylist():
            pieces = np.array_split(np.array(row["ids"], np.uint16), -(-len(row["ids"]) // LENGTH))
            for number, piece in enumerate(pieces):
                if row["split"] == "train" and len(piece) > 1:
                    name = f"{row['utterance_id']}/{number}/".encode() + piece.tobytes()
                    found[hashlib.sha256(name).hexdigest()[:32]] = piece.tolist()
    return found


def contents(shards: list[Artifact]) -> dict[str, list[int]]:
    return {s.id: s.ids.tolist() for s in load_sequences(shards, "train", LENGTH)}


def test_sequences_are_those_of_the_tables_sorted_by_id_also_from_what_was_kept(shards: list[Artifact]):
    want = by_definition(shards)
    assert len(want) > len(shards) and contents(shards) == want == contents(shards)
    assert list(contents(shards)) == sorted(want)


def test_names_and_seconds_are_those_of_the_utterance(shards: list[Artifact]):
    rows = {row["utterance_id"]: row for shard in shards for row in read_table(shard.path(TOKENS_FILE)).to_pylist()}
    seconds = dict.fromkeys((u for u in rows if rows[u]["split"] == "train"), 0.0)
    for s in load_sequences(shards, "train", LENGTH):
        row = rows[s.utterance_id]
        assert (s.recording_id, s.speaker) == (row["recording_id"], row["speaker"])
        seconds[s.utterance_id] += s.seconds
    for utterance, total in seconds.items():
        assert total == pytest.approx(rows[utterance]["num_samples"] / 16_000)


def kept(shard: Artifact, ending: str) -> Path:
    (path,) = (p for p in index_folder(shard).iterdir() if p.name.endswith(f"train-{LENGTH}.{ending}"))
    return path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("break_it", [flip, lambda path: path.write_bytes(path.read_bytes()[:30])])
def test_kept_tokens_that_are_damaged_are_an_error_and_made_anew_by_the_next_run(shards: list[Artifact], break_it):
    want = contents(shards)
    break_it(kept(shards[0], "u16"))
    with pytest.raises(DamagedArtifactError, match=f"{shards[0].id} that were kept in .* were deleted: run again"):
        contents(shards)
    assert contents(shards) == want


@pytest.mark.parametrize("break_it", [flip, lambda path: path.write_bytes(b""), Path.unlink])
@pytest.mark.parametrize("ending", ["npz", "u16"])
def test_kept_arrays_that_are_damaged_or_gone_are_made_anew(shards: list[Artifact], break_it, ending: str):
    want = contents(shards)
    if (ending, break_it) == ("u16", Path.unlink) or ending == "npz":
        break_it(kept(shards[0], ending))
    assert contents(shards) == want


def test_what_is_kept_while_another_makes_it_is_whole(shards: list[Artifact]):
    want, found, start = by_definition(shards), [], threading.Barrier(4)

    def load() -> None:
        start.wait()
        found.append(contents(shards))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [want] * 4


def test_indices_go_with_their_artifact(shards: list[Artifact]):
    contents(shards)
    (store, shard) = shards[0].store, shards[0]
    folder = index_folder(shard)
    assert folder.is_dir()
    store.discard(shard.id)
    assert not folder.exists()
    store.set_aside(shards[1].id)
    assert not store.index_folder(shards[1].id).exists()


def test_logits_are_found_by_what_was_kept_and_a_damaged_shard_is_refused_before_it_is_kept(
    finished: Finished, tmp_path: Path
):
    copy_store(finished.config, tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    shards = store.find_all(finished.outputs["logits"].summary["shards"])
    cache = LogitCache.of_shards(shards, {})
    path = index_folder(shards[0]) / f"{INDEX}.npz"
    assert path.is_file()
    again = LogitCache.of_shards(shards, {})
    every = np.arange(len(cache))
    assert np.array_equal(again.read(every).ids, cache.read(every).ids)
    path.unlink()
    flip(shards[0].opened("logits.parquet"))
    with pytest.raises(DamagedArtifactError, match="logits.parquet is damaged: it has"):
        LogitCache.of_shards(Store(str(tmp_path / "store")).find_all([s.id for s in shards]), {})


def elsewhere(finished: Finished, folder: Path, name: str) -> Artifact:
    """A shard of logits in a store that is not on this machine's disk."""
    shard = finished.store.find(finished.outputs["logits"].summary["shards"][0])
    shutil.copytree(shard.path(), folder / name, ignore=shutil.ignore_patterns("manifest.json"))
    return commit(Store(f"memory://{name}"), folder / name, artifact_id=shard.id)


def test_shards_that_do_not_fit_on_this_machine_are_read_over_the_network(finished: Finished, tmp_path: Path):
    shard = elsewhere(finished, tmp_path, "no-room")
    cache = LogitCache.of_shards([shard], {})
    every = np.random.default_rng(0).permutation(len(cache))
    want = cache.read(every).weights
    copy = shard.opened("logits.parquet")
    found = LogitCache.of_shards([shard], {}, local_bytes=shard.size("logits.parquet") - 1)
    assert not copy.exists()
    for _ in range(2):  # pages, then values alone
        assert np.array_equal(found.read(every).weights, want)
    assert LogitCache.of_shards([shard], {}, local_bytes=shard.size("logits.parquet")) and copy.exists()


def test_a_file_elsewhere_that_ends_too_early_or_is_gone_is_an_error(finished: Finished, tmp_path: Path):
    shard = elsewhere(finished, tmp_path, "breaks-off")
    cache = LogitCache.of_shards([shard], {}, local_bytes=0)
    where, files = f"/breaks-off/{shard.id}/logits.parquet", shard.store.filesystem
    files.pipe_file(where, files.cat_file(where)[:3000])
    with pytest.raises(DamagedArtifactError, match="memory://.*are needed: it was cut"):
        cache.read(np.arange(len(cache)))
    files.rm_file(where)
    with pytest.raises(DamagedArtifactError, match="is gone: run its stage again"):
        cache.read(np.arange(1))


def test_a_share_of_a_batch_is_its_rows_alone_and_the_next_is_read_ahead(shards: list[Artifact]):
    sequences = load_sequences(shards, "train", LENGTH)
    whole = PackedDataset(sequences, LENGTH, 4, seed=3)
    shares = [slice(0, 2), slice(2, 4)]
    for share in shares:
        dataset = PackedDataset(sequences, LENGTH, 4, seed=3)
        with dataset.reading_ahead(share) as batches:
            for step in (0, 1, 2, 5, 6):  # 3 and 4 were left out
                own, every = batches.batch(step), whole.batch(step)
                assert np.array_equal(own.input_ids, every.input_ids[share]) and own.rows == every.rows[share]
                assert (own.step_targets, own.first_row) == (every.targets, share.start)


def test_what_goes_wrong_while_reading_ahead_is_told_where_the_batch_is_asked_for(shards: list[Artifact]):
    sequences = load_sequences(shards, "train", LENGTH)
    dataset = PackedDataset(sequences, LENGTH, 2, seed=0)
    with dataset.reading_ahead() as batches:
        batches.batch(0)
        for shard in shards:
            shutil.rmtree(index_folder(shard))
        with pytest.raises(DamagedArtifactError, match="run again"):
            for step in range(1, 9):
                batches.batch(step)


def test_a_full_disk_under_the_copies_of_a_store_elsewhere_is_named(finished: Finished, tmp_path: Path, monkeypatch):
    shard = elsewhere(finished, tmp_path, "full-disk")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard.store.filesystem, "get_file", full)
    with pytest.raises(
        StoreFullError, match="where copies of memory://.* lie, is full: .*logits.parquet needs .* TMPDIR"
    ):
        LogitCache.of_shards([shard], {})
