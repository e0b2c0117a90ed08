"""Figures of transcribed continuations: generative perplexity and auto-BLEU, with intervals over the prompts.

Generative perplexity (GSLM, arXiv 2102.01192; as slamkit has it): exp of the mean over samples of the mean NLL per token that a
language model of text gives the transcript. It rewards dull and repetitive speech, so auto-BLEU stands beside it: the share of
bigrams that occur again in the same text. Both are read against the true continuation through the same vocoder and recogniser.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinywave_core.evals.intervals import bootstrap_interval
from tinywave_core.evals.perplexity import exponentials


@dataclass(frozen=True)
class Judged:
    """One continuation as text."""

    text: str
    """What the recogniser heard; empty where it heard nothing, or there was nothing to hear."""
    nll: float
    """Mean NLL per token of it, in nats."""


def auto_bleu(text: str, n: int = 2) -> float | None:
    """Share of the n-grams of words that occur again in the text; None where it has no n words. Case and punctuation do not count."""
    words = re.findall(r"[\w']+", text.lower())
    grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = sum(grams.values())
    return sum(count for count in grams.values() if count > 1) / total if total else None


def figures(judged: Mapping[str, Sequence[Judged]], seed: int) -> dict[str, Any]:
    """What each source's continuations of the same prompts are worth, and each beside the teacher's."""
    return {
        "sources": {name: _figures(each, seed) for name, each in judged.items()},
        "ratios": {name: _ratio(each, judged["teacher"], seed) for name, each in judged.items() if name != "teacher"},
    }


def _figures(judged: Sequence[Judged], seed: int) -> dict[str, Any]:
    nll = [each.nll for each in judged]
    interval = bootstrap_interval(nll, np.ones(len(nll)), seed)
    repeated = [value for value in (auto_bleu(each.text) for each in judged) if value is not None]
    return {
        **exponentials("gen_ppl", float(np.mean(nll)), interval),
        "auto_bleu": float(np.mean(repeated)) if repeated else None,
        "auto_bleu_interval": bootstrap_interval(repeated, np.ones(len(repeated)), seed) if repeated else None,
        "empty": sum(not each.text for each in judged),
        "without_bigrams": len(judged) - len(repeated),
    }


def _ratio(own: Sequence[Judged], teacher: Sequence[Judged], seed: int) -> dict[str, Any]:
    """Generative perplexity over the teacher's on the same prompts, and its paired interval."""
    gaps = np.array([a.nll - b.nll for a, b in zip(own, teacher, strict=True)])
    return exponentials("gen_ppl", float(gaps.mean()), bootstrap_interval(gaps, np.ones(len(gaps)), seed))
