"""The voice: a recording's own units give the recording, stretches stay whole, joints are in phase, nothing waits for the end."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.core.conftest import babble
from tinywave_core.config.vocoder import VocoderConfig
from tinywave_core.errors import CheckpointError, ConfigError, MissingInputError, SchemaVersionError
from tinywave_core.stages.export.voices import choose_voices, sentence
from tinywave_core.synthesis.recordings import CEPSTRA, LEVEL, Recordings, levelled
from tinywave_core.synthesis.selection import LOOK_AHEAD, Selection, Wanted, _cheapest
from tinywave_core.synthesis.voice import FADE, Part, Voice, pieces
from tinywave_core.synthesis.windows import joined
from tinywave_core.tokenizers.speech import EMPTY, Streams, merge
from tinywave_core.tokenizers.streams import Rates
from tinywave_core.tokenizers.vocabulary import Vocabulary

pytestmark = pytest.mark.arithmetic

RATES = Rates(units=50.0)
VOCABULARY = Vocabulary(text=10, hubert=20, rates=RATES)
SOUNDS = np.random.default_rng(1).integers(-50, 50, (20, CEPSTRA))


def random_units(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 20, count)


def of_babble(seeds: tuple[int, ...] = (0, 1), seconds: float = 2.0) -> Selection:
    utterances = [
        (babble(seed, seconds), Streams(random_units(seed, round(50 * seconds)), EMPTY, EMPTY), 0) for seed in seeds
    ]
    return Selection(Recordings.of(utterances, RATES), SOUNDS)


def by_hand(units: list[int], **arrays: list[int]) -> Selection:
    """Recordings of 0.1 s to a run, all sounding alike at their edges."""
    count = len(units)
    flat = {name: np.zeros(count, np.int64) for name in ("utterances", "speakers", "head_pitch", "tail_pitch")}
    flat |= {"codes": np.full(count, -1)} | {name: np.array(values) for name, values in arrays.items()}
    edges = 1600 * np.arange(count + 1)
    silent = np.zeros((count, CEPSTRA), np.int64)
    samples = np.zeros(edges[-1], np.int16)
    recordings = Recordings(samples, np.array(units), edges[:-1], edges[1:], head_RC=silent, tail_RC=silent, **flat)
    return Selection(recordings, SOUNDS)


def chosen(selection: Selection, units: list[int], pitch: int = -1) -> list[int]:
    return [*selection.runs(Wanted(unit, pitch) for unit in units)]


def test_the_units_of_a_recording_give_the_recording_sample_for_sample():
    selection = of_babble()
    voice = Voice(VOCABULARY, (Part("a", ("a",), ("u0", "u1"), selection),))
    spoken = voice.synthesize(merge(Streams(random_units(1, 100), EMPTY, EMPTY), VOCABULARY), VOCABULARY)
    sure = 32_000 - 2 * FADE  # the end fades out
    np.testing.assert_array_equal(np.rint(spoken[:sure] * 32768), levelled(babble(1, 2.0))[:sure])


def test_a_whole_stretch_is_taken_before_pieces_of_others():
    assert chosen(by_hand([4, 5, 9, 4, 5, 6, 7, 5, 6]), [4, 5, 6, 7]) == [3, 4, 5, 6]


def test_no_stretch_goes_on_from_one_utterance_to_the_next():
    selection = by_hand([4, 5, 6, 7, 5, 6], utterances=[0, 1, 1, 2, 3, 3])
    assert not selection.recordings.follows()[[0, 2, 3, 5]].any() and selection.recordings.follows()[[1, 4]].all()
    assert selection._joints(np.array([0]), np.array([1]))[0, 0] > 0


def test_a_unit_that_was_never_recorded_is_spoken_by_the_one_that_sounds_most_like_it():
    sounds = SOUNDS.copy()
    sounds[3] = sounds[8] + 1
    selection = replace(by_hand([5, 8, 11, 14]), sounds_KC=sounds)
    assert chosen(selection, [3]) == [1]


def test_of_two_runs_the_one_of_the_wanted_pitch_is_taken():
    selection = by_hand([4, 4], utterances=[0, 1], codes=[0, 1], head_pitch=[300, 360])
    assert [chosen(selection, [4], pitch) for pitch in (0, 1)] == [[0], [1]]


def test_a_joint_between_speakers_costs_more_than_one_within():
    selection = by_hand([4, 9, 5, 5], utterances=[0, 1, 2, 3], speakers=[0, 0, 1, 0])
    assert chosen(selection, [4, 5]) == [0, 3]


@pytest.mark.parametrize(
    "jump", [{"head_pitch": 360}, {"head_pitch": 0}, {"head_RC": 40}], ids=["of pitch", "of voicing", "of sound"]
)
def test_a_joint_with_a_jump_costs_more_than_one_without(jump: dict[str, int]):
    own = {"head_pitch": [300] * 4, "tail_pitch": [300] * 4}
    recordings = by_hand([4, 9, 5, 5], utterances=[0, 1, 2, 3], **own).recordings
    arrays = {name: getattr(recordings, name).copy() for name in jump} | {"tail_RC": recordings.tail_RC.copy()}
    arrays["tail_RC"][1] = 5  # so that a run's sound moves at all
    for name, value in jump.items():
        arrays[name][2] = value
    assert chosen(Selection(replace(recordings, **arrays), SOUNDS), [4, 5]) == [0, 3]


def test_a_stretch_may_go_on_where_other_runs_cost_less_by_themselves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tinywave_core.synthesis.selection.BEAM", 1)
    pitch = [310, 310, 300, 300]
    selection = by_hand([4, 5, 4, 5], utterances=[0, 0, 1, 1], codes=[1, 1, 0, 0], head_pitch=pitch, tail_pitch=pitch)
    assert [*selection.runs([Wanted(4, 0), Wanted(5, 1)])] == [2, 3]


def test_what_another_utterance_begins_with_is_no_neighbour():
    selection = by_hand([4, 5, 4, 5], utterances=[0, 1, 2, 2])
    alone, _, within, _ = selection._costs([Wanted(4), Wanted(5)], 0)
    assert within == 0 < alone


def test_of_equal_costs_the_first_are_taken():
    assert _cheapest(np.array([3, 1, 2, 2, 2, 9]), 3).tolist() == [1, 2, 3]


def test_a_run_is_settled_as_soon_as_its_look_ahead_is_known():
    selection = of_babble()
    asked = iter([Wanted(int(unit)) for unit in random_units(5, 60)])
    next(selection.runs(asked))
    assert 60 - len([*asked]) == LOOK_AHEAD + 1


def test_what_is_said_does_not_depend_on_what_comes_after_the_look_ahead():
    selection = of_babble()
    units = random_units(5, 60).tolist()
    other = [*units[:40], *random_units(6, 20).tolist()]
    assert chosen(selection, units)[: 40 - LOOK_AHEAD] == chosen(selection, other)[: 40 - LOOK_AHEAD]


def test_a_joint_fades_over_20_ms():
    sound = np.repeat([0, 8000], 8000).astype(np.int16)
    recordings = replace(
        by_hand([1, 2]).recordings,
        samples_N=sound,
        starts=np.array([2000, 12_000]),
        stops=np.array([4000, 14_000]),
        utterances=np.array([0, 1]),
    )
    made = joined(pieces(recordings, [0, 1]))[: 4000 - 400]
    assert 280 < np.count_nonzero((made > 0.001) & (made < 0.243)) <= 320  # 8000 is 0.244; a cosine's ends are flat


def test_two_tones_are_joined_in_phase():
    """A joint of 200 Hz with itself, cut a third of a period off: moved to where they fit, the tone goes on."""
    tone = np.rint(8000 * np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)).astype(np.int16)
    recordings = replace(
        by_hand([1, 2, 3, 4]).recordings,
        samples_N=tone,
        starts=np.array([1000, 3000, 6026, 9000]),
        stops=np.array([3000, 5000, 8026, 11_000]),
        utterances=np.array([0, 1, 2, 3]),
    )
    made = joined(pieces(recordings, [0, 2]))[: 4000 - FADE]
    spectrum = np.abs(np.fft.rfft(made * np.hanning(len(made)))) ** 2
    at = round(200 * len(made) / 16_000)
    assert spectrum[at - 3 : at + 4].sum() > 0.999 * spectrum.sum()


def test_recordings_are_brought_to_one_level_and_do_not_clip():
    for factor in (0.01, 0.3):
        level = np.sqrt(np.mean((levelled(babble(0) * factor) / 32767.0) ** 2))
        assert level == pytest.approx(LEVEL, rel=0.01)
    click = np.zeros(16_000, np.float32)
    click[5] = 0.5
    assert np.abs(levelled(click)).max() <= 0.96 * 32767 and not levelled(np.zeros(99, np.float32)).any()


def test_what_was_saved_speaks_the_same_in_each_voice(tmp_path: Path):
    parts = tuple(Part(name, (name,), (f"{name}-1",), of_babble(seeds)) for name, seeds in [("a", (0, 1)), ("b", (2,))])
    voice = Voice(VOCABULARY, parts)
    voice.save(tmp_path)
    again, ids = Voice.load(tmp_path), VOCABULARY.first["hubert"] + random_units(9, 30)
    assert (again.names, again.vocabulary) == (("a", "b"), VOCABULARY)
    assert [part.recordings for part in again.parts] == [("a-1",), ("b-1",)]
    for name in again.names:
        np.testing.assert_array_equal(again.synthesize(ids, VOCABULARY, name), voice.synthesize(ids, VOCABULARY, name))


def test_files_that_do_not_go_together_are_refused(tmp_path: Path):
    voice = Voice(VOCABULARY, (Part("a", (), (), of_babble()),))
    voice.save(tmp_path)
    about = json.loads((tmp_path / "voice.json").read_text())
    (tmp_path / "voice.json").write_text(json.dumps(about | {"version": 99}))
    with pytest.raises(SchemaVersionError, match="voice of version 99"):
        Voice.load(tmp_path)
    about["voices"][0]["samples"] -= 1
    (tmp_path / "voice.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="not the sound"):
        Voice.load(tmp_path)
    beyond = replace(voice.parts[0].selection.recordings, stops=voice.parts[0].selection.recordings.stops + 99_999)
    Voice(VOCABULARY, (Part("a", (), (), Selection(beyond, SOUNDS)),)).save(tmp_path)
    with pytest.raises(CheckpointError, match="runs outside"):
        Voice.load(tmp_path)


def test_equal_units_in_a_row_are_one():
    selection = of_babble()
    voice = Voice(VOCABULARY, (Part("a", (), (), selection),))
    ids = (VOCABULARY.first["hubert"] + random_units(3, 20)).tolist()
    doubled = [i for each in ids for i in (each, each)]
    np.testing.assert_array_equal(voice.synthesize(doubled, VOCABULARY), voice.synthesize(ids, VOCABULARY))


def test_audio_comes_while_there_is_more_to_say():
    def waiting() -> Iterator[int]:
        yield from VOCABULARY.first["hubert"] + random_units(3, 60)
        raise InterruptedError

    voice = Voice(VOCABULARY, (Part("a", (), (), of_babble()),))
    assert len(next(voice.stream(waiting(), VOCABULARY))) == 6400


# Whose voice ------------------------------------------------------------------------------------------------------


def test_speakers_with_enough_speech_become_voices_and_the_first_has_the_most():
    voices = choose_voices(VocoderConfig(speaker_minutes=1), {"anna": 70.0, "bert": 90.0, "carl": 50.0, None: 500.0})
    assert [voice.name for voice in voices] == ["bert", "anna"]
    assert sentence("voice", voices) == "speaks with recordings of bert (1.5 min), anna (1.2 min)"
    assert sentence("hifigan", voices) == "a network is trained on recordings of bert (1.5 min), anna (1.2 min)"


def test_where_nobody_has_enough_all_are_one_voice_and_that_is_said():
    voices = choose_voices(VocoderConfig(speaker_minutes=5), {"anna": 70.0, None: 50.0})
    assert [(voice.speaker, voice.seconds) for voice in voices] == [(None, 120.0)]
    assert "no speaker has enough speech for a voice: it will be a mixture of all, 2.0 min" in sentence("voice", voices)


@pytest.mark.parametrize(
    ("speakers", "seconds", "error", "words"),
    [
        (("dora",), {"anna": 70.0}, ConfigError, "'dora', who has no training speech here; the most have anna"),
        (("dora",), {None: 70.0}, ConfigError, "the most have no speaker by name"),
        (("anna",), {"anna": 19.0}, ConfigError, "'anna' with 19.0 s of training speech; a voice needs 20 s"),
        ((), {}, MissingInputError, "there is no training speech to make a voice of"),
    ],
)
def test_a_voice_that_cannot_be_made_is_refused_in_one_line(
    speakers: tuple[str, ...], seconds: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        choose_voices(VocoderConfig(speakers=speakers), seconds)
