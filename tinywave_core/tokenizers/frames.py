"""A bounded sample of frames to fit a codebook on, whatever the order and the number of utterances.

Every frame has a key, drawn from the id of its utterance; the frames with the least keys are kept, in the order of their keys. So k-means
over thousands of clusters has bounded time and memory, and the sample of a corpus does not depend on its shards.

Shapes: T frames of an utterance, N frames that are kept, D dimensions.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

PER_CLUSTER = 256  # frames, as faiss takes at most: more move centres by less than the next seed does
MOST_NUMBERS = 1 << 28  # of float32 in all, which are 1 GiB: at 768 dimensions and 5000 clusters 70 frames for each

Frames = npt.NDArray[np.float32]


@dataclass
class FrameSample:
    """The frames of the least keys among all that were added."""

    clusters: int
    seed: int
    dimensions: int
    _parts: list[tuple[npt.NDArray[np.uint64], Frames]] = field(default_factory=list, repr=False)
    _held: int = 0

    @property
    def most(self) -> int:
        """Frames that are kept."""
        return max(self.clusters, min(PER_CLUSTER * self.clusters, MOST_NUMBERS // self.dimensions))

    def add(self, utterance_id: str, frames_TD: Frames) -> None:
        """Frames of one utterance; each utterance is added once."""
        digest = hashlib.sha256(f"frames/{self.seed}/{utterance_id}".encode()).digest()
        keys_T = np.random.default_rng(int.from_bytes(digest[:16], "big")).integers(
            0, 2**64, len(frames_TD), dtype=np.uint64
        )
        self._parts.append((keys_T, frames_TD))
        self._held += len(keys_T)
        # Not at every utterance, since what is kept is copied.
        if self._held > self.most + self.most // 4 + 1:
            self._parts = [self._least()]
            self._held = len(self._parts[0][0])

    def frames(self) -> Frames:
        """The sample [N, D]."""
        return self._least()[1]

    def _least(self) -> tuple[npt.NDArray[np.uint64], Frames]:
        if not self._parts:
            return np.zeros(0, np.uint64), np.zeros((0, self.dimensions), np.float32)
        keys = np.concatenate([keys_T for keys_T, _ in self._parts])
        chosen = np.argsort(keys, kind="stable")[: self.most]
        place = np.full(len(keys), -1)
        place[chosen] = np.arange(len(chosen))
        kept = np.empty((len(chosen), self.dimensions), np.float32)
        start = 0
        for keys_T, frames_TD in self._parts:
            to = place[start : start + len(keys_T)]
            kept[to[to >= 0]] = frames_TD[to >= 0]
            start += len(keys_T)
        return keys[chosen], kept
