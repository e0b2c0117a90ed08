"""Where a student differs from its teacher: per block, per stream, per position, and in which utterances.

Hidden states are compared by their cosine and attention maps by KL(teacher || student), as the training loss has them;
predictions by KL(teacher || student) over the ids that both know, and by the difference in NLL of the token that came.
States and maps count for the token that is read at their position, predictions for the token that is predicted.

Legend: L tokens of one sequence, S and T blocks of student and teacher, D width, V ids, h heads, r query positions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tinywave_core.evals.figures import CloserFigure, GapFigure, TokenCost
from tinywave_core.evals.intervals import bootstrap_interval
from tinywave_core.losses.attention import row_divergence
from tinywave_core.tokenizers.vocabulary import KINDS, Ids, Vocabulary

HIDDEN, ATTENTION, DIVERGENCE, NLL = "hidden_cosine", "attention_kl", "logit_kl", "nll_gap"
ALL, SPEECH = "all", "speech"
# Positions 0 … 7, 8 … 15 and so on: a sequence's first tokens are another task than its thousandth.
POSITION_EDGES = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

Masks = dict[str, npt.NDArray[np.bool_]]
Values = npt.NDArray[np.float64]


# What is measured ------------------------------------------------------------------------------------------------


def cosines(student_SLD: Sequence[torch.Tensor], teacher_TLD: Sequence[torch.Tensor]) -> Values:
    """Cosine of every student block's output with every teacher block's at every token: [S, T, L]."""
    own, others = (
        [torch.nn.functional.normalize(x.float(), dim=-1) for x in side] for side in (student_SLD, teacher_TLD)
    )
    rows = [torch.stack([(s * t).sum(-1) for t in others]) for s in own]
    return torch.stack(rows).cpu().double().numpy()


def map_divergence(student_log_hrL: torch.Tensor, teacher_log_hrL: torch.Tensor) -> Values:
    """KL(teacher || student) of attention rows, mean over heads: [r]; positions that are masked are -inf in both."""
    return row_divergence(student_log_hrL, teacher_log_hrL).mean(0).cpu().double().numpy()


def prediction_divergence(student_LV: torch.Tensor, teacher_LV: torch.Tensor) -> Values:
    """KL(teacher || student) of two rows of logits over the same ids: [L]."""
    student, teacher = (torch.log_softmax(x.float(), dim=-1) for x in (student_LV, teacher_LV))
    return (
        torch.nn.functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1).cpu().double().numpy()
    )


def token_nll(logits_LV: torch.Tensor, ids_L: Ids) -> Values:
    """NLL of ids 1 … L - 1, in nats: [L - 1]."""
    following = torch.from_numpy(ids_L[1:].astype(np.int64)).to(logits_LV.device)
    return torch.nn.functional.cross_entropy(logits_LV[:-1].float(), following, reduction="none").cpu().double().numpy()


# By what it is told apart ----------------------------------------------------------------------------------------


def kind_masks(ids_L: Ids, vocabulary: Vocabulary) -> Masks:
    """Which tokens are of which stream, and which are speech at all, where a sequence has text as well."""
    kinds = vocabulary.kinds(ids_L)
    masks: Masks = {kind: kinds == number for number, kind in enumerate(KINDS) if kind != "marker"}
    if masks["text"].any():
        masks[SPEECH] = masks["hubert"] | masks["pitch"] | masks["style"]
    return {ALL: np.ones(len(ids_L), bool), **{name: mask for name, mask in masks.items() if mask.any()}}


def position_masks(length: int) -> Masks:
    """Which tokens stand at which distance from the sequence's beginning."""
    at = np.arange(length)
    bins = pairwise(POSITION_EDGES)
    return {position_name(low): (at >= low) & (at < high) for low, high in bins if low < length}


def position_name(low: int) -> str:
    """The group of the positions from `low` on."""
    return f"position {low}"


