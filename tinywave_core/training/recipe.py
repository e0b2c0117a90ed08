"""What a training run takes from the amount of speech, where the settings leave it open: steps, dropout, weight decay.

The values were measured on folders of 2 to 110 minutes of read speech and a teacher of 6 blocks of width 128 (infra/LAB_LOG.md,
2026-11-27).
"""

from tinywave_core.config.base import TrainingConfig
from tinywave_core.sequences.dataset import EVERY_EPOCH, PackedDataset, TokenSequence

# Share by training tokens: below so many, this much.
_DROPOUT = ((50_000, 0.2), (1_000_000, 0.1))
_DECAY_OF_FRESH, _DECAY = 1.0, 0.1
_WARM_UP = 10  # a tenth of the steps at most


def settle(config: TrainingConfig, dataset: PackedDataset, tokens: int, *, fresh: bool) -> TrainingConfig:
    """The settings with `steps` and warm-up by `passes`, and what is None by the training tokens (`tokens_of`).

    `fresh`: the model starts from random weights. One that knows more than this speech is neither decayed nor dropped out strongly.
    """
    changes: dict[str, float] = {}
    if config.passes is not None:
        steps = min(config.steps, dataset.steps_of(config.passes))
        changes |= {"steps": steps, "warmup_steps": min(config.warmup_steps, max(1, steps // _WARM_UP))}
    if config.dropout is None:
        changes["dropout"] = dropout_for(tokens)
    if config.weight_decay is None:
        changes["weight_decay"] = _DECAY_OF_FRESH if fresh else _DECAY
    return config.model_copy(update=changes)


def dropout_for(tokens: int) -> float:
    """Dropout for so many training tokens."""
    return next((share for most, share in _DROPOUT if tokens < most), 0.0)


def tokens_of(sequences: list[TokenSequence]) -> int:
    """Training tokens: of one drawing, where spans are drawn."""
    return sum(len(s.ids) for s in sequences if s.variant in (EVERY_EPOCH, 0))
