"""A voice made of recordings: token ids -> 16 kHz speech, put together of stretches of a person's own speech.

`selection` says which stretches; here they are joined. A joint is a cross-fade of 20 ms, moved by up to 5 ms to where the two
waves are most alike (WSOLA, Verhelst and Roelands 1993). Stretches keep the durations in which they were spoken.
Nothing is trained: fitting a voice is to keep the recordings and to note where units begin.

Files: voice.flac (16 bits, lossless), voice.safetensors and voice.json, which names speakers and recordings.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from safetensors.numpy import load_file, save_file

from tinywave_core.errors import CheckpointError, SchemaVersionError
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.recordings import Recordings, Whole
from tinywave_core.synthesis.selection import Selection, Wanted
from tinywave_core.synthesis.windows import in_chunks, joined
from tinywave_core.tokenizers.vocabulary import Vocabulary

FORMAT, FORMAT_VERSION = "tinywave-voice", 1
SOUND, TENSORS, DESCRIPTION = "voice.flac", "voice.safetensors", "voice.json"
FADE = 160  # samples on each side of a joint
SEARCH = 80  # samples by which a joint may be moved
CHUNK_FRAME = 640  # samples: chunks are counted in frames of 40 ms, whatever the rate of the units

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """One of the voices, and whose recordings it is made of."""

    name: str
    speakers: tuple[str, ...]  # empty where the recordings name none
    recordings: tuple[str, ...]  # ids of the utterances
    selection: Selection = field(repr=False)


@dataclass(frozen=True)
class Voice:
    """All voices of a model; the first one speaks where none is asked for."""

    vocabulary: Vocabulary
    parts: tuple[Part, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def synthesize(self, ids: npt.ArrayLike, vocabulary: Vocabulary, name: str | None = None) -> Samples:
        """Speech of ids; text and markers are skipped."""
        return joined(self.speak(np.asarray(ids, np.int64).tolist(), vocabulary, name))

    def stream(
        self,
        ids: Iterable[int],
        vocabulary: Vocabulary,
        name: str | None = None,
        chunk_frames: int = 10,
        context: Sequence[int] = (),
    ) -> Iterator[Samples]:
        """The same speech while ids come one by one, in chunks of so many frames of 40 ms. What stands before them, `context`, has a
        say in the stretches that are chosen and is not spoken."""
        return in_chunks(self.speak(ids, vocabulary, name, context), chunk_frames * CHUNK_FRAME)

    def speak(
        self, ids: Iterable[int], vocabulary: Vocabulary, name: str | None = None, context: Sequence[int] = ()
    ) -> Iterator[Samples]:
        """The same in pieces, each as soon as it is known."""
        selection = self.parts[0 if name is None else self.names.index(name)].selection
        silent = sum(1 for _ in wanted(context, vocabulary))
        return pieces(selection.recordings, selection.runs(wanted(itertools.chain(context, ids), vocabulary)), silent)

    def save(self, folder: Path) -> None:
        """Write voice.flac, voice.safetensors and voice.json."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{number}.{name}": array.astype(np.int32)
            for number, part in enumerate(self.parts)
            for name, array in part.selection.recordings.arrays().items()
        }
        save_file(arrays | {"sounds": self.parts[0].selection.sounds_KC.astype(np.int32)}, folder / TENSORS)
        samples = [part.selection.recordings.samples_N for part in self.parts]
        soundfile.write(folder / SOUND, np.concatenate(samples), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        voices = [
            {"name": p.name, "speakers": p.speakers, "recordings": p.recordings, "samples": len(own)}
            for p, own in zip(self.parts, samples, strict=True)
        ]
        about = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "sample_rate": SAMPLE_RATE,
            "vocabulary": self.vocabulary.to_json(),
            "voices": voices,
        }
        (folder / DESCRIPTION).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Voice":
        """Read what `save` wrote; CheckpointError where its files do not go together."""
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if about["version"] > FORMAT_VERSION:
            raise SchemaVersionError(
                f"{folder} has a voice of version {about['version']}, this TinyWave reads up to {FORMAT_VERSION}: update TinyWave"
            )
        samples_N, rate = soundfile.read(folder / SOUND, dtype="int16")
        arrays = {name: array.astype(np.int64) for name, array in load_file(folder / TENSORS).items()}
        if rate != SAMPLE_RATE or len(samples_N) != sum(voice["samples"] for voice in about["voices"]):
            raise CheckpointError(
                f"{folder / SOUND} is not the sound that {DESCRIPTION} describes: copy the directory again"
            )
        parts = []
        for number, voice in enumerate(about["voices"]):
            own, samples_N = samples_N[: voice["samples"]], samples_N[voice["samples"] :]
            recordings = _recordings(arrays, number, own, folder)
            selection = Selection(recordings, arrays["sounds"])
            parts.append(Part(voice["name"], tuple(voice["speakers"]), tuple(voice["recordings"]), selection))
        return cls(Vocabulary.from_json(about["vocabulary"]), tuple(parts))


