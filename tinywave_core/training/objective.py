"""The two objectives: language modelling, and distillation with its four weighted terms.

Legend: B rows, T row length, N = B * T positions, D width, K entries of a sparse target.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import LlamaForCausalLM

from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.devices import frozen_dtype
from tinywave_core.errors import TrainingError
from tinywave_core.losses.attention import IMPLEMENTATION, AttentionTap, attention_loss, sample_tap, tapping
from tinywave_core.losses.hidden import cosine_loss, mse_loss
from tinywave_core.losses.logits import LiveTeacher, LogitSignal, TeacherTargets, fused_logit_loss
from tinywave_core.models.llama import block_mask, on_device
from tinywave_core.sequences.dataset import IGNORED, Batch, TokenSequence
from tinywave_core.teacher.layer_map import LayerMap
from tinywave_core.teacher.logit_cache import LogitCache
from tinywave_core.training.trainer import LossTerms


@dataclass(frozen=True)
class Forward:
    """A forward pass without its logits."""

    last_BTD: torch.Tensor
    """After the final norm: what the head reads."""
    hidden: tuple[torch.Tensor, ...]
    """Outputs of the blocks [B, T, D]; the last one after the final norm. Empty unless asked for."""


def forward(model: LlamaForCausalLM, batch: Batch, *, hidden: bool = False) -> Forward:
    """Run the decoder over packed rows: positions restart and attention ends with every sequence."""
    out = model.model(
        input_ids=torch.from_numpy(batch.input_ids).to(model.device),
        position_ids=torch.from_numpy(batch.positions).to(model.device),
        attention_mask=block_mask(torch.from_numpy(batch.documents).to(model.device)),
        use_cache=False,
        output_hidden_states=hidden,
    )
    return Forward(out.last_hidden_state, tuple(out.hidden_states[1:]) if hidden else ())


class LanguageModelObjective:
    """Cross-entropy on the true tokens: adaptation. Nothing is sampled, so the step does not matter."""

    def __call__(self, model: LlamaForCausalLM, batch: Batch, _: int) -> LossTerms:
        out = forward(model, batch)
        labels = torch.from_numpy(batch.labels).to(out.last_BTD.device)
        loss = fused_logit_loss(
            out.last_BTD.flatten(0, 1),
            model.lm_head.weight,
            labels.flatten(),
            None,
            language_model=1.0,
            logits=0.0,
            temperature=1.0,
        )
        return LossTerms(loss.total, {"language_model": float(loss.language_model)})


class DistillationObjective:
    """Language modelling + softened logits + hidden states + attention maps (arXiv 2506.23670), each weighted.

    In a step with the live teacher all terms count, and the logits may come from it; in a step without one, language
    modelling and cached logits. When no later step needs the teacher it is let go, so the caller must not keep it either.
    """

    def __init__(
        self,
        config: DistillationConfig,
        layers: LayerMap,
        sequences: list[TokenSequence],
        cache: LogitCache | None,
        temperature: float,
        teacher: LlamaForCausalLM | None,
        vocabulary_rows: int | None = None,
        kept: Sequence[int] | None = None,
    ) -> None:
        """`vocabulary_rows`: tokens that have a name; teacher rows beyond them are padding and no live target.

        `kept`: the teacher's ids of the student's tokens, for a student whose vocabulary is a part of the teacher's; sequences
        and batches are in the student's ids, the cache is in the teacher's.
        """
        weights = config.weights
        self.config, self.layers, self.sequences = config, layers, sequences
        self.cache, self.temperature, self.vocabulary_rows = cache, temperature, vocabulary_rows
        self.kept = None if kept is None else np.asarray(kept, dtype=np.int64)
        if self.kept is not None:
            self._own_ids = np.full(1 << 16, -1, dtype=np.int64)  # by the teacher's, which are 16 bits; -1: text
            self._own_ids[self.kept] = np.arange(len(self.kept))
        self.teacher = teacher if config.live_terms else None
        if config.live_terms and teacher is None:
            raise TrainingError(
                f"{' and '.join(config.live_terms)}: such terms need the teacher in the training step, and none was given"
            )
        if (weights.hidden or weights.attention) and not layers.targets:
            raise TrainingError(
                "this layer map pairs no blocks: use more student layers, or set both layer weights to 0"
            )
        if config.needs_cache and cache is None:
            raise TrainingError("the logit term needs the teacher's cached logits, and none were given")

    def __call__(self, model: LlamaForCausalLM, batch: Batch, step: int) -> LossTerms:
        if step >= self.config.live_until:
            self._let_go()
        if self.config.is_live(step):
            return self._with_teacher(model, batch, step)
        out = forward(model, batch)
        signal = self._targets(batch, model, out.last_BTD.device) if self.config.weights.logits else None
        return self._logit_terms(model, out, batch, signal)

    def _with_teacher(self, model: LlamaForCausalLM, batch: Batch, step: int) -> LossTerms:
        weights = self.config.weights
        student_tap, teacher_tap = self._taps(model, batch, step)
        with tapping(student_tap):
            out = forward(model, batch, hidden=bool(weights.hidden))
        device = out.last_BTD.device
        teacher = self._teacher_on(device)
        with torch.no_grad(), tapping(teacher_tap):
            goal = forward(teacher, self._for_teacher(batch), hidden=bool(weights.hidden))
        signal: LogitSignal | None = None
        if weights.logits and self.config.logit_signal == "live":
            head = teacher.lm_head.weight
            if self.kept is not None:
                head = head[torch.from_numpy(self.kept).to(head.device)]
            rows = [len(head), model.config.vocab_size, self.vocabulary_rows or model.config.vocab_size]
            signal = LiveTeacher(goal.last_BTD.flatten(0, 1), head, min(rows))
        elif weights.logits:
            signal = self._targets(batch, model, device)
        loss = self._logit_terms(model, out, batch, signal)
        total, terms = loss.total, dict(loss.terms)
        if weights.hidden:
            term = self._hidden(out, goal, torch.from_numpy(batch.labels != IGNORED).to(device))
            total, terms["hidden"] = total + weights.hidden * term, float(term.detach())
        if weights.attention:
            term = self._attention(student_tap, teacher_tap, batch) * batch.targets
            total, terms["attention"] = total + weights.attention * term, float(term.detach())
        return LossTerms(total, terms)

    def _logit_terms(
        self, model: LlamaForCausalLM, out: Forward, batch: Batch, signal: LogitSignal | None
    ) -> LossTerms:
        """The terms at the head: language modelling, and the KL if there is a signal, wherever it came from."""
        loss = fused_logit_loss(
            out.last_BTD.flatten(0, 1),
            model.lm_head.weight,
            torch.from_numpy(batch.labels).to(out.last_BTD.device).flatten(),
            signal,
            language_model=self.config.weights.language_model,
            logits=self.config.weights.logits,
            temperature=self.temperature,
        )
        terms = {"language_model": float(loss.language_model)}
        if signal is not None:
            terms["logits"] = float(loss.logits)
        return LossTerms(loss.total, terms)

    def _for_teacher(self, batch: Batch) -> Batch:
        """The batch in the teacher's ids; padding is some token, which nothing attends to."""
        return batch if self.kept is None else replace(batch, input_ids=self.kept[batch.input_ids])

    def _teacher_on(self, device: torch.device) -> LlamaForCausalLM:
        """The teacher, frozen, where the student is; on a GPU in bfloat16, as its logits are captured there."""
        assert self.teacher is not None, "is_live is false from live_until on"
        if self.teacher.device != device:
            self.teacher.to(dtype=frozen_dtype(device))  # type: ignore[call-arg]
            on_device(self.teacher, device)
        if self.teacher.training or self.teacher.lm_head.weight.requires_grad:
            self.teacher.eval().requires_grad_(False)
        return self.teacher

    def _let_go(self) -> None:
        """Free the teacher's memory now: its modules refer to one another, which only the collector resolves."""
        if self.teacher is not None:
            self.teacher = None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _targets(self, batch: Batch, model: LlamaForCausalLM, device: torch.device) -> TeacherTargets:
        assert self.cache is not None
        rows, length = batch.input_ids.shape
        entries = self.cache[self.sequences[batch.rows[0][0]].id].ids.shape[1]
        ids = np.zeros((rows, length, entries), dtype=np.int64)
        weights = np.zeros((rows, length, entries), dtype=np.float32)
        entropy = np.zeros((rows, length), dtype=np.float32)
        for r, row in enumerate(batch.rows):
            start = 0
            for index in row:
                target = self.cache[self.sequences[index].id]
                end = start + len(target.ids)
                ids[r, start:end], weights[r, start:end] = target.ids, target.weights
                entropy[r, start:end] = target.entropy
                start = end
        if (
            self.kept is not None
        ):  # what was drawn for text goes: the rest is the teacher's share of the student's tokens
            ids = self._own_ids[ids]
            weights, ids = np.where(ids < 0, np.float32(0), weights), np.maximum(ids, 0)
        if ids.max() >= model.config.vocab_size:  # what was drawn for other tokens cannot be made up for
            raise TrainingError(
                f"the cached logits name token {ids.max()}, the student has {model.config.vocab_size} rows: use the cache of a "
                "teacher with the student's vocabulary, or logit_signal = live"
            )
        flat = (torch.from_numpy(a).to(device).flatten(0, 1) for a in (ids, weights, entropy))
        return TeacherTargets(*flat)

    def _taps(self, model: LlamaForCausalLM, batch: Batch, step: int) -> tuple[AttentionTap, AttentionTap]:
        """The same rows and heads for both models; no layer at all when the term is off."""
        on = bool(self.config.weights.attention)
        heads = model.config.num_attention_heads
        length = batch.input_ids.shape[1]
        seed = self.config.training.seed * 1_000_003 + step
        taps = []
        for side in (0, 1):
            layers = {pair[side] for pair in self.layers.targets} if on else set()
            taps.append(
                sample_tap(length, self.config.attention_heads, self.config.attention_rows, heads, layers, seed)
            )
        return taps[0], taps[1]

    def _hidden(self, out: Forward, goal: Forward, valid_BT: torch.Tensor) -> torch.Tensor:
        pairs = self.layers.targets
        missing = [pair for pair in pairs if pair[0] >= len(out.hidden) or pair[1] >= len(goal.hidden)]
        if missing:
            raise TrainingError(
                f"hidden alignment was asked for, but no hidden states came from the block pairs {missing}: the student gave "
                f"those of {len(out.hidden)} blocks, the teacher of {len(goal.hidden)}"
            )
        distance = cosine_loss if self.config.hidden_form == "cosine" else mse_loss
        return torch.stack([distance(out.hidden[s], goal.hidden[t], valid_BT) for s, t in pairs]).sum() / len(pairs)

    def _attention(self, student: AttentionTap, teacher: AttentionTap, batch: Batch) -> torch.Tensor:
        missing = [
            pair for pair in self.layers.targets if pair[0] not in student.log_maps or pair[1] not in teacher.log_maps
        ]
        if missing:
            raise TrainingError(
                f"attention alignment was asked for, but no attention rows came from the block pairs {missing}: load "
                f"both models with attn_implementation={IMPLEMENTATION!r}, or set distillation.weights.attention to 0"
            )
        rows = student.positions_r.numpy()
        losses = []
        for s, t in self.layers.targets:
            log_map = student.log_maps[s]
            valid = torch.from_numpy(batch.documents[:, rows] > 0).to(log_map.device)
            losses.append(attention_loss(log_map, teacher.log_maps[t].to(log_map.device), valid))
        return torch.stack(losses).mean()
