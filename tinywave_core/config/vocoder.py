"""Settings of the voice, which turns tokens into audio."""

from pydantic import Field

from tinywave_core.config.base import Config


class VocoderConfig(Config):
    """Whose recordings the voice is made of. SpiritLM's release speaks with its own HiFi-GAN instead."""

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
    seed: int = Field(0, ge=0)
    """Seed of the draw of recordings."""
