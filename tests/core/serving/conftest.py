"""A served model, and what is said to it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Finished
from tests.fixtures.serving import Serving, load, reads_text, serve
from tests.fixtures.tiny import CLIPS
from tinywave_core.audio.waveform import read_waveform
from tinywave_core.serving.limits import Limits
from tinywave_core.synthesis.generator import Generator

LIMITS = Limits(prompt_s=10, prompt_characters=200, new_tokens=1500, waiting=1, sessions=3, idle_s=30, faults=5)


@pytest.fixture(scope="session")
def student(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return load(reads_text(finished.outputs["model"].path("model"), tmp_path_factory.mktemp("student") / "model"))


@pytest.fixture(scope="session")
def speech_only(finished: Finished) -> Generator:
    """The same, as it was trained: on speech alone."""
    return load(finished.outputs["model"].path("model"))


@pytest.fixture(scope="module")
def serving(student: Generator) -> Iterator[Serving]:
    with serve({"student": student, "another": student}, LIMITS, ("box.example",)) as running:
        yield running


@pytest.fixture(scope="session")
def speech(tiny_source: Path) -> np.ndarray:
    """About three seconds."""
    return read_waveform(tiny_source / CLIPS[1])
