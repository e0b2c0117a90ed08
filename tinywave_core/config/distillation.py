"""Settings of distillation: a student of chosen teacher layers learns from tokens, logits, hidden states, attention."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tinywave_core.config.base import Config, TrainingConfig
from tinywave_core.config.preference import PreferenceConfig

Signal = Literal["tokens", "logits", "teacher"]
DivergenceName = Literal["forward", "reverse", "jensen_shannon"]
ON_POLICY = "on_policy"
"""The term of the student's own continuations: it counts in rows of its own, and its weight is in their settings."""


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


class OnPolicyConfig(Config):
    """Of the regime `on_policy`: the student's own continuations, and how the teacher scores them. Part of what identifies a student of
    that regime only."""

    share: float = Field(0.25, gt=0, le=1)
    """Share of a step's rows that hold the student's own continuations in place of training speech; kept over the steps where a batch
    has too few rows for it."""
    weight: float = Field(1.0, gt=0)
    """Weight of the divergence in these rows; in the others the loss terms have their `weights`."""
    after_share: float = Field(0.6, ge=0, lt=1)
    """Share of `training.steps`, from the first, in which all rows are training speech: a student that says nothing sensible yet has little
    to learn from it. Checks by validation speech end no training before."""
    prompt_tokens: int = Field(64, ge=1, le=8192)
    """Tokens of a prompt: the beginning of a training sequence, `<s>` and marker included. Shorter sequences are no prompts."""
    new_tokens: int = Field(192, ge=1, le=8192)
    """Tokens that the student says at most after a prompt. A row holds as many continuations as fit."""
    temperature: float = Field(1.0, gt=0, le=10)
    """Of the student while it speaks; it is compared with the teacher at 1."""
    divergence: DivergenceName = "forward"
    """`forward`: KL from the teacher to the student. `reverse`: from the student to the teacher. `jensen_shannon`: in between."""
    beta: float = Field(0.5, gt=0, lt=1)
    """Of `jensen_shannon`: the teacher's share of the mixture that both are compared with."""
    form: Literal["full", "sampled"] = "full"
    """`full`: the divergence is summed over the vocabulary. `sampled`: estimated from the tokens that were drawn, for `reverse` only; right
    on average where they are the student's of this very step at temperature 1, and much noisier."""
    drawn_every: int = Field(8, ge=1)
    """The student speaks in every n-th step, for this one and the next n - 1: speech that is learned from is at most n - 1 steps old.
    Many continuations at once cost little more than one."""

    @model_validator(mode="after")
    def _what_was_drawn_is_what_is_estimated(self) -> "OnPolicyConfig":
        if self.form == "sampled" and (self.divergence, self.temperature, self.drawn_every) != ("reverse", 1.0, 1):
            raise ValueError(
                f"form is sampled, but divergence is {self.divergence}, temperature {self.temperature:g} and drawn_every "
                f"{self.drawn_every}: tokens estimate reverse KL of the student that drew them; take divergence reverse, temperature 1 "
                "and drawn_every 1, or form full"
            )
        return self


class SequenceLevelConfig(Config):
    """Sequence-level distillation: a share of the training speech goes on as the teacher has it. Made once and kept, before logits are
    cached; the control and what validates keep the recordings."""

    share: float = Field(0.0, ge=0, le=1)
    """Share of the training utterances that the teacher goes on with after their beginning, drawn by a hash of their ids. 0: none."""
    prompt_tokens: int = Field(64, ge=2, le=8192)
    """Tokens of that beginning, `<s>` and marker included. Shorter utterances stay as they are."""
    new_tokens: int = Field(192, ge=1, le=8192)
    """Tokens that the teacher says at most."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Softmax temperature of the teacher while it speaks."""
    top_k: int = Field(50, ge=1)
    """Tokens that are sampled from: the likeliest ones."""
    seed: int = Field(0, ge=0)
    """Of the choice and the sampling, mixed with the utterance's id."""


