"""Settings of the vocoder, which turns tokens into audio."""

from typing import Literal

from pydantic import Field

from tinywave_core.config.base import Config


class VocoderConfig(Config):
    """What speaks, and how the light vocoder is trained; the settings below `kind` are for `light` only."""

    kind: Literal["draft", "light"] = "draft"
    """`draft`: what comes with the tokens, without training: tables for the embedded tokenizers, its own HiFi-GAN for SpiritLM's
    release; `light`: a small network trained on the training speech, which the export then carries. On 42 minutes of
    speech it came hardly closer to the recordings than the draft (log-mel correlation 0.777 against 0.772)."""
    hours: float = Field(5.0, gt=0)
    """Hours of training speech that it learns from (drawn by utterance id); kept in memory, 120 MB each."""
    steps: int = Field(1000, ge=1)
    """Optimiser steps; about half a second each on two CPU cores."""
    batch_clips: int = Field(16, ge=1, le=1024)
    """Clips in one step."""
    clip_frames: int = Field(32, ge=8, le=1000)
    """Length of a clip in frames of 40 ms; shorter utterances are left out."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Peak learning rate; it falls to a tenth."""
    channels: int = Field(256, ge=8, le=2048)
    """Width of the network."""
    blocks: int = Field(4, ge=1, le=5)
    """Its ConvNeXt blocks; each one adds 30 ms to the look-ahead of 120 ms."""
    voice_minutes: float = Field(2.0, gt=0)
    """Least minutes of training speech with which a speaker becomes a voice of its own; all other speakers share one."""
    quality_clips: int = Field(24, ge=2, le=1000)
    """Held-out utterances that are resynthesised for the quality figures."""
    seed: int = Field(0, ge=0)
    """Seed of the first weights and of the clips."""
