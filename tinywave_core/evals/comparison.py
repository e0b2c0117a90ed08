"""Log-probabilities of the same tokens under teacher, student and control -> their figures, side by side and paired.

NLL per token by kind of token, perplexity, bits per second of audio by stream, all of it on what comes after a prompt, each over
the teacher's; accuracy of the cloze. Everything is a ratio of sums over sequences, whose intervals resample sequences.

Legend: N sequences, L tokens of one of them, of which L - 1 are predicted; I cloze items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.evals.continuation_cloze import ClozeItem, credits
from tinywave_core.evals.figures import (
    MODELS,
    Continuation,
    ContinuationFigures,
    Direction,
    DirectionAccuracy,
    Likelihood,
    ModelComparison,
    ModelFigures,
    ModelRatio,
)
from tinywave_core.evals.intervals import bootstrap_interval, retention, wilson_interval
from tinywave_core.evals.perplexity import (
    Floats,
    against_teacher,
    nll_ratio,
    per_second,
    per_token,
    sums,
)
from tinywave_core.sequences.interleaving import switches
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

STREAMS = ("hubert", "pitch", "style")
CHANCE = 0.5  # of the cloze: two continuations

Mask = npt.NDArray[np.bool_]
Scores = Sequence[npt.NDArray[np.floating]]
"""Log-probabilities of the predicted tokens of several sequences, [L - 1] each."""


@dataclass(frozen=True)
class TokenNll:
    """NLL of the predicted tokens of N sequences under every model, [L - 1] each, and of which kind they are.

    Sums are over the R recordings, which intervals draw: pieces of one recording are not independent.
    """

    sequences: Sequence[TokenSequence]
    by_model: Mapping[str, Scores]
    """Of the models, and of the floors under their names (`evals/floors.py`)."""
    kinds: Mapping[str, Sequence[Mask]]
    """By kind, for every sequence which tokens are of it."""
    seed: int

    @classmethod
    def of(
        cls, sequences: Sequence[TokenSequence], scores: Mapping[str, Scores], vocabulary: Vocabulary, seed: int
    ) -> "TokenNll":
        """From log-probabilities by model."""
        nll = {model: [-log_p for log_p in of_model] for model, of_model in scores.items()}
        return cls(sequences, nll, kinds_of_tokens([s.ids for s in sequences], vocabulary), seed)

    @property
    def is_speech(self) -> bool:
        """Whether all is speech: seconds of audio say nothing where a part of it was given as text."""
        return not any(mask.any() for mask in self.kinds["text"])

    @property
    def all(self) -> list[Mask]:
        """All predicted tokens."""
        return [np.ones(len(s.ids) - 1, dtype=bool) for s in self.sequences]

    @property
    def seconds(self) -> Floats:
        """Of every recording: [R]."""
        return self.by_recording(np.array([s.seconds for s in self.sequences]))

    def sums(self, model: str, chosen: Sequence[Mask]) -> Floats:
        """For every recording the NLL of the chosen tokens: [R]."""
        return self.by_recording(sums(self.by_model[model], chosen))

    def count(self, chosen: Sequence[Mask]) -> Floats:
        """Chosen tokens of every recording: [R]."""
        return self.by_recording(count(chosen))

    def by_recording(self, values_N: Floats) -> Floats:
        """Sums over the sequences of each recording, in the order of recording ids: [R]."""
        return by_recording([s.recording_id for s in self.sequences], values_N)

    def streams(self) -> list[str]:
        """Streams that there are."""
        return [name for name in STREAMS if any(mask.any() for mask in self.kinds[name])]

    def figures(self, model: str, cloze: Floats, parameters: int) -> ModelFigures:
        """The likelihood by one model, and its cloze accuracy; `cloze`: its credits."""
        accuracy = {}
        if len(cloze):
            accuracy = {"cloze": float(cloze.mean()), "cloze_interval": wilson_interval(float(cloze.sum()), len(cloze))}
        return ModelFigures(**self._likelihood(model), **accuracy, parameters=parameters)

    def likelihood(self, name: str) -> Likelihood:
        """What one of `by_model` makes of all tokens, of each kind, and of each stream."""
        return Likelihood(**self._likelihood(name))

    def _likelihood(self, model: str) -> dict[str, Any]:
        total = self.sums(model, self.all)
        speech = [np.logical_or.reduce(masks) for masks in zip(*(self.kinds[name] for name in STREAMS), strict=True)]
        # Without a measurement its key is absent, so that it is no null in the summary.
        seconds: dict[str, Any] = {"bits_per_second": None}
        if self.is_speech:
            seconds = dict(per_second(total, self.seconds, self.seed))
        return {
            **dict(per_token(total, self.count(self.all), self.seed)),
            **seconds,
            "nll_by_kind": self._means(model, self.kinds),
            "nll_by_modality": self._means(model, {"speech": speech, "text": self.kinds["text"]}),
            "by_stream": {
                name: per_second(self.sums(model, self.kinds[name]), self.seconds, self.seed)
                for name in (self.streams() if self.is_speech else ())
            },
        }

    def ratios(self, model: str) -> ModelRatio:
        """A model over the teacher, on all tokens and by stream."""
        own, teacher = self.sums(model, self.all), self.sums("teacher", self.all)
        by_stream = {
            name: nll_ratio(self.sums(model, self.kinds[name]), self.sums("teacher", self.kinds[name]), self.seed)
            for name in self.streams()
        }
        return ModelRatio(**dict(against_teacher(own, teacher, self.count(self.all), self.seed)), by_stream=by_stream)

    def _means(self, model: str, chosen: Mapping[str, Sequence[Mask]]) -> dict[str, float]:
        """NLL per token of each kind that there is."""
        counts = {name: count(masks).sum() for name, masks in chosen.items()}
        return {name: float(self.sums(model, chosen[name]).sum() / tokens) for name, tokens in counts.items() if tokens}


def count(chosen: Sequence[Mask]) -> Floats:
    """Chosen tokens of every sequence: [N]."""
    return np.array([mask.sum() for mask in chosen], dtype=np.float64)


def kinds_of_tokens(ids: Sequence[npt.NDArray], vocabulary: Vocabulary) -> dict[str, list[Mask]]:
    """Of every sequence, which of the predicted tokens are of a kind; `switch` are the markers within it and the tokens after
    them."""
    kinds = [vocabulary.kinds(sequence[1:]) for sequence in ids]
    masks = {kind: [of_sequence == i for of_sequence in kinds] for i, kind in enumerate(KINDS)}
    return masks | {"switch": [switches(sequence, vocabulary)[1:] for sequence in ids]}


def continuation(nll: TokenNll, chosen: Sequence[Mask], config: EvaluationConfig) -> Continuation:
    """Every model on the tokens after the prompts; no models where no utterance is long enough."""
    long_N = count(chosen) > 0
    after_N = np.array([s.seconds - config.continuation_prompt_s for s in nll.sequences])
    seconds = nll.by_recording(np.where(long_N, after_N, 0.0))
    tokens = nll.count(chosen)
    models, ratios = {}, {}
    if long_N.any():
        long_R = tokens > 0
        own = {name: nll.sums(name, chosen)[long_R] for name in MODELS}
        models = {
            name: ContinuationFigures(
                **dict(per_token(own[name], tokens[long_R], config.seed)),
                **dict(per_second(own[name], seconds[long_R], config.seed)),
            )
            for name in MODELS
        }
        ratios = {name: against_teacher(own[name], own["teacher"], tokens[long_R], config.seed) for name in MODELS[1:]}
    return Continuation(
        prompt_s=config.continuation_prompt_s,
        min_s=config.continuation_min_s,
        utterances=int(long_N.sum()),
        tokens=int(tokens.sum()),
        seconds=float(seconds.sum()),
        models=models,
        ratios=ratios,
    )


def compare_models(nll: TokenNll, cloze: Mapping[str, Floats], models: Mapping[str, ModelFigures]) -> ModelComparison:
    """Paired differences on the same recordings; a gap whose interval holds 0 is within noise."""
    teacher, student, control = (nll.sums(name, nll.all) for name in MODELS)
    tokens, gaps = nll.count(nll.all), control - teacher
    gain = models["control"].nll - models["student"].nll
    gap = models["control"].nll - models["teacher"].nll
    gain_interval = bootstrap_interval(control - student, tokens, nll.seed)
    # A share of a gap that may be none has draws with a denominator around 0: an interval would say nothing.
    is_a_gap = bootstrap_interval(gaps, tokens, nll.seed)[0] > 0
    items: dict[str, Any] = {}
    if len(cloze["student"]):
        difference = cloze["student"] - cloze["control"]
        items = {
            "cloze_retention": retention(cloze["student"], cloze["teacher"], CHANCE, nll.seed),
            "cloze_gain_interval": bootstrap_interval(difference, np.ones(len(difference)), nll.seed),
        }
    return ModelComparison(
        distillation_gain_nll=gain,
        distillation_gain_nll_interval=gain_interval,
        distillation_helps=gain_interval[0] > 0,
        nll_gap_closed=gain / gap if gap > 0 else None,
        nll_gap_closed_interval=bootstrap_interval(control - student, gaps, nll.seed) if is_a_gap else None,
        student_is_better_than_teacher=models["student"].nll < models["teacher"].nll,
        **items,
    )


def compare_in_direction(
    items: Sequence[ClozeItem], right: Mapping[str, Scores], wrong: Mapping[str, Scores], seed: int
) -> Direction:
    """One direction of the cross-modal cloze: `right` and `wrong` are the scores of both versions of all items, by model."""
    won = {name: credits(items, right[name], wrong[name]) for name in MODELS}
    gain = won["student"] - won["control"]
    return Direction(
        **{name: _accuracy(won[name]) for name in MODELS},
        gain_interval=bootstrap_interval(gain, np.ones(len(gain)), seed),
    )


def _accuracy(won: Floats) -> DirectionAccuracy:
    return DirectionAccuracy(
        accuracy=float(won.mean()), interval=wilson_interval(float(won.sum()), len(won)), items=len(won)
    )


def by_recording(recording_ids: Sequence[str], values_N: Floats) -> Floats:
    """Sums over pieces of recordings as sums over recordings, in the order of their ids: [R]."""
    _, at = np.unique(list(recording_ids), return_inverse=True)
    return np.asarray(np.bincount(at, weights=values_N), np.float64)


def paired_difference(gaps_R: Floats, tokens_R: Floats, seed: int) -> tuple[float, tuple[float, float]]:
    """Difference per token with its interval over recordings."""
    return float(gaps_R.sum() / tokens_R.sum()), bootstrap_interval(gaps_R, tokens_R, seed)
