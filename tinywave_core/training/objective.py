"""The two objectives: language modelling, and distillation as a weighted sum of terms (losses/terms.py).

Legend: B rows, T row length, N = B * T positions, D width, K entries of a sparse target.
"""

import copy
import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import LlamaForCausalLM

from tinywave_core.config.distillation import ON_POLICY, DistillationConfig
from tinywave_core.devices import frozen_dtype, sent
from tinywave_core.errors import TrainingError
from tinywave_core.losses.attention import AttentionTap, sample_tap, tapping
from tinywave_core.losses.logits import LiveTeacher, LogitSignal, TeacherTargets, fused_logit_loss
from tinywave_core.losses.own_speech import means_of_each, own_speech_loss
from tinywave_core.losses.terms import Computation, Views, at_head, computations
from tinywave_core.models.forward import forward
from tinywave_core.models.llama import on_device
from tinywave_core.models.parts import head_of
from tinywave_core.models.prune import ALIGNMENT
from tinywave_core.sequences.dataset import Batch
from tinywave_core.teacher.layer_map import LayerMap
from tinywave_core.training.trainer import LossTerms


class LanguageModelObjective:
    """Cross-entropy on the true tokens: adaptation. Nothing is sampled, so the step does not matter."""

    def __call__(self, model: LlamaForCausalLM, batch: Batch, _: int) -> LossTerms:
        out = forward(model, batch)
        loss = fused_logit_loss(
            out.last_BTD.flatten(0, 1),
            head_of(model).weight,
            torch.from_numpy(batch.labels).flatten(),
            None,
            language_model=1.0,
            logits=0.0,
            temperature=1.0,
        )
        return LossTerms(loss.total, {"language_model": loss.language_model})