class DistillationConfig(Config):
    """The student and what it learns from."""

    came_later = ("start", "width", "share", "sequence_level", "preference", "drafter_layers")

    layers: int = Field(2, ge=1, le=128)
    """Decoder blocks of the student; heads are as wide as the teacher's, and the vocabulary is its own."""
    width: int | None = Field(None, ge=8)
    """Hidden size of the student. Less than the teacher's: of its channels, heads and neurons the most important on training speech stay
    (Minitron), each the same share, and hidden states are compared through a projection that is learned. None: the teacher's."""
    start: str = "teacher"
    """What the weights of student and control start as. `teacher`: blocks of the teacher (`layer_map`), so that a control has learned from
    it already; `fresh`: random weights of the same shape, which the layer terms harmed where it was measured (decision 52); otherwise the
    model directory of an export with as many blocks and the same tokens: in the paper's cascade the expressive student, for the
    interleaved one. Known by its content."""
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
    regime: Literal["cached", "aligned", "aligned-warmup", "on_policy"] = "aligned"
    """When the teacher runs beside the student. `cached`: never; logits come from the cache, and the weights of hidden states
    and attention must be 0. `aligned`: in all steps that need it. `aligned-warmup`: in the first of them, then as `cached`.
    `on_policy`: in all steps; in a share of the rows the student continues prompts, and the teacher scores what it said."""
    on_policy: OnPolicyConfig = OnPolicyConfig()
    """The student's own continuations."""
    sequence_level: SequenceLevelConfig = SequenceLevelConfig()
    """Sequences by the teacher."""
    preference: PreferenceConfig = PreferenceConfig()
    """Preference tuning of the student once it is distilled."""
    drafter_layers: int = Field(0, ge=0, le=128)
    """Decoder blocks of a drafter, fewer than the student's: a model of the teacher's cached logits that proposes tokens for the student,
    goes with its export and is asked for by `--drafter own`. 0: none. Identifies the drafter only."""
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

    @property
    def terms(self) -> list[Term]:
        """The terms of the loss that have a weight."""
        return [term for term in self.weights.terms if term.weight]

    @property
    def starts_given(self) -> bool:
        """Whether the student starts as one that was exported."""
        return self.start not in ("teacher", "fresh")

    @property
    def learns_from_logits(self) -> bool:
        """Whether some term takes the teacher's distribution."""
        return any(term.learns_from == "logits" for term in self.terms)

    @property
    def learns_from_itself(self) -> bool:
        """Whether some rows hold the student's own continuations."""
        return self.regime == "on_policy"

    @property
    def learns_from_data(self) -> bool:
        """Whether some rows hold training speech."""
        return not self.learns_from_itself or self.on_policy.share < 1

    @property
    def live_terms(self) -> list[str]:
        """What needs the teacher in the training step, as the settings name it."""
        names = [f"weights.{term.name}" for term in self.terms if term.needs_teacher]
        names += ["regime = on_policy"] if self.learns_from_itself else []
        return [*names, "logit_signal = live"] if self.learns_from_logits and self.logit_signal == "live" else names

    @property
    def live_steps(self) -> range:
        """The steps, from 0, in which the teacher runs beside the student: what training does, and what costs count."""
        if not self.live_terms:
            return range(0)
        steps = self.training.steps
        first = steps if self.regime in ("aligned", "on_policy") else max(1, round(self.aligned_share * steps))
        return range(0, min(first, self.training.planned_steps), self.aligned_every)

    @property
    def live_until(self) -> int:
        """The first step, from 0, from which on the teacher never runs again."""
        return self.live_steps[-1] + 1 if self.live_steps else 0

    @property
    def needs_cache(self) -> bool:
        """Whether some step takes its logit term from the cache."""
        always = self.regime in ("aligned", "on_policy") and self.aligned_every == 1
        return self.learns_from_logits and self.learns_from_data and not (always and self.logit_signal == "live")

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
    def _continuations_fit(self) -> "DistillationConfig":
        row = self.training.sequence_length
        spoken: list[tuple[str, OnPolicyConfig | SequenceLevelConfig | PreferenceConfig]] = []
        if self.regime == "on_policy":
            spoken.append(("on_policy", self.on_policy))
        if self.sequence_level.share:
            spoken.append(("sequence_level", self.sequence_level))
        if self.preference.share:
            spoken.append(("preference", self.preference))
        for name, asked in spoken:
            if asked.prompt_tokens + asked.new_tokens > row:
                raise ValueError(
                    f"{name}.prompt_tokens {asked.prompt_tokens} and new_tokens {asked.new_tokens} are longer than a row of "
                    f"training.sequence_length {row} tokens: lower them, or raise training.sequence_length"
                )
        if self.regime == "on_policy" and self.aligned_every > 1:
            raise ValueError(
                f"regime is on_policy, in which the teacher runs in every step, but aligned_every is {self.aligned_every}: leave it at 1"
            )
        return self

    def unwritten(self) -> list[str]:
        """Also `on_policy` in the other regimes: it has no say in them."""
        return [*super().unwritten(), *([] if self.regime == "on_policy" else ["on_policy"])]

    @model_validator(mode="after")
    def _another_width_from_the_teacher(self) -> "DistillationConfig":
        if self.width is not None and self.starts_given:
            raise ValueError(
                "width prunes the teacher's blocks, and start names a student that has its width: set one of the two"
            )
        return self

    @model_validator(mode="after")
    def _sequences_by_the_teacher_start_anew(self) -> "DistillationConfig":
        asked = self.sequence_level
        if asked.share and self.on_new_audio == "continue":
            raise ValueError(
                f"sequence_level.share is {asked.share:g} and on_new_audio is continue: a continued student learns from recordings "
                "alone; take on_new_audio restart, or share 0"
            )
        return self

    @model_validator(mode="after")
    def _pairs_where_they_are_used(self) -> "DistillationConfig":
        if (self.layer_map == "explicit") != bool(self.layer_pairs) or (self.copied_blocks and not self.layer_pairs):
            raise ValueError("layer_pairs (and copied_blocks) belong to layer_map = explicit, which needs the pairs")
        return self

    @model_validator(mode="after")
    def _a_drafter_is_smaller(self) -> "DistillationConfig":
        if self.drafter_layers >= self.layers:
            raise ValueError(
                f"drafter_layers is {self.drafter_layers}, the student has {self.layers}: a drafter with as many blocks takes as long as "
                "the student; set fewer, or 0 for none"
            )
        return self

    def drafter(self) -> "DistillationConfig":
        """The drafter: fewer of the teacher's blocks, and its cached logits beside the true tokens."""
        weights = self.weights.model_copy(update={"hidden": 0.0, "attention": 0.0})
        return self.control().model_copy(
            update={
                "layers": self.drafter_layers,
                "weights": weights,
                "start": "fresh" if self.start == "fresh" else "teacher",
                "layer_map": "paper",
                "layer_pairs": "",
                "copied_blocks": "",
                "on_new_audio": "restart",
                "continuation": ContinuationConfig(),
            }
        )

    def control(self) -> "DistillationConfig":
        """The same student, start and steps, learning from the true tokens only; how a teacher would signal is left out."""
        return DistillationConfig(
            layers=self.layers,
            width=self.width,
            start=self.start,
            layer_map=self.layer_map,
            layer_pairs=self.layer_pairs,
            copied_blocks=self.copied_blocks,
            regime="cached",
            weights=self.weights.of_control(),
            share=self.share,
            vocabulary=self.vocabulary,
            training=self.training,
            on_new_audio=self.on_new_audio,
            continuation=self.continuation,
        )

    def first(self) -> "DistillationConfig":
        """The settings of a student that starts from its teacher: what may come after its training is no part of them."""
        return self.preferred().model_copy(update={"preference": PreferenceConfig()})

    def preferred(self) -> "DistillationConfig":
        """The settings of a student after preference tuning: how it might go on is no part of them."""
        start = "given" if self.starts_given else self.start
        changes = {"on_new_audio": "restart", "continuation": ContinuationConfig(), "start": start, "drafter_layers": 0}
        return self.model_copy(update=changes)

    def continued(self) -> "DistillationConfig":
        """The settings of a student that goes on from the one before it: `training` is the continuation's."""
        other = {"steps": self.continuation.steps, "learning_rate": self.continuation.learning_rate}
        training = self.training.model_copy(update={**other, "passes": None, "stop_after_tokens": None})
        start = "given" if self.starts_given else self.start
        after = {"preference": PreferenceConfig(), "drafter_layers": 0}
        return self.model_copy(update={"on_new_audio": "continue", "training": training, "start": start, **after})
