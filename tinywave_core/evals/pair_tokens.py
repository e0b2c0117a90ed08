"""Pairs of recordings and texts -> token sequences as a speech language model reads them, each recording tokenized once.

    <s> [Speech] units …                        a recording
    <s> [Speech] units … [Text] pieces …        a text after a recording

A recording after a recording is joined with it before it is tokenized, as slamkit does; a text after a text gets a space. What
cannot be tokenized is kept, with the reason.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinywave_core.audio.waveform import read_waveform
from tinywave_core.errors import TinyWaveError, TokenError
from tinywave_core.evals.suites.base import Content, Pair
from tinywave_core.progress import Progress, no_progress
from tinywave_core.sequences.interleaving import EncodeText
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.tokenizers.base import SpeechTokenizer
from tinywave_core.tokenizers.prompts import Modality
from tinywave_core.tokenizers.speech import Streams, merge
from tinywave_core.tokenizers.streams import STREAMS, Rates
from tinywave_core.tokenizers.trained_on import TrainedOn
from tinywave_core.tokenizers.vocabulary import Vocabulary

_TOGETHER = 64  # recordings that are read and tokenized at once

Samples = npt.NDArray[np.float32]
Recording = tuple[Path, ...]
"""Files that are heard as one."""


@dataclass(frozen=True)
class Tokens:
    """One version of a pair as a token sequence."""

    ids: npt.NDArray[np.int64]  # [L]
    predicted: npt.NDArray[np.bool_]  # [L]: units and text; markers and what opens a sequence are given
    prompt_length: int
    """Tokens before the continuation."""


@dataclass(frozen=True)
class TokenPair:
    """A pair with both versions; None where one cannot be tokenized."""

    pair: Pair
    positive: Tokens | None
    negative: Tokens | None
    reason: str = ""
    """Why it cannot be scored."""


@dataclass(frozen=True)
class Heard:
    """A recording's streams, and how many of its samples are prompt."""

    streams: Streams
    prompt_samples: int


@dataclass
class Ears:
    """A speech tokenizer with a memory: no recording is tokenized twice."""

    tokenizer: SpeechTokenizer
    heard: dict[Recording, Heard | str] = field(default_factory=dict, repr=False)
    """What is known already; a str says why a recording cannot be used."""

    def listen(self, recordings: Iterable[Recording], progress: Progress = no_progress) -> None:
        """Tokenize those that are new."""
        new = [recording for recording in dict.fromkeys(recordings) if recording not in self.heard]
        for start in range(0, len(new), _TOGETHER):
            self._listen(new[start : start + _TOGETHER])
            progress(min(start + _TOGETHER, len(new)), len(new), "recordings tokenized")

    def _listen(self, recordings: Sequence[Recording]) -> None:
        waves: dict[Recording, tuple[Samples, int]] = {}
        for recording in recordings:
            try:
                parts = [read_waveform(path) for path in recording]
            except TinyWaveError as error:
                self.heard[recording] = str(error)
                continue
            waves[recording] = np.concatenate(parts), sum(len(part) for part in parts[:-1])
        streams = self.tokenizer.tokenize([wave for wave, _ in waves.values()])
        for (recording, (_, prompt)), of_recording in zip(waves.items(), streams, strict=True):
            self.heard[recording] = Heard(of_recording, prompt)


def tokenize_pairs(
    pairs: Sequence[Pair],
    vocabulary: Vocabulary,
    encode_text: EncodeText,
    ears: Callable[[], Ears],
    max_length: int,
    progress: Progress = no_progress,
    trained: TrainedOn | None = None,
) -> list[TokenPair]:
    """Both versions of every pair; `ears` is called only if there is something to hear. What the model was not `trained` to read cannot be
    scored (None: it is not known, as of models of others)."""
    versions = [(pair.prompt, version) for pair in pairs for version in (pair.positive, pair.negative)]
    recordings = [recording for prompt, version in versions for recording in _recordings(prompt, version)]
    known: dict[Recording, Heard | str] = {}
    if recordings:
        listening = ears()
        listening.listen(recordings, progress)
        known = listening.heard

    def tokens(prompt: Content | None, version: Content) -> Tokens:
        if trained is not None:
            trained.require([] if prompt is None else [_modality(prompt)], _modality(version))
        made = _tokens(prompt, version, known, vocabulary, encode_text)
        if len(made.ids) > max_length:
            raise TokenError(f"it has {len(made.ids)} tokens, the model reads {max_length}")
        if not made.predicted[made.prompt_length :].any():
            raise TokenError("it is too short for a token")
        return made

    tokenized: list[TokenPair] = []
    for pair in pairs:
        try:
            tokenized.append(TokenPair(pair, tokens(pair.prompt, pair.positive), tokens(pair.prompt, pair.negative)))
        except TinyWaveError as error:
            tokenized.append(TokenPair(pair, None, None, str(error)))
    return tokenized


def _modality(content: Content) -> Modality:
    return "speech" if isinstance(content, Path) else "text"


