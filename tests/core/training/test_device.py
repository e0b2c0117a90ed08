"""What a device computes of a step stays on it until the step's end, so that the host never waits in between."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.fixtures.training import CONFIG, RUNTIME, distilled, sequences, validation
from tinywave_core.models.attention import block_sparse_mask
from tinywave_core.training import trainer
from tinywave_core.training.module import trained_module
from tinywave_core.training.processes import Sums
from tinywave_core.training.trainer import make_dataset

CPU = torch.device("cpu")
# Whatever has a result, or a shape of one, that the host must know before it goes on.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim", "_unique2"}


class Watched(TorchDispatchMode):
    """The operations that the host waits for, and how many there were in all."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if func.overloadpacket.__name__ in WAITS:
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


def test_micro_batches_of_all_live_terms_and_their_gradient_are_waited_for_once(monkeypatch: pytest.MonkeyPatch):
    model, objective = distilled()
    module = trained_module(model, objective, RUNTIME, CPU)
    fetched: list[int] = []
    whole = Sums.whole
    monkeypatch.setattr(Sums, "whole", lambda *args: fetched.append(len(watched.waits)) or whole(*args))
    batch, one_row = make_dataset(sequences(), CONFIG).batch(0), RUNTIME.model_copy(update={"micro_batch_rows": 1})
    with Watched() as watched:
        terms = trainer._gradient(module, batch, module.trainable(), CONFIG, one_row, 0, CPU)
    assert watched.operations > 500 and watched.waits == [] and fetched == [0]
    assert terms.keys() == {"loss", "language_model", "hidden", "attention", "gradient_norm"}


def test_a_check_on_validation_speech_is_waited_for_once():
    model, objective = distilled()
    module = trained_module(model, objective, RUNTIME, CPU)
    checks = validation()
    with Watched() as watched:
        nll, others = trainer._validated(module, checks, RUNTIME.model_copy(update={"micro_batch_rows": 1}), CPU)
    assert len(list(checks.batches(1, 1))) > 1 and watched.waits == []
    assert 0 < nll < 10 and others == {}


def test_sums_are_those_of_python_floats_to_the_bit():
    """Each number of float32 is exact in float64, and is added in order."""
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    sums, expected = Sums(), 0.0
    for value in values:
        sums.add(loss=value)
        expected += float(value)
    found, (beside,) = sums.whole(torch.tensor(0.1))
    assert found == {"loss": expected} and beside == float(torch.tensor(0.1))
    assert float(values.sum()) != expected


def test_a_mask_of_blocks_is_made_without_waiting():
    documents = torch.from_numpy(make_dataset(sequences(), CONFIG).batch(0).documents)
    with Watched() as watched:
        block_sparse_mask(documents)
    assert watched.operations > 20 and watched.waits == []
