"""Quantizers: recorded codes, blanks, rows that do not leak, files that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import release
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers.quantizers import (
    KmeansQuantizer,
    LinearQuantizer,
    fill_blanks,
    load_quantizer,
    quantizer_units,
)

pytestmark = pytest.mark.arithmetic

GOLDEN = release.CHECKPOINTS["quantizer"]
SMALL = release.small_quantizer()
BLANK = 500


def write(path: Path, recipe: dict[str, Any], **config: Any) -> Path:
    torch.save({"model_cfg": recipe["model_cfg"] | config, "model_weight": release.weights(recipe)}, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LinearQuantizer:
    quantizer = load_quantizer(write(tmp_path_factory.mktemp("small") / "small.pt", SMALL), 32)
    assert isinstance(quantizer, LinearQuantizer)
    return quantizer


def features(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


# Blanks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", release.STRINGS["blank_fill"], ids=lambda case: str(case["raw"]))
def test_blanks_become_the_recorded_units(case: dict[str, list[int]]) -> None:
    assert fill_blanks(np.array(case["raw"]), BLANK).tolist() == case["out"]


def test_blank_takes_the_unit_on_its_left_and_leading_ones_the_last() -> None:
    assert fill_blanks(np.array([9, 9, 1, 9, 9, 2, 9]), 9).tolist() == [2, 2, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("length", [0, 1, 7])
def test_chunk_of_blanks_stays(length: int) -> None:
    assert fill_blanks(np.full(length, BLANK), BLANK).tolist() == [BLANK] * length


@given(st.lists(st.integers(0, 4), max_size=30))
def test_filling_is_what_turning_the_chunk_until_no_blank_is_left_gives(raw: list[int]) -> None:
    expected = np.array(raw, int)
    while (expected == 4).any() and (expected != 4).any():
        expected = np.where(expected == 4, np.roll(expected, 1), expected)
    np.testing.assert_array_equal(fill_blanks(np.array(raw, int), 4), expected)


# The linear quantizer --------------------------------------------------------------------------------------------------


def test_golden_file_has_widths_from_768_to_501(tmp_path: Path) -> None:
    path = write(tmp_path / "L11_quantizer_500.pt", GOLDEN)
    quantizer = load_quantizer(path, 768)
    assert isinstance(quantizer, LinearQuantizer)
    linear = [layer for layer in quantizer.layers if isinstance(layer, torch.nn.Linear)]
    assert [linear[0].in_features, *(layer.out_features for layer in linear)] == [768, 702, 635, 501]
    assert quantizer.units == quantizer_units(path) == 501
    assert quantizer(features(5, 768)).shape == (5,)


def test_units_are_the_largest_output_of_three_layers_with_leaky_relus(small: LinearQuantizer) -> None:
    weights, x = release.weights(SMALL), features(200, 32)
    for layer in "024":
        x = x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        x = torch.where(x > 0, x, 0.01 * x) if layer != "4" else x
    expected = fill_blanks(x.argmax(dim=1).numpy(), BLANK)
    assert len(set(expected.tolist())) > 20
    np.testing.assert_array_equal(small(features(200, 32)), expected)


def always_blank(tmp_path: Path, rows: list[int]) -> LinearQuantizer:
    """A quantizer of width 32 whose output is the blank, but for inputs that are one of the given unit vectors."""
    quantizer = LinearQuantizer(BLANK, 32, 32)
    for parameter in quantizer.parameters():
        parameter.zero_()
    linear = [layer for layer in quantizer.layers if isinstance(layer, torch.nn.Linear)]
    linear[2].bias[BLANK] = 0.5
    for row in rows:
        linear[0].weight[row, row] = linear[1].weight[row, row] = linear[2].weight[row, row] = 1
    path = tmp_path / "blank.pt"
    torch.save({"model_cfg": SMALL["model_cfg"], "model_weight": quantizer.layers.state_dict()}, path)
    loaded = load_quantizer(path, 32)
    assert isinstance(loaded, LinearQuantizer)
    return loaded


@torch.no_grad()
def test_chunk_of_blanks_only_keeps_the_blanks_number(tmp_path: Path) -> None:
    assert always_blank(tmp_path, [])(features(4, 32)).tolist() == [BLANK] * 4


@torch.no_grad()
def test_blanks_are_filled_within_the_chunk(tmp_path: Path) -> None:
    quantizer, one = always_blank(tmp_path, [3, 7]), torch.eye(32)
    nothing = torch.zeros(32)
    first = torch.stack([nothing, one[3], nothing, one[7], nothing])
    assert quantizer(first).tolist() == [7, 3, 3, 7, 7]
    # What came before or after in other chunks plays no part.
    assert quantizer(torch.stack([nothing, one[3]])).tolist() == [3, 3]
    assert quantizer(torch.stack([nothing, nothing])).tolist() == [BLANK, BLANK]


def test_features_of_another_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"small\.pt quantizes features of width 32, this HuBERT gives 768"):
        load_quantizer(write(tmp_path / "small.pt", SMALL), 768)


@pytest.mark.parametrize(
    "config", [None, 3, {}, {"dim": 32, "upstream_dim": 32}, {"vocab_size": "500", "dim": 32, "upstream_dim": 32}]
)
def test_file_without_sizes_is_refused(tmp_path: Path, config: Any) -> None:
    torch.save({"model_cfg": config, "model_weight": release.weights(SMALL)}, tmp_path / "q.pt")
    for load in (lambda path: load_quantizer(path, 32), quantizer_units):
        with pytest.raises(
            CheckpointError, match=r"q\.pt has neither model_cfg with .* nor cluster_centers \(found model"
        ):
            load(tmp_path / "q.pt")


@pytest.mark.parametrize("changes", [{"vocab_size": 499}, {"upstream_dim": 64}, {"upstream_dim": 5000}])
def test_sizes_that_are_not_those_of_the_weights_are_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(
        CheckpointError, match=r"q\.pt (is a checkpoint of another arch|has a model_cfg of layers \[32, -)"
    ):
        load_quantizer(write(tmp_path / "q.pt", SMALL, **changes), 32)


# k-means ---------------------------------------------------------------------------------------------------------------


def kmeans(path: Path, centres: Any, **more: Any) -> Path:
    torch.save({"cluster_centers": centres, **more}, path)
    return path


def test_kmeans_gives_the_recorded_codes(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(11))
    centres = generator.standard_normal((50, 16)).astype(np.float32)
    inputs = generator.standard_normal((1, 40, 16)).astype(np.float32)
    path = kmeans(tmp_path / "kmeans.pt", torch.from_numpy(centres), n_clusters=50)
    quantizer = load_quantizer(path, 16)
    assert isinstance(quantizer, KmeansQuantizer)
    assert quantizer(torch.from_numpy(inputs[0])).tolist() == release.STRINGS["kmeans"]["codes"]
    assert quantizer.units == quantizer_units(path) == 50


def test_first_of_two_equal_centres_is_the_unit(tmp_path: Path) -> None:
    quantizer = load_quantizer(kmeans(tmp_path / "k.pt", torch.tensor([[5.0], [1.0], [1.0]])), 1)
    assert quantizer(torch.tensor([[1.0], [0.0], [4.0]])).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("centres", "more", "message"),
    [
        (torch.ones(4, 3), {}, r"has centres of width 3, this HuBERT gives 2"),
        (torch.ones(4, 2), {"n_clusters": 5}, r"has 4 cluster_centers and n_clusters 5"),
        (torch.full((4, 2), torch.nan), {}, r"has cluster_centers \[4, 2\]; expected a tensor .* of finite numbers"),
        (torch.ones(4), {}, r"has cluster_centers \[4\]; expected a tensor \[units, width\]"),
        ([[1.0, 2.0]], {}, r"has cluster_centers list; expected a tensor"),
    ],
)
def test_centres_that_cannot_be_used_are_refused(
    tmp_path: Path, centres: Any, more: dict[str, int], message: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"k\.pt {message}"):
        load_quantizer(kmeans(tmp_path / "k.pt", centres, **more), 2)
