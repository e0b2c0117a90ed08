"""Sound and a transcript -> words with times, with a transformers `Wav2Vec2ForCTC` directory of any language.

The transcript's characters, in the model's own alphabet, are placed by the most likely path of connectionist temporal
classification through the model's frames of 20 ms (Graves et al., 2006; Viterbi over characters with blanks between them).
Several utterances of unequal length go together. torchaudio's `forced_align` takes one at a time and is deprecated.
Without a transcript, `transcribe` writes down what the model hears.

Shapes: B utterances, T frames, V characters, L characters of a transcript, S = 2 L + 1 states.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from tinywave_core.alignment.base import Refusal
from tinywave_core.alignment.normalize import Written, written_words
from tinywave_core.alignment.untimed import interpolate
from tinywave_core.alignment.words import Word
from tinywave_core.checkpoints.bounds import check_directory
from tinywave_core.errors import CheckpointError

HOP_SAMPLES = 320
IMPOSSIBLE = -np.inf

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CtcAligner:
    """A loaded model; `align_all` takes several utterances at once."""

    model: Any
    alphabet: dict[str, int]
    blank: int
    normalise: bool
    delimiter: int | None = None
    """Stands between words; None where the alphabet has none, and blanks do."""
    name: str = "ctc"
    # Mean probability of a word's characters along the path; what a right transcript reaches depends on the model.
    min_confidence: float = 0.0

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "CtcAligner":
        """config.json, vocab.json and weights, nothing unpickled; CheckpointError where something is missing or foreign."""

        class Model(Wav2Vec2ForCTC):  # type: ignore[misc]
            # It masks frames in training. Some releases have it and some do not; see `_config`.
            _keys_to_ignore_on_load_unexpected = ["wav2vec2.masked_spec_embed"]  # type: ignore[assignment]  # noqa: RUF012

        alphabet, config = _json(folder, "vocab.json"), _config(folder)
        if not all(isinstance(number, int) and 0 <= number < config.vocab_size for number in alphabet.values()):
            raise CheckpointError(
                f"{folder / 'vocab.json'} does not give each character one of the model's {config.vocab_size} outputs: "
                "expected the flat vocabulary of one language"
            )
        try:
            model, loading_info = Model.from_pretrained(
                folder, config=config, local_files_only=True, weights_only=True, output_loading_info=True
            )
        except Exception as error:
            raise CheckpointError(f"{folder} cannot be loaded as a Wav2Vec2ForCTC: {error}") from error
        if faults := [
            *loading_info["missing_keys"],
            *loading_info["mismatched_keys"],
            *loading_info["unexpected_keys"],
        ]:
            raise CheckpointError(
                f"{folder} is not a whole Wav2Vec2ForCTC: {len(faults)} tensors are missing, foreign or of another shape, "
                f"such as {faults[0]}"
            )
        model.eval().requires_grad_(False).to(device)
        normalise = _json(folder, "preprocessor_config.json", {}).get("do_normalize", True)
        delimiter = _json(folder, "tokenizer_config.json", {}).get("word_delimiter_token", "|")
        return cls(model, alphabet, config.pad_token_id, bool(normalise), alphabet.get(delimiter))

    def align(self, samples_N: npt.NDArray[np.float32], transcript: str) -> list[Word] | Refusal:
        """Times of one transcript's words."""
        return self.align_all([samples_N], [transcript])[0]

    def align_all(
        self, samples: Sequence[npt.NDArray[np.float32]], transcripts: Sequence[str]
    ) -> list[list[Word] | Refusal]:
        """Times of several transcripts' words; the placing goes together, the model's frames one utterance at a time."""
        spelled = [self._spelled(transcript) for transcript in transcripts]
        scores = [self._scores(utterance_N) for utterance_N in samples]
        paths = best_paths(scores, [self._line(words) for _, words in spelled], self.blank)
        return [
            self._words(texts, words, path, score, len(utterance_N))
            for (texts, words), path, score, utterance_N in zip(spelled, paths, scores, samples, strict=True)
        ]

    def transcribe(self, samples_N: npt.NDArray[np.float32]) -> str:
        """Text from sound alone: the likeliest character of each frame, without repeats and blanks."""
        best = self._scores(samples_N).argmax(axis=1)
        without_repeats = best[np.concatenate([[True], best[1:] != best[:-1]])] if len(best) else best
        names = {number: character for character, number in self.alphabet.items()}
        characters = (names.get(int(i), "") for i in without_repeats if i != self.blank)
        delimiter = None if self.delimiter is None else names[self.delimiter]
        letters = (" " if c == delimiter else c for c in characters if not (c.startswith("<") and c.endswith(">")))
        return " ".join("".join(letters).split())

    def _spelled(self, transcript: str) -> tuple[list[str], list[list[int]]]:
        """Words as written, and each one's characters in the alphabet."""
        written = written_words(transcript)
        return [word.text for word in written], [self._ids(word) for word in written]

    def _ids(self, word: Written) -> list[int]:
        """Ids of a word's letters if the alphabet has all of them, else of its spoken form in English; empty if neither fits."""
        own = "" if any(c.isnumeric() for c in word.text) else word.text.replace("\u2019", "'")
        for text in (own, "".join(word.spoken)):
            for cased in (text, text.upper(), text.lower()):
                ids = [self.alphabet[c] for c in cased if c in self.alphabet and (c.isalpha() or c == "'")]
                if len(ids) >= sum(c.isalpha() for c in cased) > 0:
                    return ids
        return []

    def _line(self, words: Sequence[Sequence[int]]) -> list[int]:
        """The characters of all words, with the delimiter between them."""
        between = [] if self.delimiter is None else [self.delimiter]
        line = [i for word in words if word for i in (*between, *word)]
        return line[len(between) :]

    @torch.inference_mode()
    def _scores(self, samples_N: npt.NDArray[np.float32]) -> Scores:
        """Log-probabilities [T, V]."""
        if len(samples_N) < 400:
            return np.zeros((0, self.model.config.vocab_size), np.float32)
        wave = samples_N - samples_N.mean() if self.normalise else samples_N
        wave = wave / np.sqrt(wave.var() + 1e-7) if self.normalise else wave
        logits = self.model(torch.from_numpy(wave)[None].to(self.model.device)).logits[0]
        return torch.log_softmax(logits.float(), dim=-1).cpu().numpy()

    def _words(
        self,
        texts: list[str],
        words: list[list[int]],
        path: "list[tuple[int, int]] | None",
        scores: Scores,
        length: int,
    ) -> list[Word] | Refusal:
        characters = sum(map(len, words))
        if not characters:
            return Refusal("no_transcript", "the transcript has no word in the model's alphabet")
        if path is None:
            return Refusal(
                "failed", f"{characters} characters do not fit into {len(scores)} frames of 20 ms: another transcript?"
            )
        rest = iter(path)
        timed: list[Word | None] = []
        in_word = False
        for text, ids in zip(texts, words, strict=True):
            if not ids:
                timed.append(None)
                continue
            if in_word and self.delimiter is not None:
                next(rest)
            in_word = True
            own = [next(rest) for _ in ids]
            probabilities = [float(np.exp(scores[a:b, i]).mean()) for i, (a, b) in zip(ids, own, strict=True)]
            start, end = own[0][0] * HOP_SAMPLES, min(own[-1][1] * HOP_SAMPLES, length)
            timed.append(Word(text, start, end, float(np.mean(probabilities))))
        return interpolate(texts, timed, length)


