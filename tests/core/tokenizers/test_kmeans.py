"""K-means on the lattice: exact distances, first minimum, same bytes, empty clusters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinywave_core.errors import TinyWaveError
from tinywave_core.tokenizers import kmeans

pytestmark = pytest.mark.arithmetic


def _points(seed: int, count: int, dimensions: int = 39) -> kmeans.Lattice:
    return kmeans.snap(np.random.default_rng(seed).standard_normal((count, dimensions)) * 3)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60))
def test_assignment_is_the_first_exact_minimum_whatever_the_batch(seed: int, count: int) -> None:
    points, centres = _points(seed, count), _points(seed + 1, 20)
    centres[7] = centres[3]
    exact = np.square(points[:, None].astype(np.int64) - centres.astype(np.int64)).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(kmeans.assign(points, centres), exact)
    one_by_one = [kmeans.assign(points[i : i + 1], centres)[0] for i in range(count)]
    np.testing.assert_array_equal(one_by_one, exact)


@pytest.mark.parametrize(
    ("dimensions", "steps", "largest"),
    [(1, 32, 256), (64, 32, 256), (65, 16, 64), (1024, 16, 64), (1280, 8, 32), (4096, 8, 32)],
)
def test_distances_of_the_farthest_points_are_exact_on_every_lattice(dimensions: int, steps: int, largest: int) -> None:
    points = kmeans.snap(np.array([[1.0] * dimensions, [99.0] * dimensions, [-99.0] * dimensions]))
    np.testing.assert_array_equal(points[:, 0], [steps, largest, -largest])
    centres = points[2:].copy()
    centres[0, 0] += 1  # an odd distance: rounding would show
    distances, _ = kmeans._search(np.repeat(points[1:2], 40, axis=0), centres)
    assert set(distances) == {(2 * largest) ** 2 * (dimensions - 1) + (2 * largest - 1) ** 2}
    assert distances[0] < 2**24


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), dimensions=st.sampled_from([65, 384, 1100]))
def test_assignment_is_the_first_exact_minimum_in_many_dimensions(seed: int, dimensions: int) -> None:
    points, centres = _points(seed, 50, dimensions), _points(seed + 1, 20, dimensions)
    centres[7] = centres[3]
    exact = np.square(points[:, None].astype(np.int64) - centres.astype(np.int64)).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(kmeans.assign(points, centres), exact)
    np.testing.assert_array_equal([kmeans.assign(point[None], centres)[0] for point in points], exact)


def test_points_are_standardised_in_their_own_memory() -> None:
    points = (np.random.default_rng(0).standard_normal((9000, 70)) * [*range(1, 71)] + 1000).astype(np.float32)
    mean, deviation = kmeans.moments(points)
    np.testing.assert_allclose(mean, points.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(deviation, points.std(axis=0, dtype=np.float64), rtol=1e-9)
    expected = kmeans.snap((points - mean) / deviation)
    kmeans.snap_in_place(points, mean, deviation)
    np.testing.assert_array_equal(points, expected)


def test_two_points_far_apart_are_two_centres() -> None:
    points = kmeans.snap(np.array([[-1.0], [-1.0], [2.0], [2.0]]))
    np.testing.assert_array_equal(np.sort(kmeans.fit(points, 2, seed=0), axis=0), [[-32.0], [64.0]])


def test_two_fits_are_the_same_bytes() -> None:
    points = _points(0, 2000, 4)
    assert kmeans.fit(points, 50, seed=3).tobytes() == kmeans.fit(points, 50, seed=3).tobytes()


def test_more_clusters_than_distinct_points_is_no_failure() -> None:
    centres = kmeans.fit(kmeans.snap(np.repeat([[0.0], [1.0]], 20, axis=0)), 5, seed=0)
    assert set(centres[:, 0]) == {0.0, 32.0}


def test_fewer_points_than_clusters_says_found_and_expected() -> None:
    with pytest.raises(TinyWaveError, match=r"gives 3 seconds.*has 4 clusters.*add training speech"):
        kmeans.fit(_points(0, 3), 4, seed=0, what="seconds")
