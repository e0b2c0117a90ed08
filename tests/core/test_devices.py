"""Which device a run takes, and what is asked of it."""

import pytest
import torch

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.devices import double, frozen_dtype, pick_device, with_float64
from tinywave_core.errors import MissingInputError


def machine_with(monkeypatch: pytest.MonkeyPatch, *gpus: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in gpus)


@pytest.mark.parametrize(
    ("gpus", "expected"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("mps", "cuda"), "cuda")]
)
def test_auto_takes_the_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], expected: str):
    machine_with(monkeypatch, *gpus)
    assert pick_device(RuntimeConfig()) == torch.device(expected)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_device_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch, device: str):
    machine_with(monkeypatch, "cuda", "mps")
    assert pick_device(RuntimeConfig(device=device)) == torch.device(device)


@pytest.mark.parametrize(("device", "other"), [("cuda", "mps"), ("mps", "cuda")])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, device: str, other: str):
    machine_with(monkeypatch, other)
    with pytest.raises(MissingInputError, match=rf"device is {device}, but torch sees no such GPU.*device cpu or auto"):
        pick_device(RuntimeConfig(device=device))


def test_only_cuda_reads_in_bfloat16_and_only_mps_has_no_float64():
    kinds = [torch.device(kind) for kind in ("cpu", "cuda", "mps")]
    assert [frozen_dtype(kind) for kind in kinds] == [torch.float32, torch.bfloat16, torch.float32]
    assert [with_float64(kind).type for kind in kinds] == ["cpu", "cuda", "cpu"]
    assert torch.equal(double(torch.tensor([1.5])), torch.tensor([1.5], dtype=torch.float64))
