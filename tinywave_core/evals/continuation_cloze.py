"""Continuation cloze from the user's own held-out speech: does the model prefer how an utterance really went on?

An item is the first part of an utterance and two continuations: its own, and that of another recording (of another
speaker where speakers are known). The answer is right when the own one has the higher mean log-probability per token,
counted over the continuation only; a tie counts half. Chance is 0.5. After sSC/tSC (SpokenStoryCloze), without TTS.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.tokenizers.vocabulary import EOS_ID


@dataclass(frozen=True)
class ClozeItem:
    """One two-way choice; token ids [L] with the prompt in front of either continuation."""

    utterance_id: str
    other_id: str
    prompt_length: int
    right: npt.NDArray[np.uint16]
    wrong: npt.NDArray[np.uint16]


def cloze_items(sequences: Sequence[TokenSequence], config: EvaluationConfig) -> list[ClozeItem]:
    """Items in an order that a hash of the utterance id decides; both continuations of an item are equally long."""
    halves = {s.id: _cut(s, config) for s in sequences}
    usable = [s for s in sequences if halves[s.id] is not None]
    usable.sort(key=lambda s: _key(config.seed, s.id))
    items: list[ClozeItem] = []
    for s in usable:
        others = [
            o for o in usable if o.recording_id != s.recording_id and (s.speaker is None or o.speaker != s.speaker)
        ]
        if not others or len(items) == config.cloze_items:
            continue
        other = min(others, key=lambda o: _key(config.seed, s.id + o.id))
        (prompt, own), (_, foreign) = halves[s.id], halves[other.id]  # type: ignore[misc]
        length = min(len(own), len(foreign))
        items.append(
            ClozeItem(
                s.utterance_id,
                other.utterance_id,
                len(prompt),
                np.concatenate([prompt, own[:length]]),
                np.concatenate([prompt, foreign[:length]]),
            )
        )
    return items


def _cut(s: TokenSequence, config: EvaluationConfig) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]] | None:
    ids = s.ids[:-1] if s.ids[-1] == EOS_ID else s.ids
    at = round(len(ids) * config.cloze_prompt_share)
    if min(at, len(ids) - at) < config.cloze_min_tokens:
        return None
    return ids[:at], ids[at:]


def _key(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"cloze/{seed}/{name}".encode()).digest()


def credits(
    items: Sequence[ClozeItem], right: Sequence[npt.NDArray], wrong: Sequence[npt.NDArray]
) -> npt.NDArray[np.float64]:
    """1 right, 0 wrong, 0.5 tie for every item, from the token log-probabilities of both versions."""
    gaps = [
        r[item.prompt_length - 1 :].mean(dtype=np.float64) - w[item.prompt_length - 1 :].mean(dtype=np.float64)
        for item, r, w in zip(items, right, wrong, strict=True)
    ]
    return (np.sign(gaps) + 1) / 2
