"""A scikit-learn k-means in a pickle (plain, or by joblib) -> its centres [K, D], without unpickling: as fairseq, textlesslib and slamkit keep it.

`pickletools` takes the file apart into operations, and a machine of a few lines follows them. It never imports or calls what the file names:
a class is a `_Name`, a call or an object a `_Made` with its arguments. Joblib writes the bytes of an array into the stream right after
the object that describes it. An operation, a type of number or an order that is not expected is refused. Nothing else is read from the file.
"""

import io
import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.checkpoints.bounds import shown
from tinywave_core.errors import CheckpointError

MOST_BYTES = 1 << 30  # 5000 centres of width 4096 in float64 have 164 MB
_WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")


@dataclass(frozen=True)
class _Name:
    module: str
    name: str


@dataclass(eq=False)
class _Made:
    """What the pickle would make by a call of `what`."""

    what: Any
    arguments: Any
    state: Any = None
    content: bytes | None = None
    """Of an array, where its bytes stand in the stream."""

    def is_by(self, *names: str) -> bool:
        return isinstance(self.what, _Name) and self.what.name in names


def pickled_centres(path: Path) -> npt.NDArray[np.floating]:
    """`cluster_centers_` of the pickled k-means; CheckpointError where the file is anything else."""
    if path.stat().st_size > MOST_BYTES:
        raise CheckpointError(
            f"{path} has {path.stat().st_size:,} bytes, expected k-means centres of {MOST_BYTES:,} at most"
        )
    try:
        top = _Machine(io.BytesIO(path.read_bytes())).run()
        state = top.state if isinstance(top, _Made) else None
        if not isinstance(state, dict) or "cluster_centers_" not in state:
            raise ValueError("it holds no object with cluster_centers_")
        return _array(state["cluster_centers_"])
    # What a broken or hostile stream can bring about: a stack that is empty, a memo without the number, a string cut off.
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        struct.error,
        RecursionError,
        MemoryError,
    ) as error:
        raise CheckpointError(
            f"{path} cannot be read as a k-means of scikit-learn that was pickled or written by joblib without compression: {error!s:.200}; "
            f"where you trust it: python -c \"import joblib, numpy; numpy.save('centres.npy', joblib.load('{path.name}').cluster_centers_)\", "
            "and pass centres.npy"
        ) from error


