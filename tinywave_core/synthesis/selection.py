"""Which stretches of a voice's recordings speak a sequence of units: unit selection (Hunt and Black 1996), as the units come.

Every run of the recordings is a candidate for every unit. It costs the more, the farther it and its neighbours sound from the
unit and its neighbours, and a joint costs the more, the more sound and pitch jump there; going on where the last run ended costs
nothing, so that stretches of many units are kept whole. The cheapest path is searched with a beam; a run is settled LAG units after
its own, so what is spoken depends on no later unit than LOOK_AHEAD, and a stream has the same stretches as the whole.

All costs are whole numbers, so that every machine takes the same runs (decision 0027).

Shapes: R runs, K units, B paths of the beam, C cepstra.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tinywave_core.synthesis.recordings import OCTAVE_STEPS, Recordings, Whole
from tinywave_core.synthesis.windows import windows

BEAM = 60  # candidates by their own cost, and as many paths that are kept
LAG = 8
# What unit i + step of the sequence weighs beside the neighbour of a candidate, in quarters.
WEIGHTS = {-2: 1, -1: 2, 0: 4, 1: 2, 2: 1}
CONTEXT = max(WEIGHTS)
LOOK_AHEAD = LAG + CONTEXT  # units
SCALE = 256  # cost of a unit that sounds as far from the wanted one as two units do in the middle
JOINT = 50  # of any joint; what is added to it for a jump of sound, of an octave, of voicing and of speaker:
JUMP, OCTAVE, VOICING, SPEAKER = 12, 64, 48, 150
PITCH = 64  # cost of an octave between the pitch code wanted and the one recorded


@dataclass(frozen=True)
class Wanted:
    """A unit of the sequence with the pitch code in force; -1 where there is none."""

    unit: int
    pitch: int = -1


@dataclass(frozen=True)
class Selection:
    """A voice's recordings as candidates."""

    recordings: Recordings
    sounds_KC: Whole
    """Mean cepstra of the units."""

    def runs(self, wanted: Iterable[Wanted]) -> Iterator[int]:
        """Numbers of the runs, one for each unit, as soon as each is settled."""
        beam = _Beam.empty()
        for window, here, _ in windows(wanted, CONTEXT, CONTEXT, 1):
            beam = self._next(beam, self._costs(window, here))
            if beam.paths.shape[1] > LAG:
                yield int(beam.best[0])
                beam = beam.settled()
        if beam.paths.shape[1]:
            yield from map(int, beam.best)

    def _costs(self, window: list[Wanted], here: int) -> Whole:
        """[R] what each run would cost as this unit, whatever it is joined to."""
        costs: Whole = np.zeros(len(self.recordings.units), np.int32)  # type: ignore[assignment]
        for step, weight in WEIGHTS.items():
            if 0 <= here + step < len(window):
                costs += weight * self._distances[window[here + step].unit][self._neighbours[step]]
        costs //= WEIGHTS[0]
        code = window[here].pitch
        if 0 <= code < len(self._pitch_costs):
            costs += self._pitch_costs[code][self.recordings.codes]
        return costs

    def _next(self, beam: "_Beam", costs_R: Whole) -> "_Beam":
        """The cheapest paths with one run more."""
        chosen = _cheapest(costs_R, BEAM)
        if not len(beam.costs):
            return _Beam(chosen[:, None], costs_R[chosen].astype(np.int64))
        last = beam.paths[:, -1]
        onward = last[self._follows[last]] + 1
        chosen = np.union1d(chosen, onward)
        reached = beam.costs[:, None] + self._joints(last, chosen)
        before = reached.argmin(axis=0)  # of equal ones the first
        total = reached[before, np.arange(len(chosen))] + costs_R[chosen]
        kept = _cheapest(total, BEAM)
        paths = np.concatenate([beam.paths[before[kept]], chosen[kept, None]], axis=1)
        return _Beam(paths, total[kept] - total[kept].min())

    def _joints(self, last: Whole, chosen: Whole) -> Whole:
        """[B, runs] cost of each run after each of the last ones."""
        r = self.recordings
        jumps = _distance(r.tail_RC[last][:, None] - r.head_RC[chosen][None])
        before, after = r.tail_pitch[last][:, None], r.head_pitch[chosen][None]
        both = (before > 0) & (after > 0)
        octaves = np.where(
            both, np.abs(before - after) * OCTAVE // OCTAVE_STEPS, ((before > 0) != (after > 0)) * VOICING
        )
        strangers = (r.speakers[last][:, None] != r.speakers[chosen][None]) * SPEAKER
        costs = JOINT + jumps * JUMP // self._jump + octaves + strangers
        goes_on = self._follows[last][:, None] & (chosen[None] == last[:, None] + 1)
        return np.where(goes_on, 0, costs)

    @cached_property
    def _follows(self) -> npt.NDArray[np.bool_]:
        return self.recordings.follows()

    @cached_property
    def _neighbours(self) -> dict[int, Whole]:
        """By step: unit of the run that is so far away, K where there is none."""
        r = self.recordings
        count, beyond = len(r.units), len(self.sounds_KC)
        found = {}
        for step in WEIGHTS:
            there = np.clip(np.arange(count) + step, 0, count - 1)
            near = r.utterances[there] == r.utterances
            found[step] = np.where(near & (there == np.arange(count) + step), r.units[there], beyond)
        return found

    @cached_property
    def _distances(self) -> Whole:
        """[K, K + 1] between units, in SCALE; the last column is what lies beyond a recording's end."""
        rows = [_distance(self.sounds_KC - own) for own in self.sounds_KC]
        distances = np.array(rows, np.int64)
        middle = (
            max(int(np.sort(distances[distances > 0], kind="stable")[(distances > 0).sum() // 2]), 1)
            if distances.any()
            else 1
        )
        return np.pad(distances * SCALE // middle, ((0, 0), (0, 1)), constant_values=SCALE).astype(np.int32)

    @cached_property
    def _jump(self) -> int:
        """How far the sound moves over a run, in the middle."""
        r = self.recordings
        return max(int(np.sort(_distance(r.tail_RC - r.head_RC), kind="stable")[len(r.units) // 2]), 1)

    @cached_property
    def _pitch_costs(self) -> Whole:
        """[P, P + 1] between pitch codes; the last column is for runs without one."""
        r = self.recordings
        count = int(r.codes.max(initial=-1)) + 1
        heights = np.zeros(count, np.int64)
        for code in range(count):
            here = r.head_pitch[(r.codes == code) & (r.head_pitch > 0)]
            heights[code] = int(here.sum()) // len(here) if len(here) else 0
        apart = np.abs(heights[:, None] - heights[None]) * PITCH // OCTAVE_STEPS
        voiced = (heights[:, None] > 0) & (heights[None] > 0)
        return np.pad(np.where(voiced, apart, 0), ((0, 0), (0, 1))).astype(np.int32)


@dataclass(frozen=True)
class _Beam:
    """Paths of runs with their costs, the cheapest path's being 0."""

    paths: Whole  # [B, runs that are not settled yet]
    costs: Whole  # [B]

    @classmethod
    def empty(cls) -> "_Beam":
        return cls(np.zeros((0, 0), np.int64), np.zeros(0, np.int64))

    @property
    def best(self) -> Whole:
        return self.paths[int(self.costs.argmin())]

    def settled(self) -> "_Beam":
        """Without the first run of the best path; paths that begin with another one are given up."""
        same = self.paths[:, 0] == self.best[0]
        return _Beam(self.paths[same, 1:], self.costs[same])


def _cheapest(costs: Whole, count: int) -> Whole:
    """Numbers of the lowest costs in their order; of equal ones the first."""
    if len(costs) <= count:
        return np.arange(len(costs))
    # The value at this rank is one number, whichever way it is found; which of equal ones `argpartition` takes is not.
    edge = np.partition(costs, count - 1)[count - 1]
    below = np.flatnonzero(costs < edge)
    return np.sort(np.concatenate([below, np.flatnonzero(costs == edge)[: count - len(below)]]))


def _distance(difference: Whole) -> Whole:
    """Length of whole vectors along the last axis, to the nearest whole number: roots are rounded alike everywhere."""
    return np.rint(np.sqrt(np.square(difference).sum(axis=-1).astype(np.float64))).astype(np.int64)
