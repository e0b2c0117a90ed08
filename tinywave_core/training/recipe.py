"""What a training run takes from the amount of speech, where the settings leave it open: steps, dropout, weight decay.

The values were measured on folders of 2 to 110 minutes of read speech and a teacher of 6 blocks of width 128 (infra/LAB_LOG.md,
2026-11-27).
"""

from typing import Literal

import numpy as np

from tinywave_core.config.base import TrainingConfig
from tinywave_core.sequences.dataset import PackedDataset
from tinywave_core.sequences.table import EVERY_EPOCH, SequenceTable

Start = Literal["random weights", "checkpoint", "teacher's blocks"]

# Share by training tokens: below so many, this much.
_DROPOUT = ((50_000, 0.2), (1_000_000, 0.1))
_DECAY_OF_RANDOM, _DECAY = 1.0, 0.1
_WARM_UP = 10  # a tenth of the steps at most


def settle(config: TrainingConfig, dataset: PackedDataset, tokens: int, start: Start) -> TrainingConfig:
    """The settings with `steps` and warm-up by `passes`, and what is None by the training tokens (`tokens_of`) and the start.

    A given checkpoint was trained on more than this speech, by a recipe of its own: it is neither decayed strongly nor dropped out.
    """
    changes: dict[str, float] = {}
    if config.passes is not None:
        steps = min(config.steps, dataset.steps_of(config.passes))
        changes |= {"steps": steps, "warmup_steps": min(config.warmup_steps, max(1, steps // _WARM_UP))}
    if config.dropout is None:
        changes["dropout"] = 0.0 if start == "checkpoint" else dropout_for(tokens)
    if config.weight_decay is None:
        changes["weight_decay"] = _DECAY_OF_RANDOM if start == "random weights" else _DECAY
    return config.model_copy(update=changes)


def dropout_for(tokens: int) -> float:
    """Dropout for so many training tokens."""
    return next((share for most, share in _DROPOUT if tokens < most), 0.0)


def tokens_of(sequences: SequenceTable) -> int:
    """Training tokens: of one drawing, where spans are drawn."""
    return int(sequences.lengths[np.isin(sequences.variants, (EVERY_EPOCH, 0))].sum())
