"""How much of what a drafter proposes its model keeps: sum over tokens of the smaller of both probabilities, the mean over places.

Of tokens drawn from the drafter this share is kept by the rule of Leviathan et al. 2023 (corollary 3.6), with temperature 1 and no nucleus.
"""

import torch


def kept_shares(target_LV: torch.Tensor, drafter_LV: torch.Tensor) -> torch.Tensor:
    """Share kept at each place [L], from the logits of both at the same places."""
    p, q = (torch.softmax(logits.double(), -1) for logits in (target_LV, drafter_LV))
    return torch.minimum(p, q).sum(-1)


def tokens_a_round(share: float, proposed: int) -> float:
    """Tokens that one reading of the model yields on average, if each proposal is kept with the same probability: what is kept of so many in
    a row, and the model's own token after them (equation 1)."""
    return sum(share**n for n in range(proposed + 1))
