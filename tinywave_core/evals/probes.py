"""Probes from the user's own held-out recordings: pairs of which a model of speech should find the right one likelier.

After SALMon (Maimon et al. 2024), without TTS and without any download: voice, order, background and room, each right
throughout in the positive and wrong from the splice on in the negative. Splices lie in pauses. Both versions are equally
long and equally loud, and neither is heard to its end where two recordings meet, so that the end gives nothing away.

Legend: N samples of an utterance, M of a pair, at 16 kHz.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.audio.utterances import Utterance
from tinywave_core.audio.vad import HYSTERESIS, WINDOW, speech_probabilities
from tinywave_core.config.evaluation import ProbesConfig
from tinywave_core.drawing import draw
from tinywave_core.storage.schemas import SAMPLE_RATE

Samples = npt.NDArray[np.float32]

SPEECH = 0.5  # probability from which a window is speech; a pause stays below it by the VAD's hysteresis
LEVEL = 0.05  # RMS of every recording of a pair, and of the speech in every utterance: -26 dB of full scale
FADE = SAMPLE_RATE // 100  # crossfade at a splice, and fades at both ends
BEFORE_THE_END = SAMPLE_RATE // 10  # what is cut off the last word
MIDDLE = (0.25, 0.75)  # where the splice may lie, as a share of the utterance
POOL = 3  # utterances that are looked at per item wanted
VOICES = (2, 6)  # fewest and most other recordings in a babble
NOISES = ("pink", "babble")
REVERBERATION_S = {"small": (0.2, 0.3), "large": (0.8, 1.1)}


@dataclass(frozen=True)
class Speech:
    """A stretch of a held-out utterance, at LEVEL, that begins in silence and has a pause inside."""

    utterance_id: str
    recording_id: str
    speaker: str | None
    samples: Samples  # [N]
    splice: int
    """The quietest place of the longest pause in the middle half of the utterance that leaves room on both sides."""
    end: int
    """Shortly before the last speech ends."""
    close: int | None
    """Where it can end in silence: the utterance's end, or the last pause; None where there is none."""

    @property
    def rest(self) -> int:
        """Samples from the splice to `end`."""
        return self.end - self.splice


@dataclass(frozen=True)
class Pair:
    """One item: two recordings, and what sets them apart."""

    probe: str
    utterance_id: str
    speaker: str | None
    others: tuple[str, ...]
    """Ids of the other utterances that are heard in it."""
    about: str
    """For people: what the negative has that the positive has not."""
    positive: npt.NDArray[np.int16]  # [M]
    negative: npt.NDArray[np.int16]  # [M]
    positive_splice: int
    """Where its second part begins."""
    negative_splice: int

    @property
    def id(self) -> str:
        return self.utterance_id[:12]


# The utterances --------------------------------------------------------------------------------------------------


def chosen(rows: Iterable[dict[str, Any]], config: ProbesConfig) -> list[str]:
    """Ids of the utterances to look at, in the order in which pairs are made of them: long enough ones by a hash, and
    behind them for each, where there is one, another recording of the same speaker. `rows` are gone through twice, and not kept."""
    shortest = 2 * config.min_part_s * SAMPLE_RATE
    first = draw(
        (row for row in rows if row["num_samples"] >= shortest),
        lambda row: _key(config, "choice", row["utterance_id"]),
        POOL * config.items,
    )
    of_speaker: dict[str, list[dict[str, Any]]] = {}
    for own in first:
        if own["speaker"] is not None:
            of_speaker.setdefault(own["speaker"], []).append(own)
    second: dict[str, tuple[bytes, str]] = {}
    for row in rows:
        for own in of_speaker.get(row["speaker"], ()) if row["num_samples"] >= shortest else ():
            if row["recording_id"] != own["recording_id"]:
                i, other = own["utterance_id"], row["utterance_id"]
                found = (_key(config, "same speaker", i + other), other)
                second[i] = min(second.get(i, found), found)
    ids = [own["utterance_id"] for own in first]
    return list(dict.fromkeys([*ids, *(second[i][1] for i in ids if i in second)]))


