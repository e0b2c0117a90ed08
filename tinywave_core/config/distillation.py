"""Settings of distillation: a student of chosen teacher layers learns from tokens, logits, hidden states, attention."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tinywave_core.config.base import Config, TrainingConfig

Signal = Literal["tokens", "logits", "teacher"]


@dataclass(frozen=True)
class LearnsFrom:
    """Beside a weight: what its term compares the student with."""

    signal: Signal
    """`tokens`: the true tokens. `logits`: the teacher's distribution, from the cache or live, as `logit_signal` says.
    `teacher`: what only the teacher in the training step can show."""


@dataclass(frozen=True)
class Term:
    """A term of the loss, named as its weight; losses/terms.py computes it."""

    name: str
    weight: float
    learns_from: Signal

    @property
    def needs_teacher(self) -> bool:
        """Whether it is there only in steps in which the teacher runs."""
        return self.learns_from == "teacher"


class LossWeightsConfig(Config):
    """Weights of the terms of the loss (the paper does not publish its own)."""

    language_model: Annotated[float, LearnsFrom("tokens")] = Field(0.1, ge=0)
    """Cross-entropy on the true tokens."""
    logits: Annotated[float, LearnsFrom("logits")] = Field(0.9, ge=0)
    """Forward KL from the teacher's distribution, times temperature squared; see `logit_signal`."""
    hidden: Annotated[float, LearnsFrom("teacher")] = Field(0.5, ge=0)
    """Distance between mapped hidden states, see `hidden_form`; needs the teacher in the training step."""
    attention: Annotated[float, LearnsFrom("teacher")] = Field(0.1, ge=0)
    """KL between mapped attention maps on sampled rows; needs the teacher in the training step."""

    @property
    def terms(self) -> list[Term]:
        """All terms, those of weight 0 included."""
        terms = []
        for name, field in type(self).model_fields.items():
            (mark,) = [m for m in field.metadata if isinstance(m, LearnsFrom)]  # one each, or a weight would be no term
            terms.append(Term(name, getattr(self, name), mark.signal))
        return terms

    def of_control(self) -> "LossWeightsConfig":
        """The true tokens alone. All else is 0 whatever its default, or a term of later days would distil the control."""
        return type(self)(**{term.name: float(term.name == "language_model") for term in self.terms})

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossWeightsConfig":
        if not any(term.weight for term in self.terms):
            raise ValueError("all weights are 0, so there is nothing to learn from")
        return self


class ContinuationConfig(Config):
    """How a student that has been trained goes on with new speech; all else is as in its first training."""

    steps: int = Field(100, ge=1)
    """Optimiser steps, in place of `training.steps`, `training.passes` and `training.stop_after_tokens`."""
    learning_rate: float = Field(5e-4, gt=0, le=1)
    """Peak learning rate, in place of `training.learning_rate`: well below it, or what was learned is lost."""
    replay: float = Field(0.5, ge=0, lt=1)
    """Share of the training tokens that is speech which the student has heard already, drawn anew for each continuation; less where
    there is not as much. 0 trains on the new speech alone, which forgets the old."""


