"""What a training run takes from the amount of speech: its steps and its dropout, where the settings leave them open.

The table was measured on folders of 2 to 110 minutes of read speech and a teacher of 6 blocks of width 128 (infra/LAB_LOG.md,
2026-11-27).
"""

from tinywave_core.config.base import TrainingConfig
from tinywave_core.sequences.dataset import EVERY_EPOCH, PackedDataset

# Share by training tokens: below so many, this much.
_DROPOUT = ((50_000, 0.2), (1_000_000, 0.1))


def settle(config: TrainingConfig, dataset: PackedDataset) -> TrainingConfig:
    """The settings with what the speech of a dataset decides: `steps` (and the warm-up with them) and `dropout`."""
    changes: dict[str, float] = {}
    if config.passes is not None and (steps := dataset.steps_of(config.passes)) < config.steps:
        changes |= {"steps": steps, "warmup_steps": round(config.warmup_steps * steps / config.steps)}
    if config.dropout is None:
        changes["dropout"] = dropout_for(tokens_of_a_pass(dataset))
    return config.model_copy(update=changes)


def dropout_for(tokens: int) -> float:
    """Dropout for so many training tokens."""
    return next((share for most, share in _DROPOUT if tokens < most), 0.0)


def tokens_of_a_pass(dataset: PackedDataset) -> int:
    """Tokens of the first pass: of one drawing, where spans are drawn."""
    return sum(len(s.ids) for s in dataset.sequences if s.variant in (EVERY_EPOCH, 0))
