"""Speech or text -> one of three sentiments, by classifiers of transformers that lie in directories; labels by a stated table.

A classifier has labels of its own (`hap`, `POS`, `anger`). Each stands for a sentiment, by the table below or by a setting; the
probabilities of labels of one sentiment are summed, and the largest sum is the answer. Safetensors only, nothing is fetched.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tinywave_core.checkpoints.model_directory import model_digest
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.evals.suites.base import some

Sentiment = Literal["positive", "neutral", "negative"]
SENTIMENTS: tuple[Sentiment, ...] = get_args(Sentiment)
FLAG = "--sentiment-of LABEL=positive"
_NAMES: dict[Sentiment, tuple[str, ...]] = {
    "positive": ("positive", "pos", "happy", "hap", "happiness", "joy", "amused", "amusement", "excited", "laughing"),
    "neutral": ("neutral", "neu", "default", "calm"),
    "negative": (
        *("negative", "neg", "sad", "sadness", "angry", "ang", "anger", "disgust", "disgusted", "fear", "fearful"),
        *("fea", "dis"),
    ),
}
TABLE: dict[str, Sentiment] = {name: sentiment for sentiment, names in _NAMES.items() for name in names}
"""By label in small letters. What is not plainly one of the three (surprise, sleepiness, LABEL_0) is not here: the user says."""

Classify = Callable[[Any], npt.NDArray[np.float64]]
"""Probabilities [K] of a wave or a text, in the order of the labels."""


def table_with(words: Sequence[str]) -> dict[str, Sentiment]:
    """The table, with LABEL=SENTIMENT words laid over it."""
    table = dict(TABLE)
    for word in words:
        label, equals, sentiment = word.rpartition("=")
        if not (label and equals) or sentiment not in SENTIMENTS:
            raise ConfigError(
                f"{word!r} maps no label to a sentiment: expected LABEL={'|'.join(SENTIMENTS)}, as in {FLAG}"
            )
        table[label.strip().lower()] = sentiment
    return table


def sentiment_of(label: str, table: Mapping[str, Sentiment], place: object) -> Sentiment:
    """The sentiment that a label stands for; ConfigError where the table does not say."""
    found = table.get(label.strip().lower())
    if found is None:
        raise ConfigError(
            f"{place} has the label {label!r}, and nothing says whether it is {', '.join(SENTIMENTS[:2])} or {SENTIMENTS[2]}: pass "
            f"--sentiment-of {label}=… with one of them"
        )
    return found


@dataclass(frozen=True)
class SentimentClassifier:
    """A classifier with its labels as sentiments."""

    folder: Path
    digest: str
    """Of its weights and configs."""
    sentiments: tuple[Sentiment, ...]
    """Of each of its labels, in order."""
    classify: Classify = field(repr=False)

    def __call__(self, given: Any) -> Sentiment:
        """The likeliest sentiment of a wave (16 kHz, mono) or a text."""
        probabilities_K = self.classify(given)
        sums = {
            s: sum(p for p, own in zip(probabilities_K, self.sentiments, strict=True) if own == s) for s in SENTIMENTS
        }
        return max(SENTIMENTS, key=lambda sentiment: sums[sentiment])

    def require(self, needed: Collection[Sentiment]) -> None:
        """ConfigError where it has no label for a sentiment that it should find."""
        if missing := [sentiment for sentiment in needed if sentiment not in self.sentiments]:
            raise ConfigError(
                f"{self.folder} never says {some(missing)}, which the references have; its labels stand for "
                f"{some(dict.fromkeys(self.sentiments))}: take another classifier, or map its labels with {FLAG}"
            )


def speech_classifier(folder: Path, table: Mapping[str, Sentiment], device: str) -> SentimentClassifier:
    """A model of audio classification (evals/classifiers.py)."""
    from tinywave_core.evals.classifiers import load_classifier, read_labels

    labels = tuple(sentiment_of(label, table, folder) for label in read_labels(folder))
    return SentimentClassifier(folder, model_digest(folder), labels, load_classifier(folder, device))


def text_classifier(folder: Path, table: Mapping[str, Sentiment], device: str) -> SentimentClassifier:
    """A model of text classification: AutoModelForSequenceClassification with its tokenizer."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from tinywave_core.evals.transcription import load_whole
    from tinywave_core.tokenizers.directory import open_as_transformers

    model = load_whole(AutoModelForSequenceClassification, folder).to(device)
    tokenizer = open_as_transformers(folder)
    named = model.config.id2label
    labels = tuple(sentiment_of(str(named[number]), table, folder) for number in range(model.config.num_labels))
    if len(labels) < 2:
        raise CheckpointError(f"{folder} tells one number, not labels: expected a classifier of sentiments")
    longest = getattr(model.config, "max_position_embeddings", None) or 512

    @torch.inference_mode()
    def classify(text: str) -> npt.NDArray[np.float64]:
        # Two places are kept free: RoBERTa counts its positions from 2 on.
        ids = tokenizer(text, truncation=True, max_length=longest - 2, return_tensors="pt")["input_ids"]
        return np.asarray(model(input_ids=ids.to(device)).logits[0].float().softmax(-1).cpu().numpy(), np.float64)

    return SentimentClassifier(folder, model_digest(folder), labels, classify)