class DistillationConfig(Config):
    """The student and what it learns from."""

    layers: int = Field(2, ge=1, le=128)
    """Decoder blocks of the student; width, heads and vocabulary are the teacher's."""
    layer_map: Literal["paper", "segment_end", "last-2", "explicit"] = "paper"
    """`paper`: student block l learns from, and starts as, teacher block 3l + 4 (of 32:10; in general the last blocks
    at equal stride). `segment_end`: evenly spaced blocks; each learns from the teacher block before the next copied one.
    `last-2`: evenly spaced blocks; only the last but one learns, from its like. `explicit`: as `layer_pairs` says."""
    layer_pairs: str = Field("", pattern=r"^(\d+:\d+(,\d+:\d+)*)?$")
    """Of an `explicit` map: pairs student block:teacher block that are aligned, as in "0:4,1:7"; from 0. A last block goes
    with a last block only."""
    copied_blocks: str = Field("", pattern=r"^(\d+(,\d+)*)?$")
    """Of an `explicit` map: the teacher blocks that the student's blocks start as, as in "4,7", from 0 and ascending. Empty: those
    of `layer_pairs`, which must then name each student block once."""
    regime: Literal["cached", "aligned", "aligned-warmup"] = "aligned"
    """When the teacher runs beside the student. `cached`: never; logits come from the cache, and the weights of hidden states
    and attention must be 0. `aligned`: in all steps that need it. `aligned-warmup`: in the first of them, then as `cached`."""
    aligned_share: float = Field(0.15, gt=0, le=1)
    """Of `aligned-warmup`: share of `training.steps`, from the first, in which the teacher runs; one step at least."""
    aligned_every: int = Field(1, ge=1)
    """Where the teacher runs, it does so in every n-th step; in the others hidden states and attention are not
    compared, and logits come from the cache."""
    logit_signal: Literal["cached", "live"] = "cached"
    """Where the logit term comes from in steps in which the teacher runs: its `cached` sparse targets, or its whole
    distribution (`live`). In the other steps it is the cache."""
    weights: LossWeightsConfig = LossWeightsConfig()
    """Weights of the loss terms."""
    hidden_form: Literal["cosine", "mse"] = "cosine"
    """`cosine`: 1 - cosine of two hidden states. `mse`: their squared distance relative to the teacher's squared length."""
    attention_rows: int = Field(32, ge=1)
    """Query rows sampled per sequence and step for the attention term."""
    attention_heads: int = Field(4, ge=1)
    """Heads sampled per step for the attention term."""
    start: Literal["teacher", "fresh"] = "teacher"
    """What student and control are before their first step: copies of the `teacher`'s blocks, or `fresh`, random weights of the same
    shape. A control that starts from the teacher has learned from it already."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the training recordings that student and control learn from, by a hash of the recording: a smaller share lies within
    a larger one. The teacher hears all, and what validates stays the same: the teacher knows more than its student."""
    training: TrainingConfig = TrainingConfig(steps=400, passes=12, batch_tokens=1024, learning_rate=2e-3)
    """The training run; the undistilled control uses the same, and both are checked on the same validation speech."""
    vocabulary: Literal["full", "speech"] = "full"
    """`speech`: a student for speech alone, whose embeddings and head have no rows for text (an eighth of the parameters at full size);
    what the teacher says is taken over those rows. Not for speech and text interleaved."""
    on_new_audio: Literal["restart", "continue"] = "restart"
    """How a student is trained again. `restart`: from the teacher's blocks, on all speech; one run or five give the same bytes.
    `continue`: from the student before it, on the new speech and a replay of what it heard; after a new teacher it restarts.
    Identifies continued students only."""
    continuation: ContinuationConfig = ContinuationConfig()
    """The training run of on_new_audio = continue; it identifies continued students only."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not set and was not there at first: students that were made before are found."""
        late = {"start": "teacher", "share": 1.0}
        return {name: value for name, value in dump(self).items() if name not in late or value != late[name]}

    @property
    def terms(self) -> list[Term]:
        """The terms of the loss that have a weight."""
        return [term for term in self.weights.terms if term.weight]

    @property
    def learns_from_logits(self) -> bool:
        """Whether some term takes the teacher's distribution."""
        return any(term.learns_from == "logits" for term in self.terms)

    @property
    def live_terms(self) -> list[str]:
        """What needs the teacher in the training step, as the settings name it."""
        names = [f"weights.{term.name}" for term in self.terms if term.needs_teacher]
        return [*names, "logit_signal = live"] if self.learns_from_logits and self.logit_signal == "live" else names

    @property
    def live_steps(self) -> range:
        """The steps, from 0, in which the teacher runs beside the student: what training does, and what costs count."""
        if not self.live_terms:
            return range(0)
        steps = self.training.steps
        first = steps if self.regime == "aligned" else max(1, round(self.aligned_share * steps))
        return range(0, min(first, self.training.planned_steps), self.aligned_every)

    @property
    def live_until(self) -> int:
        """The first step, from 0, from which on the teacher never runs again."""
        return self.live_steps[-1] + 1 if self.live_steps else 0

    @property
    def needs_cache(self) -> bool:
        """Whether some step takes its logit term from the cache."""
        always_live = self.regime == "aligned" and self.aligned_every == 1 and self.logit_signal == "live"
        return self.learns_from_logits and not always_live

    @model_validator(mode="after")
    def _teacher_where_it_is_needed(self) -> "DistillationConfig":
        if self.regime == "cached" and self.live_terms:
            raise ValueError(
                f"regime is cached, so the teacher never runs, but {' and '.join(self.live_terms)} would need it: set the weight "
                "to 0 and logit_signal to cached, or take regime aligned or aligned-warmup"
            )
        live, others = (
            [f"weights.{t.name}" for t in self.weights.terms if t.needs_teacher is w] for w in (True, False)
        )
        if self.regime == "aligned-warmup" and not self.live_terms:
            raise ValueError(
                f"regime is aligned-warmup, but no term needs the teacher: give {', '.join(live)} or logit_signal = live, or "
                "take regime cached"
            )
        if (self.regime == "aligned-warmup" or self.aligned_every > 1) and all(t.needs_teacher for t in self.terms):
            raise ValueError(
                f"in steps without the teacher there would be nothing to learn from: give {' or '.join(others)}, or take "
                "regime aligned with aligned_every 1"
            )
        return self

    @model_validator(mode="after")
    def _pairs_where_they_are_used(self) -> "DistillationConfig":
        if (self.layer_map == "explicit") != bool(self.layer_pairs) or (self.copied_blocks and not self.layer_pairs):
            raise ValueError("layer_pairs (and copied_blocks) belong to layer_map = explicit, which needs the pairs")
        return self

    def control(self) -> "DistillationConfig":
        """The same student, start and steps, learning from the true tokens only; how a teacher would signal is left out."""
        return DistillationConfig(
            layers=self.layers,
            layer_map=self.layer_map,
            layer_pairs=self.layer_pairs,
            copied_blocks=self.copied_blocks,
            regime="cached",
            weights=self.weights.of_control(),
            start=self.start,
            share=self.share,
            vocabulary=self.vocabulary,
            training=self.training,
            on_new_audio=self.on_new_audio,
            continuation=self.continuation,
        )

    def first(self) -> "DistillationConfig":
        """The settings of a student that starts from its teacher: how it might go on is no part of them."""
        return self.model_copy(update={"on_new_audio": "restart", "continuation": ContinuationConfig()})

    def continued(self) -> "DistillationConfig":
        """The settings of a student that goes on from the one before it: `training` is the continuation's."""
        other = {"steps": self.continuation.steps, "learning_rate": self.continuation.learning_rate}
        training = self.training.model_copy(update={**other, "passes": None, "stop_after_tokens": None})
        return self.model_copy(update={"on_new_audio": "continue", "training": training})