def prepare(utterance: Utterance, config: ProbesConfig) -> Speech | None:
    """A stretch of an utterance ready for splicing; None where no pause lies in its middle."""
    samples_N = utterance.samples - utterance.samples.mean()
    probabilities_W = speech_probabilities(_int16(utterance.samples))
    speech_N = np.repeat(probabilities_W >= SPEECH, WINDOW)[: len(samples_N)]
    pauses = _pauses(probabilities_W, config.min_pause_s)
    places = {_quietest(samples_N, pause): pause[1] - pause[0] for pause in pauses}
    most, shortest = (round(seconds * SAMPLE_RATE) for seconds in (config.max_s, config.min_part_s))
    middle = [place for place in places if MIDDLE[0] <= place / len(samples_N) <= MIDDLE[1]]
    for splice in sorted(middle, key=lambda place: (-places[place], place)):
        starts = [start for start in (0, *places) if shortest <= splice - start <= most - shortest]
        if not starts:
            continue
        start = min(starts, key=lambda start: abs(splice - start - most / 2))
        stop = min(start + most, len(samples_N))
        spoken = np.flatnonzero(speech_N[start:stop])
        end = int(spoken[-1]) + 1 - BEFORE_THE_END if len(spoken) else 0
        if end - (splice - start) < shortest:
            continue
        late = [place for place in places if splice + shortest <= place <= stop]
        close = stop if stop == len(samples_N) else (late[-1] if late else None)
        return Speech(
            utterance.utterance_id,
            utterance.recording_id,
            utterance.speaker,
            (samples_N[start:stop] * (LEVEL / _rms(samples_N[start:stop][spoken]))).astype(np.float32),
            splice - start,
            end,
            None if close is None else close - start,
        )
    return None


def _pauses(probabilities_W: npt.NDArray[np.float32], shortest_s: float) -> list[tuple[int, int]]:
    """(start, end) in samples of every pause between speech."""
    quiet_W = np.concatenate([[False], probabilities_W < SPEECH - HYSTERESIS, [False]])
    edges = np.flatnonzero(quiet_W[1:] != quiet_W[:-1]).reshape(-1, 2)
    inside = [(int(a), int(b)) for a, b in edges if a > 0 and b < len(probabilities_W)]
    return [(a * WINDOW, b * WINDOW) for a, b in inside if (b - a) * WINDOW >= shortest_s * SAMPLE_RATE]


def _quietest(samples_N: Samples, pause: tuple[int, int]) -> int:
    """The middle of the quietest 20 ms of a pause."""
    width = 2 * FADE
    power = np.concatenate([[0.0], np.cumsum(samples_N[pause[0] : pause[1]].astype(np.float64) ** 2)])
    return pause[0] + int(np.argmin(power[width:] - power[:-width])) + width // 2


# The pairs -------------------------------------------------------------------------------------------------------


def pair_of(probe: str, own: Speech, speech: Sequence[Speech], config: ProbesConfig) -> Pair | str:
    """The pair that a probe makes of an utterance with others of `speech`; or a code of why it makes none."""
    return PROBES[probe](probe, own, [o for o in speech if o.recording_id != own.recording_id], config)


def absent(probe: str, speech: Sequence[Speech], config: ProbesConfig) -> str:
    """Why a probe cannot be made of this corpus at all; empty where it can."""
    if probe == "gender_swap":
        known = config.gender_of
        genders = {known[s.speaker] for s in speech if s.speaker in known}
        if len(genders) < 2:
            return (
                "the recordings do not say who is a woman and who a man: --evaluation.probes.genders tells it"
                if not known
                else f"evaluation.probes.genders gives {len(genders)} gender{'s' * (len(genders) != 1)} to the held-out speakers"
            )
    return ""


def _wrong_continuation(probe: str, own: Speech, others: Sequence[Speech], config: ProbesConfig) -> Pair | str:
    same = [o for o in others if own.speaker is not None and o.speaker == own.speaker]
    about = "the end of another recording of the same speaker" if same else "the end of another recording"
    return _swapped(probe, own, same or others, config, about) or "no_other_recording"


