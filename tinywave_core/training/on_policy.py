"""The student's own continuations as rows of a training batch: prompts from the training sequences, speech by the student of now.

Which rows are the student's own, which sequences are prompts and which random numbers draw the tokens are functions of (seed, batch
number) alone, whatever the number of processes. What was drawn for the steps to come is part of the training state, so that a resumed
run learns from the same speech. Learned from is what the student said: a label stands at each token of a continuation, none in a prompt.
Legend: C continuations, P tokens of a prompt, N new tokens at most, A ids that may be said.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from transformers import DynamicCache, LlamaForCausalLM

from tinywave_core.config.base import TrainingConfig
from tinywave_core.config.distillation import OnPolicyConfig
from tinywave_core.devices import double
from tinywave_core.errors import TrainingError
from tinywave_core.models.parts import decoder_of, head_of
from tinywave_core.sequences.dataset import IGNORED, Batch, PackedDataset
from tinywave_core.tokenizers.vocabulary import EOS_ID
from tinywave_core.training.processes import process_count

_PER_ROW = 4  # rows of a micro-batch that speak at once for each that is trained on: keys and values are smaller than activations


@dataclass(frozen=True)
class Drawn:
    """What the student said for the batches `first` to `end` - 1, in order."""

    first: int
    end: int
    new: list[list[int]]
    """New ids of each continuation, `</s>` included where it was said."""

    def covers(self, number: int) -> bool:
        """Whether a batch's continuations are among them."""
        return self.first <= number < self.end


@dataclass(frozen=True)
class Speaking:
    """What a model is asked to say; a module that trains answers it as it answers a batch."""

    prompts_CP: npt.NDArray[np.int64]
    uniform_CN: npt.NDArray[np.float64]
    """Random numbers in [0, 1), one for each new token."""
    allowed_A: npt.NDArray[np.int64]
    """Ids that may be said."""
    temperature: float
    whole: bool
    """Whether all N tokens are said though every continuation has ended: processes that share weights make as many passes."""


