"""Figures of transcribed continuations: generative perplexity and auto-BLEU, with intervals over the prompts.

Generative perplexity (GSLM, arXiv 2102.01192; as slamkit has it): exp of the mean over samples of the mean NLL per token that a
language model of text gives the transcript. It rewards dull and repetitive speech, so auto-BLEU stands beside it: the share of
bigrams that occur again in the same text. Both are read against the true continuation through the same vocoder and recogniser.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tinywave_core.evals.figures import JudgedFigures, JudgedRatio
from tinywave_core.evals.intervals import bootstrap_interval
from tinywave_core.evals.perplexity import exponentials


@dataclass(frozen=True)
class Judged:
    """One continuation as text."""

    transcript: str
    """What the recogniser heard; empty where it heard nothing, or there was nothing to hear."""
    nll: float
    """Mean NLL per token of it, in nats."""
    seconds: float
    """Length of the spoken continuation; 0 where there was nothing to speak."""


def auto_bleu(text: str, n: int = 2) -> float | None:
    """Share of the n-grams of words that occur again in the text; None where it has no n words. Case and punctuation do not count."""
    words = re.findall(r"[\w']+", text.lower())
    grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = sum(grams.values())
    return sum(count for count in grams.values() if count > 1) / total if total else None


def sources_figures(judged: Mapping[str, Sequence[Judged]], seed: int) -> dict[str, JudgedFigures]:
    """What the continuations of each source are worth."""
    return {source: _figures(continuations, seed) for source, continuations in judged.items()}


def ratios_to_teacher(judged: Mapping[str, Sequence[Judged]], seed: int) -> dict[str, JudgedRatio]:
    """Generative perplexity of every other source over the teacher's on the same prompts, with paired intervals."""
    return {source: _ratio(own, judged["teacher"], seed) for source, own in judged.items() if source != "teacher"}


def _figures(judged: Sequence[Judged], seed: int) -> JudgedFigures:
    nll = [continuation.nll for continuation in judged]
    gen_ppl, interval = exponentials(float(np.mean(nll)), bootstrap_interval(nll, np.ones(len(nll)), seed))
    shares = [auto_bleu(continuation.transcript) for continuation in judged]
    repeated = [share for share in shares if share is not None]
    return JudgedFigures(
        gen_ppl=gen_ppl,
        gen_ppl_interval=interval,
        auto_bleu=float(np.mean(repeated)) if repeated else None,
        auto_bleu_interval=bootstrap_interval(repeated, np.ones(len(repeated)), seed) if repeated else None,
        empty=sum(not continuation.transcript for continuation in judged),
        without_bigrams=len(judged) - len(repeated),
        seconds=float(np.mean([continuation.seconds for continuation in judged])),
        silent=sum(not continuation.seconds for continuation in judged),
    )


def _ratio(own: Sequence[Judged], teacher: Sequence[Judged], seed: int) -> JudgedRatio:
    gaps = np.array([a.nll - b.nll for a, b in zip(own, teacher, strict=True)])
    # exp(a) / exp(b) is exp(a - b): the interval of the paired difference is that of the paired ratio.
    gen_ppl, interval = exponentials(float(gaps.mean()), bootstrap_interval(gaps, np.ones(len(gaps)), seed))
    return JudgedRatio(gen_ppl=gen_ppl, gen_ppl_interval=interval)
