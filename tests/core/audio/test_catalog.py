"""The catalog of a corpus: what was taken, in which shards, and what is lost; and how new files become shards."""

from pathlib import Path

import pytest

from tinywave_core.audio.catalog import Catalog, stat_row
from tinywave_core.audio.scan import NewFile, group_by_size
from tinywave_core.audio.sidecars import Label
from tinywave_core.audio.source import SourceFile
from tinywave_core.storage.store import Store


def file(name: str, size: int = 10) -> SourceFile:
    return SourceFile(f"{name}.wav", f"/{name}.wav", size, "now")


def new(*sizes: int) -> dict[str, NewFile]:
    """Content `0`, `1`, … of these sizes."""
    return {str(number): NewFile(file(str(number), size), str(number), Label()) for number, size in enumerate(sizes)}


def digests(groups: tuple[tuple[NewFile, ...], ...]) -> list[str]:
    return ["".join(file.sha256 for file in group) for group in groups]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def remember(catalog: Catalog, shard: str, *names: str) -> None:
    files = [(file(name), name) for name in names]
    catalog.remember([stat_row(*each) for each in files], [(shard, files)])


def test_content_is_known_by_its_shard_and_files_by_how_they_look(store: Store):
    remember(Catalog(store, "speech"), "ingestion/1", "a", "b")
    catalog = Catalog(store, "speech")
    assert (catalog.shard_ids(), catalog.contents()) == (["ingestion/1"], {"ingestion/1": {"a", "b"}})
    assert catalog.digests()["a.wav", 10, "now"] == "a"


def test_content_of_a_shard_that_is_not_in_the_store_is_lost_and_not_known(store: Store):
    catalog = Catalog(store, "speech")
    remember(catalog, "ingestion/1", "b", "a")
    assert catalog.known_and_lost() == (set(), [["a", "b"]])


def test_what_another_run_appended_first_is_not_appended_again(store: Store):
    slow, fast = Catalog(store, "speech"), Catalog(store, "speech")
    slow.shard_ids()
    remember(fast, "ingestion/1", "a")
    slow.remember([], [("ingestion/1", [(file("a"), "a")])])
    assert len(Catalog(store, "speech").log.records()) == 1


def test_a_shard_made_again_under_another_id_is_remembered_with_its_files(store: Store):
    catalog = Catalog(store, "speech")
    remember(catalog, "ingestion/1", "a")
    catalog.remember([], [("ingestion/2", [(file("a"), "a")])])
    assert catalog.contents() == {"ingestion/1": {"a"}, "ingestion/2": {"a"}}


def test_new_files_are_shared_out_by_size_in_the_order_of_content():
    assert digests(group_by_size(new(10, 10, 10, 10), [], 20)) == ["01", "23"]
    assert digests(group_by_size(new(30, 5, 5), [], 20)) == ["0", "12"]


def test_lost_shards_come_first_and_as_they_were():
    assert digests(group_by_size(new(10, 10, 10, 10), [["3", "1"]], 20)) == ["13", "02"]


def test_shards_that_were_made_now_are_usable_though_the_catalog_has_them_not(store: Store):
    catalog = Catalog(store, "speech")
    remember(catalog, "ingestion/1", "a")
    assert catalog.usable_shards(["ingestion/2"]) == ["ingestion/1", "ingestion/2"]
    store.log("forgotten").append({"sha256": ["a"]})
    assert Catalog(store, "speech").usable_shards(["ingestion/2"]) == ["ingestion/2"]
