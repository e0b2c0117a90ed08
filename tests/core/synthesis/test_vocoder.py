"""The draft vocoder: deterministic, as long as the speech was, at the coded pitch, and more like it than other speech."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinywave_core.synthesis.durations import sounds
from tinywave_core.synthesis.vocoder import LOOK_AHEAD, DraftVocoder, Frame, log_mel
from tinywave_core.synthesis.windows import in_chunks
from tinywave_core.tokenizers import f0
from tinywave_core.tokenizers.codebooks import Codebooks
from tinywave_core.tokenizers.speech import Streams, encode_utterance
from tinywave_core.tokenizers.vocabulary import Vocabulary

pytestmark = pytest.mark.arithmetic

Utterances = list[SimpleNamespace]
Samples = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def vocoder(codebooks: Codebooks, utterances: Utterances) -> DraftVocoder:
    return DraftVocoder.fit(codebooks, ((u.samples, codebooks.tokenize(u.samples)) for u in utterances))


def _likeness(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    frames = min(len(a), len(b)) // 160
    x, y = (log_mel(samples)[:frames] for samples in (a, b))
    return float(np.corrcoef((x - x.mean(axis=0)).ravel(), (y - y.mean(axis=0)).ravel())[0, 1])


def test_speech_comes_back_more_like_itself_than_like_another(
    vocoder: DraftVocoder, codebooks: Codebooks, utterances: Utterances
) -> None:
    first, second = (vocoder.synthesize(codebooks.tokenize(u.samples)) for u in utterances[:2])
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


@pytest.fixture(scope="module")
def spoken(vocoder: DraftVocoder, codebooks: Codebooks, utterances: Utterances) -> tuple[list[int], Samples]:
    ids = encode_utterance(codebooks.tokenize(utterances[1].samples), codebooks.vocabulary).tolist()
    return ids, vocoder.synthesize(ids, iterations=2)


def _as_they_come(vocoder: DraftVocoder, ids: list[int]) -> Iterator[Samples]:
    """Chunks that come before it is known that the ids are all."""

    def waiting() -> Iterator[int]:
        yield from ids
        raise InterruptedError

    with contextlib.suppress(InterruptedError):
        yield from vocoder.stream(waiting(), vocoder.vocabulary, 2, 5)


@pytest.mark.parametrize(
    "string", ["", "[Speech]", "[St1][Pi2]", "[Hu1]", "[St1][St1][Hu3]", "[Hu1][Hu2]" * 60 + "[St0][Pi0]"]
)
def test_any_sequence_gives_bounded_audio(vocoder: DraftVocoder, codebooks: Codebooks, string: str) -> None:
    samples = vocoder.synthesize(codebooks.vocabulary.encode(string), iterations=1)
    assert samples.dtype == np.float32 and np.isfinite(samples).all() and np.abs(samples).max(initial=0) <= 0.951


@given(borders=st.lists(st.integers(1, 60), max_size=6), chunk_frames=st.integers(1, 30))
@settings(max_examples=8)
def test_stream_is_the_whole_whatever_the_chunks(
    vocoder: DraftVocoder, spoken: tuple[list[int], Samples], borders: list[int], chunk_frames: int
) -> None:
    ids, whole = spoken
    pieces = np.split(np.asarray(ids), np.minimum(np.cumsum(borders), len(ids)).astype(int))
    chunks = [*vocoder.stream((i for piece in pieces for i in piece), vocoder.vocabulary, 2, chunk_frames)]
    assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_frames * 640}
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_audio_needs_six_frames_of_look_ahead_and_no_more(vocoder: DraftVocoder) -> None:
    assert LOOK_AHEAD == 6
    units = np.arange(40) % vocoder.vocabulary.hubert
    frames = [Frame(int(unit), 0.0) for unit in units]
    asked = iter(frames)
    next(in_chunks(vocoder.speak(asked, iterations=1), 10 * 640))
    assert len(frames) - len([*asked]) == 10 + LOOK_AHEAD


def test_what_comes_later_changes_nothing_that_was_said(
    vocoder: DraftVocoder, spoken: tuple[list[int], Samples]
) -> None:
    ids, whole = spoken
    half = ids[: len(ids) // 2]
    spoken_by_then = sum(len(chunk) for chunk in _as_they_come(vocoder, half))
    part = vocoder.synthesize(half, iterations=2)
    assert spoken_by_then > 16_000
    np.testing.assert_array_equal(part[:spoken_by_then], whole[:spoken_by_then])


def test_runs_are_told_apart_and_last_as_long_as_they_do_on_average(vocoder: DraftVocoder) -> None:
    means = np.linspace(1.0, 3.0, 12)
    ids = vocoder.vocabulary.encode("[Hu0][Hu11]" * 50)
    heard = [*sounds(ids, vocoder.vocabulary, means)]
    assert [sound.unit for sound in heard[:4]] == [0, 11, 0, 11]
    assert sum(sound.frames for sound in heard) == 50 * (1 + 3)


@pytest.mark.parametrize("units", [5, 20, 24])
def test_seconds_are_as_long_as_their_style_tokens_say(vocoder: DraftVocoder, units: int) -> None:
    ids = vocoder.vocabulary.encode(("[St0]" + "[Hu0][Hu11]" * (units // 2)) * 20)
    frames = sum(sound.frames for sound in sounds(ids, vocoder.vocabulary, np.linspace(1.0, 1.4, 12)))
    if units > 12:  # fewer units than every second frame are stretched as far as it goes
        assert abs(frames - 20 * 25) <= 5
    assert frames >= 20 * (units // 2) * 2


def test_base_tokens_have_a_voice_too(codebooks: Codebooks, vocoder: DraftVocoder, utterances: Utterances) -> None:
    units = codebooks.tokenize(utterances[0].samples).units
    samples = vocoder.synthesize(Streams(units, units[:0], units[:0]))
    assert (f0.f0_hz(samples) > 0).any()
