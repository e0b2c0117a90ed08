"""Hidden-state alignment of mapped blocks: 1 - cosine (arXiv 2506.23670; DistilBERT's form), or a relative squared error.

Both are sums over valid positions of what each position costs alone, so a batch costs the same however it is split.
Legend: B rows, T positions, D width.
"""

import torch
import torch.nn.functional as F

from tinywave_core.errors import TrainingError

_SMALLEST = 1e-12  # a state of zeros has no direction and no size


def cosine_loss(student_BTD: torch.Tensor, teacher_BTD: torch.Tensor, valid_BT: torch.Tensor) -> torch.Tensor:
    """Sum over valid positions of 1 - cos; 0 when the directions agree, 2 when they are opposite."""
    _require_same_width(student_BTD, teacher_BTD)
    # In float32: near 1 a cosine in bfloat16 has steps of 0.004.
    similarity = F.cosine_similarity(student_BTD.float(), teacher_BTD.float(), dim=-1)
    return ((1 - similarity) * valid_BT).sum()


def mse_loss(student_BTD: torch.Tensor, teacher_BTD: torch.Tensor, valid_BT: torch.Tensor) -> torch.Tensor:
    """Sum over valid positions of mean((s - t)^2) / mean(t^2), means over the width; 1 for a student that is 0.

    Sizes grow with depth, and a few positions and channels have activations a thousand times larger (Sun et al., arXiv
    2402.17762): without the division they would be all that is learned.
    """
    _require_same_width(student_BTD, teacher_BTD)
    student, teacher = student_BTD.float(), teacher_BTD.float()
    size = teacher.square().mean(-1).clamp(min=_SMALLEST)
    return ((student - teacher).square().mean(-1) / size * valid_BT).sum()


def _require_same_width(student_BTD: torch.Tensor, teacher_BTD: torch.Tensor) -> None:
    if student_BTD.shape != teacher_BTD.shape:
        raise TrainingError(
            f"hidden states of shape {list(student_BTD.shape)} of the student cannot be aligned with "
            f"{list(teacher_BTD.shape)} of the teacher: use a student of the teacher's width, or set "
            "distillation.weights.hidden to 0"
        )
