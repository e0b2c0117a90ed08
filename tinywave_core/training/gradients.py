"""Which way each term of the loss pulls, and how hard: norms and cosines of the terms' own gradients, every few steps.

A report is made beside a step of training and changes nothing of it: each term goes through the model once more on its own, on the
same batch with the same dropout and the same sampled attention rows, and no gradient is left in the parameters. So one costs as much
time as there are terms in the step, in steps (four of them every 50 steps: 8 %), and room for a gradient of the trunk for each.

The trunk is what all terms reach: the decoder blocks, without embeddings and head. Of more than MOST_NUMBERS parameters it is the
first block alone, which the gradient of every term passes last.
Columns: step; `norm/a` of a term a of weight 1, `weighted/a` of what counts in the loss, `cosine/a/b` of two terms.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.devices import double, mixed_precision
from tinywave_core.models.parts import architecture
from tinywave_core.sequences.dataset import Batch
from tinywave_core.training.module import TrainedModule, micro_batches
from tinywave_core.training.processes import is_first

Row = dict[str, float | None]
MOST_NUMBERS = 100_000_000
_FILE = "gradients.jsonl"  # in the folder of the checkpoints


@runtime_checkable
class OfTerms(Protocol):
    """An objective that is a weighted sum of terms."""

    def alone(self, step: int, batch: Batch) -> dict[str, tuple[float, Any]]:
        """Of each term that counts in a step with this batch: its weight, and an objective of it alone with weight 1."""
        ...


class GradientLog:
    """Makes a report in every n-th step, and keeps those of a run that was stopped."""

    def __init__(self, module: TrainedModule, runtime: RuntimeConfig, device: torch.device, resume: Path) -> None:
        self.every = runtime.gradient_report_every if isinstance(module.objective, OfTerms) else None
        self.module, self.runtime, self.device = module, runtime, device
        self.path = resume / _FILE

    def look(self, step: int, batch: Batch) -> None:
        """The report of a step, if it is due: beside the checkpoints, a line each."""
        if not self.every or step % self.every:
            return
        row = {"step": step + 1, **report(self.module, batch, step, self.runtime, self.device)}
        if is_first():
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(row))  # in front: what a kill cut short is a line of its own

    def rows(self) -> list[Row]:
        """All reports; that of a step that was taken again after a crash counts once."""
        found: dict[int, Row] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.every and self.path.is_file() else []:
            try:
                row = json.loads(line)
            except ValueError:  # the line that a kill cut short, whose step is taken again, or the first one
                continue
            found[row["step"]] = row
        names = dict.fromkeys(name for row in found.values() for name in row)
        return [{name: found[step].get(name) for name in names} for step in sorted(found)]


def report(module: TrainedModule, batch: Batch, step: int, runtime: RuntimeConfig, device: torch.device) -> Row:
    """Norms and cosines of one batch; nothing of the module changes."""
    objective = module.objective
    assert isinstance(objective, OfTerms)
    names = architecture(module.model)
    trunk = list(trunk_of(module.trainable(), f"{names.decoder}.{names.blocks}.").values())
    terms = objective.alone(step, batch)
    gradients = {name: _gradient(module, own, trunk, batch, step, runtime, device) for name, (_, own) in terms.items()}
    norms = {name: math.sqrt(_product(gradient, gradient)) for name, gradient in gradients.items()}
    row: Row = {f"norm/{name}": norm for name, norm in norms.items()}
    row |= {f"weighted/{name}": terms[name][0] * norm for name, norm in norms.items()}
    for a, b in combinations(norms, 2):
        both = norms[a] * norms[b]
        row[f"cosine/{a}/{b}"] = _product(gradients[a], gradients[b]) / both if both else None
    return row


def trunk_of(
    trainable: Mapping[str, torch.nn.Parameter], prefix: str = "model.layers."
) -> dict[str, torch.nn.Parameter]:
    """Parameters of the decoder blocks, whose names begin with `prefix`, or of the first one where they are too many."""
    blocks = {name: p for name, p in trainable.items() if name.startswith(prefix)}
    if sum(p.numel() for p in blocks.values()) <= MOST_NUMBERS:
        return blocks
    return {name: p for name, p in blocks.items() if name.startswith(f"{prefix}0.")}


def _gradient(
    module: TrainedModule,
    objective: Any,
    trunk: Sequence[torch.nn.Parameter],
    batch: Batch,
    step: int,
    runtime: RuntimeConfig,
    device: torch.device,
) -> list[torch.Tensor]:
    """Of a mean per target, as the step's own; a parameter that the term does not reach has zeros."""
    sums = [torch.zeros_like(p) for p in trunk]
    with _learning_from(module, objective):
        for micro in micro_batches(module, batch, runtime):
            with mixed_precision(device):
                total, _ = module(micro, step)
            # Not backward(): that would add to the gradient of the step.
            own = torch.autograd.grad(total / batch.step_targets, trunk, allow_unused=True)
            sums = [whole if part is None else whole + part for whole, part in zip(sums, own, strict=True)]
    return sums


@contextmanager
def _learning_from(module: TrainedModule, objective: Callable[..., Any]) -> Iterator[None]:
    whole, module.objective = module.objective, objective
    try:
        yield
    finally:
        module.objective = whole


def _product(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """In float64: cosines near 1 are told apart by their last digits."""
    return sum(float(double(x).flatten() @ double(y).flatten()) for x, y in zip(a, b, strict=True))
