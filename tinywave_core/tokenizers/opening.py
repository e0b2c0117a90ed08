"""Which speech tokenizer: the one place that asks, of settings, of a tokenizer's folder and of an exported model.

A tokenizer is added by a row in KINDS. See infra/decisions/0029-one-speech-tokenizer.md.
"""

import json
from pathlib import Path

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.tokenizers.base import ChosenTokenizer, Places, SpeechTokenizer, TokenizerKind
from tinywave_core.tokenizers.embedded import EMBEDDED
from tinywave_core.tokenizers.release import RELEASE, open_release_of
from tinywave_core.tokenizers.vocabulary import Vocabulary

SPEECH_TOKENIZER = "speech_tokenizer"
"""Folder of an exported model that has its tokenizer."""

# The first whose settings are there is taken; the embedded one needs none.
KINDS: tuple[TokenizerKind, ...] = (RELEASE, EMBEDDED)


def choose_tokenizer(config: PipelineConfig) -> ChosenTokenizer:
    """The tokenizer that settings ask for."""
    return next(chosen for kind in KINDS if (chosen := kind.choose(config)) is not None)


def kind_named(name: str) -> TokenizerKind:
    """The row of a kind."""
    return next(kind for kind in KINDS if kind.name == name)


def kind_of(folder: Path) -> TokenizerKind:
    """The kind that a tokenizer's folder describes; CheckpointError where it describes none."""
    for kind in KINDS:
        if (folder / kind.description).is_file():
            return kind
    expected = " or ".join(kind.description for kind in KINDS)
    raise CheckpointError(
        f"{folder} describes no speech tokenizer: expected {expected} in it; copy the directory again"
    )


def open_tokenizer(folder: Path, vocabulary: Vocabulary | None, places: Places, device: str) -> SpeechTokenizer:
    """The tokenizer of a folder, for ids of `vocabulary` (None: its own); CheckpointError where its files are not at hand."""
    return kind_of(folder).open(folder, vocabulary, places, device)


def open_beside(model: Path, places: Places, device: str) -> SpeechTokenizer:
    """The tokenizer of an export's model/ directory, for the ids of that model; or of a folder of codebooks, for its own."""
    if not (model / SPEECH_TOKENIZER).is_dir():
        return open_tokenizer(model, None, places, device)
    about = model / "speech.json"
    vocabulary = None
    if about.is_file():
        vocabulary = Vocabulary.from_json(json.loads(about.read_text(encoding="utf-8"))["vocabulary"])
    return open_tokenizer(model / SPEECH_TOKENIZER, vocabulary, places, device)


def open_of_model(model: Path, vocabulary: Vocabulary, places: Places, device: str) -> SpeechTokenizer:
    """The tokenizer of a model's directory. One with SpiritLM's text tokenizer alone takes the release that is given."""
    # First what the model brings along: it was trained with that, and the release that is given may be another one.
    if (model / SPEECH_TOKENIZER).is_dir():
        return open_tokenizer(model / SPEECH_TOKENIZER, vocabulary, places, device)
    return open_release_of(vocabulary, places, device)
