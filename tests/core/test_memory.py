"""Memory that ends, by a real limit of the process (RLIMIT_AS): one file is refused or one step fails, and says what to do."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch

from tests.fixtures.summaries import Anything
from tinywave_core.audio.decode import Decoder
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import NoMemoryError
from tinywave_core.steps.base import Output, Step, Summary, compute
from tinywave_core.storage.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="macOS sets no limit of memory: run on Linux")
MORE = 16 << 20


@contextmanager
def limited(pid: int, more: int) -> Iterator[None]:
    """A process that may have so many bytes more than it has now."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (psutil.Process(pid).memory_info().vms + more, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, before)


def test_a_file_that_needs_more_memory_than_the_decoder_has_is_refused_alone(tmp_path: Path):
    short = np.tile([0.5, -0.5], 9_000)
    soundfile.write(tmp_path / "short.wav", short, 16_000)
    soundfile.write(tmp_path / "long.wav", np.tile(short, 400), 16_000)  # 28 MB as float32
    with Decoder(RuntimeConfig(), 1.0) as decoder:
        assert decoder.decode(tmp_path / "short.wav").verdict.reason is None
        assert decoder.pid
        with limited(decoder.pid, MORE):
            verdict = decoder.decode(tmp_path / "long.wav").verdict
            assert (verdict.reason, verdict.detail) == (
                "decoder_crashed",
                "the decoder ran out of memory (runtime.decode_memory_mb)",
            )
            assert decoder.decode(tmp_path / "short.wav").verdict.reason is None


def in_numpy() -> object:
    return np.ones(1 << 32, np.uint8)


def in_torch() -> object:
    return torch.ones(1 << 32, dtype=torch.uint8)


@pytest.mark.parametrize("allocate", [in_numpy, in_torch])
def test_a_step_without_memory_says_where_it_was_and_what_to_lower(tmp_path: Path, allocate):
    def run(step: Step, output: Output) -> Summary:
        output.progress(3, 12, "Töne/a b.wav")
        allocate()
        return Anything()

    step = Step(Store(str(tmp_path)), "ingestion", "shard", 1, run, RuntimeConfig())
    with limited(os.getpid(), 1 << 30), pytest.raises(NoMemoryError) as caught:
        compute(step)
    assert str(caught.value) == (
        f"ingestion shard {step.fingerprint[:8]} ran out of memory at 3 of 12 Töne/a b.wav: lower --runtime.workers or "
        "--runtime.micro_batch_rows, or give it more memory, and run again; finished work is kept"
    )
    assert not step.find().complete
