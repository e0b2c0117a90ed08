"""K-means whose result is the same bytes on every machine and with any number of threads.

Points and centres are snapped to a lattice and kept as whole numbers: 32 steps to a standard deviation and at most 8 deviations,
coarser where there are more than 64 dimensions. Then every distance is a whole number of at most 2^24: float32 holds it exactly, so
the order in which a BLAS adds up cannot matter, and ties go to the first centre. Sums over clusters are exact for the same reason.
So numpy finds the codes of speech (an export is read without faiss), and faiss, which takes all cores, fits the centres: both the same.

Shapes: N points, K clusters, D dimensions (at most 4096).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinywave_core.errors import TinyWaveError


@dataclass(frozen=True)
class Grid:
    """A lattice: its steps to a unit, which is a standard deviation, and the units that it reaches to either side."""

    steps: int
    units: int

    @property
    def largest(self) -> int:
        return self.steps * self.units

    @property
    def most_dimensions(self) -> int:
        # One dimension adds at most (2 largest)² to a distance; float32 holds every whole number up to 2^24.
        return 2**24 // (4 * self.largest**2)


STEPS_PER_UNIT = 32
GRIDS = (Grid(STEPS_PER_UNIT, 8), Grid(16, 4), Grid(8, 4))  # up to 64, 1024 and 4096 dimensions
MOST_ITERATIONS = 50
SEEDING_POINTS = 20_000  # k-means++ looks at this many points; Lloyd's iterations look at all
COMPARED_ROWS = 1024  # with all centres at once: the products stay in the cache
SNAPPED_ROWS = 4096  # at once, where there are many: a copy in float64 of all of them would not fit

Lattice = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


def grid_of(dimensions: int) -> Grid:
    """The finest lattice on which distances of so many dimensions are exact."""
    return next(grid for grid in GRIDS if dimensions <= grid.most_dimensions)


def snap(points_ND: npt.NDArray[np.floating]) -> Lattice:
    """Points on the lattice of their dimensions, as whole numbers in float32."""
    grid = grid_of(points_ND.shape[1])
    return np.clip(np.rint(points_ND * grid.steps), -grid.largest, grid.largest).astype(np.float32)


def moments(points_ND: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation [D] of the points, in float64, with little memory beside them; 0 and 1 of none."""
    if not len(points_ND):
        return np.zeros(points_ND.shape[1]), np.ones(points_ND.shape[1])
    blocks = range(0, len(points_ND), SNAPPED_ROWS)
    mean_D = sum(points_ND[i : i + SNAPPED_ROWS].sum(axis=0, dtype=np.float64) for i in blocks) / len(points_ND)
    squares_D = sum(np.square(points_ND[i : i + SNAPPED_ROWS] - mean_D).sum(axis=0) for i in blocks)
    return np.asarray(mean_D), np.sqrt(np.asarray(squares_D) / len(points_ND))


def snap_in_place(points_ND: Lattice, mean_D: npt.NDArray[np.float64], deviation_D: npt.NDArray[np.float64]) -> None:
    """`snap((points - mean) / deviation)`, in the memory of the points."""
    for i in range(0, len(points_ND), SNAPPED_ROWS):
        points_ND[i : i + SNAPPED_ROWS] = snap((points_ND[i : i + SNAPPED_ROWS] - mean_D) / deviation_D)


def assign(points_ND: Lattice, centres_KD: Lattice) -> Codes:
    """Nearest centre of each snapped point by squared distance, the first one at ties."""
    # Squared distances less the squared length of the point, which is the same for all centres; as exact on the lattice.
    lengths_K = np.einsum("kd,kd->k", centres_KD, centres_KD)
    doubled_DK = -2 * centres_KD.T
    codes_N = np.zeros(len(points_ND), np.int64)
    for i in range(0, len(points_ND), COMPARED_ROWS):
        distances_RK = points_ND[i : i + COMPARED_ROWS] @ doubled_DK
        distances_RK += lengths_K
        codes_N[i : i + COMPARED_ROWS] = distances_RK.argmin(axis=1)
    return codes_N


def fit(points_ND: Lattice, clusters: int, seed: int, *, what: str = "points") -> Lattice:
    """Centres [K, D] on the lattice by k-means++ and Lloyd's iterations; TinyWaveError for fewer points than clusters."""
    assert points_ND.ndim == 2
    if len(points_ND) < clusters:
        raise TinyWaveError(
            f"the corpus gives {len(points_ND)} {what}, but the codebook has {clusters} clusters and needs at least as "
            "many: add training speech, or set fewer clusters"
        )
    centres_KD = _seed_centres(points_ND, clusters, np.random.default_rng(seed))
    for _ in range(MOST_ITERATIONS):
        distances_N, codes_N = _search(points_ND, centres_KD)
        moved_KD = _means(points_ND, codes_N, distances_N, clusters)
        # No tolerance is needed: on a lattice a centre moves by a whole step or not at all.
        if np.array_equal(moved_KD, centres_KD):
            break
        centres_KD = moved_KD
    return centres_KD


def _search(points_ND: Lattice, centres_KD: Lattice) -> tuple[Lattice, Codes]:
    """Squared distance to the nearest centre, and which it is."""
    import faiss

    index = faiss.IndexFlatL2(centres_KD.shape[1])
    index.add(np.ascontiguousarray(centres_KD))
    distances_N1, codes_N1 = index.search(np.ascontiguousarray(points_ND), 1)
    return distances_N1[:, 0], codes_N1[:, 0]


def _seed_centres(points_ND: Lattice, clusters: int, random: np.random.Generator) -> Lattice:
    """k-means++ (Arthur and Vassilvitskii 2007): each next centre is drawn by its squared distance to the nearest."""
    some_MD = points_ND
    if len(points_ND) > SEEDING_POINTS:
        size = max(SEEDING_POINTS, clusters)
        some_MD = points_ND[np.sort(random.choice(len(points_ND), size, replace=False))]
    chosen = [int(random.integers(len(some_MD)))]
    distance_M = np.full(len(some_MD), np.inf)
    # Products in place of differences, which take ten times as long where there are many dimensions; as exact on the lattice.
    norms_M = np.einsum("md,md->m", some_MD, some_MD)
    for _ in range(clusters - 1):
        last = chosen[-1]
        squares_M = norms_M + norms_M[last] - 2 * (some_MD @ some_MD[last])
        # In float64: one distance fits into float32, the sum of 20,000 does not.
        distance_M = np.minimum(distance_M, squares_M.astype(np.float64))
        # A draw from whole numbers: 0 everywhere means that all distinct points are centres already.
        total = int(distance_M.sum())
        draw = int(random.integers(max(total, 1)))
        chosen.append(min(int(np.searchsorted(np.cumsum(distance_M), draw, side="right")), len(some_MD) - 1))
    return some_MD[chosen].copy()


def _means(points_ND: Lattice, codes_N: Codes, distances_N: Lattice, clusters: int) -> Lattice:
    """Rounded means of the clusters; an empty cluster takes the point that is farthest from its centre."""
    counts_K = np.bincount(codes_N, minlength=clusters)
    # numpy adds weights up in float64, where sums of whole numbers are exact: the order of the points cannot matter.
    sums_KD = np.stack([np.bincount(codes_N, weights=column, minlength=clusters) for column in points_ND.T], axis=1)
    means_KD = np.rint(sums_KD / np.maximum(counts_K, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts_K == 0)
    if len(empty):
        # Stable: points at the same distance must come in the same order on every CPU.
        farthest = np.argsort(-distances_N, kind="stable")[: len(empty)]
        means_KD[empty] = points_ND[farthest]
    return means_KD
