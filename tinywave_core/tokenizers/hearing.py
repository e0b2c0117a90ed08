"""The speech tokenizer of a model directory: recordings -> raw streams, with an identity by which tokens can be shared.

An export carries codebooks, or says which files of SpiritLM's release its tokens come from; a directory with SpiritLM's tokenizer
alone takes the release that is given.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinywave_core.checkpoints.spiritlm import Kind, digest_of
from tinywave_core.errors import CheckpointError
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.tokenizers.codebooks import DESCRIPTION, TENSORS, Codebooks
from tinywave_core.tokenizers.speech import Streams
from tinywave_core.tokenizers.spiritlm import SpeechSource, SpiritLMTokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

SPEECH_TOKENIZER = "speech_tokenizer"
RELEASE_FILE = "release.json"


@dataclass(frozen=True)
class Hearing:
    """A loaded speech tokenizer."""

    streams: Callable[[Sequence[npt.NDArray[np.float32]]], list[Streams]]
    """Recordings (mono, 16 kHz), computed together: the same as each alone."""
    identity: str
    """Equal where the same recording gives the same streams."""


def load_hearing(model: Path, vocabulary: Vocabulary, spiritlm_dir: str | None, device: str) -> Hearing:
    """What turns audio into tokens for the model in a directory; CheckpointError where its files are not at hand."""
    folder = model / SPEECH_TOKENIZER
    if (folder / RELEASE_FILE).is_file():
        about = json.loads((folder / RELEASE_FILE).read_text(encoding="utf-8"))
        return _of_release(about["tokens"], vocabulary, spiritlm_dir, device, expected=about["digests"])
    if folder.is_dir():
        codebooks = Codebooks.load(folder)
        identity = digest_of([folder / DESCRIPTION, folder / TENSORS])
        return Hearing(lambda recordings: [codebooks.tokenize(each) for each in recordings], identity)
    return _of_release("expressive" if vocabulary.pitch else "base", vocabulary, spiritlm_dir, device)


def _of_release(
    kind: Kind,
    vocabulary: Vocabulary,
    spiritlm_dir: str | None,
    device: str,
    expected: dict[str, str] | None = None,
) -> Hearing:
    source = SpeechSource.of(spiritlm_dir, kind)
    digests = source.digests(kind)
    if expected is not None and digests != expected:
        raise CheckpointError(
            "the model was trained on tokens of other files than those of the release given: pass --spiritlm-dir with the one "
            f"that its {SPEECH_TOKENIZER}/{RELEASE_FILE} describes"
        )
    return Hearing(SpiritLMTokenizer.of(source, kind, device, vocabulary).streams, fingerprint(digests))
