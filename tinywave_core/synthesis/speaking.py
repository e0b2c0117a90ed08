"""Token ids -> audio for an exported model: with the light vocoder where the export carries one, else with that of SpiritLM's
release where it speaks its tokens, else with the draft one.

A speaker speaks whole sequences and streams. For `draft` and `light` both are the same audio, sample for sample; a stream of
HiFi-GAN hears less of what is around a chunk than the whole, for it to come in time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from tinywave_core.checkpoints.spiritlm import open_release, vocoder_part
from tinywave_core.errors import TinyWaveError
from tinywave_core.synthesis import light
from tinywave_core.synthesis.hifigan import SPEAKER, HifiganVocoder, Samples
from tinywave_core.synthesis.light import LightVocoder
from tinywave_core.synthesis.vocoder import DraftVocoder
from tinywave_core.tokenizers.hearing import RELEASE_FILE
from tinywave_core.tokenizers.speech import positions, positions_of_stream
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary

# Frames on each side of a chunk that HiFi-GAN hears in a stream, of the 20 that reach it at the released size: 53 dB against the whole
# with random weights of that size and chunks of 10 frames (6: 44 dB, 10: 64 dB).
STREAM_CONTEXT = 8
LONGEST_CHUNK = 40  # frames to which its chunks grow: with their context 1.15 times the work of the whole, chunks of 10 are 1.6 times
DEFAULT_STYLE = 71  # for pitches without a style: the reference draws one of 71, 68 and 98 at random


class Speaker(Protocol):
    """What turns token ids into 16 kHz audio. It keeps no state between calls: threads may share it."""

    @property
    def name(self) -> str:
        """`draft`, `light` or `hifigan`."""

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices it can speak with; empty: one voice without a name."""

    def __call__(self, ids: Ids, voice: str | None = None) -> Samples:
        """Speech of a whole sequence; text ids and markers are skipped."""

    def stream(self, ids: Iterable[int], voice: str | None = None, chunk_frames: int = 10) -> Iterator[Samples]:
        """The same speech while ids come one by one, in chunks of so many frames of 40 ms (the last one is shorter).

        A chunk comes as soon as its look-ahead is known. HiFi-GAN's grow from that size on.
        """


def load_speaker(
    speech_tokenizer: Path,
    vocabulary: Vocabulary,
    spiritlm_dir: str | None,
    device: torch.device | str = "cpu",
    iterations: int = 16,
) -> Speaker:
    """The speaker for an export with this `speech_tokenizer` folder."""
    if (speech_tokenizer / light.DESCRIPTION).is_file():
        return LightSpeaker(LightVocoder.load(speech_tokenizer, device), vocabulary)
    if not (speech_tokenizer / RELEASE_FILE).is_file():
        return DraftSpeaker(DraftVocoder.load(speech_tokenizer), vocabulary, iterations)
    part = vocoder_part("expressive" if vocabulary.pitch else "base")
    return HifiganSpeaker(HifiganVocoder.load(open_release(spiritlm_dir, [part]).folder(part), device), vocabulary)


@dataclass(frozen=True)
class DraftSpeaker:
    """The embedded draft vocoder: one voice, no download."""

    draft: DraftVocoder = field(repr=False)
    vocabulary: Vocabulary
    iterations: int = 16
    name: str = "draft"
    voices: tuple[str, ...] = ()

    def __call__(self, ids: Ids, voice: str | None = None) -> Samples:
        require_voice(self, voice)
        return self.draft.synthesize(ids, self.vocabulary, self.iterations)

    def stream(self, ids: Iterable[int], voice: str | None = None, chunk_frames: int = 10) -> Iterator[Samples]:
        require_voice(self, voice)
        require_chunk(chunk_frames)
        return self.draft.stream(ids, self.vocabulary, self.iterations, chunk_frames)


@dataclass(frozen=True)
class LightSpeaker:
    """The vocoder that was trained on the user's speech."""

    light: LightVocoder = field(repr=False)
    vocabulary: Vocabulary
    name: str = "light"

    @property
    def voices(self) -> tuple[str, ...]:
        return self.light.voices

    def __call__(self, ids: Ids, voice: str | None = None) -> Samples:
        require_voice(self, voice)
        return self.light.synthesize(ids, self.vocabulary, voice)

    def stream(self, ids: Iterable[int], voice: str | None = None, chunk_frames: int = 10) -> Iterator[Samples]:
        require_voice(self, voice)
        require_chunk(chunk_frames)
        return self.light.stream(ids, self.vocabulary, voice, chunk_frames)


@dataclass(frozen=True)
class HifiganSpeaker:
    """SpiritLM's HiFi-GAN: as the reference decodes strings, a second pitch in a row says that the unit goes on, and
    durations are predicted."""

    hifigan: HifiganVocoder = field(repr=False)
    vocabulary: Vocabulary
    name: str = "hifigan"

    @property
    def voices(self) -> tuple[str, ...]:
        return self.hifigan.speakers

    def __call__(self, ids: Ids, voice: str | None = None) -> Samples:
        codes = positions(ids, self.vocabulary, default_style=DEFAULT_STYLE, repeat_for_pitch=True)
        return self.hifigan.synthesize(
            codes.units,
            codes.pitch,
            codes.style,
            speaker=self._speaker(voice),
            predict_durations=True,
            deduplicate=False,
        )

    def stream(self, ids: Iterable[int], voice: str | None = None, chunk_frames: int = 10) -> Iterator[Samples]:
        require_chunk(chunk_frames)
        codes = positions_of_stream(ids, self.vocabulary, default_style=DEFAULT_STYLE, repeat_for_pitch=True)
        return self.hifigan.stream(
            codes,
            speaker=self._speaker(voice),
            predict_durations=True,
            deduplicate=False,
            chunk_frames=chunk_frames,
            longest_frames=LONGEST_CHUNK,
            most_context=STREAM_CONTEXT,
        )

    def _speaker(self, voice: str | None) -> int:
        require_voice(self, voice)
        return SPEAKER if voice is None else self.voices.index(voice)


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
