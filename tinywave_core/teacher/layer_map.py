"""Which teacher block each student block starts from, and which teacher block it learns from."""

from dataclasses import dataclass

from tinywave_core.errors import ConfigError


@dataclass(frozen=True)
class LayerMap:
    """Block numbers from 0, one entry per student block."""

    copied: tuple[int, ...]
    """Teacher block whose weights student block l starts with."""
    targets: tuple[tuple[int, int], ...]
    """Pairs (student block, teacher block) whose outputs are aligned."""


def layer_map(kind: str, teacher_layers: int, student_layers: int) -> LayerMap:
    """The map of `kind`; ConfigError when the student is not shallower than the teacher."""
    if not 0 < student_layers < teacher_layers:
        raise ConfigError(
            f"distillation.layers is {student_layers}, the teacher has {teacher_layers} blocks: the student needs at "
            f"least 1 and at most {teacher_layers - 1}"
        )
    return _paper(teacher_layers, student_layers) if kind == "paper" else _segment_end(teacher_layers, student_layers)


def _paper(teacher_layers: int, student_layers: int) -> LayerMap:
    """g(l) = 3l + 4 for 32:10 (arXiv 2506.23670); in general equal strides that end at the last block."""
    stride = teacher_layers // student_layers
    blocks = tuple(teacher_layers - 1 - stride * (student_layers - 1 - l) for l in range(student_layers))
    return LayerMap(blocks, tuple(enumerate(blocks)))


def _segment_end(teacher_layers: int, student_layers: int) -> LayerMap:
    """Evenly spaced copies, first and last block included. The input that student block l + 1 expects is the output of
    the teacher block before the one it was copied from, so that is what student block l learns; the last is left free
    (Minitron, arXiv 2407.14679: a loss on the last block was worse than none)."""
    last = student_layers - 1
    copied = tuple(round(l * (teacher_layers - 1) / max(last, 1)) for l in range(student_layers))
    return LayerMap(copied, tuple((l, copied[l + 1] - 1) for l in range(last)))
