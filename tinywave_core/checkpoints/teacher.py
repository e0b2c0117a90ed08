"""The checkpoint that a teacher starts from: look it up, check it, compute its digest."""

from pathlib import Path

from tinywave_core.base.opening import TEACHER, require_base
from tinywave_core.checkpoints.spiritlm import checkpoint_files, digest_of, lm_part, open_release
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError


def teacher_folder(config: PipelineConfig) -> Path | None:
    """The checkpoint that the teacher starts from, checked; None for a fresh one. `auto` is settled before (run/start.py)."""
    assert config.adaptation.teacher != "auto"
    match config.adaptation.teacher:
        case "fresh":
            return None
        case "base":
            return require_base(config).place(TEACHER)
        case "spiritlm":
            part = lm_part(config.tokenization.tokens)
            return open_release(config.spiritlm_dir, [part]).folder(part)
    folder = Path(config.adaptation.teacher)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"adaptation.teacher {str(folder)!r} has no config.json; expected `auto`, `base`, `fresh`, `spiritlm`, or the directory of a Llama "
            "checkpoint in Hugging Face layout"
        )
    return folder


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 over names and contents of a checkpoint's files."""
    return digest_of(checkpoint_files(folder))
