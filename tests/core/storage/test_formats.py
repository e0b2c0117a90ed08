"""Stores as each version of the format has written them, kept in `tests/fixtures/stores`: today's code reads them all.

A change of what is written fails here: raise `STORE_VERSION`, keep the fixtures that were released, and add one of the new version.
"""

from pathlib import Path

import pytest

from tinywave_core.run.promotion import published
from tinywave_core.storage.care.census import take_census
from tinywave_core.storage.care.verify import verify
from tinywave_core.storage.forgotten import forgotten
from tinywave_core.storage.records import seal, unseal
from tinywave_core.storage.store import STORE_VERSION, Manifest, Store

STORES = Path(__file__).parents[2] / "fixtures" / "stores"
TODAY = STORES / f"v{STORE_VERSION}"
FIRST, SECOND = "export/db55a18d45f69c20d9778658783c1106", "export/fac03a74f47b5fa257543532f57ad92c"


@pytest.mark.parametrize("root", sorted(STORES.iterdir()), ids=lambda path: path.name)
def test_a_store_of_each_version_is_read(root: Path):
    store = Store(str(root), create=False)
    assert verify(take_census(store)) == []
    second = store.find(SECOND)
    assert second.path("data/hello.txt").read_text() == "hello\n"
    assert second.summary == {"words": 1, "share": 0.25, "name": "größer"}
    assert second.manifest is not None and second.manifest.inputs == {"from": [FIRST]}
    assert forgotten(store) == {"f" * 64}
    (pin,) = store.log("pins/0123456789abcdef0123456789abcdef").records()
    assert (pin["artifact"], pin["hours"]) == (SECOND, 0.5)
    now = published(store)
    assert now is not None and (now.model, now.student) == (SECOND, FIRST)
    assert [len(log.readable) for log in take_census(store).logs.values()] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("path", sorted(TODAY.rglob("*.json")), ids=lambda path: path.relative_to(TODAY).as_posix())
def test_todays_records_are_written_as_they_are_kept(path: Path):
    content = unseal(path.read_bytes())
    assert seal(Manifest.model_validate(content) if path.name == "manifest.json" else content) == path.read_bytes()


def test_store_json_is_written_as_it_is_kept(tmp_path: Path):
    Store(str(tmp_path))
    assert (tmp_path / "store.json").read_bytes() == (TODAY / "store.json").read_bytes()