class OwnContinuations:
    """Puts the student's own continuations in place of some rows of each batch."""

    def __init__(
        self, config: OnPolicyConfig, dataset: PackedDataset, allowed: Sequence[int], training: TrainingConfig
    ) -> None:
        """`allowed`: ids that a continuation may hold, in the student's ids, as those of the dataset."""
        self.config, self.seed = config, training.seed
        self.first = round(config.after_share * training.steps)
        """The batch from which on some rows are its own."""
        self.allowed = np.array(allowed, np.int64)
        self._sequences = dataset.sequences
        self._rows, self._row_length = dataset.batch_rows, dataset.row_length
        self._per_row = self._row_length // (config.prompt_tokens + config.new_tokens)
        if not self._own_before(training.planned_steps):
            raise TrainingError(
                f"in {training.planned_steps} steps of {self._rows} rows no row is the student's own: raise distillation.on_policy.share "
                f"({config.share:g}), or lower after_share ({config.after_share:g})"
            )
        self._prompts = np.flatnonzero(self._sequences.lengths > config.prompt_tokens)
        if not len(self._prompts):
            raise TrainingError(
                f"the longest training sequence has {self._sequences.lengths.max(initial=0)} tokens, so that none goes on after a "
                f"prompt of {config.prompt_tokens}: lower distillation.on_policy.prompt_tokens"
            )

    def added(self, batch: Batch, number: int, drawn: Drawn) -> Batch:
        """A process's share of batch `number` with the student's speech in the rows that are its own."""
        own = self.own_rows(number)
        if not own:
            return batch
        before = sum(len(self.own_rows(n)) for n in range(drawn.first, number)) * self._per_row
        new = drawn.new[before : before + len(own) * self._per_row]
        own_targets = sum(map(len, new))
        data_targets = sum(targets for row, targets in enumerate(batch.row_targets) if row not in own)
        laid = replace(
            batch,
            input_ids=batch.input_ids.copy(),
            positions=batch.positions.copy(),
            documents=batch.documents.copy(),
            labels=batch.labels.copy(),
            rows=list(batch.rows),
            own=np.zeros(len(batch.rows), bool),
            own_targets=own_targets,
            step_targets=data_targets + own_targets,
        )
        prompts = self.prompts(number)
        for at, row in enumerate(own):
            if 0 <= (here := row - batch.first_row) < len(batch.rows):
                part = slice(at * self._per_row, (at + 1) * self._per_row)
                _lay(laid, here, prompts[part], new[part])
        return laid

    def own_rows(self, number: int) -> list[int]:
        """Rows of batch `number` that are the student's own: evenly spaced, as many as bring the share of all batches so far."""
        count = self._own_before(number + 1) - self._own_before(number)
        return [row for row in range(self._rows) if (row + 1) * count // self._rows > row * count // self._rows]

    def share_of(self, steps: int) -> float:
        """The share of the rows of the first so many batches that are the student's own."""
        return self._own_before(steps) / (steps * self._rows)

    def prompts(self, number: int) -> npt.NDArray[np.int64]:
        """The prompts of batch `number` [C, P]."""
        count = len(self.own_rows(number)) * self._per_row
        drawn = [int.from_bytes(self._hash(number, at)[:8], "big") % len(self._prompts) for at in range(count)]
        tokens = self._sequences.tokens(self._prompts[drawn]) if count else []
        beginnings = [ids[: self.config.prompt_tokens] for ids in tokens]
        return np.array(beginnings, np.int64).reshape(count, self.config.prompt_tokens)

    def speaking(self, first: int, end: int) -> Speaking:
        """All that is said for the batches `first` to `end` - 1."""
        wanted = [(number, self.prompts(number)) for number in range(first, end)]
        uniform = [
            np.random.default_rng(int.from_bytes(self._hash(number, at)[8:24], "big")).random(self.config.new_tokens)
            for number, prompts in wanted
            for at in range(len(prompts))
        ]
        prompts = np.concatenate([prompts for _, prompts in wanted])
        numbers = np.array(uniform).reshape(len(prompts), self.config.new_tokens)
        return Speaking(prompts, numbers, self.allowed, self.config.temperature, whole=process_count() > 1)

    def _own_before(self, number: int) -> int:
        # 1e-9: a third of three rows is a row, whatever float64 makes of it.
        return math.floor(max(0, number - self.first) * self.config.share * self._rows + 1e-9)

    def _hash(self, number: int, at: int) -> bytes:
        return hashlib.sha256(f"on_policy/{self.seed}/{number}/{at}".encode()).digest()


def _lay(batch: Batch, row: int, prompts: npt.NDArray[np.int64], new: Sequence[list[int]]) -> None:
    """Continuations side by side in a row of the batch, each a document of its own."""
    assert batch.own is not None
    batch.own[row], batch.rows[row] = True, []
    batch.input_ids[row], batch.positions[row], batch.documents[row], batch.labels[row] = 0, 0, 0, IGNORED
    start = 0
    for document, (prompt, said) in enumerate(zip(prompts, new, strict=True), start=1):
        ids = np.concatenate([prompt, np.array(said, np.int64)])
        place = (row, slice(start, start + len(ids)))
        batch.input_ids[place], batch.positions[place], batch.documents[place] = ids, np.arange(len(ids)), document
        batch.labels[row, start + len(prompt) - 1 : start + len(ids) - 1] = said
        start += len(ids)


def draw(own: OwnContinuations, module: torch.nn.Module, number: int, rows: int, device: torch.device) -> Drawn:
    """What the student says for batch `number` and those up to the next time that it speaks; `rows` of a micro-batch.

    Every process of a training speaks a part, and has the whole afterwards.
    """
    end = number + own.config.drawn_every
    asked, processes = own.speaking(number, end), process_count()
    count = len(asked.prompts_CP)
    if not count:
        return Drawn(number, end, [])
    share = -(-count // processes)  # as many passes everywhere: the last process says some twice
    first = dist.get_rank() * share if processes > 1 else 0
    mine = np.minimum(np.arange(first, first + share), count - 1)
    said_CN = torch.zeros((count, own.config.new_tokens), dtype=torch.int64, device=device)
    was_training = module.training
    module.eval()
    for part in _parts(mine, rows * _PER_ROW * own._per_row):
        answer = module(replace(asked, prompts_CP=asked.prompts_CP[part], uniform_CN=asked.uniform_CN[part]), 0)[0]
        said_CN[torch.from_numpy(part).to(device), : answer.shape[1]] = answer
    module.train(was_training)
    if processes > 1:
        # What two said is the same but for the last digits; one of them counts.
        said_CN[: min(first, count)], said_CN[first + share :] = 0, 0
        dist.all_reduce(said_CN)
    return Drawn(number, end, [_until_end(row) for row in said_CN.tolist()])


def _parts(numbers: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _until_end(new: list[int]) -> list[int]:
    return new[: new.index(EOS_ID) + 1] if EOS_ID in new else new


@torch.no_grad()
def spoken(model: LlamaForCausalLM, asked: Speaking) -> torch.Tensor:
    """New ids [C, N] after every prompt, one forward pass per token over kept keys and values; what follows `</s>` means nothing."""
    implementation, device = model.config._attn_implementation, model.device
    model.set_attn_implementation("sdpa")  # that of training wants packed rows
    allowed_A = torch.from_numpy(asked.allowed_A).to(device)
    uniform_CN = torch.from_numpy(asked.uniform_CN)
    decoder, cache, ids = decoder_of(model), DynamicCache(), torch.from_numpy(asked.prompts_CP).to(device)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=device)
    new: list[torch.Tensor] = []
    try:
        for number in range(uniform_CN.shape[1]):
            last_CD = decoder(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
            scores_CA = head_of(model)(last_CD)[:, allowed_A].float() / asked.temperature
            drawn_C = _by_uniform(scores_CA, uniform_CN[:, number])
            new.append(allowed_A[drawn_C])
            ended |= new[-1] == EOS_ID
            if not asked.whole and bool(ended.all()):
                break
            ids = new[-1][:, None]
    finally:
        model.set_attn_implementation(implementation)
    return torch.stack(new, dim=1)


def _by_uniform(scores_CA: torch.Tensor, uniform_C: torch.Tensor) -> torch.Tensor:
    """The token at which the summed probabilities pass a random number; one number a token, not one for each id."""
    up_to_CA = double(scores_CA).softmax(-1).cumsum(-1)
    wanted_C1 = uniform_C.to(up_to_CA.device)[:, None] * up_to_CA[:, -1:]
    # Of numbers below the sum the place is below A; rounding may reach it.
    place_C = torch.searchsorted(up_to_CA, wanted_C1, right=True)[:, 0].clamp(max=scores_CA.shape[1] - 1)
    return place_C.to(scores_CA.device)