def _recordings(arrays: dict[str, Whole], number: int, samples_N: npt.NDArray[np.int16], folder: Path) -> Recordings:
    own: dict[str, Any] = {
        name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{number}.")
    }
    try:
        recordings = Recordings(samples_N, **own)
        fits = len(recordings.units) and 0 <= recordings.starts.min() <= recordings.stops.max() <= len(samples_N)
        fits = fits and 0 <= recordings.units.min() <= recordings.units.max() < len(arrays["sounds"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / TENSORS} lacks what a voice has ({error}): copy the directory again"
        ) from error
    if not fits:
        raise CheckpointError(f"{folder / TENSORS} has runs outside its recordings or units: copy the directory again")
    return recordings


def wanted(ids: Iterable[int], vocabulary: Vocabulary) -> Iterator[Wanted]:
    """The [Hu] tokens among ids, each at the pitch in force; of equal units in a row the first, as tokens are deduplicated."""
    hubert, pitch, style = (vocabulary.first[kind] for kind in ("hubert", "pitch", "style"))
    last, code = -1, -1
    for i in map(int, ids):
        if hubert <= i < pitch and i - hubert != last:
            last = i - hubert
            yield Wanted(last, code)
        elif pitch <= i < style:
            code = i - pitch


def pieces(recordings: Recordings, runs: Iterable[int], silent: int = 0) -> Iterator[Samples]:
    """Audio of runs as they come, but for the first `silent` ones. What lies FADE around the end of the last one waits for what follows."""
    sound = recordings.samples_N
    held = np.zeros(0, np.float64)  # not given away yet
    upto = 0  # sample of the recordings up to which it goes
    last, spoken = -1, -silent
    for run in runs:
        start, stop = int(recordings.starts[run]), int(recordings.stops[run])
        goes_on = run == last + 1 and recordings.utterances[run] == recordings.utterances[last]
        if last < 0:
            held, upto = np.zeros(0), start
        elif not goes_on:
            held, upto = _joined(held, sound, start)
        if spoken == 0 and last >= 0:
            held = held[max(len(held) - (upto - start), 0) :]
        end = min(max(stop + FADE, upto), len(sound))
        held, upto = np.concatenate([held, sound[upto:end]]), end
        ready = len(held) - 2 * FADE
        if ready > 0:
            if spoken >= 0:
                yield (held[:ready] / 32768).astype(np.float32)
            held = held[ready:]
        last, spoken = run, spoken + 1
    if len(held) and spoken > 0:
        # What lies beyond the last run's end is not spoken: it fades out there.
        fade = np.cos(np.linspace(0, np.pi / 2, len(held))) ** 2
        yield (held * fade / 32768).astype(np.float32)


def _joined(
    held: npt.NDArray[np.float64], sound: npt.NDArray[np.int16], start: int
) -> tuple[npt.NDArray[np.float64], int]:
    """What is held with its end faded into the recordings around `start`, and how far it goes in them now."""
    length = min(2 * FADE, len(held))
    tail = held[len(held) - length :]
    first = max(start - length // 2 - SEARCH, 0)
    around = sound[first : start - length // 2 + SEARCH + length].astype(np.float64)
    if len(around) < length:  # the end of the recordings
        return held, start
    places = np.lib.stride_tricks.sliding_window_view(around, length)
    # Rounded to whole samples, all sums are exact, so that every machine finds the same place.
    likeness = places @ np.rint(tail)
    place = int((likeness / np.sqrt(np.square(places).sum(axis=1) + 1)).argmax())
    rise = np.sin((np.arange(length) + 0.5) / length * np.pi / 2) ** 2
    faded = tail * (1 - rise) + places[place] * rise
    return np.concatenate([held[: len(held) - length], faded]), first + place + length
