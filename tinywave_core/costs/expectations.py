"""What so much speech gives before anything is run: how far below a table of counts teacher and student came when it was measured.

Figures of `make bench-small` (infra/LAB_LOG.md): read English speech, the demo's settings, in nats per token on speakers that were
held out. Other speech differs; the order of the numbers does not.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import log

from tinywave_core.counts import count


@dataclass(frozen=True)
class Expected:
    """Nats per token below the best table of counts of one to four tokens; negative: above it."""

    teacher: float
    student: float


# By start: minutes of training speech, and what they gave.
MEASURED: dict[str, dict[float, Expected]] = {
    "fresh": {
        2: Expected(-0.18, -0.25),
        5: Expected(-0.05, 0.05),
        15: Expected(0.47, 0.47),
        40: Expected(0.66, 0.65),
        90: Expected(0.58, 0.54),
    },
    "base": {2: Expected(1.02, 0.56), 5: Expected(0.85, 0.66), 15: Expected(0.70, 0.64)},
}


def expected(start: str, hours: float) -> Expected | None:
    """What to expect of so many hours from a start, in a straight line over the logarithm of time between measured points; of less or
    more than was measured as of the nearest one. None of a start that was not measured."""
    points = sorted(MEASURED.get(start, {}).items())
    if not points or hours <= 0:
        return None
    minutes = min(max(hours * 60, points[0][0]), points[-1][0])
    for (low, below), (high, above) in pairwise(points):
        if minutes <= high:
            share = (log(minutes) - log(low)) / (log(high) - log(low))
            return Expected(
                below.teacher + share * (above.teacher - below.teacher),
                below.student + share * (above.student - below.student),
            )
    return points[-1][1]


def expectation(start: str, hours: float) -> str | None:
    """A sentence for a plan; None where nothing is known."""
    figures = expected(start, hours)
    if figures is None:
        return None
    if figures.student <= 0:
        return (
            f"{count(round(hours * 60), 'minute')} of training speech gave a student no better than a table of counts where that was measured: add "
            "speech, or start from the base"
        )
    return (
        f"{count(round(hours * 60), 'minute')} of training speech gave a student {figures.student:.1f} and a teacher {figures.teacher:.1f} nats per "
        "token below a table of counts where that was measured (read English); other speech differs"
    )