@dataclass
class _Machine:
    """Follows the operations of a pickle; values are numbers, strings, tuples, lists, dicts, `_Name` and `_Made`."""

    file: io.BytesIO
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    """Stacks under each open mark."""
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        """What the pickle is of."""
        for operation, argument, _ in pickletools.genops(self.file):
            if operation.name in _PUSHES_ITS_ARGUMENT:
                self.stack.append(argument)
            elif operation.name in _OPERATIONS:
                _OPERATIONS[operation.name](self, argument)
            elif operation.name not in ("PROTO", "FRAME", "STOP"):
                raise ValueError(f"it has the operation {operation.name}")
        return self.stack.pop()

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """What came after the last mark, which goes."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def last(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def make(self, _: Any) -> None:
        self.stack.append(_Made(*self.last(2)))

    def build(self, _: Any) -> None:
        made, state = self.last(2)
        made.state = state
        if made.what == _Name(*_WRAPPER):
            made.content = self.array_bytes(state)
        self.stack.append(made)

    def array_bytes(self, state: dict[str, Any]) -> bytes:
        """The bytes of an array that joblib wrote, and past them."""
        if state.get("numpy_array_alignment_bytes") is not None:
            (padding,) = self.file.read(1)
            self.file.seek(padding, io.SEEK_CUR)
        length = prod(_sizes(state["shape"])) * _dtype(state["dtype"]).itemsize
        content = self.file.read(length)
        if len(content) != length:
            raise ValueError("it ends in the middle of an array")
        return content

    def set_items(self, items: list[Any]) -> None:
        self.stack[-1].update(_pairs(items))


def _push(value: Callable[[_Machine, Any], Any]) -> Callable[[_Machine, Any], None]:
    def push(machine: _Machine, argument: Any) -> None:
        found = value(machine, argument)  # first: it may put another stack in place
        machine.stack.append(found)

    return push


def _drop(items: Callable[[_Machine], Any]) -> Callable[[_Machine, Any], None]:
    """What a list holds is not asked for."""

    def drop(machine: _Machine, _: Any) -> None:
        items(machine)

    return drop


def _remember(machine: _Machine, number: Any) -> None:
    machine.memo[len(machine.memo) if number is None else number] = machine.stack[-1]


def _pairs(items: list[Any]) -> dict[str, Any]:
    # Names alone: the hash of a tuple of tuples that a hostile stream has nested takes for ever.
    if not all(isinstance(name, str) for name in items[::2]):
        raise ValueError("it has a dict with other keys than names")
    return dict(zip(items[::2], items[1::2], strict=True))


_PUSHES_ITS_ARGUMENT = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "NONE": _push(lambda _m, _: None),
    "NEWTRUE": _push(lambda _m, _: True),
    "NEWFALSE": _push(lambda _m, _: False),
    "EMPTY_TUPLE": _push(lambda _m, _: ()),
    "EMPTY_LIST": _push(lambda _m, _: []),
    "EMPTY_DICT": _push(lambda _m, _: {}),
    "TUPLE": _push(lambda m, _: tuple(m.marked())),
    "TUPLE1": _push(lambda m, _: tuple(m.last(1))),
    "TUPLE2": _push(lambda m, _: tuple(m.last(2))),
    "TUPLE3": _push(lambda m, _: tuple(m.last(3))),
    "LIST": _push(lambda m, _: m.marked()),
    "DICT": _push(lambda m, _: _pairs(m.marked())),
    "APPEND": _drop(lambda m: m.last(1)),
    "APPENDS": _drop(lambda m: m.marked()),
    "SETITEM": lambda m, _: m.set_items(m.last(2)),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "GLOBAL": _push(lambda _m, argument: _Name(*argument.split(" "))),
    "STACK_GLOBAL": _push(lambda m, _: _Name(*m.last(2))),
    "REDUCE": _Machine.make,
    "NEWOBJ": _Machine.make,
    "BUILD": _Machine.build,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _push(lambda m, number: m.memo[number])),
}


def _array(made: Any) -> npt.NDArray[np.floating]:
    """The numbers of an array as joblib or numpy describe it: [K, D] of float32 or float64, little-endian, in the order of C."""
    if not isinstance(made, _Made):
        raise ValueError("cluster_centers_ is no array")
    if made.content is not None:
        shape, dtype, order, content = made.state["shape"], made.state["dtype"], made.state["order"], made.content
    elif made.is_by("_frombuffer"):  # protocol 5
        content, dtype, shape, order = made.arguments
    elif made.is_by("_reconstruct"):  # protocols 0 to 4
        _, shape, dtype, of_fortran, content = made.state
        order = "F" if of_fortran else "C"
    else:
        raise ValueError("cluster_centers_ is no array")
    if isinstance(content, _Made) and content.is_by("encode"):  # up to protocol 2
        content = content.arguments[0].encode("latin-1")
    shape, kind = _sizes(shape), _dtype(dtype)
    if kind.kind != "f" or kind.itemsize < 4 or order != "C" or len(shape) != 2:
        raise ValueError(
            f"cluster_centers_ is {kind} {list(shape)} in order {shown(order)}, expected float32 or float64 [K, D] in order C"
        )
    return np.frombuffer(content, kind).reshape(shape)


def _sizes(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size < MOST_BYTES for size in shape):
        raise ValueError("it has an array without a shape")
    return shape


def _dtype(made: Any) -> np.dtype[Any]:
    """Numbers of a fixed size, little-endian."""
    code = made.arguments[0] if made.is_by("dtype") else "object"
    if not re.fullmatch("b1|[iu][1248]|f[248]", code) or made.state[1] not in ("<", "|"):
        raise ValueError(f"it has an array of {shown(code)} that are no little-endian numbers")
    return np.dtype(f"<{code}")
