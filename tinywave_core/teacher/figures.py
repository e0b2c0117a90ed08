"""What captured targets are like, by kind of token: the teacher's loss, its entropy, and what a plain top-K would lose."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinywave_core.sequences.interleaving import switches
from tinywave_core.steps.base import Summary
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.teacher.capture import CapturedSequence

SWITCH = "switch"  # tokens at a change of modality, counted under their own kind as well


class KindTargets(Summary):
    """Means over the tokens of one kind, by the token that is to be predicted."""

    tokens: int
    teacher_nll: float
    """Nats per token at temperature 1."""
    entropy: float
    """Of the teacher's distribution at the capture temperature, nats."""
    mass_beyond_k: float
    """Probability beyond the K likeliest tokens."""


def figures_by_kind(
    captured: "Sequence[CapturedSequence]", ids: Sequence[npt.NDArray[np.uint16]], vocabulary: Vocabulary
) -> dict[str, KindTargets]:
    """Per kind of the token that is to be predicted: count, teacher NLL, entropy, mass beyond the K likeliest."""
    if not captured:
        return {}
    # The last position of a sequence has no next token; the first token is predicted by none.
    target_logp = np.concatenate([c.captured.target_logp[:-1] for c in captured])
    entropy = np.concatenate([c.captured.entropy[:-1] for c in captured])
    beyond = np.concatenate([c.beyond_L[:-1] for c in captured])
    kinds = vocabulary.kinds(np.concatenate([sequence[1:] for sequence in ids]))
    masks: dict[str, npt.NDArray[np.bool_]] = {kind: kinds == index for index, kind in enumerate(KINDS)}
    masks[SWITCH] = np.concatenate([switches(sequence, vocabulary)[1:] for sequence in ids])
    return {
        kind: KindTargets(
            tokens=int(which.sum()),
            teacher_nll=-float(target_logp[which].mean()),
            entropy=float(entropy[which].mean()),
            mass_beyond_k=float(beyond[which].mean()),
        )
        for kind, which in masks.items()
        if which.any()
    }


def pooled(parts: Sequence[Mapping[str, KindTargets]]) -> dict[str, KindTargets]:
    """The figures of several shards as of one: means weighted by their tokens."""
    kinds = {}
    for kind in (*KINDS, SWITCH):
        figures = [part[kind] for part in parts if kind in part]
        if tokens := sum(f.tokens for f in figures):
            kinds[kind] = KindTargets(
                tokens=tokens,
                teacher_nll=sum(f.teacher_nll * f.tokens for f in figures) / tokens,
                entropy=sum(f.entropy * f.tokens for f in figures) / tokens,
                mass_beyond_k=sum(f.mass_beyond_k * f.tokens for f in figures) / tokens,
            )
    return kinds


def mass_beyond_k(kinds: Mapping[str, KindTargets]) -> float:
    """Mean over all tokens; switches are counted among the other kinds already."""
    own = [figures for kind, figures in kinds.items() if kind != SWITCH]
    return sum(f.mass_beyond_k * f.tokens for f in own) / max(sum(f.tokens for f in own), 1)