def prompt_tokens(
    prompt: Content,
    output: Modality,
    known: dict[Recording, Heard | str],
    vocabulary: Vocabulary,
    encode_text: EncodeText,
) -> Tokens:
    """A prompt alone, with the marker of what a model is to go on with; TokenError where it cannot be used. `known`: what was heard."""
    if isinstance(prompt, Path):
        head = _speech((prompt,), known, vocabulary)
    else:
        head = _opened(_text(prompt, vocabulary, encode_text), vocabulary.text_marker, vocabulary)
    marker = vocabulary.speech_marker if output == "speech" else vocabulary.text_marker
    nothing = np.zeros(0, np.int64)
    return head if _modality(prompt) == output else _continued(head, nothing, [marker])


def tokenize_recordings(
    files: Sequence[Path], vocabulary: Vocabulary, ears: Ears, progress: Progress = no_progress
) -> list[Tokens]:
    """Recordings alone, for files of scores; the first that cannot be used is an error."""
    ears.listen([(path,) for path in files], progress)
    return [_speech((path,), ears.heard, vocabulary) for path in files]


def digest(pairs: Iterable[TokenPair]) -> str:
    """SHA-256 over the names and token ids of all pairs: what exactly was scored."""
    sha = hashlib.sha256()
    for pair in pairs:
        sha.update(f"{pair.pair.id}\n{pair.pair.subset}\n{pair.pair.group}\n{pair.reason}\n".encode())
        for tokens in (pair.positive, pair.negative):
            if tokens is not None:
                sha.update(f"{tokens.prompt_length} {len(tokens.ids)}\n".encode())
                sha.update(np.asarray(tokens.ids, "<i8").tobytes())
    return sha.hexdigest()


def _recordings(prompt: Content | None, version: Content) -> list[Recording]:
    if isinstance(prompt, Path) and isinstance(version, Path):
        return [(prompt, version)]
    return [(path,) for path in (prompt, version) if isinstance(path, Path)]


def _tokens(
    prompt: Content | None,
    version: Content,
    known: dict[Recording, Heard | str],
    vocabulary: Vocabulary,
    encode_text: EncodeText,
) -> Tokens:
    if isinstance(version, Path) and (prompt is None or isinstance(prompt, Path)):
        return _speech((version,) if prompt is None else (prompt, version), known, vocabulary)
    if isinstance(version, str) and prompt is None:
        return _opened(_text(version, vocabulary, encode_text), vocabulary.text_marker, vocabulary)
    assert prompt is not None
    if isinstance(version, str) and isinstance(prompt, str):
        head = _opened(_text(prompt, vocabulary, encode_text), vocabulary.text_marker, vocabulary)
        return _continued(head, _text(f" {version}", vocabulary, encode_text), [])
    if isinstance(version, str):
        return _continued(
            _speech((Path(prompt),), known, vocabulary),
            _text(version, vocabulary, encode_text),
            [vocabulary.text_marker],
        )
    head = _opened(_text(str(prompt), vocabulary, encode_text), vocabulary.text_marker, vocabulary)
    return _continued(head, merge(_heard((version,), known).streams, vocabulary), [vocabulary.speech_marker])


def _speech(recording: Recording, known: dict[Recording, Heard | str], vocabulary: Vocabulary) -> Tokens:
    heard = _heard(recording, known)
    tokens = _opened(merge(heard.streams, vocabulary), vocabulary.speech_marker, vocabulary)
    before = (
        len(merge(_first(heard.streams, heard.prompt_samples, vocabulary.rates), vocabulary))
        if heard.prompt_samples
        else 0
    )
    return replace(tokens, prompt_length=tokens.prompt_length + before)


def _heard(recording: Recording, known: dict[Recording, Heard | str]) -> Heard:
    heard = known[recording]
    if isinstance(heard, str):
        raise TokenError(heard)
    return heard


def _first(streams: Streams, samples: int, rates: Rates) -> Streams:
    """What begins before a time. Tokens are merged by time, so these are the first ones of the sequence."""
    hz = rates.merge_hz
    return Streams(*(getattr(streams, s.name)[: int(np.ceil(samples * hz[s.name] / SAMPLE_RATE))] for s in STREAMS))


def _text(text: str, vocabulary: Vocabulary, encode_text: EncodeText) -> npt.NDArray[np.int64]:
    if vocabulary.is_speech_only:
        raise TokenError("the model has no text")
    return np.asarray(encode_text(text), np.int64)


def _opened(ids: npt.NDArray[np.int64], marker: int, vocabulary: Vocabulary) -> Tokens:
    opening = vocabulary.prompt_ids(marker)
    predicted = np.arange(len(opening) + len(ids)) >= len(opening)
    return Tokens(np.concatenate([opening, ids]).astype(np.int64), predicted, len(opening))


def _continued(head: Tokens, ids: npt.NDArray[np.int64], markers: list[int]) -> Tokens:
    joined = np.concatenate([head.ids, markers, ids]).astype(np.int64)
    predicted = np.concatenate([head.predicted, np.zeros(len(markers), bool), np.ones(len(ids), bool)])
    return Tokens(joined, predicted, len(head.ids) + len(markers))
