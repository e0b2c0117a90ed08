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


def layer_map(kind: str, teacher_layers: int, student_layers: int, pairs: str = "", copied: str = "") -> LayerMap:
    """The map of `kind`; `pairs` ("0:4,1:7") and `copied` ("4,7") are those of the explicit one.

    ConfigError when the student is not shallower than the teacher, or an explicit map does not fit the two.
    """
    if not 0 < student_layers < teacher_layers:
        raise ConfigError(
            f"distillation.layers is {student_layers}, the teacher has {teacher_layers} blocks: the student needs at "
            f"least 1 and at most {teacher_layers - 1}"
        )
    match kind:
        case "paper":
            return _paper(teacher_layers, student_layers)
        case "segment_end":
            return _segment_end(teacher_layers, student_layers)
        case "last-2":
            return _last_2(teacher_layers, student_layers)
        case _:
            return _explicit(teacher_layers, student_layers, pairs, copied)


def _paper(teacher_layers: int, student_layers: int) -> LayerMap:
    """g(l) = 3l + 4 for 32:10 (arXiv 2506.23670); in general equal strides that end at the last block."""
    stride = teacher_layers // student_layers
    blocks = tuple(teacher_layers - 1 - stride * (student_layers - 1 - l) for l in range(student_layers))
    return LayerMap(blocks, tuple(enumerate(blocks)))


def _segment_end(teacher_layers: int, student_layers: int) -> LayerMap:
    """Evenly spaced copies, first and last block included. The input that student block l + 1 expects is the output of
    the teacher block before the one it was copied from, so that is what student block l learns; the last is left free
    (Minitron, arXiv 2407.14679: a loss on the last block was worse than none)."""
    copied = _evenly(teacher_layers, student_layers)
    return LayerMap(copied, tuple((l, copied[l + 1] - 1) for l in range(student_layers - 1)))


def _last_2(teacher_layers: int, student_layers: int) -> LayerMap:
    """Evenly spaced copies; only the last block but one learns from its like, the best single pair of Minitron."""
    targets = ((student_layers - 2, teacher_layers - 2),) if student_layers > 1 else ()
    return LayerMap(_evenly(teacher_layers, student_layers), targets)


def _evenly(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    last = max(student_layers - 1, 1)  # of a single block there is no second to be even with
    return tuple(round(l * (teacher_layers - 1) / last) for l in range(student_layers))


def _explicit(teacher_layers: int, student_layers: int, pairs: str, copied: str) -> LayerMap:
    """The pairs as they are; without a list of its own, every block is copied from the one that it learns from."""
    try:
        targets = [(int(s), int(t)) for s, t in (pair.split(":") for pair in pairs.split(","))]
        blocks = [int(block) for block in copied.split(",")] if copied else [t for _, t in targets]
    except ValueError as error:
        raise ConfigError(
            f"distillation.layer_pairs is {pairs!r} and copied_blocks {copied!r}; expected pairs of a student and a teacher "
            'block as in "0:4,1:7", and teacher blocks as in "4,7" or none'
        ) from error
    for pair in targets:
        _check_pair(pair, teacher_layers, student_layers)
    if not copied and [s for s, _ in targets] != list(range(student_layers)):
        raise ConfigError(
            f"distillation.layer_pairs {pairs!r} does not name each of the student's {student_layers} blocks once and in order: "
            "do so, or say in distillation.copied_blocks which teacher blocks the student starts from"
        )
    if (
        len(blocks) != student_layers
        or sorted(set(blocks)) != blocks
        or not 0 <= blocks[0] <= blocks[-1] < teacher_layers
    ):
        raise ConfigError(
            f"the student would be a copy of the teacher's blocks {blocks}; expected {student_layers} different ones from 0 "
            f"to {teacher_layers - 1} in ascending order: change distillation.copied_blocks, layer_pairs or layers"
        )
    if len(set(targets)) != len(targets):
        raise ConfigError(f"distillation.layer_pairs {pairs!r} names a pair twice: name it once")
    return LayerMap(tuple(blocks), tuple(targets))


def _check_pair(pair: tuple[int, int], teacher_layers: int, student_layers: int) -> None:
    """Both blocks exist, and a last block, whose output is taken behind the final norm, meets a last block."""
    student, teacher = pair
    if not (0 <= student < student_layers and 0 <= teacher < teacher_layers):
        raise ConfigError(
            f"distillation.layer_pairs has {student}:{teacher}, but student blocks go from 0 to {student_layers - 1} and "
            f"teacher blocks from 0 to {teacher_layers - 1}"
        )
    if (student == student_layers - 1) != (teacher == teacher_layers - 1):
        raise ConfigError(
            f"distillation.layer_pairs has {student}:{teacher}, which pairs a last block with one that is not: only the last "
            f"output is normalised, so it compares with its like ({student_layers - 1}:{teacher_layers - 1}) and no other"
        )
