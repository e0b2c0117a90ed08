"""A teacher and its students read the same sequences side by side; `gaps` measures how they differ.

Legend: L tokens of one sequence, D width, V ids, h heads, r query positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaForCausalLM

from tinywave_core.config.evaluation import GapConfig
from tinywave_core.evals import gaps
from tinywave_core.losses.attention import IMPLEMENTATION, AttentionTap, sample_tap, tapping
from tinywave_core.models.llama import on_device
from tinywave_core.models.trim import in_ids_of
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary


class Parts(Protocol):
    """What students have of a teacher, by number."""

    @property
    def channels(self) -> tuple[int, ...]: ...

    @property
    def heads(self) -> tuple[tuple[int, ...], ...]: ...


@dataclass(frozen=True)
class Seen:
    """What a model made of one sequence."""

    hidden: Sequence[torch.Tensor]
    """Outputs of the blocks [L, D], the last one after the final norm."""
    log_maps: Mapping[int, torch.Tensor]
    """Attention rows [h, r, L] by block."""
    logits_LV: torch.Tensor


class SideBySide:
    """Sums over all sequences that were added."""

    def __init__(
        self,
        teacher: LlamaForCausalLM,
        students: Mapping[str, LlamaForCausalLM],
        pairs: Sequence[tuple[int, int]],
        vocabulary: Vocabulary,
        config: GapConfig,
        device: torch.device,
        kept: Parts | None = None,
    ) -> None:
        """`kept`: of the teacher, what narrower students have, and are compared with. `pairs`: which block of the teacher each block of a student is compared with; `vocabulary` is the teacher's."""
        self.teacher, self.students = _ready(teacher, device), {n: _ready(m, device) for n, m in students.items()}
        self.kept = kept
        self.pairs, self.vocabulary, self.config = list(pairs), vocabulary, config
        self.tally = gaps.Tally()
        self.gaps: dict[str, tuple[Ids, npt.NDArray[np.float64]]] = {}
        """By sequence: the tokens from the second on, and what each costs the student more than the teacher, in nats."""
        self.nll: dict[str, dict[str, float]] = {}
        """By sequence: NLL per token of each model."""
        self._cosines: dict[str, npt.NDArray[np.float64]] = {}
        self._tokens = 0

    @torch.no_grad()
    def add(self, sequence: TokenSequence) -> None:
        """Compare the models on one sequence."""
        ids = sequence.ids.astype(np.int64)
        masks = gaps.kind_masks(ids, self.vocabulary)
        taught = self._of_students(self._look(self.teacher, ids, {teacher for _, teacher in self.pairs}))
        nll = gaps.token_nll(taught.logits_LV, ids)
        self.nll[sequence.id] = {"teacher": float(nll.mean())}
        for name, model in self.students.items():
            own_ids = in_ids_of(model, self.vocabulary, [ids])[0].astype(np.int64)
            seen = self._look(model, own_ids, {student for student, _ in self.pairs})
            own_nll = gaps.token_nll(seen.logits_LV, own_ids)
            self.nll[sequence.id][name] = float(own_nll.mean())
            if name == "student":
                self.gaps[sequence.id] = (ids[1:], own_nll - nll)
            self._add_predictions(name, sequence, seen, taught, own_nll - nll, masks)
            self._add_blocks(name, sequence, seen, taught, masks)
        self._tokens += len(ids)

    def mean_cosines(self, name: str) -> npt.NDArray[np.float64]:
        """Mean cosine of every block of a student with every block of the teacher, over all tokens: [S, T]."""
        return self._cosines[name] / self._tokens

    def _add_predictions(
        self,
        name: str,
        sequence: TokenSequence,
        seen: Seen,
        taught: Seen,
        gap: npt.NDArray[np.float64],
        masks: gaps.Masks,
    ) -> None:
        logits = taught.logits_LV[:, self._shared(seen.logits_LV.shape[1])]
        known = min(logits.shape[1], seen.logits_LV.shape[1], self.vocabulary.tokens)
        divergence = gaps.prediction_divergence(seen.logits_LV[:-1, :known], logits[:-1, :known])
        by = {group: mask[1:] for group, mask in {**masks, **gaps.position_masks(len(masks[gaps.ALL]))}.items()}
        self.tally.add_groups(name, gaps.DIVERGENCE, sequence.recording_id, divergence, by)
        self.tally.add_groups(name, gaps.NLL, sequence.recording_id, gap, by)

    def _add_blocks(self, name: str, sequence: TokenSequence, seen: Seen, taught: Seen, masks: gaps.Masks) -> None:
        cosines_STL = gaps.cosines(seen.hidden, taught.hidden)
        self._cosines[name] = self._cosines.get(name, 0.0) + cosines_STL.sum(axis=2)
        rows = self._tap(len(masks[gaps.ALL]), set()).positions_r.numpy()
        read = {group: mask[rows] for group, mask in masks.items()}
        for student, teacher in self.pairs:
            pair, recording = (student, teacher), sequence.recording_id
            self.tally.add_groups(name, gaps.HIDDEN, recording, cosines_STL[student, teacher], masks, pair)
            divergence = gaps.map_divergence(seen.log_maps[student], taught.log_maps[teacher])
            self.tally.add_groups(name, gaps.ATTENTION, recording, divergence, read, pair)

    def _look(self, model: LlamaForCausalLM, ids: Ids, blocks: set[int]) -> Seen:
        row = torch.from_numpy(ids)[None].to(model.device)
        tap = self._tap(len(ids), blocks)
        if self.kept is not None and model is self.teacher:
            tap = replace(tap, heads_of={block: torch.tensor(self.kept.heads[block]) for block in blocks})
        with tapping(tap):
            # With this mask of nothing transformers makes none; without it, one for packed rows that are not there.
            out = model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False, output_hidden_states=True)
        hidden = [states[0] for states in out.hidden_states[1:]]
        return Seen(hidden, {block: log_map[0] for block, log_map in tap.log_maps.items()}, out.logits[0])

    def _of_students(self, taught: Seen) -> Seen:
        """What the teacher shows of what its students have."""
        if self.kept is None:
            return taught
        channels = torch.tensor(self.kept.channels, device=taught.hidden[0].device)
        return replace(taught, hidden=[states[:, channels] for states in taught.hidden])

    def _tap(self, length: int, blocks: set[int]) -> AttentionTap:
        """The same heads and positions in all models, drawn anew for each length."""
        config = self.config
        heads = self.teacher.config.num_attention_heads if self.kept is None else len(self.kept.heads[0])
        return sample_tap(length, config.attention_heads, config.attention_rows, heads, blocks, config.seed)

    def _shared(self, rows: int) -> slice | list[int]:
        """The teacher's ids of a student's tokens: all of them, or for a student of speech alone the ones it kept."""
        trimmed = rows == self.vocabulary.speech_only().rows and not self.vocabulary.is_speech_only
        return self.vocabulary.speech_only_ids() if trimmed else slice(None)


def _ready(model: LlamaForCausalLM, device: torch.device) -> LlamaForCausalLM:
    model.set_attn_implementation(IMPLEMENTATION)
    return on_device(model, device).eval()
