"""Token ids -> audio for an exported model: with the voice that the export carries, or with HiFi-GAN where it speaks the tokens
of SpiritLM's release.

A speaker speaks whole sequences and streams. For a voice both are the same audio, sample for sample; a stream of HiFi-GAN hears
less of what is around a chunk than the whole, for it to come in time.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from tinywave_core.checkpoints.spiritlm import open_release, vocoder_part
from tinywave_core.errors import TinyWaveError
from tinywave_core.synthesis import voice as voices_of_recordings
from tinywave_core.synthesis.hifigan import CONFIG, SPEAKER, HifiganVocoder, Samples
from tinywave_core.synthesis.voice import Voice
from tinywave_core.tokenizers.opening import kind_of
from tinywave_core.tokenizers.release import RELEASE
from tinywave_core.tokenizers.speech import Positions, positions, positions_of_stream
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary

# Frames on each side of a chunk that HiFi-GAN hears in a stream, of the 20 that reach it at the released size: 53 dB against the whole
# with random weights of that size and chunks of 10 frames (6: 44 dB, 10: 64 dB).
STREAM_CONTEXT = 8
LONGEST_CHUNK = 40  # frames to which its chunks grow: with their context 1.15 times the work of the whole, chunks of 10 are 1.6 times
HIFIGAN = "hifigan"  # folder of one that was trained
DEFAULT_STYLE = 71  # for pitches without a style: the reference draws one of 71, 68 and 98 at random


class Speaker(Protocol):
    """What turns token ids into 16 kHz audio. It keeps no state between calls: threads may share it."""

    @property
    def name(self) -> str:
        """`voice` or `hifigan`."""

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices it can speak with; empty: one voice without a name."""

    def __call__(self, ids: Ids, voice: str | None = None) -> Samples:
        """Speech of a whole sequence; text ids and markers are skipped."""

    def stream(
        self, ids: Iterable[int], voice: str | None = None, chunk_frames: int = 10, context: Sequence[int] = ()
    ) -> Iterator[Samples]:
        """The same speech while ids come one by one, in chunks of so many frames of 40 ms (the last one is shorter). Ids of `context` stand
        before them: what follows is spoken as after these, and they are not.

        A chunk comes as soon as its look-ahead is known. HiFi-GAN's grow from that size on.
        """


def load_speaker(
    speech_tokenizer: Path,
    vocabulary: Vocabulary,
    spiritlm_dir: str | None,
    device: torch.device | str = "cpu",
    voice: Path | None = None,
) -> Speaker:
    """The speaker for an export with this `speech_tokenizer` folder; `voice` is the folder of a voice that lies elsewhere."""
    place = voice or speech_tokenizer
    if (place / voices_of_recordings.DESCRIPTION).is_file():
        return VoiceSpeaker(Voice.load(place), vocabulary)
    if (place / HIFIGAN / CONFIG).is_file():
        return UnitHifiganSpeaker(HifiganVocoder.load(place / HIFIGAN, device), vocabulary)
    kind = kind_of(speech_tokenizer).name
    if kind != RELEASE.name:
        raise TinyWaveError(
            f"{place} has no voice ({voices_of_recordings.DESCRIPTION}), and nothing else speaks tokens of the kind {kind}: export "
            "the model again with this TinyWave"
        )
    return released_speaker(vocabulary, spiritlm_dir, device)


def released_speaker(vocabulary: Vocabulary, spiritlm_dir: str | None, device: torch.device | str) -> Speaker:
    """SpiritLM's HiFi-GAN for the tokens of a vocabulary; CheckpointError where the release is not at hand."""
    part = vocoder_part("expressive" if vocabulary.pitch else "base")
    return HifiganSpeaker(HifiganVocoder.load(open_release(spiritlm_dir, [part]).folder(part), device), vocabulary)


@dataclass(frozen=True)
class VoiceSpeaker:
    """Stretches of people's own recordings."""

    voice: Voice = field(repr=False)
    vocabulary: Vocabulary
    name: str = "voice"

    @property
    def voices(self) -> tuple[str, ...]:
        return self.voice.names

    def __call__(self, ids: Ids, voice: str | None = None) -> Samples:
        require_voice(self, voice)
        return self.voice.synthesize(ids, self.vocabulary, voice)

    def stream(
        self, ids: Iterable[int], voice: str | None = None, chunk_frames: int = 10, context: Sequence[int] = ()
    ) -> Iterator[Samples]:
        require_voice(self, voice)
        require_chunk(chunk_frames)
        return self.voice.stream(ids, self.vocabulary, voice, chunk_frames, context)


