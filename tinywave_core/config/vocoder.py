"""Settings of the voice, which turns tokens into audio."""

from typing import Any, Literal

from pydantic import Field, field_validator

from tinywave_core.config.base import Config


class HifiganTrainingConfig(Config):
    """How a unit HiFi-GAN is trained; used by the kind `hifigan` only."""

    hours: float = Field(100.0, gt=0)
    """Most hours of training speech that it learns from (drawn by utterance id); kept in memory, 115 MB each."""
    steps: int = Field(200_000, ge=1)
    """Steps of judges and generator. At the default size a step of 16 clips is work for a GPU: on one CPU core it takes half a minute."""
    batch_clips: int = Field(16, ge=1, le=1024)
    """Clips in one step."""
    clip_s: float = Field(0.56, ge=0.1, le=10)
    """Seconds of a clip; shorter utterances are left out."""
    learning_rate: float = Field(2e-4, gt=0, le=1)
    """Peak learning rate; it falls to a tenth."""
    channels: int = Field(512, ge=16, le=2048, multiple_of=16)
    """Width of the generator before its first upsampling; 512 is that of the released models."""
    judge_width: int = Field(32, ge=1, le=128)
    """Width of the discriminators; 32 is HiFi-GAN's."""


class VocoderConfig(Config):
    """Whose recordings the voice is made of. SpiritLM's release speaks with its own HiFi-GAN instead."""

    kind: Literal["voice", "hifigan"] = "voice"
    """`voice`: stretches of recordings, made in a minute; `hifigan`: a network that is trained on hours of speech, on a GPU."""

    speakers: tuple[str, ...] = ()
    """Speakers to make voices of, by the names that the recordings have; the first one speaks where no voice is asked for. Each
    needs 20 seconds of training speech. Empty: the four with the most, if they have `speaker_minutes`; else one voice of all."""
    speaker_minutes: float = Field(5.0, gt=0)
    """Least minutes of training speech with which a speaker becomes a voice without being named. Less has too few stretches: from
    1.4 minutes of one reader a recogniser heard twice as many wrong words as from 40 minutes of 200."""
    minutes: float = Field(20.0, gt=0, le=120)
    """Most minutes of recordings in one voice (drawn by utterance id). More is closer to the words and slower; the exported model
    carries them: about 1 MB a minute."""
    quality_clips: int = Field(24, ge=2, le=1000)
    """Held-out utterances that are resynthesised for the quality figures."""
    hifigan: HifiganTrainingConfig = HifiganTrainingConfig()
    """Training of the kind `hifigan`."""
    seed: int = Field(0, ge=0)
    """Seed of the draw of recordings, and of a network's first weights and clips."""

    @field_validator("speakers", mode="before")
    @classmethod
    def _separated(cls, value: Any) -> Any:
        """Flags and the environment give one string: `Ada,Bo`, or `none`."""
        if isinstance(value, str):
            return () if value.lower() == "none" else tuple(name.strip() for name in value.split(",") if name.strip())
        return value