# Sums over recordings --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What one figure is about."""

    model: str
    measure: str
    group: str
    student_block: int | None = None
    teacher_block: int | None = None


@dataclass
class Tally:
    """Sums and counts by figure and recording, so that each figure gets its interval over recordings."""

    sums: dict[Cell, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, cell: Cell, recording_id: str, values: npt.NDArray[Any]) -> None:
        """Count these values of one sequence; values that are no numbers are left out, and none are nothing."""
        values = values[np.isfinite(values)]
        if len(values):
            sum_and_count = self.sums.setdefault(cell, {}).setdefault(recording_id, [0.0, 0.0])
            sum_and_count[0] += float(values.sum(dtype=np.float64))
            sum_and_count[1] += len(values)

    def add_groups(
        self,
        model: str,
        measure: str,
        recording_id: str,
        values_L: Values,
        masks: Masks,
        pair: tuple[int, int] | None = None,
    ) -> None:
        """Count values by each of the groups of tokens that `masks` [L] names."""
        for group, mask in masks.items():
            self.add(Cell(model, measure, group, *(pair or ())), recording_id, values_L[mask])

    def figures(self, seed: int) -> list[GapFigure]:
        """Mean, 95 % interval over recordings and number of values of every figure, in the order they were first counted."""
        return [_figure(cell, by_recording, seed) for cell, by_recording in self.sums.items()]

    def closer(self, own: str, other: str, seed: int) -> list[CloserFigure]:
        """By how much the figures of model `own` are below those of `other` on the same recordings (of cosines: above)."""
        pairs = ((cell, self.sums[cell], self.sums.get(replace(cell, model=other))) for cell in self.sums)
        return [
            _closer(cell, sums, others, seed)
            for cell, sums, others in pairs
            if cell.model == own and others is not None
        ]


def _figure(cell: Cell, by_recording: Mapping[str, list[float]], seed: int) -> GapFigure:
    sums, counts = np.array(list(by_recording.values())).T
    return GapFigure(
        **vars(cell),
        value=float(sums.sum() / counts.sum()),
        interval=bootstrap_interval(sums, counts, seed),
        count=int(counts.sum()),
    )


def _closer(
    cell: Cell, by_recording: Mapping[str, list[float]], of_other: Mapping[str, list[float]], seed: int
) -> CloserFigure:
    sums, counts = np.array(list(by_recording.values())).T
    others = np.array([of_other[recording][0] for recording in by_recording])
    gaps = (sums - others) if cell.measure == HIDDEN else (others - sums)
    return CloserFigure(
        measure=cell.measure,
        group=cell.group,
        student_block=cell.student_block,
        teacher_block=cell.teacher_block,
        value=float(gaps.sum() / counts.sum()),
        interval=bootstrap_interval(gaps, counts, seed),
    )


def worst(gaps: Mapping[str, Values], items: int, min_tokens: int) -> list[str]:
    """Names of the sequences with the largest mean gap, worst first; short ones are left out, for there chance decides."""
    means = {name: float(gap.mean()) for name, gap in gaps.items() if len(gap) >= min_tokens}
    return sorted(means, key=lambda name: (-means[name], name))[:items]


def costly_tokens(gaps: Iterable[tuple[Ids, Values]], items: int, min_count: int) -> list[TokenCost]:
    """The ids whose predictions cost most in sum: id, how often it came, mean and total gap; largest total first."""
    pairs = list(gaps)
    if not pairs:
        return []
    ids, values = (np.concatenate(part) for part in zip(*pairs, strict=True))
    totals, counts = np.bincount(ids, weights=values), np.bincount(ids)
    order = [int(i) for i in np.argsort(-totals, kind="stable") if counts[i] >= min_count and totals[i] > 0]
    return [
        TokenCost(id=i, count=int(counts[i]), mean=float(totals[i] / counts[i]), total=float(totals[i]))
        for i in order[:items]
    ]
