"""Probes: the same pairs every time, versions that differ in nothing but what is asked, splices where nobody speaks."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fixtures.tiny import EXAMPLES
from tinywave_core.audio.utterances import Utterance
from tinywave_core.audio.waveform import read_waveform
from tinywave_core.config.evaluation import ProbesConfig
from tinywave_core.evals.intervals import McNemar
from tinywave_core.evals.probe_scores import Version, credits, means, overall, probe_figures
from tinywave_core.evals.probes import PROBES, Pair, Speech, absent, chosen, pair_of, pink, prepare, spliced

CONFIG = ProbesConfig(genders="118=m, 237=f")
MADE = [probe for probe in PROBES if probe != "gender_swap"]
RNG = np.random.default_rng(0)


def utterances(count: int = 14) -> list[Utterance]:
    files = sorted((EXAMPLES / "LibriSpeech" / "test-other").rglob("*.opus"))[:count]
    return [
        Utterance(f.stem.rjust(32, "0"), f.stem, str(f), 0, f.parts[-3], None, "held_out", read_waveform(f))
        for f in files
    ]


@pytest.fixture(scope="module")
def speech() -> list[Speech]:
    return [ready for u in utterances() if (ready := prepare(u, CONFIG))]


def pairs(probe: str, speech: list[Speech]) -> list[Pair]:
    made = [pair_of(probe, own, speech, CONFIG) for own in speech]
    return [pair for pair in made if isinstance(pair, Pair)]


def rms(samples: NDArray) -> float:
    return float(np.sqrt(np.mean((samples / 32768.0) ** 2)))


@pytest.mark.parametrize("probe", MADE)
def test_both_versions_are_equally_long_and_equally_loud(speech: list[Speech], probe: str):
    made = pairs(probe, speech)
    assert len(made) >= 3
    for pair in made:
        assert len(pair.positive) == len(pair.negative) <= CONFIG.max_s * 16_000
        assert rms(pair.positive) == pytest.approx(rms(pair.negative), rel=1e-3)
        assert max(abs(pair.positive).max(), abs(pair.negative).max()) < 32_700


@pytest.mark.parametrize("probe", MADE)
def test_pairs_do_not_depend_on_the_order_of_the_corpus(speech: list[Speech], probe: str):
    for here, there in zip(pairs(probe, speech), reversed(pairs(probe, speech[::-1])), strict=True):
        assert np.array_equal(here.negative, there.negative) and here.others == there.others


def test_the_splice_is_where_nobody_speaks(speech: list[Speech]):
    for own in speech:
        around = own.samples[own.splice - 160 : own.splice + 160]
        assert np.sqrt(np.mean(around**2)) < 0.2 * 0.05, "speech has an RMS of 0.05"
        assert min(own.splice, own.rest) >= CONFIG.min_part_s * 16_000


def test_an_utterance_without_a_pause_makes_no_item():
    one = utterances(1)[0]
    in_one_go = read_waveform(EXAMPLES / "LJSpeech" / "wavs" / "LJ001-0002.wav")  # "in being comparatively modern."
    assert prepare(replace(one, samples=in_one_go), CONFIG) is None
    assert prepare(replace(one, samples=np.zeros(48_000, np.float32)), CONFIG) is None


def test_up_to_the_splice_both_versions_are_the_same_recording(speech: list[Speech]):
    for pair in pairs("speaker_swap", speech):
        first = slice(0, pair.positive_splice - 80)
        right, wrong = (x[first] / rms(x[first]) for x in (pair.positive, pair.negative))
        assert np.corrcoef(right, wrong)[0, 1] > 0.9999
        assert abs(np.corrcoef(pair.positive[first.stop :], pair.negative[first.stop :])[0, 1]) < 0.5


def test_reversed_order_is_the_same_sound_in_another_order(speech: list[Speech]):
    for pair in pairs("reversed_order", speech):
        first, second = pair.positive[160 : pair.positive_splice - 160], pair.negative[pair.negative_splice + 160 :]
        assert np.corrcoef(first[: len(second)], second[: len(first)])[0, 1] > 0.999
        assert pair.positive_splice + pair.negative_splice == len(pair.positive)


def test_the_second_part_is_the_same_speakers_where_there_is_one_and_never_the_same_recording(speech: list[Speech]):
    of = {s.utterance_id: s for s in speech}
    for pair in pairs("wrong_continuation", speech):
        own, other = of[pair.utterance_id], of[pair.others[0]]
        possible = [s for s in speech if s.speaker == own.speaker and s.recording_id != own.recording_id]
        assert other.recording_id != own.recording_id
        assert (other.speaker == own.speaker) == bool(possible)
        assert pair.about.endswith("of the same speaker") == bool(possible)
    assert all(of[p.others[0]].speaker != p.speaker for p in pairs("speaker_swap", speech))


def test_speakers_without_a_name_are_not_swapped(speech: list[Speech]):
    unnamed = [replace(s, speaker=None) for s in speech]
    assert pairs("speaker_swap", unnamed) == []
    assert len(pairs("wrong_continuation", unnamed)) == len(unnamed)


def test_gender_swap_needs_labels_and_says_so(speech: list[Speech]):
    assert "evaluation.probes.genders tells it" in absent("gender_swap", speech, ProbesConfig())
    one, two = sorted({s.speaker or "" for s in speech})[:2]
    assert "gives 1 gender to" in absent("gender_swap", speech, ProbesConfig(genders=f"{one}=f"))
    known = ProbesConfig(genders=f"{one}=f, {two}=m")
    assert absent("gender_swap", speech, known) == ""
    made = [pair_of("gender_swap", s, speech, known) for s in speech]
    assert {p.speaker for p in made if isinstance(p, Pair)} == {one, two}


def test_noise_changes_its_kind_at_the_splice_and_not_its_level(speech: list[Speech]):
    kinds = {pair.about for pair in pairs("background_noise", speech)}
    assert kinds == {"pink noise, then babble", "babble, then pink noise"}


def test_one_voice_makes_no_babble(speech: list[Speech]):
    assert pair_of("background_noise", speech[0], speech[:1], CONFIG) == "too_few_voices_for_babble"


def test_the_second_part_of_the_negative_is_in_another_room(speech: list[Speech]):
    """The same as the positive up to the splice, and not after it."""
    pair = pairs("room", speech)[0]
    before, late = slice(400, pair.positive_splice - 400), slice(pair.positive_splice + 18_000, -400)
    assert np.corrcoef(pair.positive[before], pair.negative[before])[0, 1] > 0.999
    assert np.corrcoef(pair.positive[late], pair.negative[late])[0, 1] < 0.95


def test_either_room_comes_first(speech: list[Speech]):
    """So that a model that likes one of them better gets half of the pairs right."""
    firsts = {pair.about.split(" room")[0] for pair in pairs("room", speech)}
    assert firsts == {"a small", "a large"}


def test_a_splice_goes_over_in_ten_milliseconds():
    joined = spliced(np.ones(1000, np.float32), 600, -np.ones(1000, np.float32), 300, 500)
    assert len(joined) == 1100
    assert (joined[:520] == 1).all() and (joined[681:] == -1).all()
    assert np.abs(np.diff(joined)).max() < 2 * np.pi / 2 / 160 * 1.01


def test_pink_noise_loses_three_decibels_per_octave():
    power = np.abs(np.fft.rfft(pink(1 << 16, RNG))) ** 2
    octaves = [power[lo : 2 * lo].mean() for lo in (1024, 2048, 4096, 8192)]
    assert np.diff(10 * np.log10(octaves)) == pytest.approx([-3.0] * 3, abs=0.5)


def test_the_utterances_looked_at_come_with_another_recording_of_their_speakers():
    rows = [
        {"utterance_id": f"{n:032x}", "recording_id": f"r{n}", "speaker": f"s{n % 50}", "num_samples": 99_999}
        for n in range(100)
    ]
    config = ProbesConfig(items=4)
    ids = chosen(rows, config)
    assert len(ids[:12]) == 12 and {int(i, 16) % 50 for i in ids[12:]} <= {int(i, 16) % 50 for i in ids[:12]}
    assert chosen(rows[::-1], config) == ids
    assert chosen([row | {"num_samples": 9_999} for row in rows], config) == []


# Scores ----------------------------------------------------------------------------------------------------------


def test_a_score_is_the_mean_over_all_tokens_and_over_those_from_the_splice_on():
    log_p = np.array([-1, -1, -1, -5], np.float32)  # of tokens 1 to 4
    assert means(Version(np.zeros(5, np.uint16), splice=4), log_p) == (-2, -5)
    assert means(Version(np.zeros(5, np.uint16), splice=3), log_p) == (-2, -3)


def test_a_pair_is_right_where_the_positive_is_likelier_and_a_tie_counts_half():
    assert credits([-1, -2, -1], [-2, -1, -1]).tolist() == [1, 0, 0.5]


def test_figures_of_a_probe_compare_the_models_on_the_same_pairs():
    teacher, student, control = (np.arange(40) < n for n in (36, 30, 24))
    whole = {"teacher": teacher * 1.0, "student": student * 1.0, "control": control * 1.0}
    figures = probe_figures(whole, {name: 1 - won for name, won in whole.items()}, seed=0)
    student = figures.models["student"]
    assert (student.accuracy, student.continuation_accuracy) == (0.75, 0.25)
    assert student.interval[0] < 0.75 < student.interval[1] and student.continuation_interval[1] < 0.5
    assert figures.mcnemar["control"] == McNemar(first_only=6, second_only=0, p=2 / 64)
    assert figures.mcnemar["teacher"] == McNemar(first_only=0, second_only=6, p=2 / 64)
    assert figures.retention.above_chance == pytest.approx(0.25 / 0.4)


def test_pairs_of_one_utterance_are_resampled_together():
    right = {"student": np.repeat([1.0, 0.0], 50)}
    together = overall(right, ["a"] * 50 + ["b"] * 50, seed=0)["student"].interval
    apart = overall(right, [str(i) for i in range(100)], seed=0)["student"].interval
    assert together == (0, 1) and 0.35 < apart[0] < apart[1] < 0.65