def best_paths(
    scores: Sequence[Scores], characters: Sequence[Sequence[int]], blank: int
) -> list[list[tuple[int, int]] | None]:
    """For every utterance the frames [first, last) of each of its characters on the most likely path; None if none fits."""
    states = [np.array([blank, *(x for c in word_ids for x in (c, blank))]) for word_ids in characters]
    width, frames = max(map(len, states)), max(map(len, scores))
    labels_BS = np.full((len(states), width), blank)
    for row, word_ids in enumerate(states):
        labels_BS[row, : len(word_ids)] = word_ids
    # A character may follow the one before it without a blank between, unless they are the same.
    skips_BS = np.zeros(labels_BS.shape, bool)
    skips_BS[:, 3::2] = labels_BS[:, 3::2] != labels_BS[:, 1:-2:2]
    total_BS = np.full(labels_BS.shape, IMPOSSIBLE)
    total_BS[:, :2] = 0.0  # a path begins in the first blank or the first character
    back_TBS = np.zeros((frames, *labels_BS.shape), np.int8)
    for frame in range(frames):
        if frame:
            one, two = _shifted(total_BS, 1), np.where(skips_BS, _shifted(total_BS, 2), IMPOSSIBLE)
            choices = np.stack([total_BS, one, two])
            back_TBS[frame] = choices.argmax(axis=0)
            reached = choices.max(axis=0)
        else:
            reached = total_BS
        for row, scores_TC in enumerate(scores):
            if frame < len(scores_TC):  # a shorter utterance stays as it ended
                total_BS[row] = reached[row] + scores_TC[frame, labels_BS[row]]
    return [
        _traced(total_BS[row], back_TBS[: len(scores_TC), row], len(states[row])) if len(scores_TC) else None
        for row, scores_TC in enumerate(scores)
    ]


def _shifted(total_BS: npt.NDArray[np.float64], by: int) -> npt.NDArray[np.float64]:
    return np.pad(total_BS, ((0, 0), (by, 0)), constant_values=IMPOSSIBLE)[:, : total_BS.shape[1]]


def _traced(
    total_S: npt.NDArray[np.float64], back_TS: npt.NDArray[np.int8], states: int
) -> list[tuple[int, int]] | None:
    """Back from the better of the last character and the blank after it."""
    last = states - 1
    state = last if states == 1 or total_S[last] >= total_S[last - 1] else last - 1
    if not np.isfinite(total_S[state]):
        return None
    path = np.zeros(len(back_TS), np.int64)
    for frame in range(len(back_TS) - 1, -1, -1):
        path[frame] = state
        state -= int(back_TS[frame, state])
    places = [np.flatnonzero(path == 2 * n + 1) for n in range(states // 2)]
    return [(int(frames[0]), int(frames[-1]) + 1) for frames in places]


def _config(folder: Path) -> Any:
    check_directory(folder, "wav2vec2 model")
    try:
        config = Wav2Vec2Config.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last two where it is JSON of another kind
        raise CheckpointError(
            f"{folder / 'config.json'} cannot be read as the config of a wav2vec2 model: {error}"
        ) from error
    settings = {
        "model_type": (config.model_type, "wav2vec2"),
        "samples per frame": (math.prod(config.conv_stride), HOP_SAMPLES),
        "pad_token_id (the blank)": (isinstance(config.pad_token_id, int), True),
        "adapter_attn_dim": (config.adapter_attn_dim, None),
    }
    for name, (value, expected) in settings.items():
        if value != expected:
            raise CheckpointError(f"{folder / 'config.json'} has {name} {value!r}, expected {expected!r}")
    # Released models lack the vector that masks frames in training, and loading would report it as missing.
    config.mask_time_prob = config.mask_feature_prob = 0.0
    return config


def _json(folder: Path, name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a file of the directory says; the default where it is not there."""
    if default is not None and not (folder / name).is_file():
        return default
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / name} cannot be read ({error}): expected a model's {name} there") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / name} holds a {type(content).__name__}, expected a JSON object")
    return content
