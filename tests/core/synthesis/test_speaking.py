"""One way to speak for every vocoder: whole and as a stream alike, in a voice by name."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures import release
from tinywave_core.errors import TinyWaveError
from tinywave_core.synthesis.hifigan import HifiganVocoder
from tinywave_core.synthesis.recordings import Recordings, UnitSounds
from tinywave_core.synthesis.selection import Selection
from tinywave_core.synthesis.speaking import HifiganSpeaker, Speaker, VoiceSpeaker, load_speaker
from tinywave_core.synthesis.voice import Part, Voice
from tinywave_core.tokenizers.codebooks import Codebooks
from tinywave_core.tokenizers.vocabulary import Vocabulary

pytestmark = pytest.mark.arithmetic

BASE = release.PARTS["hifigan"]["base"]


@pytest.fixture(scope="module")
def hifigan(tmp_path_factory: pytest.TempPathFactory) -> Speaker:
    folder = tmp_path_factory.mktemp("hifigan")
    torch.save({"generator": release.weights(BASE)}, folder / "generator.pt")
    (folder / "config.json").write_text(json.dumps(BASE["config"]))
    (folder / "speakers.txt").write_text("ex01\nex02\nex03\nex04\n")
    vocoder = HifiganVocoder.load(folder)
    return HifiganSpeaker(vocoder, Vocabulary(text=10, hubert=vocoder.config.num_embeddings))


@pytest.fixture(scope="module")
def voice(codebooks: Codebooks, utterances: list) -> Speaker:
    vocabulary = codebooks.vocabulary
    spoken = [(u.samples, codebooks.tokenize(u.samples), 0) for u in utterances[:3]]
    sounds = UnitSounds(vocabulary.hubert)
    for samples, streams, _ in spoken:
        sounds.add(samples, streams.units, vocabulary.rates)
    parts = [
        Part(name, (name,), (name,), Selection(Recordings.of(own, vocabulary.rates), sounds.centres()))
        for name, own in (("anna", spoken[:2]), ("bert", spoken[2:]))
    ]
    return VoiceSpeaker(Voice(vocabulary, tuple(parts)), vocabulary)


@pytest.fixture(params=["voice", "hifigan"])
def speaker(request: pytest.FixtureRequest) -> Speaker:
    return request.getfixturevalue(request.param)


def _ids(speaker: Speaker, count: int = 90) -> np.ndarray:
    vocabulary = speaker.vocabulary  # type: ignore[attr-defined]
    units = np.random.default_rng(0).integers(0, min(vocabulary.hubert, 50), count)
    return vocabulary.first["hubert"] + units


def test_speaker_says_which_it_is(voice: Speaker, hifigan: Speaker):
    assert (voice.name, voice.voices) == ("voice", ("anna", "bert"))
    assert (hifigan.name, hifigan.voices) == ("hifigan", ("ex01", "ex02", "ex03", "ex04"))


@pytest.mark.parametrize("chunk_frames", [3, 10])
def test_stream_is_the_whole(speaker: Speaker, chunk_frames: int):
    ids = _ids(speaker)
    whole = speaker(ids)
    chunks = [*speaker.stream(iter(ids.tolist()), chunk_frames=chunk_frames)]
    lengths = [len(chunk) for chunk in chunks[:-1]]
    assert whole.dtype == np.float32 and lengths[0] == chunk_frames * 640
    assert lengths == sorted(lengths) if speaker.name == "hifigan" else len(set(lengths)) == 1
    noise = np.sum((np.concatenate(chunks) - whole) ** 2)
    assert noise == 0 or 10 * np.log10(np.sum(whole**2) / noise) >= 40


def test_first_chunk_comes_while_there_is_more_to_say(speaker: Speaker):
    def waiting() -> Iterator[int]:
        yield from _ids(speaker)
        raise InterruptedError

    assert len(next(speaker.stream(waiting()))) == 6400


def test_text_and_markers_are_skipped(speaker: Speaker):
    ids = _ids(speaker, 30)
    np.testing.assert_array_equal(speaker(np.concatenate([[1, 3], ids, [2]])), speaker(ids))


def test_nothing_to_say_is_silence(speaker: Speaker):
    assert len(speaker(np.zeros(0, np.int64))) == 0
    assert [*speaker.stream(iter([1, 2]))] == []


def test_voice_is_chosen_by_name(hifigan: Speaker):
    ids = _ids(hifigan, 20)
    np.testing.assert_array_equal(hifigan(ids), hifigan(ids, voice="ex03"))
    assert np.abs(hifigan(ids) - hifigan(ids, voice="ex01")).max() > 0.01
    streamed = np.concatenate([*hifigan.stream(ids.tolist(), voice="ex01")])
    assert np.abs(streamed - hifigan(ids, voice="ex01")).max() < 0.05 * np.abs(streamed).max()


def test_what_was_saved_speaks_the_same(voice: VoiceSpeaker, tmp_path: Path):
    voice.voice.save(tmp_path)
    again = load_speaker(tmp_path, voice.vocabulary, None)
    ids = _ids(voice, 30)
    np.testing.assert_array_equal(again(ids, voice="bert"), voice(ids, voice="bert"))
    assert np.abs(voice(ids)[:4000] - voice(ids, voice="bert")[:4000]).max() > 0


def test_codebooks_without_a_voice_say_what_to_do(codebooks: Codebooks, tmp_path: Path):
    codebooks.save(tmp_path)
    with pytest.raises(TinyWaveError, match="has no voice .*: export the model again"):
        load_speaker(tmp_path, codebooks.vocabulary, None)


def test_unknown_voice_and_empty_chunks_are_refused_at_once(speaker: Speaker, tmp_path: Path):
    with pytest.raises(TinyWaveError, match="no voice 'ex99'; the vocoder `(voice` has anna, bert|hifigan` has ex01)"):
        speaker(_ids(speaker), voice="ex99")
    with pytest.raises(TinyWaveError, match="no voice 'ex99'"):
        speaker.stream(iter([]), voice="ex99")
    with pytest.raises(TinyWaveError, match="chunk_frames is 0"):
        speaker.stream(iter([]), chunk_frames=0)
