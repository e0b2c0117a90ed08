"""A language model of text in a directory or a GGUF file -> a judge that rates continuations (`evals/rating.py` says how)."""

from pathlib import Path

import numpy as np

from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.evals.rating import DIGITS, Judge, LogProbabilities, is_gguf, judge_of_directory
from tinywave_core.runtimes.gguf_file import GgufFile, digit_ids
from tinywave_core.runtimes.llama_cpp import LlamaCppRuntime
from tinywave_core.tokenizers.vocabulary import Vocabulary

_CONTEXT = 2048  # tokens: the template is about 200, a transcript of 30 s about 100
_MOST_CHARACTERS = 4 * _CONTEXT  # a longer question is refused before llama.cpp cuts it


def load_judge(path: Path, device: str = "cpu", threads: int = 0) -> Judge:
    """The judge of a directory or of a GGUF file; CheckpointError where it is none."""
    return _of_gguf(path, threads) if is_gguf(path) else judge_of_directory(path, device)


def _of_gguf(path: Path, threads: int) -> Judge:
    file = GgufFile.read(path)
    digits = digit_ids(path, DIGITS)
    if len(digits) < len(DIGITS):
        raise CheckpointError(
            f"{path} has no token for each of the digits {DIGITS}; expected a language model that can answer with a digit: take another judge"
        )
    # A model of text has no units; two of its tokens stand where a vocabulary of speech has its markers, and nobody asks for those.
    vocabulary = file.vocabulary or Vocabulary(text=file.tokens - 2, hubert=0)
    runtime = LlamaCppRuntime(path, vocabulary, threads, _CONTEXT)

    def next_token(text: str, digit: int) -> LogProbabilities | None:
        try:
            return np.array(runtime.logprobs(text, digit)) if len(text) <= _MOST_CHARACTERS else None
        except ConfigError as error:
            if "context" not in str(error):
                raise
            return None  # the request exceeds the context, says llama.cpp

    return Judge(digits, next_token)