def _speaker_swap(probe: str, own: Speech, others: Sequence[Speech], config: ProbesConfig) -> Pair | str:
    known = [o for o in others if None not in (own.speaker, o.speaker) and o.speaker != own.speaker]
    return _swapped(probe, own, known, config, "another speaker from the splice on") or "no_other_speaker"


def _gender_swap(probe: str, own: Speech, others: Sequence[Speech], config: ProbesConfig) -> Pair | str:
    of = config.gender_of
    other = [o for o in others if {own.speaker, o.speaker} <= set(of) and of[own.speaker or ""] != of[o.speaker or ""]]
    about = "a speaker of another gender from the splice on"
    return _swapped(probe, own, other, config, about) or "no_speaker_of_another_gender"


def _swapped(probe: str, own: Speech, others: Sequence[Speech], config: ProbesConfig, about: str) -> Pair | None:
    """The second part from one of `others`: one that is long enough, if any is, by a hash."""
    if not others:
        return None
    other = max(others, key=lambda o: (min(o.rest, own.rest), _key(config, probe, own.utterance_id + o.utterance_id)))
    length = min(own.rest, other.rest)
    positive = own.samples[: own.splice + length]
    negative = spliced(own.samples, own.splice, other.samples, other.splice, length)
    return _pair(probe, own, (other,), about, positive, negative)


def _reversed_order(probe: str, own: Speech, others: Sequence[Speech], config: ProbesConfig) -> Pair | str:
    del others, config
    if own.close is None:
        return "no_pause_to_end_at"
    rest = own.close - own.splice
    negative = spliced(own.samples[own.splice : own.close], rest, own.samples, 0, own.splice)
    pair = _pair(probe, own, (), "the second part before the first", own.samples[: own.close], negative)
    return replace(pair, negative_splice=rest)


def _background_noise(probe: str, own: Speech, others: Sequence[Speech], config: ProbesConfig) -> Pair | str:
    voices = [o for o in others if own.speaker is None or o.speaker != own.speaker]
    voices = sorted(voices, key=lambda o: _key(config, "babble", own.utterance_id + o.utterance_id))[: VOICES[1]]
    if len(voices) < VOICES[0]:
        return "too_few_voices_for_babble"
    rng = _generator(config, probe, own)
    noise = {"pink": pink(own.end, rng), "babble": babble([v.samples for v in voices], own.end, rng)}
    first, second = rng.permutation(NOISES).tolist()
    speech, level = own.samples[: own.end], LEVEL * 10 ** (-config.snr_db / 20)
    changed = spliced(noise[first], own.splice, noise[second], own.splice, own.rest)
    about = f"{first} noise, then {second}" if first == "pink" else f"{first}, then {second} noise"
    return _pair(probe, own, tuple(voices), about, speech + level * noise[first], speech + level * changed)


def _room(probe: str, own: Speech, others: Sequence[Speech], config: ProbesConfig) -> Pair | str:
    """A small and a large room in either order: against no room at all, the drier end would be the likelier one."""
    del others
    rng = _generator(config, probe, own)
    names = rng.permutation(list(REVERBERATION_S)).tolist()
    lengths = [float(rng.uniform(*REVERBERATION_S[name])) for name in names]
    speech, after = own.samples[: own.end], _step(own.end, own.splice)
    first, second = (_in_room(speech, room_response(seconds, rng)) for seconds in lengths)
    # The room of the first part dies away under the second: nothing is cut off.
    negative = first(speech * (1 - after)) + second(speech * after)
    about = " then ".join(f"a {name} room ({seconds:.2f} s)" for name, seconds in zip(names, lengths, strict=True))
    return _pair(probe, own, (), about, first(speech), negative)


def _in_room(speech: Samples, response: Samples) -> Callable[[Samples], Samples]:
    """What puts a part of `speech` into a room that leaves the level of the whole as it was."""
    scale = _rms(speech) / _rms(_convolved(speech, response))
    return lambda part: scale * _convolved(part, response)


PROBES: dict[str, Callable[[str, Speech, Sequence[Speech], ProbesConfig], Pair | str]] = {
    "wrong_continuation": _wrong_continuation,
    "speaker_swap": _speaker_swap,
    "gender_swap": _gender_swap,
    "reversed_order": _reversed_order,
    "background_noise": _background_noise,
    "room": _room,
}


