"""Figures of how it sounds: opinions by DNSMOS, word errors, likeness of voices, with intervals over the clips.

Always the three together: a smooth voice that says other words, or is another voice, has a high opinion score and nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinywave_core.evals.figures import Heard, Mean
from tinywave_core.evals.intervals import bootstrap_interval
from tinywave_core.evals.word_errors import word_errors

MODELS_HEARD = ("teacher", "student", "control")
SOURCES = ("original", "resynthesis", *MODELS_HEARD, "stranger")


@dataclass(frozen=True)
class Clip:
    """One clip as the judges heard it; None is what none of them said."""

    utterance_id: str
    seconds: float
    """0 where there was nothing to hear."""
    sig: float | None = None
    bak: float | None = None
    ovrl: float | None = None
    transcript: str | None = None
    """What the recogniser heard."""
    similarity: float | None = None


def sources_figures(
    clips: Mapping[str, Sequence[Clip]], transcripts: Mapping[str, str | None], seed: int
) -> dict[str, Heard]:
    """What was heard of each source; `transcripts` are those of the originals, as far as they are known."""
    heard = {clip.utterance_id: clip.transcript for clip in clips["original"]}
    return {source: _heard(own, source, transcripts, heard, seed) for source, own in clips.items()}


def _heard(
    clips: Sequence[Clip],
    source: str,
    transcripts: Mapping[str, str | None],
    heard: Mapping[str, str | None],
    seed: int,
) -> Heard:
    sounding = [clip for clip in clips if clip.seconds]
    spoken = [clip for clip in clips if clip.transcript is not None]
    against = None if source == "original" else [(heard[clip.utterance_id] or "", clip) for clip in spoken]
    written = [(transcripts.get(clip.utterance_id) or "", clip) for clip in spoken]
    return Heard(
        clips=len(sounding),
        silent=len(clips) - len(sounding),
        seconds=float(np.mean([clip.seconds for clip in sounding])) if sounding else 0.0,
        sig=mean([clip.sig for clip in sounding], seed),
        bak=mean([clip.bak for clip in sounding], seed),
        ovrl=mean([clip.ovrl for clip in sounding], seed),
        wer=word_errors([(text, clip.transcript or "") for text, clip in written], seed),
        wer_heard=word_errors([(text, clip.transcript or "") for text, clip in against or ()], seed),
        similarity=mean([clip.similarity for clip in sounding], seed),
    )


def mean(values: Sequence[float | None], seed: int) -> Mean | None:
    """Of the values that there are, with an interval over them; None where there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    interval = bootstrap_interval(known, np.ones(len(known)), seed)
    return Mean(value=float(np.mean(known)), interval=interval, clips=len(known))