@dataclass(frozen=True)
class HifiganSpeaker:
    """SpiritLM's HiFi-GAN: as the reference decodes strings, a second pitch in a row says that the unit goes on, and
    durations are predicted."""

    hifigan: HifiganVocoder = field(repr=False)
    vocabulary: Vocabulary
    name: str = "hifigan"
    own: int = SPEAKER
    """Who speaks where no voice is asked for."""

    @property
    def voices(self) -> tuple[str, ...]:
        return self.hifigan.speakers

    def __call__(self, ids: Ids, voice: str | None = None) -> Samples:
        codes = self._codes(ids)
        return self.hifigan.synthesize(
            codes.units,
            codes.pitch,
            codes.style,
            speaker=self._speaker(voice),
            predict_durations=True,
            deduplicate=False,
        )

    def stream(
        self, ids: Iterable[int], voice: str | None = None, chunk_frames: int = 10, context: Sequence[int] = ()
    ) -> Iterator[Samples]:
        require_chunk(chunk_frames)
        spoken = self.hifigan.stream(
            self._codes_of_stream(chain(context, ids)),
            speaker=self._speaker(voice),
            predict_durations=True,
            deduplicate=False,
            chunk_frames=chunk_frames,
            longest_frames=LONGEST_CHUNK,
            most_context=STREAM_CONTEXT,
        )
        return _after(spoken, len(self(np.asarray(context, np.int64), voice)) if context else 0)

    def _codes(self, ids: Ids) -> Positions:
        return positions(ids, self.vocabulary, default_style=DEFAULT_STYLE, repeat_for_pitch=True)

    def _codes_of_stream(self, ids: Iterable[int]) -> Iterator[Positions]:
        return positions_of_stream(ids, self.vocabulary, default_style=DEFAULT_STYLE, repeat_for_pitch=True)

    def _speaker(self, voice: str | None) -> int:
        require_voice(self, voice)
        return self.own if voice is None else self.voices.index(voice)


@dataclass(frozen=True)
class UnitHifiganSpeaker(HifiganSpeaker):
    """A unit HiFi-GAN that was trained on these units: a unit lasts as long as it predicts, with the pitch and style in force."""

    name: str = "unit-hifigan"
    own: int = 0

    def _codes(self, ids: Ids) -> Positions:
        return self._complete(positions(ids, self.vocabulary, default_style=0))

    def _codes_of_stream(self, ids: Iterable[int]) -> Iterator[Positions]:
        return map(self._complete, positions_of_stream(ids, self.vocabulary, default_style=0))

    def _complete(self, codes: Positions) -> Positions:
        """With a pitch and a style for each unit, where the network reads them and the sequence had none."""
        missing = np.zeros(len(codes.units), np.int64)
        counts = self.hifigan.config.code_counts
        pitch = missing if "pitch" in counts and not len(codes.pitch) else codes.pitch
        style = missing if "style" in counts and not len(codes.style) else codes.style
        return Positions(codes.units, pitch, style)


def _after(spoken: Iterator[Samples], cut: int) -> Iterator[Samples]:
    """Speech without its first samples."""
    for samples in spoken:
        fresh = samples[cut:]
        cut = max(cut - len(samples), 0)
        if len(fresh):
            yield fresh


def require_voice(speaker: Speaker, voice: str | None) -> None:
    """Raise TinyWaveError if a speaker has no such voice."""
    if voice is None or voice in speaker.voices:
        return
    choices = ", ".join(speaker.voices) or "none by name: leave it out"
    raise TinyWaveError(f"there is no voice {voice!r}; the vocoder `{speaker.name}` has {choices}")


def require_chunk(chunk_frames: int) -> None:
    """Raise TinyWaveError for an empty chunk."""
    if chunk_frames < 1:
        raise TinyWaveError(f"chunk_frames is {chunk_frames}: expected at least 1")
