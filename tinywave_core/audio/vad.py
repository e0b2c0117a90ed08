"""Voice activity: probability of speech per window of 32 ms, and the regions of speech that follow from it.

The model is silero-vad 6 from its wheel, run on onnxruntime over whole sequences of windows (0.003 of real time on one
core; window by window it is 0.04). Loaded by path: `import silero_vad` would import torch and set it to one thread.
Level and offset are normalised first: without that, quiet or offset speech is not found.
"""

import importlib.util
import itertools
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinywave_core.storage.schemas import SAMPLE_RATE

if TYPE_CHECKING:
    import onnxruntime

# silero-vad 6 knows these sizes at 16 kHz and no others.
WINDOW = 512
CONTEXT = 64
# 16 s a call: the cost of a call no longer counts, and the state that goes from call to call gives the same result as one.
WINDOWS_PER_CALL = 512
# silero's own defaults: leave speech a little below the threshold that enters it, ignore blips, pad both ends.
HYSTERESIS = 0.15
MIN_SPEECH_SAMPLES = SAMPLE_RATE // 4
PAD_SAMPLES = SAMPLE_RATE * 30 // 1000

Region = tuple[int, int]


def vad_name() -> str:
    """Name and version of the model."""
    return f"silero-vad {version('silero-vad')}"


@cache
def _session() -> "onnxruntime.InferenceSession":
    import onnxruntime

    package = importlib.util.find_spec("silero_vad")
    assert package is not None
    assert package.submodule_search_locations is not None
    model = Path(package.submodule_search_locations[0], "data", "silero_vad_16k_sequence.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one thread: the same bits everywhere
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


@dataclass
class State:
    """What the model remembers of the windows before."""

    hidden: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 1, 128), np.float32))
    cell: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((1, 1, 128), np.float32))
    context: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(CONTEXT, np.float32))

    def probabilities(self, windows_WN: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probability of speech [W] in the windows that come next, whose samples are normalised."""
        before = np.concatenate([self.context[None], windows_WN[:-1, -CONTEXT:]])
        self.context = windows_WN[-1, -CONTEXT:].copy()
        values, self.hidden, self.cell = _session().run(
            ["speech_probs", "hn", "cn"],
            {"input": np.concatenate([before, windows_WN], axis=1), "h": self.hidden, "c": self.cell},
        )
        return values.reshape(-1)  # type: ignore[no-any-return]


def speech_probabilities(samples_N: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Probability of speech [W] per window of 512 samples at 16 kHz; the last window is filled up with zeros."""
    # onnxruntime refuses an empty sequence.
    if not len(samples_N):
        return np.zeros(0, dtype=np.float32)
    mean = float(samples_N.mean())
    peak = max(abs(float(samples_N.max()) - mean), abs(float(samples_N.min()) - mean), 1.0)
    state = State()
    probabilities = []
    for start in range(0, len(samples_N), WINDOW * WINDOWS_PER_CALL):
        piece = (samples_N[start : start + WINDOW * WINDOWS_PER_CALL].astype(np.float32) - mean) / peak
        windows = np.zeros((-(-len(piece) // WINDOW), WINDOW), dtype=np.float32)
        windows.reshape(-1)[: len(piece)] = piece
        probabilities.append(state.probabilities(windows))
    return np.concatenate(probabilities)


def speech_share(probabilities_W: npt.NDArray[np.float32], threshold: float) -> float:
    """Share of the time that is speech."""
    return float(np.mean(probabilities_W >= threshold)) if len(probabilities_W) else 0.0


def speech_regions(
    probabilities_W: npt.NDArray[np.float32], num_samples: int, threshold: float, min_silence_samples: int
) -> list[Region]:
    """Speech as disjoint (start, end) in samples, in order; pauses shorter than `min_silence_samples` are bridged."""
    raw = []
    start = None
    for index, probability in enumerate(probabilities_W.tolist()):
        if start is None and probability >= threshold:
            start = index * WINDOW
        elif start is not None and probability < threshold - HYSTERESIS:
            raw.append((start, index * WINDOW))
            start = None
    if start is not None:
        raw.append((start, num_samples))
    joined: list[Region] = []
    for region in raw:
        if joined and region[0] - joined[-1][1] < min_silence_samples:
            joined[-1] = (joined[-1][0], region[1])
        else:
            joined.append(region)
    speech = [(start, end) for start, end in joined if end - start >= MIN_SPEECH_SAMPLES]
    return _padded(speech, num_samples)


def _padded(regions: list[Region], num_samples: int) -> list[Region]:
    """Each region with a little of the pause on both sides, at most half of it."""
    edges = [0, *((left[1] + right[0]) // 2 for left, right in itertools.pairwise(regions)), num_samples]
    return [
        (max(start - PAD_SAMPLES, edges[i]), min(end + PAD_SAMPLES, edges[i + 1]))
        for i, (start, end) in enumerate(regions)
    ]
