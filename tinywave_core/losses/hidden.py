"""Hidden-state alignment: 1 - cosine between mapped hidden states (arXiv 2506.23670; DistilBERT's form).

Legend: B rows, T positions, D width.
"""

import torch
import torch.nn.functional as F


def cosine_loss(student_BTD: torch.Tensor, teacher_BTD: torch.Tensor, valid_BT: torch.Tensor) -> torch.Tensor:
    """Sum over valid positions of 1 - cos; 0 when the directions agree, 2 when they are opposite."""
    similarity = F.cosine_similarity(student_BTD.float(), teacher_BTD.float(), dim=-1)
    return ((1 - similarity) * valid_BT).sum()
