"""A padded batch gives each recording the frames and units that it has alone, in every family."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fixtures.encoders import FAMILIES, LAYERS, save_encoder
from tinywave_core.encoders.batching import BATCH_SAMPLES, most_samples, padded_batches
from tinywave_core.encoders.pretrained import Frames, Samples, SpeechEncoder, load_encoder
from tinywave_core.tokenizers.codebooks import GivenCodebook

# float32 in another order of sums: measured, at most 3e-6 of the largest number, and 1e-3 where one mask was left out.
CLOSE = 1e-5
FIELD = 720  # the largest of the families': what has a frame in all of them
Load = Callable[[str], SpeechEncoder]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """The encoder of a family, made once, with weights large enough that a leak shows."""
    made: dict[str, SpeechEncoder] = {}

    def load(family: str) -> SpeechEncoder:
        if family not in made:
            folder = tmp_path_factory.mktemp("encoder")
            model = save_encoder(folder, family)
            with torch.no_grad(), torch.random.fork_rng():
                torch.manual_seed(1)
                for name, weight in model.named_parameters():
                    # As fits of a real model have: no bias and no shift of a norm is 0.
                    if name.endswith("bias"):
                        weight.normal_(std=0.3)
                    elif weight.ndim > 1 and "conv_layers" not in name:
                        weight.mul_(4)
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.fill_(0.5)
            model.save_pretrained(folder)
            made[family] = load_encoder(folder, LAYERS)
        return made[family]

    return load


def recordings(lengths: list[int]) -> list[Samples]:
    draw = np.random.default_rng(sum(lengths))
    # Louder and softer ones: the norm of one must not be taken from another.
    return [(draw.standard_normal(n) * 0.3 / (i + 1)).astype(np.float32) for i, n in enumerate(lengths)]


def same_units_but_for_ties(ours: Frames, alone: Frames, codebook: GivenCodebook) -> bool:
    distances = np.sort(((alone[:, None].astype(np.float64) - codebook.centres) ** 2).sum(axis=2), axis=1)
    clear = distances[:, 1] - distances[:, 0] > 1e-3 * distances[:, 0]
    return bool((codebook.encode(ours) == codebook.encode(alone))[clear].all())


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.just(FIELD), st.integers(FIELD, 12_000), st.integers(0, 24_000)), min_size=2, max_size=4),
    st.integers(0, 80_000),
)
@example([9000, FIELD, 0, 15_000, 2500], 10**6)
def test_a_batch_gives_each_recording_what_it_has_alone(load: Load, family: str, lengths: list[int], most: int):
    encoder = load(family)
    spoken = recordings(lengths)
    alone = [encoder(each) for each in spoken]
    together = encoder.together(spoken, most)
    joined = np.concatenate(alone)
    codebook = GivenCodebook(joined[:: max(len(joined) // 8, 1)] + np.float32(0.1)) if len(joined) else None
    for ours, expected in zip(together, alone, strict=True):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=0, atol=CLOSE * np.abs(joined).max(initial=1.0))
        assert codebook is None or len(codebook.centres) < 2 or same_units_but_for_ties(ours, expected, codebook)


def test_a_padded_batch_is_run_at_once(load: Load):
    encoder, batches = load("hubert"), []

    def body(frames_BTD: torch.Tensor, valid_BT: torch.Tensor | None) -> torch.Tensor:
        batches.append(tuple(frames_BTD.shape[:2]))
        return encoder.body(frames_BTD, valid_BT)

    counting = SpeechEncoder(encoder.shape, encoder.layer, encoder.digest, encoder.device, encoder.front, body)
    counting.together(recordings([16_000, 8000, 15_000]), most=32_000)
    assert batches == [(2, 46), (1, 49)]
    batches.clear()
    counting.together(recordings([16_000, 8000]))  # on a CPU
    assert batches == [(1, 24), (1, 49)]


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(0, 500))
def test_batches_have_every_recording_once_and_stay_within_the_bound(lengths: list[int], most: int):
    batches = [*padded_batches(lengths, most)]
    assert sorted(i for batch in batches for i in batch) == [*range(len(lengths))]
    for batch in batches:
        assert (
            len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= most or not any(lengths[i] for i in batch)
        )
    ordered = [lengths[i] for batch in batches for i in batch]
    assert ordered == sorted(lengths)


def test_a_gpu_takes_400_s_at_once_and_a_cpu_one_recording():
    assert (most_samples("cpu"), most_samples("cuda"), BATCH_SAMPLES) == (0, 6_400_000, 6_400_000)
