"""One flipped bit anywhere in a store: `verify` names the file, and whoever reads it raises or does without it.

The bits are drawn over every kind of file and record of a finished run. `make break-store` draws many more and prints how many
were silent, by kind.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from flows.cli import main
from tests.conftest import Finished
from tests.fixtures.faults import flip
from tests.fixtures.tiny import copy_store, run_tiny
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.errors import DamagedArtifactError
from tinywave_core.reporting.run import finish_run
from tinywave_core.run.promotion import promote, published
from tinywave_core.steps.base import Outputs, compute_all
from tinywave_core.storage.care.census import LOGS, take_census
from tinywave_core.storage.care.verify import verify
from tinywave_core.storage.forgotten import FORGOTTEN, forgotten
from tinywave_core.storage.store import ABOUT, Store
from tinywave_core.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint

FLIPS = int(os.environ.get("TINYWAVE_STORE_FLIPS", "48"))
SEED = int(os.environ.get("TINYWAVE_STORE_SEED", "0"))
WORK = "export/0123456789abcdef"
BASE_STATE = TrainingState(2, [{"loss": 1.0}, {"loss": 0.5}], [])


@dataclass(frozen=True)
class Whole:
    """A store with one of everything, and what a run on it comes to."""

    config: PipelineConfig
    outputs: Outputs

    @property
    def store(self) -> Store:
        """As another process opens it; may raise."""
        return Store(self.config.root)

    def files(self) -> dict[str, list[str]]:
        """Everything that somebody reads, by kind."""
        kinds: dict[str, list[str]] = {}
        for path in sorted(Path(self.config.root).rglob("*")):
            name = path.relative_to(self.config.root).as_posix()
            if path.is_file() and path.stat().st_size:
                kinds.setdefault(kind_of(name), []).append(name)
        return kinds


def kind_of(name: str) -> str:
    top = name.partition("/")[0]
    if top in STAGES:
        return "manifest" if name.endswith("/manifest.json") else f"artifact's *{Path(name).suffix}"
    return {".work": "checkpoint"}.get(top, top)


@pytest.fixture(scope="module")
def whole(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    config = copy_store(finished.config, tmp_path_factory.mktemp("flips") / "store")
    store, outputs = Store(config.root), finished.outputs
    promotion = promote(config, store, outputs, compute_all)
    finish_run(store, config, [], outputs, promotion, 1.0)
    for step in (2, 4):
        weight, optimizer = model()
        state = TrainingState(step, [{"loss": 1.0 / n} for n in range(1, step + 1)], [])
        save_checkpoint(store.work_folder(WORK) / "resume", state, {"weight": weight}, optimizer)
    return Whole(config, outputs)


def model() -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return weight, optimizer


def drawn(whole: Whole, number: int) -> Iterator[tuple[str, str, int]]:
    """Kind, file and bit: every kind equally often."""
    draw = random.Random(SEED)
    kinds = whole.files()
    for _, kind in zip(range(number), (kind for _ in iter(int, 1) for kind in sorted(kinds)), strict=False):
        name = draw.choice(kinds[kind])
        yield kind, name, draw.randrange(8 * Path(whole.config.root, name).stat().st_size)


def found_by_verify(whole: Whole, name: str) -> bool:
    census = take_census(Store(whole.config.root, create=False, mend=True))
    wrong = [finding.where for finding in verify(census) if not finding.harmless]
    return any(name == where or name.startswith(f"{where}/") for where in wrong)


def met_by_reading(whole: Whole, name: str) -> bool:
    """Whether who reads it raises or does without it: nothing comes out changed."""
    if name.startswith(".work/"):
        folder = Path(whole.config.root, *name.split("/")[:3])
        weight, optimizer = model()
        state = load_checkpoint(folder, {"weight": weight}, optimizer)
        return state is not None and state.step in (2, 4) and f"step-{state.step:08d}" not in name
    try:
        store = whole.store
        if name.startswith("reports/"):
            return True  # for people: `verify` alone looks at it
        if name.startswith(".index/"):
            return True  # refused or made anew: tests/stages/test_training_data.py
        artifact = "/".join(name.split("/")[:2])
        if name.partition("/")[0] in STAGES:
            store.find(artifact).path("")
        published(store), forgotten(store), [store.log(folder).records() for folder in logs(whole)]
    except DamagedArtifactError as error:
        return name in str(error) and "tinywave repair --root" in str(error)
    return False


def logs(whole: Whole) -> set[str]:
    paths = [path.parent.relative_to(whole.config.root) for path in Path(whole.config.root).rglob("0*.json")]
    return {path.as_posix() for path in paths if path.parts[0] in LOGS}


def met_by_a_run(whole: Whole, name: str) -> bool:
    try:
        outputs, computed = run_tiny(whole.config)
    except DamagedArtifactError as error:
        return name in str(error) and "tinywave repair --root" in str(error)
    return (
        outputs == whole.outputs
        and not computed.ran
        and all(a.summary == whole.outputs[p].summary for p, a in outputs.items())
    )


def test_no_flipped_bit_is_silent(whole: Whole, capsys: pytest.CaptureFixture[str]):
    Store(whole.config.root).log(FORGOTTEN).append({"sha256": ["0" * 64]})
    tried, silent = Counter[str](), Counter[str]()
    for kind, name, bit in drawn(whole, FLIPS):
        flip(Store(whole.config.root), name, bit)
        tried[kind] += 1
        if not (found_by_verify(whole, name) and met_by_reading(whole, name)):
            silent[kind] += 1
            print("silent:", name, bit)
        flip(Store(whole.config.root, mend=True), name, bit)
    shutil.rmtree(Path(whole.config.root, FORGOTTEN))
    if FLIPS > 100:
        rows = [f"  {kind:24}{silent[kind]:5} of {number}" for kind, number in sorted(tried.items())]
        with capsys.disabled():
            print(f"\nsilent: {silent.total()} of {FLIPS} (seed {SEED})", *rows, sep="\n")
    assert not silent


@pytest.mark.parametrize("kind", ["manifest", "pins", "catalog", "runs", "published", ABOUT])
def test_a_run_on_a_damaged_record_says_which_or_comes_to_the_same(whole: Whole, kind: str):
    draw = random.Random(f"{SEED} {kind}")
    for _ in range(max(1, FLIPS // 48)):
        name = draw.choice(whole.files()[kind])
        bit = draw.randrange(8 * Path(whole.config.root, name).stat().st_size)
        flip(Store(whole.config.root), name, bit)
        assert met_by_a_run(whole, name), (name, bit)
        flip(Store(whole.config.root, mend=True), name, bit)


@pytest.mark.parametrize("kind", ["manifest", "pins", "catalog", "runs", "published", ABOUT])
def test_repair_puts_the_flipped_bit_of_a_record_back(whole: Whole, kind: str, tmp_path: Path):
    draw, config = random.Random(kind), copy_store(whole.config, tmp_path / "store")
    path = Path(config.root, draw.choice(whole.files()[kind]))
    before = path.read_bytes()
    flip(Store(config.root), path.relative_to(config.root).as_posix(), draw.randrange(8 * len(before)))
    assert main(["verify", "--root", config.root]) == 2
    assert main(["repair", "--root", config.root]) == 0
    assert path.read_bytes() == before and not Path(config.root, ".damaged").exists()
    assert main(["verify", "--root", config.root]) == 0


@pytest.mark.parametrize("kind", ["manifest", "pins", "catalog", "runs", "published", "reports", "checkpoint", ABOUT])
def test_after_repair_of_worse_damage_the_next_run_comes_to_the_same(whole: Whole, kind: str, tmp_path: Path):
    config = copy_store(whole.config, tmp_path / "store")
    name = random.Random(kind).choice(whole.files()[kind])
    for bit in (999, 2001):
        flip(Store(config.root, mend=True), name, bit)
    assert main(["verify", "--root", config.root]) == 2
    assert main(["repair", "--root", config.root]) == 0
    outputs, computed = run_tiny(config)
    assert outputs == whole.outputs and len(computed.ran) == (kind == "manifest")
    assert main(["verify", "--root", config.root]) == 0
