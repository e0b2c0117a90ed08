"""One way to speak for every vocoder: whole and as a stream alike, in a voice by name."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tinywave_core.synthesis.light import LightVocoder, table_sizes
from tinywave_core.synthesis.light_model import LightNetwork, filtered
from tinywave_core.synthesis.source_filter import Source, limited
from tinywave_core.synthesis.vocoder import DraftVocoder

from tests.fixtures import release
from tinywave_core.errors import TinyWaveError
from tinywave_core.synthesis.hifigan import HifiganVocoder
from tinywave_core.synthesis.speaking import DraftSpeaker, HifiganSpeaker, LightSpeaker, Speaker, load_speaker
from tinywave_core.synthesis.windows import in_chunks, joined
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
def draft(codebooks: Codebooks, utterances: list, tmp_path_factory: pytest.TempPathFactory) -> Speaker:
    vocoder = DraftVocoder.fit(codebooks, ((u.samples, codebooks.tokenize(u.samples)) for u in utterances[:2]))
    return DraftSpeaker(vocoder, codebooks.vocabulary, iterations=1)


@pytest.fixture(scope="module")
def light(codebooks: Codebooks) -> Speaker:
    vocabulary = codebooks.vocabulary
    torch.manual_seed(0)
    network = LightNetwork(table_sizes(vocabulary, voices=2), channels=8, blocks=2).eval()
    torch.nn.init.normal_(network.head.weight, std=0.3)
    runs = np.linspace(1.0, 3.0, vocabulary.hubert)
    vocoder = LightVocoder(network, vocabulary, runs, ("anna", "bert"), np.array([150.0, 220.0, 110.0]))
    return LightSpeaker(vocoder, vocabulary)


@pytest.fixture(params=["draft", "light", "hifigan"])
def speaker(request: pytest.FixtureRequest) -> Speaker:
    return request.getfixturevalue(request.param)


def _ids(speaker: Speaker, count: int = 90) -> np.ndarray:
    vocabulary = speaker.vocabulary  # type: ignore[attr-defined]
    units = np.random.default_rng(0).integers(0, min(vocabulary.hubert, 50), count)
    return vocabulary.first["hubert"] + units


def test_speaker_says_which_it_is(draft: Speaker, light: Speaker, hifigan: Speaker):
    assert (draft.name, draft.voices) == ("draft", ())
    assert (light.name, light.voices) == ("light", ("anna", "bert"))
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


def test_a_frame_of_the_light_vocoder_is_heard_six_frames_after_it(light: LightSpeaker):
    assert light.light.look_ahead <= 6
    frames = [(i % 12, 1, 1) for i in range(40)]
    asked = iter(frames)
    next(in_chunks(light.light.speak(asked), 10 * 640))
    assert len(frames) - len([*asked]) == 10 + light.light.look_ahead


def test_the_light_vocoder_makes_in_blocks_what_its_network_makes_at_once(light: LightSpeaker):
    vocoder, frames = light.light, [(i % 12, i % 7, i % 4) for i in range(23)]
    gains, semitones = vocoder._gains_and_pitch(frames, 0)
    source = Source(150.0).rows(np.append(semitones, semitones[-1])).transpose(1, 0, 2).reshape(1, 2, -1)
    closed = torch.from_numpy(np.concatenate([gains, gains[-1:]]))[None]
    at_once = filtered(closed, torch.from_numpy(source.astype(np.float32)))[0].numpy()
    made, whole = joined(vocoder.speak(frames)), limited(at_once)
    # The network's pitch differs by its last bits between windows and whole. Its phase adds them up, and the 50th harmonic turns
    # 50 times as far: 80 to 81 dB was measured.
    assert 10 * np.log10(np.sum(whole**2) / np.sum((made - whole) ** 2)) >= 60


def test_what_was_saved_speaks_the_same(light: LightSpeaker, tmp_path: Path):
    light.light.save(tmp_path)
    again = load_speaker(tmp_path, light.vocabulary, None)
    ids = _ids(light, 30)
    np.testing.assert_array_equal(again(ids, voice="bert"), light(ids, voice="bert"))
    assert np.abs(light(ids)[:6400] - light(ids, voice="bert")[:6400]).max() > 0


def test_unknown_voice_and_empty_chunks_are_refused_at_once(speaker: Speaker, tmp_path: Path):
    with pytest.raises(
        TinyWaveError, match="no voice 'ex99'; the vocoder `(draft` has none|light` has anna, bert|hifigan` has ex01)"
    ):
        speaker(_ids(speaker), voice="ex99")
    with pytest.raises(TinyWaveError, match="no voice 'ex99'"):
        speaker.stream(iter([]), voice="ex99")
    with pytest.raises(TinyWaveError, match="chunk_frames is 0"):
        speaker.stream(iter([]), chunk_frames=0)
