"""The light vocoder: token ids -> 16 kHz speech with a small network that was trained on the user's own speech.

The network (`light_model`) hears a few frames on each side; its pitch drives the sources and its gains filter them. Blocks of
0.2 s lie at fixed places, so a stream is the whole in pieces; audio needs LOOK_AHEAD frames of what follows.

Shapes: T frames at 25 Hz, F = 4 T rows at 100 Hz, K bins of the spectrum.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from tinywave_core.errors import SchemaVersionError
from tinywave_core.synthesis.durations import sounds
from tinywave_core.synthesis.light_model import KINDS, ROWS, LightNetwork, filtered
from tinywave_core.synthesis.source_filter import HOP_SAMPLES, Source, limited
from tinywave_core.synthesis.windows import in_chunks, joined, windows
from tinywave_core.tokenizers import speech
from tinywave_core.tokenizers.vocabulary import Vocabulary

FORMAT_VERSION = 1
TENSORS, DESCRIPTION = "light_vocoder.safetensors", "light_vocoder.json"
FRAME_SAMPLES = ROWS * HOP_SAMPLES
STEP_FRAMES = 5
# A sample hears two windows of 512 samples, of its own spectrum and of the sources': rows on each side.
BEFORE_ROWS, AFTER_ROWS = 3, 4

Samples = npt.NDArray[np.float32]
_Array = npt.NDArray[np.float32]
Codes = tuple[int, int, int]
"""Unit, pitch and style of a frame as the tables number them: 0 is "none" for pitch and style."""


@dataclass(frozen=True)
class _Row:
    gains: _Array  # [2, K]
    source: _Array  # [2, 160]


@dataclass(frozen=True)
class LightVocoder:
    """A trained vocoder. It keeps no state between calls: threads may share it."""

    network: LightNetwork
    vocabulary: Vocabulary  # of the tokens that it was trained on; only the numbers of units count
    frames_per_run: npt.NDArray[np.float64]  # [units] mean run lengths
    voices: tuple[str, ...]  # by name, in the order of the table after the unnamed one
    median_hz: npt.NDArray[np.float64]  # [1 + voices] their F0

    @property
    def look_ahead(self) -> int:
        """Frames that have to be known beyond what is heard."""
        return self.network.context + 2

    def synthesize(
        self, tokens: npt.ArrayLike | speech.Streams, vocabulary: Vocabulary | None = None, voice: str | None = None
    ) -> Samples:
        """Speech of raw streams or of ids (text and markers are skipped); `vocabulary` is that of the ids if it is another."""
        if isinstance(tokens, speech.Streams):
            frames: Iterable[Codes] = frames_of_streams(tokens)
        else:
            frames = self.frames_of_ids(np.asarray(tokens, dtype=np.int64).tolist(), vocabulary or self.vocabulary)
        return joined(self.speak(frames, voice))

    def stream(
        self, ids: Iterable[int], vocabulary: Vocabulary, voice: str | None = None, chunk_frames: int = 10
    ) -> Iterator[Samples]:
        """The same audio while ids come one by one, in chunks of so many frames."""
        audio = self.speak(self.frames_of_ids(ids, vocabulary), voice)
        return in_chunks(audio, chunk_frames * FRAME_SAMPLES)

    def frames_of_ids(self, ids: Iterable[int], vocabulary: Vocabulary) -> Iterator[Codes]:
        """Every [Hu] token for as long as it lasts, with the pitch and style in force."""
        for sound in sounds(ids, vocabulary, self.frames_per_run):
            pitch, style = (0 if code is None else code + 1 for code in (sound.pitch, sound.style))
            yield from [(sound.unit, pitch, style)] * sound.frames

    def speak(self, frames: Iterable[Codes], voice: str | None = None) -> Iterator[Samples]:
        """Audio of frames as they come, in blocks of `STEP_FRAMES`; 640 samples for each frame."""
        rows = self._rows(frames, 0 if voice is None else 1 + self.voices.index(voice))
        for window, start, stop in windows(rows, BEFORE_ROWS, AFTER_ROWS, STEP_FRAMES * ROWS):
            gains = torch.from_numpy(np.stack([row.gains for row in window]))
            source = torch.from_numpy(np.concatenate([row.source for row in window[:-1]], axis=1))
            samples = filtered(gains[None], source[None])[0].numpy()
            yield limited(samples[start * HOP_SAMPLES : stop * HOP_SAMPLES]).astype(np.float32)

    def _rows(self, frames: Iterable[Codes], voice: int) -> Iterator[_Row]:
        """Rows of all frames and the one at which they end, in steps that lie AFTER_ROWS later than those of the audio."""
        source = Source(float(self.median_hz[voice]))
        last: _Row | None = None
        for window, start, stop in windows(frames, self.network.context, self.look_ahead, STEP_FRAMES):
            gains, semitones = self._gains_and_pitch(window, voice)
            first = ROWS * start + (AFTER_ROWS if start else 0)
            end = min(ROWS * stop + AFTER_ROWS, len(gains))
            if end > first:
                contour = np.append(semitones, semitones[-1])[first : end + 1]
                for gain, part in zip(gains[first:end], source.rows(contour), strict=True):
                    last = _Row(gain, part.astype(np.float32))
                    yield last
        if last is not None:
            yield last

    def _gains_and_pitch(self, window: Sequence[Codes], voice: int) -> tuple[_Array, npt.NDArray[np.float64]]:
        """Gains [F, 2, K] and semitones [F] of a window."""
        codes = dict(zip(KINDS, np.array([(*codes, voice) for codes in window]).T, strict=True))
        device = self.network.place.device
        with torch.inference_mode():
            gains, semitones = self.network(
                {kind: torch.from_numpy(row.copy())[None].to(device) for kind, row in codes.items()}
            )
        return gains[0].cpu().numpy(), semitones[0].cpu().double().numpy()

    def save(self, folder: Path) -> None:
        """Write light_vocoder.safetensors and light_vocoder.json."""
        tensors = {f"network.{name}": tensor.contiguous().cpu() for name, tensor in self.network.state_dict().items()}
        tensors |= {name: torch.from_numpy(getattr(self, name)) for name in ("frames_per_run", "median_hz")}
        save_file(tensors, folder / TENSORS)
        description: dict[str, Any] = {
            "format": "tinywave-light-vocoder",
            "version": FORMAT_VERSION,
            "channels": self.network.place.shape[1],
            "blocks": len(self.network.blocks),
            "voices": list(self.voices),
            "vocabulary": self.vocabulary.to_json(),
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "LightVocoder":
        """Read what `save` wrote."""
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if description["version"] > FORMAT_VERSION:
            raise SchemaVersionError(
                f"{folder} has a light vocoder of version {description['version']}, this TinyWave reads up to {FORMAT_VERSION}: "
                "update TinyWave"
            )
        vocabulary, voices = Vocabulary.from_json(description["vocabulary"]), tuple(description["voices"])
        tensors = load_file(folder / TENSORS)
        network = LightNetwork(table_sizes(vocabulary, len(voices)), description["channels"], description["blocks"])
        weights = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        network.load_state_dict(weights)
        network = network.to(device).eval().requires_grad_(False)
        frames_per_run, median_hz = (tensors[name].numpy() for name in ("frames_per_run", "median_hz"))
        return cls(network, vocabulary, frames_per_run, voices, median_hz)


def table_sizes(vocabulary: Vocabulary, voices: int) -> dict[str, int]:
    """Rows of the network's tables; none for a kind that the tokens do not have."""
    units, pitch, style = vocabulary.hubert, vocabulary.pitch, vocabulary.style
    return {"units": units, "pitch": pitch and pitch + 1, "style": style and style + 1, "voice": 1 + voices}


def frames_of_streams(streams: speech.Streams) -> list[Codes]:
    """Every raw unit is one frame; a pitch code is two, a style is 25."""
    places = np.arange(len(streams.units))
    pitch, style = (
        stream[np.minimum(places // length, len(stream) - 1)] + 1 if len(stream) else np.zeros_like(places)
        for stream, length in ((streams.pitch, 2), (streams.style, 25))
    )
    return [*zip(streams.units.tolist(), pitch.tolist(), style.tolist(), strict=True)]
