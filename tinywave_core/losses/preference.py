"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): of two continuations the better one should become likelier.

In come log-probabilities of whole continuations under the model that is trained and under the one before, which is fixed; out come each
pair's loss and margin. Where the two models are one, the margin is 0 and the loss log 2. Legend: P pairs; of each the better
continuation stands first.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Preference:
    """Of every pair."""

    loss_P: torch.Tensor
    """-log sigmoid of the margin, in nats; carries the gradient."""
    reward_P2: torch.Tensor
    """beta times what a continuation has gained in log-probability; without a gradient."""

    @property
    def margin_P(self) -> torch.Tensor:
        """Reward of the better less that of the worse."""
        return self.reward_P2[:, 0] - self.reward_P2[:, 1]

    @property
    def right_P(self) -> torch.Tensor:
        """1 where the better one gained more, 0 where the worse did, 0.5 where they gained the same."""
        return (torch.sign(self.margin_P) + 1) / 2


def preference_loss(model_P2: torch.Tensor, reference_P2: torch.Tensor, beta: float) -> Preference:
    """The loss of DPO, by log-probabilities of the better and the worse continuation."""
    reward_P2 = beta * (model_P2 - reference_P2)
    return Preference(-F.logsigmoid(reward_P2[:, 0] - reward_P2[:, 1]), reward_P2.detach())
