"""The student that another student starts from, as in the paper's cascade: the interleaved one starts from the expressive one.

In: `distillation.start`, the model/ directory of an export. It is known by its content: a step's param has the SHA-256 of its weights,
config and vocabulary, and the name and the tokenizer that its speech.json tells; where it lies is the step's context.
"""

from pathlib import Path
from typing import Any

from tinywave_core.checkpoints.bounds import model_weights, read_json
from tinywave_core.checkpoints.headers import check_headers
from tinywave_core.checkpoints.model_shape import ModelShape
from tinywave_core.checkpoints.spiritlm import digest_of
from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.errors import ConfigError, MissingInputError
from tinywave_core.tokenizers.vocabulary import Vocabulary

_ABOUT = "speech.json"


def start_folder(config: DistillationConfig) -> Path | None:
    """The export that the student starts from, checked as far as it goes without a teacher; None for any other start."""
    if not config.starts_given:
        return None
    folder = Path(config.start)
    missing = [name for name in ("config.json", "vocabulary.json", _ABOUT) if not (folder / name).is_file()]
    if missing:
        raise MissingInputError(
            f"distillation.start {config.start!r} has no {missing[0]}; expected `teacher`, `fresh`, or the model directory of an export "
            "(`tinywave inspect` lists them)"
        )
    check_headers(folder)
    layers = ModelShape.of_folder(folder).layers
    if layers != config.layers:
        raise ConfigError(
            f"the student in {folder} has {layers} blocks, distillation.layers is {config.layers}: set --distillation.layers {layers}, or "
            "start from another student"
        )
    return folder


def start_params(folder: Path) -> dict[str, Any]:
    """What identifies it, and what its lineage is told by."""
    about = read_json(folder / _ABOUT)
    files = sorted([*model_weights(folder), folder / "config.json", folder / "vocabulary.json"])
    return {
        "start": {"sha256": digest_of(files), "name": folder.parent.name, "tokenizer": about.get("speech_tokenizer")}
    }


def require_same_units(folder: Path, vocabulary: Vocabulary, tokenizer: str, trained: str) -> None:
    """ConfigError where the start reads other ids than the shards have, or the same ids for other sounds; `trained` is
    distillation.vocabulary."""
    own = Vocabulary.from_json(read_json(folder / "vocabulary.json"))
    expected = vocabulary.speech_only() if trained == "speech" else vocabulary
    own.require_same(expected, f"the student in {folder}", "this run's student")
    found = read_json(folder / _ABOUT).get("speech_tokenizer")
    if found != tokenizer:
        raise ConfigError(
            f"the student in {folder} was trained on tokens of {found}, this run's are of {tokenizer}: the same unit means another "
            "sound there. Use one speech tokenizer for both runs: one release, or one corpus in one store"
        )
