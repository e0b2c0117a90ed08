"""The numerical contract (infra/decisions/0027-numerical-contract.md): what is the same on every machine, and what nearly."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.conftest import Finished
from tests.fixtures import elsewhere, machines
from tests.fixtures.tiny import digests
from tinywave_core.config.load import load_config
from tinywave_core.models.llama import fresh_llama
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store

ROOT = Path(__file__).parents[2]
# Recordings, units, pitch and style codes, merged strings, ids and the tables that they were fitted with.
THE_SAME = ("ingestion/", "tokenization/")
WEIGHTS, LOSSES = 1e-3, 1e-3


@dataclass(frozen=True)
class Elsewhere:
    """What another machine made of the same recordings."""

    kind: str
    store: Store
    said: dict[str, Any]


@pytest.fixture(scope="module", params=[kind for kind in machines.kinds() if kind != "avx512"])
def other(request: pytest.FixtureRequest, finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    root = tmp_path_factory.mktemp("elsewhere") / "store"
    command = [sys.executable, "-m", "tests.fixtures.elsewhere", str(finished.config.source), str(root)]
    environment = machines.environment(request.param, 1)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Elsewhere(request.param, Store(str(root)), json.loads(done.stdout.splitlines()[-1]))


def test_the_libraries_compute_as_that_machine(other: Elsewhere):
    """Or nothing here would be tested. This machine is one of AVX-512, AVX2, or of its kind."""
    here = elsewhere.traces()
    expected = {"sse4.1": "DEFAULT", "avx2": "AVX2", "plain": "DEFAULT"}[other.kind]
    assert other.said["traces"]["ATen"] == expected
    if here["ATen"] != expected:
        assert {name for name, trace in here.items() if trace == other.said["traces"][name]} <= {"MKL or its like"}


def test_recordings_tokens_and_tables_are_the_same_bytes(other: Elsewhere, finished: Finished):
    here, there = digests(finished.store), digests(other.store)
    same = [artifact for artifact in here if artifact.startswith(THE_SAME)]
    assert len(same) >= 6 and {a: there[a] for a in same} == {a: here[a] for a in same}


def test_ids_of_all_artifacts_their_files_and_the_packing_are_the_same(other: Elsewhere, finished: Finished):
    here, there = digests(finished.store), digests(other.store)
    assert {a: sorted(files) for a, files in here.items()} == {a: sorted(files) for a, files in there.items()}
    assert other.said["packing"] == elsewhere.packing(finished.outputs)


def test_weights_and_losses_differ_in_their_last_digits_only(other: Elsewhere, finished: Finished):
    for part, file in (("teacher", "teacher/model.safetensors"), ("student", "model/model.safetensors")):
        here = finished.outputs[part]
        there = other.store.find(here.id)
        ours, theirs = load_file(here.path(file)), load_file(there.path(file))
        assert max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours) <= WEIGHTS
        for ours, theirs in zip(_losses(here), _losses(there), strict=True):
            assert theirs == pytest.approx(ours, rel=LOSSES)


def test_one_and_two_threads_train_to_the_same_bits():
    """A teacher of the demo's size, large enough that its products are split between threads."""
    fresh = load_config("demo", {}).adaptation.fresh
    ids = torch.randint(0, 400, (2, 512), generator=torch.Generator().manual_seed(0))

    def trained(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        model = fresh_llama(fresh, 400, 512, seed=0).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(2):
            model(input_ids=ids, labels=ids).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        return [p.detach() for p in model.parameters()]

    before = torch.get_num_threads()
    try:
        assert all(map(torch.equal, trained(1), trained(2)))
    finally:
        torch.set_num_threads(before)


def _losses(artifact: Any) -> Iterator[float]:
    table = read_table(artifact.path("curves.parquet"))
    return (
        value for name in table.column_names if name in ("loss", "language_model") for value in table[name].to_pylist()
    )