def _pair(
    probe: str, own: Speech, others: tuple[Speech, ...], about: str, positive: Samples, negative: Samples
) -> Pair:
    """Both versions faded at their ends, equally loud, as 16 bits."""
    assert len(positive) == len(negative)
    faded = [_faded(x) for x in (positive, negative)]
    loud = [x * (LEVEL / _rms(x)) for x in faded]
    scale = min(1.0, 0.99 / max(float(np.abs(x).max()) for x in loud))
    ids = tuple(other.utterance_id for other in others)
    right, wrong = (_int16(scale * x) for x in loud)
    return Pair(probe, own.utterance_id, own.speaker, ids, about, right, wrong, own.splice, own.splice)


# Sound -----------------------------------------------------------------------------------------------------------


def spliced(first_N: Samples, at: int, second_N: Samples, start: int, length: int) -> Samples:
    """`first_N` up to `at`, then `length` samples of `second_N` from `start` on; a crossfade of 10 ms over the splice."""
    half = FADE // 2
    after = _step(at + length, at)
    head, tail = (np.zeros(at + length) for _ in range(2))
    kept = first_N[: at + half][: at + length]
    head[: len(kept)] = kept
    lead = min(half, at, start)
    piece = second_N[start - lead : start + length]
    tail[at - lead : at - lead + len(piece)] = piece
    return (head * (1 - after) + tail * after).astype(np.float32)


def pink(length: int, rng: np.random.Generator) -> Samples:
    """Noise with equal power in every octave above 50 Hz; RMS 1."""
    size = _power_of_two(length)
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 50.0))
    return _at_rms_1(np.fft.irfft(spectrum, size)[:length])


def babble(voices: Sequence[Samples], length: int, rng: np.random.Generator) -> Samples:
    """Recordings at once, each repeated from a place of its own; RMS 1."""
    total = np.zeros(length)
    for voice in voices:
        total += np.resize(np.roll(_faded(voice), int(rng.integers(len(voice)))), length) / _rms(voice)
    return _at_rms_1(total)


def room_response(seconds: float, rng: np.random.Generator) -> Samples:
    """A direct path, and after 3 ms as much energy in noise that falls by 60 dB in `seconds`."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail = np.convolve(tail, [0.5, 0.5])[: len(time)] * (time >= 0.003)  # walls swallow the highest frequencies
    tail /= np.sqrt((tail**2).sum())
    tail[0] = 1
    return tail.astype(np.float32)


def _convolved(samples_N: Samples, response: Samples) -> Samples:
    size = _power_of_two(len(samples_N) + len(response))
    both = np.fft.rfft(samples_N.astype(np.float64), size) * np.fft.rfft(response.astype(np.float64), size)
    return np.fft.irfft(both, size)[: len(samples_N)].astype(np.float32)


def _power_of_two(length: int) -> int:
    return 1 << (length - 1).bit_length()  # other lengths of a Fourier transform can take ten times as long


def _step(length: int, at: int) -> Samples:
    """0 before `at`, 1 after it, along half a cosine of FADE samples."""
    start = at - FADE // 2
    step = np.zeros(length, dtype=np.float32)
    step[max(0, start) :] = 1
    n = np.arange(max(0, start), min(length, start + FADE))
    step[n] = (1 - np.cos(np.pi * (n - start) / FADE)) / 2
    return step


def _faded(samples: Samples) -> Samples:
    edge = _step(len(samples), FADE // 2)
    return samples * edge * edge[::-1]


def _rms(samples: npt.NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) if len(samples) else 0.0


def _at_rms_1(samples: npt.NDArray[np.float64]) -> Samples:
    return (samples / _rms(samples)).astype(np.float32)


def _int16(samples: npt.NDArray[np.floating]) -> npt.NDArray[np.int16]:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def _key(config: ProbesConfig, what: str, name: str) -> bytes:
    return hashlib.sha256(f"probes/{config.seed}/{what}/{name}".encode()).digest()


def _generator(config: ProbesConfig, what: str, own: Speech) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(_key(config, what, own.utterance_id)[:8], "little"))
