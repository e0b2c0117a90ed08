"""Thresholds over measured utterances: columns of numbers in, which utterances are left out and why. Nothing is read or written here.

A number that is not known (NaN) is never a reason. An utterance that several thresholds leave out has the first of them as its
reason, in the order of `limits`. A label of a given model is a measure as well, called name.label; its thresholds are called
`most_of name.label` and `least_of name.label`. Shapes: U utterances.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]  # [U]


@dataclass(frozen=True)
class Limit:
    """One kind of threshold."""

    setting: str
    """Of `ingestion.keep`."""
    reason: str
    """Code of what is left out by it."""
    measure: str
    """Column that it looks at."""
    is_lowest: bool
    """Whether it leaves out what is below it; else what is above."""

    def leaves_out(self, values_U: Column, bound: float) -> npt.NDArray[np.bool_]:
        """Which of these values are out."""
        # Comparisons with NaN are false: what is not known stays.
        return np.asarray(values_U < bound if self.is_lowest else values_U > bound)


@dataclass(frozen=True)
class Measure:
    """A column in words for people."""

    about: str
    unit: str
    """Empty for a share."""
    digits: int
    worst_is_low: bool
    edges: tuple[float, ...]
    """Of the bins of its histogram, the same for every corpus; what lies beyond is in the outermost."""

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.about}, {self.unit}" if self.unit else self.about

    def text(self, value: float) -> str:
        """A value of it."""
        return f"{value:.{self.digits}f} {self.unit}".rstrip()


LIMITS = (
    Limit("min_snr_db", "noisy", "snr_db", True),
    Limit("min_bandwidth_hz", "narrow_band", "bandwidth_hz", True),
    Limit("max_clipped_share", "clipped", "clipped_share", False),
    Limit("min_level_db", "quiet", "level_db", True),
    Limit("min_speech_share", "little_speech", "speech_share", True),
    Limit("min_dnsmos", "low_dnsmos", "dnsmos", True),
    Limit("min_words_per_s", "few_words", "words_per_s", True),
    Limit("max_words_per_s", "many_words", "words_per_s", False),
)
MEASURES = {
    "snr_db": Measure("signal-to-noise ratio", "dB", 1, True, tuple(range(-6, 61, 3))),
    "bandwidth_hz": Measure("bandwidth", "Hz", 0, True, tuple(range(0, 8001, 500))),
    "clipped_share": Measure(
        "share of clipped samples", "", 5, False, (0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 1)
    ),
    "level_db": Measure("level of the speech", "dBFS", 1, True, tuple(range(-60, 1, 3))),
    "speech_share": Measure("share of speech", "", 2, True, tuple(n / 20 for n in range(21))),
    "dnsmos": Measure("DNSMOS", "of 5", 2, True, tuple(n / 4 for n in range(4, 21))),
    "words_per_s": Measure("words per second of speech", "words/s", 2, True, tuple(n / 2 for n in range(17))),
}


MOST_OF, LEAST_OF = "most_of", "least_of"


def limit_of(setting: str) -> Limit:
    """The kind of a threshold by the name of its setting; of a label the model's name is the reason."""
    kind, _, label = setting.partition(" ")
    if kind in (MOST_OF, LEAST_OF):
        return Limit(setting, label.partition(".")[0], label, kind == LEAST_OF)
    return next(limit for limit in LIMITS if limit.setting == setting)


def limits(thresholds: Iterable[str]) -> tuple[Limit, ...]:
    """All kinds, and those of the labels that have one, in the order in which they are reasons."""
    return (*LIMITS, *(limit_of(setting) for setting in thresholds if " " in setting))


def flag_of(setting: str, bound: float) -> str:
    """A threshold as it is written on the command line."""
    kind, _, label = setting.partition(" ")
    return f"--ingestion.keep.{kind} '{label}={bound:g}'" if label else f"--ingestion.keep.{kind} {bound:g}"


def is_label(name: str) -> bool:
    """Whether a column is a label of a given model."""
    return "." in name


def measure_of(name: str) -> Measure:
    """A column in words; of a label its probability."""
    if is_label(name):
        return Measure(f"probability of {name}", "", 2, False, tuple(n / 20 for n in range(21)))
    return MEASURES[name]


def words_per_s(transcript: str | None, speech_share: float, seconds: float) -> float | None:
    """Words of a transcript per second of speech; None without a transcript, without spaces between words, or without speech."""
    if transcript is None or speech_share * seconds <= 0:
        return None
    words = transcript.split()
    # Scripts without spaces have sentences of one "word": their rate would say nothing.
    return len(words) / (speech_share * seconds) if len(words) > 1 or transcript.isascii() else None


def reasons(columns: Mapping[str, Column], thresholds: Mapping[str, float]) -> npt.NDArray[np.int64]:
    """For each utterance the place in `limits` of the first threshold that leaves it out; -1 for what is kept."""
    size = len(next(iter(columns.values())))
    first_U = np.full(size, -1, np.int64)
    for number, limit in enumerate(limits(thresholds)):
        if limit.setting in thresholds:
            out_U = limit.leaves_out(columns[limit.measure], thresholds[limit.setting])
            first_U[out_U & (first_U < 0)] = number
    return first_U


def detail(values: Mapping[str, float | None], thresholds: Mapping[str, float]) -> str:
    """All thresholds that an utterance fails, in words with its numbers."""
    found = []
    for limit in limits(thresholds):
        bound, value = thresholds.get(limit.setting), values[limit.measure]
        if bound is not None and value is not None and limit.leaves_out(np.array([value]), bound)[0]:
            measure = measure_of(limit.measure)
            side = "below" if limit.is_lowest else "above"
            found.append(f"{measure.about} {measure.text(value)}, {side} {bound:g}")
    return "; ".join(found)
