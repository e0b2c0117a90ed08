"""The embedded tokenizer: same audio, same tokens; two fits, same bytes; counts as SpiritLM's."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import TinyWaveError
from tinywave_core.tokenizers.codebooks import Codebooks
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, Vocabulary

pytestmark = pytest.mark.arithmetic

Utterances = list[SimpleNamespace]


def _saved(codebooks: Codebooks, folder: Path) -> dict[str, bytes]:
    codebooks.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_fits_in_any_order_are_the_same_bytes(
    utterances: Utterances, config: Callable[..., TokenizationConfig], codebooks: Codebooks, tmp_path: Path
) -> None:
    again = Codebooks.fit(config(), reversed(utterances))
    assert _saved(codebooks, tmp_path / "a") == _saved(again, tmp_path / "b")


def test_threads_do_not_change_tokens_and_settings_stay(codebooks: Codebooks, utterances: Utterances) -> None:
    before = torch.get_num_threads()
    many = [codebooks.tokenize(u.samples) for u in utterances]
    assert torch.get_num_threads() == before
    try:
        torch.set_num_threads(1)
        one = [codebooks.tokenize(u.samples) for u in reversed(utterances)][::-1]
    finally:
        torch.set_num_threads(before)
    for a, b in zip(many, one, strict=True):
        assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("units", "pitch", "style"))


def test_saved_codebooks_give_the_same_tokens(codebooks: Codebooks, utterances: Utterances, tmp_path: Path) -> None:
    codebooks.save(tmp_path)
    loaded = Codebooks.load(tmp_path)
    assert loaded.vocabulary == codebooks.vocabulary == Vocabulary(BYTE_TEXT, 12, 6, 3)
    a, b = (c.tokenize(utterances[0].samples) for c in (codebooks, loaded))
    assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("units", "pitch", "style"))


def test_four_seconds_are_99_units_50_pitches_and_4_styles(codebooks: Codebooks, utterances: Utterances) -> None:
    streams = codebooks.tokenize(utterances[0].samples)
    assert (len(streams.units), len(streams.pitch), len(streams.style)) == (99, 50, 4)


def test_base_tokens_have_units_only(utterances: Utterances, config: Callable[..., TokenizationConfig]) -> None:
    base = Codebooks.fit(config(tokens="base"), utterances)
    streams = base.tokenize(utterances[0].samples)
    assert base.vocabulary == Vocabulary(BYTE_TEXT, 12)
    assert (len(streams.units), len(streams.pitch), len(streams.style)) == (99, 0, 0)


def test_base_and_expressive_share_their_units(
    utterances: Utterances, config: Callable[..., TokenizationConfig], codebooks: Codebooks
) -> None:
    base = Codebooks.fit(config(tokens="base"), utterances)
    np.testing.assert_array_equal(base.units.centres, codebooks.units.centres)


@pytest.mark.parametrize("samples", [0, 719, 1279])
def test_audio_under_80_ms_has_no_units(codebooks: Codebooks, samples: int) -> None:
    assert not len(codebooks.tokenize(np.ones(samples, np.float32)).units)


@pytest.mark.parametrize("samples", [1280, 16_000, 16_400])
def test_silence_is_tokenized_as_unvoiced(codebooks: Codebooks, samples: int) -> None:
    streams = codebooks.tokenize(np.zeros(samples, np.float32))
    assert len(streams.units) and not streams.pitch.any()


def test_too_little_speech_is_an_error_with_numbers(
    utterances: Utterances, config: Callable[..., TokenizationConfig]
) -> None:
    with pytest.raises(TinyWaveError, match=r"gives 99 frames of 40 ms.*500 clusters"):
        Codebooks.fit(config(units={"clusters": 500}), utterances[:1])