class DistillationObjective:
    """Language modelling + softened logits + hidden states + attention maps (arXiv 2506.23670), each weighted.

    In a step with the live teacher all terms count, and the logits may come from it; in a step without one, language
    modelling and cached logits. When no later step needs the teacher it is let go, so the caller must not keep it either.
    """

    def __init__(
        self,
        config: DistillationConfig,
        layers: LayerMap,
        temperature: float,
        teacher: LlamaForCausalLM | None,
        vocabulary_rows: int | None = None,
        kept: Sequence[int] | None = None,
        heads: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        """`vocabulary_rows`: tokens that have a name; teacher rows beyond them are padding and no live target.

        `kept`: the teacher's ids of the student's tokens, for a student whose vocabulary is a part of the teacher's; batches are in
        the student's ids, the cached targets that they bring in the teacher's. `heads`: by block, the teacher's heads that a narrower
        student has, which it is compared with; None: all.
        """
        self.config, self.layers = config, layers
        self.temperature, self.vocabulary_rows = temperature, vocabulary_rows
        self.kept = None if kept is None else np.asarray(kept, dtype=np.int64)
        if self.kept is not None:
            self._own_ids = np.full(1 << 16, -1, dtype=np.int64)  # by the teacher's, which are 16 bits; -1: text
            self._own_ids[self.kept] = np.arange(len(self.kept))
        self.heads = {block: torch.tensor(numbers) for block, numbers in (heads or {}).items()}
        self.teacher = teacher if config.live_terms else None
        self.hears_itself = True  # else what is its own in a batch does not count
        if config.live_terms and teacher is None:
            raise TrainingError(
                f"{' and '.join(config.live_terms)}: such terms need the teacher in the training step, and none was given"
            )
        if any(c.hidden or c.maps for c in computations(config.terms).values()) and not layers.targets:
            raise TrainingError(
                "this layer map pairs no blocks: use more student layers, or set both layer weights to 0"
            )

    def __call__(self, model: LlamaForCausalLM, batch: Batch, step: int) -> LossTerms:
        if step >= self.config.live_until:
            self._let_go()
        # From the step alone, as all that changes during a training: a resumed run does what the whole one would have done.
        live = step in self.config.live_steps
        parts = computations([term for term in self.config.terms if live or not term.needs_teacher])
        views = self._views(model, batch, step, list(parts.values()), live=live)
        total, terms = at_head(
            self.config.weights,
            views.student.last_BTD.flatten(0, 1),
            head_of(model).weight,
            torch.from_numpy(views.batch.labels).flatten(),
            self._signal(model, batch, views),
            self.temperature,
        )
        for term, part in parts.items():
            value = part.function(views)
            total, terms[term.name] = total + term.weight * value, value.detach()
        if not (batch.own_targets and self.hears_itself):
            return LossTerms(total, terms)
        own = own_speech_loss(
            self.config.on_policy, views.student, head_of(model).weight, batch, self._live(model, views)
        )
        return LossTerms(total + own.total, means_of_each(batch, terms, own.logits))

    def alone(self, step: int, batch: Batch) -> dict[str, tuple[float, "DistillationObjective"]]:
        """Of each term that counts in the step: its weight, and the objective of that term alone, whose weight is 1."""
        live, has_data = step in self.config.live_steps, batch.step_targets > batch.own_targets
        terms = [t for t in self.config.terms if has_data and (live or not t.needs_teacher)]
        found = {term.name: (term.weight, self._of(term.name)) for term in terms}
        return found | ({ON_POLICY: (self.config.on_policy.weight, self._of(ON_POLICY))} if batch.own_targets else {})

    def _of(self, term: str) -> "DistillationObjective":
        """The objective of one term, with weight 1."""
        own = copy.copy(self)
        weights = self.config.weights.model_copy(
            update={t.name: float(t.name == term) for t in self.config.weights.terms}
        )
        on_policy = self.config.on_policy.model_copy(update={"weight": 1.0})
        own.config = self.config.model_copy(update={"weights": weights, "on_policy": on_policy})
        own.hears_itself = term == ON_POLICY
        if not own.config.live_terms:
            own.teacher = None
        return own

    def _views(
        self, model: LlamaForCausalLM, batch: Batch, step: int, parts: Sequence[Computation], *, live: bool
    ) -> Views:
        """What the student shows, and the teacher if it is a live step, of all that the terms of the step read."""
        hidden, maps = any(part.hidden for part in parts), any(part.maps for part in parts)
        student_tap, teacher_tap = self._taps(model, batch, step, maps=maps)
        with tapping(student_tap):
            student = forward(model, batch, hidden=hidden)
        alignment = getattr(model, ALIGNMENT, None)
        views = Views(self.config, self.layers.targets, batch.data, student, student_tap, alignment=alignment)
        if not live:
            return views
        # Without a graph, which would keep the activations of a model many times as large.
        with torch.no_grad(), tapping(teacher_tap):
            goal = forward(
                self._teacher_beside(model, student.last_BTD.device), self._for_teacher(batch), hidden=hidden
            )
        return replace(views, teacher=goal, teacher_tap=teacher_tap)

    def _signal(self, model: LlamaForCausalLM, batch: Batch, views: Views) -> LogitSignal | None:
        """What the teacher says about the next token, for the terms that take it."""
        if not (self.config.learns_from_logits and self.config.learns_from_data):
            return None
        if views.teacher is None or self.config.logit_signal == "cached":
            return self._targets(batch, model, views.student.last_BTD.device)
        return self._live(model, views)

    def _live(self, model: LlamaForCausalLM, views: Views) -> LiveTeacher:
        """The whole distribution of the teacher that runs beside the student."""
        assert self.teacher is not None
        assert views.teacher is not None
        head = head_of(self.teacher).weight
        if self.kept is not None:
            head = head[torch.from_numpy(self.kept).to(head.device)]
        # The shared prefix: a padded head has rows that are no token.
        rows = [len(head), model.config.vocab_size, self.vocabulary_rows or model.config.vocab_size]
        return LiveTeacher(views.teacher.last_BTD.flatten(0, 1), head, min(rows))

    def _for_teacher(self, batch: Batch) -> Batch:
        """The batch in the teacher's ids; padding is some token, which nothing attends to."""
        return batch if self.kept is None else replace(batch, input_ids=self.kept[batch.input_ids])

    def _teacher_beside(self, student: LlamaForCausalLM, device: torch.device) -> LlamaForCausalLM:
        """The teacher, frozen, where the student is, attending as it does; on a GPU in bfloat16, as its logits are captured there."""
        assert self.teacher is not None, "no step is live from live_until on"
        if self.teacher.device != device:
            self.teacher.to(dtype=frozen_dtype(device))  # type: ignore[call-arg]
            on_device(self.teacher, device)
        if self.teacher.config._attn_implementation != student.config._attn_implementation:
            self.teacher.set_attn_implementation(student.config._attn_implementation)
        if self.teacher.training or head_of(self.teacher).weight.requires_grad:
            self.teacher.eval().requires_grad_(False)
        return self.teacher

    def _let_go(self) -> None:
        """Free the teacher's memory now: its modules refer to one another, which only the collector resolves."""
        if self.teacher is not None:
            self.teacher = None
            gc.collect()
            if torch.cuda.is_available():  # or the allocator would keep it from the student
                torch.cuda.empty_cache()

    def _targets(self, batch: Batch, model: LlamaForCausalLM, device: torch.device) -> TeacherTargets:
        if batch.cached is None:
            raise TrainingError("the logit term needs the teacher's cached logits, and the batches bring none")
        ids, weights = batch.cached.ids, batch.cached.weights
        # What was drawn for text goes: the rest is the teacher's share of the student's tokens.
        if self.kept is not None:
            ids = self._own_ids[ids]
            weights, ids = np.where(ids < 0, np.float32(0), weights), np.maximum(ids, 0)
        # What was drawn for other tokens cannot be made up for.
        if ids.max() >= model.config.vocab_size:
            raise TrainingError(
                f"the cached logits name token {ids.max()}, the student has {model.config.vocab_size} rows: use the cache of a "
                "teacher with the student's vocabulary, or logit_signal = live"
            )
        flat = (sent(a, device).flatten(0, 1) for a in (ids, weights, batch.cached.entropy))
        return TeacherTargets(*flat)

    def _taps(
        self, model: LlamaForCausalLM, batch: Batch, step: int, *, maps: bool
    ) -> tuple[AttentionTap, AttentionTap]:
        """The same rows and heads for both models; no layer at all where no term reads maps."""
        # Of the step alone, so that a resumed run draws what the undisturbed one would have drawn.
        seed = self.config.training.seed * 1_000_003 + step
        taps = []
        for side in (0, 1):
            layers = {pair[side] for pair in self.layers.targets} if maps else set()
            taps.append(
                sample_tap(
                    batch.input_ids.shape[1],
                    self.config.attention_heads,
                    self.config.attention_rows,
                    model.config.num_attention_heads,
                    layers,
                    seed,
                    model.device,
                )
            )
        return taps[0], replace(taps[1], heads_of=self.heads)
