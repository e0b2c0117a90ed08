"""Speculative sampling: tokens that a small model drafted, and what the large one says of them -> tokens drawn exactly as from the large one.

The drafter draws K tokens one after the other; the target then reads them all at once. Each is kept with probability
min(1, target / drafter); the first that is not kept is drawn anew from what the target has above the drafter, and the rest is
dropped. Where all are kept the target's last row gives one more. Method: Leviathan, Kalman and Matias 2023, algorithm 1 (also Chen et al. 2023).

Legend: K drafted tokens, V ids of the vocabulary or of those that are allowed, one order in both tables.
"""

from collections.abc import Sequence

import torch


def settle(
    drafted: Sequence[int], drafter_KV: torch.Tensor, target_KV: torch.Tensor, generator: torch.Generator
) -> tuple[list[int], int]:
    """The tokens that stand, 1 to K + 1 of them, and how many of these were drafted.

    `drafter_KV` has the probabilities from which each token was drawn, `target_KV` the target's before each of them and, as row K + 1,
    after the last.
    """
    assert len(target_KV) == len(drafter_KV) + 1 == len(drafted) + 1
    kept: list[int] = []
    for token, drafter_V, target_V in zip(drafted, drafter_KV, target_KV, strict=False):
        chance = torch.rand((), generator=generator, device=target_V.device)
        if chance * drafter_V[token] >= target_V[token]:
            above_V = (target_V - drafter_V).clamp(min=0)
            return [*kept, draw(above_V if above_V.any() else target_V, generator)], len(kept)  # equal but for rounding
        kept.append(token)
    return [*kept, draw(target_KV[-1], generator)], len(kept)


def draw(weights_V: torch.Tensor, generator: torch.Generator) -> int:
    """An id by weights that need not sum to 1."""
    return int(torch.multinomial(weights_V, 1, generator=generator))
