"""What goes wrong around a flow: a record of Prefect's that somebody changed, a worker that dies, memory that ends."""

import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH

from flows.stages import export
from tests.conftest import Finished
from tests.fixtures.tiny import copy_store, digests
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.run.record import StageRow
from tinywave_core.storage.store import Store

pytestmark = pytest.mark.usefixtures("prefect_server")


# Prefect's records ------------------------------------------------------------------------------------------------


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickled(record: dict[str, Any], canary: Path) -> str:
    record["metadata"]["serializer"] = {"type": "pickle", "picklelib": "cloudpickle"}
    return json.dumps(record | {"result": base64.encodebytes(pickle.dumps(Canary(canary))).decode()})


Poison = Callable[[dict[str, Any], Path], str]
POISONS: dict[str, Poison] = {
    "other id": lambda r, c: json.dumps(r | {"result": r["result"].replace("export/", "export/0")}),
    "other type": lambda r, c: json.dumps(r | {"result": "[1, 2]"}),
    "class": lambda r, c: json.dumps(r | {"result": json.dumps({"__class__": "antigravity.x", "data": 1})}),
    "pickle": pickled,
    "no record": lambda r, c: "not JSON",
}


@pytest.fixture(scope="module")
def recorded(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineConfig, Path, str]:
    """A store, the file with Prefect's record of its export, and what it says."""
    config = copy_store(finished.config, tmp_path_factory.mktemp("recorded") / "store")
    export(config)
    record = Path(PREFECT_LOCAL_STORAGE_PATH.value(), finished.outputs["model"].fingerprint)
    return config, record, record.read_text()


@pytest.mark.parametrize(
    "how", [how if how == "pickle" else pytest.param(how, marks=pytest.mark.nightly) for how in POISONS]
)
def test_a_changed_record_of_prefects_is_neither_believed_nor_run(
    recorded: tuple[PipelineConfig, Path, str], finished: Finished, tmp_path: Path, how: str
):
    config, record, ours = recorded
    record.write_text(POISONS[how](json.loads(ours), tmp_path / "canary"))
    returned = export(config)
    assert not (tmp_path / "canary").exists()
    assert returned["outputs"] == {name: finished.outputs[name].id for name in ("vocoder", "model")}
    assert StageRow.model_validate(returned["row"]).status == "cached"
    assert digests(Store(config.root)) == digests(finished.store)
    assert record.read_text() == ours
