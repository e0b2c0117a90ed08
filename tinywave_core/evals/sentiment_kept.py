"""A speech language model and STSP's references -> how often its continuations have the sentiment of their prompts, by direction.

    S→S, T→S    the spoken continuation is classified by a model of speech
    S→T, T→T    the written one by a model of text

A direction needs a model that was trained on both of its modalities, and the classifier of what it gives. What has no sentiment (an empty
continuation, a prompt that cannot be used) counts as wrong, and is counted by reason. Sampling belongs to (seed, direction, id).
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from tinywave_core.audio.waveform import read_waveform
from tinywave_core.errors import ConfigError, TinyWaveError
from tinywave_core.evals.benchmark import SpeechLM
from tinywave_core.evals.classifiers import SHORTEST_SAMPLES
from tinywave_core.evals.continuations import continuations
from tinywave_core.evals.cross_modal_cloze import DIRECTIONS
from tinywave_core.evals.intervals import wilson_interval
from tinywave_core.evals.pair_tokens import prompt_tokens
from tinywave_core.evals.sentiments import Sentiment, SentimentClassifier
from tinywave_core.evals.suites.base import Content
from tinywave_core.evals.suites.stsp import Reference
from tinywave_core.progress import Progress, no_progress
from tinywave_core.tokenizers.directory import load_tokenizer
from tinywave_core.tokenizers.prompts import Modality
from tinywave_core.tokenizers.vocabulary import Ids

SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_k": 25}
NEW_TOKENS: dict[Modality, int] = {"speech": 150, "text": 50}
"""Longest continuations."""
NO_WORDS, NO_SPEECH = "no words", "no speech"

Classifiers = dict[Modality, SentimentClassifier]


@dataclass(frozen=True)
class Direction:
    """What came out in one direction."""

    name: str
    predictions: list[tuple[str, Sentiment | None]]
    """By id, in the order of the references; None where there is none."""
    failures: dict[str, int]
    """How many have no prediction, by reason."""
    right: int
    interval: tuple[float, float]
    """95 % interval of the share that is right (Wilson)."""

    @property
    def items(self) -> int:
        return len(self.predictions)

    @property
    def accuracy(self) -> float:
        return self.right / self.items

    def to_json(self) -> dict[str, Any]:
        """All but the predictions."""
        figures = {"items": self.items, "right": self.right, "accuracy": self.accuracy, "interval": self.interval}
        return figures | {"failures": self.failures}


@dataclass(frozen=True)
class Kept:
    """A model on one file of references."""

    directions: dict[str, Direction]
    absent: dict[str, str]
    """Directions that were not measured, and why."""
    chance: float
    """Share of the most frequent sentiment: what one answer to everything gets."""
    prompts: dict[Modality, Direction]
    """The classifiers on the prompts themselves: a perfect continuation could hardly do better."""


def sentiment_kept(
    lm: SpeechLM,
    references: Sequence[Reference],
    classifiers: Classifiers,
    speak: Callable[[Ids], Any] | None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Kept:
    """Measure every direction that model and classifiers allow; ConfigError where that is none."""
    truth = [reference.sentiment for reference in references]
    for classifier in classifiers.values():
        classifier.require(set(truth))
    absent = {name: why for name in DIRECTIONS if (why := _hindrance(lm, *DIRECTIONS[name], classifiers))}
    if len(absent) == len(DIRECTIONS):
        raise ConfigError(f"no direction of STSP can be measured: {'; '.join(f'{n}: {w}' for n, w in absent.items())}")
    decode = load_tokenizer(lm.folder, lm.vocabulary).decode
    answer = {
        "speech": partial(_spoken, speak, classifiers.get("speech")),
        "text": partial(_written, decode, classifiers.get("text")),
    }
    directions = {
        name: direction(name, references, _answers(lm, references, name, seed, answer[DIRECTIONS[name][1]], progress))
        for name in DIRECTIONS
        if name not in absent
    }
    heard = {of: _on_prompts(of, references, classifier) for of, classifier in classifiers.items()}
    return Kept(directions, absent, max(Counter(truth).values()) / len(truth), heard)


def direction(name: str, references: Sequence[Reference], answers: Sequence[Sentiment | str]) -> Direction:
    """Figures of the answers in the order of the references: sentiments, or why there is none."""
    sentiments = [reference.sentiment for reference in references]
    known: set[str] = {"positive", "neutral", "negative"}
    right = sum(answer == truth for answer, truth in zip(answers, sentiments, strict=True))
    said = [(r.id, answer if answer in known else None) for r, answer in zip(references, answers, strict=True)]
    failures = Counter(answer for answer in answers if answer not in known)
    return Direction(name, said, dict(failures), right, wilson_interval(right, len(answers)))  # type: ignore[arg-type]


def _hindrance(lm: SpeechLM, given: Modality, output: Modality, classifiers: Classifiers) -> str:
    """Why a direction cannot be measured; empty where it can."""
    if output not in classifiers:
        return f"no {output} classifier was given"
    if lm.vocabulary.is_speech_only and "text" in (given, output):
        return "the model has no text"
    try:
        if lm.trained is not None:
            lm.trained.require([given], output)
    except ConfigError as error:
        return str(error)
    return ""


def _answers(
    lm: SpeechLM,
    references: Sequence[Reference],
    name: str,
    seed: int,
    answer: Callable[[Ids], Sentiment | str],
    progress: Progress,
) -> list[Sentiment | str]:
    given, output = DIRECTIONS[name]
    prompts = _prompts(lm, references, given, output, progress)
    usable = {i: ids for i, ids in enumerate(prompts) if not isinstance(ids, str)}
    new = continuations(
        lm.model,
        list(usable.values()),
        lm.vocabulary,
        [_seed(seed, name, references[i].id) for i in usable],
        max_new_tokens=NEW_TOKENS[output],
        **SAMPLING,
        output=output,
        progress=progress,
    )
    answers = {i: answer(ids) for i, ids in zip(usable, new, strict=True)}
    return [answers[i] if i in answers else str(ids) for i, ids in enumerate(prompts)]


def _prompts(
    lm: SpeechLM, references: Sequence[Reference], given: Modality, output: Modality, progress: Progress
) -> list[Ids | str]:
    """Ids of every prompt with the marker of what follows; why, where it cannot be used."""
    contents: list[Content] = [r.wav if given == "speech" else r.text for r in references]
    known: dict[Any, Any] = {}
    if given == "speech":
        ears = lm.ears()
        ears.listen([(reference.wav,) for reference in references], progress)
        known = ears.heard
    longest = lm.model.config.max_position_embeddings - NEW_TOKENS[output]
    prompts: list[Ids | str] = []
    for content in contents:
        if not content:
            prompts.append("no transcript")
            continue
        try:
            ids = prompt_tokens(content, output, known, lm.vocabulary, lm.encode_text).ids
            prompts.append(ids if len(ids) <= longest else "prompt too long")
        except TinyWaveError as error:
            prompts.append(f"prompt: {error}")
    return prompts


def _seed(seed: int, name: str, reference: str) -> int:
    return int.from_bytes(hashlib.sha256(f"stsp/{seed}/{name}/{reference}".encode()).digest()[:6], "little")


def _spoken(speak: Callable[[Ids], Any] | None, classifier: SentimentClassifier | None, ids: Ids) -> Sentiment | str:
    assert speak is not None, "whoever gives a classifier of speech gives a speaker"
    assert classifier is not None, "a hindrance otherwise"
    wave = np.asarray(speak(ids), np.float32) if len(ids) else np.zeros(0, np.float32)
    return classifier(wave) if len(wave) >= SHORTEST_SAMPLES else NO_SPEECH


def _written(decode: Callable[[list[int]], str], classifier: SentimentClassifier | None, ids: Ids) -> Sentiment | str:
    assert classifier is not None, "a hindrance otherwise"
    text = decode([int(i) for i in ids]).strip()
    return classifier(text) if text else NO_WORDS


def _on_prompts(of: Modality, references: Sequence[Reference], classifier: SentimentClassifier) -> Direction:
    def answer(reference: Reference) -> Sentiment | str:
        if of == "text":
            return classifier(reference.text) if reference.text else "no transcript"
        try:
            wave = read_waveform(reference.wav)
        except TinyWaveError as error:
            return f"prompt: {error}"
        return classifier(wave) if len(wave) >= SHORTEST_SAMPLES else NO_SPEECH

    with torch.inference_mode():
        return direction(of, references, [answer(reference) for reference in references])
