"""Whether the base has heard speech: held-out speech that it trained on would make every figure of an evaluation a lie.

Two ways. By recording: ingestion's id of the decoded samples, against the list of what the base heard; it finds the same file under
another name. By sound: the runs of N units of an utterance (unit_runs.py) are looked up among those of the
base's speech; it finds most recordings that were cut or encoded again. The base's speech is taken with its first 0, 10, 20 and 30 ms
left out, since units of 40 ms come out as others where a copy begins between them: without these, copies that begin elsewhere
were no nearer to the base than other readers.

Measured on a base of 217 utterances (N = 7), share of an utterance's runs that the base has: readers that it never heard (36
utterances) 0.02 on average and 0.08 at most; copies of 24 of its utterances, median and least: Opus again 0.96 and 0.82, cut by
half a second 0.96 and 0.21, cut by 21 ms and Opus again 0.67 and 0.40, cut by 13 ms 0.25 and 0.10, Opus at its lowest rate 0.29 and
0, MP3 0.16 and 0, noise at 30 dB 0.09 and 0. With more speech in the base strangers come nearer: of 467 utterances that a base of 296
recordings (0.9 h) had not heard, the nearest had 0.19, the next 0.12. The limit of 0.25 lies where no stranger is: what it misses
are copies that sound different, one by one; of a folder of copies some are found.
"""

import json

import numpy as np
import numpy.typing as npt

from tinywave_core.base.opening import NGRAMS, RECORDINGS, Base
from tinywave_core.unit_runs import Hashes, runs_of, share_of

LEAKS_FROM = 0.25
"""Share of an utterance's runs that the base has, from which it counts as heard."""


def heard_recordings(base: Base) -> frozenset[str]:
    """Ids of the recordings that the base trained on or was validated with."""
    rows = json.loads(base.place(RECORDINGS).read_text(encoding="utf-8"))
    return frozenset(row["recording_id"] for row in rows)


def heard_runs(base: Base) -> Hashes:
    """The hashes of the base's speech [R], sorted."""
    return np.load(base.place(NGRAMS), allow_pickle=False)


def share_heard(units_T: npt.ArrayLike, heard: Hashes) -> float:
    """Share of an utterance's runs that the base has; 0 where it has too few to tell."""
    return share_of(runs_of(units_T), heard)
