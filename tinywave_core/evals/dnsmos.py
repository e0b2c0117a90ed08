"""Sound -> what listeners would say of it: DNSMOS P.835 (Reddy et al., arXiv 2110.01763), an ONNX file of 1.2 MB under MIT.

It hears 9.01 s of raw 16 kHz audio at a time, in steps of 1 s; a shorter clip is repeated. Each window's three numbers are put on
the scale of listeners, 1 to 5, by the polynomials that were published with it: SIG, how natural the speech is, BAK, how little
the background disturbs, OVRL, all in all. A clip has the mean of its windows. The arithmetic is that of `speechmos.dnsmos.run`,
without its package's code, which wants librosa; but for this: there the ends of windows 7 to 23 are rounded to a sample too few,
and these windows are left out, so that figures of clips from 17 s on differ. The network knows neither words nor speakers.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tinywave_core.errors import CheckpointError, MissingInputError
from tinywave_core.storage.schemas import SAMPLE_RATE

WINDOW_S = 9.01
WINDOW = int(WINDOW_S * SAMPLE_RATE)
# Highest power first, of the model that is not personalised.
POLYNOMIALS = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}
MOST_BYTES = 64 << 20
INSTALL = "pip install 'tinywave[judges]'"


class Quality(NamedTuple):
    """Opinions of one clip, 1 to 5."""

    sig: float
    bak: float
    ovrl: float


Rate = Callable[[npt.NDArray[np.float32]], Quality]


def installed_dnsmos() -> Path | None:
    """The file in the package speechmos, which is found and not imported; None where it is not installed."""
    package = importlib.util.find_spec("speechmos")
    places = package.submodule_search_locations if package is not None else None
    found = [Path(place, "dnsmos_models", "sig_bak_ovr.onnx") for place in places or ()]
    return next((path for path in found if path.is_file()), None)


def chosen_dnsmos(asked: str) -> Path | None:
    """The file that `evaluation.judges.dnsmos` stands for; None: it is not to run, or not installed."""
    if asked in ("auto", "none"):
        return installed_dnsmos() if asked == "auto" else None
    path = Path(asked)
    if not path.is_file():
        raise MissingInputError(
            f"evaluation.judges.dnsmos {asked!r} is no file; expected auto, none, or the path of DNSMOS's sig_bak_ovr.onnx "
            f"({INSTALL} brings it)"
        )
    if path.stat().st_size > MOST_BYTES:
        raise CheckpointError(
            f"evaluation.judges.dnsmos {asked!r} has {path.stat().st_size:,} bytes; expected DNSMOS's sig_bak_ovr.onnx of 1.2 MB"
        )
    return path


def load_dnsmos(path: Path) -> Rate:
    """What rates 16 kHz mono speech of -1..1 that is not empty; CheckpointError for a file that is not DNSMOS P.835."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one thread: the same bits everywhere
    options.log_severity_level = 3
    expected = f"expected DNSMOS's sig_bak_ovr.onnx, which makes 3 numbers of {WINDOW:,} samples; {INSTALL} brings it"
    try:
        # From bytes: then no file beside it can be read as a part of it.
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        tried = session.run(None, {name: np.zeros((1, WINDOW), np.float32)})[0]
    except Exception as error:  # onnxruntime's errors have no common base
        said = " ".join(str(error).split())
        raise CheckpointError(f"{path} cannot be run ({said:.200}): {expected}") from error
    if np.shape(tried) != (1, 3):
        raise CheckpointError(f"{path} makes an output of shape {np.shape(tried)}: {expected}")

    def rate(samples_N: npt.NDArray[np.float32]) -> Quality:
        raw = [session.run(None, {name: window[None]})[0][0] for window in windows(samples_N)]
        return Quality(*(float(opinion) for opinion in opinions(np.asarray(raw, np.float64)).mean(axis=0)))

    return rate


def windows(samples_N: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """The stretches of a clip that are heard, each of 144,160 samples; a short clip is doubled until it is long enough."""
    assert len(samples_N), "nothing can be heard in nothing"
    clip = np.clip(samples_N, -1, 1).astype(np.float32)
    while len(clip) < WINDOW:
        clip = np.concatenate([clip, clip])
    hops = int(len(clip) // SAMPLE_RATE - WINDOW_S) + 1
    starts = (hop * SAMPLE_RATE for hop in range(hops))
    return [clip[start : start + WINDOW] for start in starts if start + WINDOW <= len(clip)]


def opinions(raw_W3: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Raw outputs of windows on the scale of listeners, [W, 3] as SIG, BAK, OVRL."""
    return np.stack([np.polyval(p, raw_W3[:, i]) for i, p in enumerate(POLYNOMIALS.values())], axis=1)
