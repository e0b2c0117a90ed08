"""The draft vocoder: deterministic, as long as the speech was, at the coded pitch, and more like it than other speech."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from tinywave_core.synthesis.vocoder import DraftVocoder, log_mel
from tinywave_core.tokenizers import f0
from tinywave_core.tokenizers.codebooks import Codebooks
from tinywave_core.tokenizers.speech import Streams, encode_utterance
from tinywave_core.tokenizers.vocabulary import Vocabulary

Utterances = list[SimpleNamespace]


@pytest.fixture(scope="session")
def vocoder(codebooks: Codebooks, utterances: Utterances) -> DraftVocoder:
    return DraftVocoder.fit(codebooks, ((u.samples, codebooks.tokenize(u.samples)) for u in utterances))


def _likeness(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    x, y = (log_mel(samples)[:390] for samples in (a, b))
    return float(np.corrcoef((x - x.mean(axis=0)).ravel(), (y - y.mean(axis=0)).ravel())[0, 1])


def test_speech_comes_back_more_like_itself_than_like_another(
    vocoder: DraftVocoder, codebooks: Codebooks, utterances: Utterances
) -> None:
    ids = [encode_utterance(codebooks.tokenize(u.samples), codebooks.vocabulary) for u in utterances[:2]]
    first, second = (vocoder.synthesize(i) for i in ids)
    assert _likeness(first, utterances[0].samples) > _likeness(second, utterances[0].samples) + 0.3


def test_length_of_ids_comes_back_but_for_the_last_second(
    vocoder: DraftVocoder, codebooks: Codebooks, utterances: Utterances
) -> None:
    for utterance in utterances:
        ids = encode_utterance(codebooks.tokenize(utterance.samples), codebooks.vocabulary)
        assert 64_000 - 16_000 < len(vocoder.synthesize(ids, iterations=0)) < 64_000 + 16_000


def test_steady_pitch_code_is_heard_at_its_frequency(vocoder: DraftVocoder, codebooks: Codebooks) -> None:
    vowel = int(np.argmax(vocoder.voiced_share))
    streams = Streams(np.full(50, vowel), np.full(25, 3), np.zeros(2, np.int64))
    found = f0.f0_hz(vocoder.synthesize(streams, median_hz=150.0))[10:-10]
    np.testing.assert_allclose(found, 150.0 * 2 ** (vocoder.pitch_semitones[3] / 12), rtol=0.03)


def test_two_fits_are_the_same_bytes_and_loading_changes_nothing(
    vocoder: DraftVocoder, codebooks: Codebooks, utterances: Utterances, tmp_path: Path
) -> None:
    again = DraftVocoder.fit(codebooks, ((u.samples, codebooks.tokenize(u.samples)) for u in reversed(utterances)))
    for name, fitted in [("a", vocoder), ("b", again)]:
        fitted.save(tmp_path / name)
    files = {name: [p.read_bytes() for p in sorted((tmp_path / name).iterdir())] for name in "ab"}
    assert files["a"] == files["b"]
    ids = encode_utterance(codebooks.tokenize(utterances[0].samples), codebooks.vocabulary)
    loaded = DraftVocoder.load(tmp_path / "a").synthesize(ids, iterations=2)
    np.testing.assert_array_equal(loaded, DraftVocoder.load(tmp_path / "b").synthesize(ids, iterations=2))
    np.testing.assert_allclose(loaded, vocoder.synthesize(ids, iterations=2), atol=1e-3)


def test_ids_of_a_larger_vocabulary_sound_the_same(
    vocoder: DraftVocoder, codebooks: Codebooks, utterances: Utterances
) -> None:
    streams = codebooks.tokenize(utterances[0].samples)
    released = Vocabulary(text=32_000, hubert=12, pitch=6, style=3)
    ours, theirs = encode_utterance(streams, codebooks.vocabulary), encode_utterance(streams, released)
    np.testing.assert_array_equal(vocoder.synthesize(ours), vocoder.synthesize(theirs, released))


@pytest.mark.parametrize(
    "string", ["", "[Speech]", "[St1][Pi2]", "[Hu1]", "[St1][St1][Hu3]", "[Hu1][Hu2]" * 60 + "[St0][Pi0]"]
)
def test_any_sequence_gives_bounded_audio(vocoder: DraftVocoder, codebooks: Codebooks, string: str) -> None:
    samples = vocoder.synthesize(codebooks.vocabulary.encode(string), iterations=1)
    assert samples.dtype == np.float32 and np.isfinite(samples).all() and np.abs(samples).max(initial=0) <= 0.951


def test_base_tokens_have_a_voice_too(codebooks: Codebooks, vocoder: DraftVocoder, utterances: Utterances) -> None:
    units = codebooks.tokenize(utterances[0].samples).units
    samples = vocoder.synthesize(Streams(units, units[:0], units[:0]))
    assert (f0.f0_hz(samples) > 0).any()
