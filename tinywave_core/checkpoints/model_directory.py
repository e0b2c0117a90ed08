"""What tells one given model directory of transformers from another: imports nothing heavy, so that a plan can ask."""

from pathlib import Path

from tinywave_core.checkpoints.bounds import model_weights
from tinywave_core.checkpoints.spiritlm import digest_of

PREPROCESSOR = "preprocessor_config.json"


def model_digest(folder: Path) -> str:
    """SHA-256 over names and contents of what decides its results: weights, config and preprocessor_config.json."""
    names = [folder / name for name in ("config.json", PREPROCESSOR)]
    return digest_of(sorted([*model_weights(folder), *(path for path in names if path.is_file())]))
