"""Training sequences in two: those that are trained on, and those of other speakers (or recordings) that validate.

A speaker validates by a hash of the name alone, so that the part is stable as the corpus grows: new speech can only take the place
of what validated before, and what was trained on does not begin to validate. (It can where a corpus of under five speakers grows
past that, where most of the speech is one speaker's, or where recordings are removed.)
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

from tinywave_core.config.validation import ValidationConfig
from tinywave_core.sequences.dataset import TokenSequence

Parts = tuple[list[TokenSequence], list[TokenSequence]]
_FEW = 5  # of fewer speakers one is too much to do without
_LARGEST = 0.3  # share of the speech: a speaker of more is trained on


def split_validation(sequences: Sequence[TokenSequence], config: ValidationConfig, split_by: str) -> Parts:
    """What is trained on, and what validates: the latter in one drawing, empty where `config.fraction` is 0.

    `split_by` is `speaker` (recordings without one stand for themselves) or `recording`, as held-out speech is chosen. Of fewer
    than five speakers recordings are split, and utterances of fewer than five recordings; one utterance alone is trained on.
    """
    unit = _unit(sequences, split_by)
    chosen = _chosen(sequences, config, unit)
    train = [s for s in sequences if unit(s) not in chosen]
    return train, [s for s in sequences if unit(s) in chosen and s.variant <= 0]


def _unit(sequences: Sequence[TokenSequence], split_by: str) -> Callable[[TokenSequence], str]:
    def speaker(sequence: TokenSequence) -> str:
        return f"speaker:{sequence.speaker}" if sequence.speaker else recording(sequence)

    def recording(sequence: TokenSequence) -> str:
        return f"recording:{sequence.recording_id}"

    def utterance(sequence: TokenSequence) -> str:
        return f"utterance:{sequence.utterance_id}"

    kinds = [speaker, recording, utterance] if split_by == "speaker" else [recording, utterance]
    return next((kind for kind in kinds if len({kind(s) for s in sequences}) >= _FEW), utterance)


def _chosen(
    sequences: Sequence[TokenSequence], config: ValidationConfig, unit: Callable[[TokenSequence], str]
) -> set[str]:
    """Units in the order of their hashes: those below the fraction, one at least, until there are hours enough; never all."""
    seconds: dict[str, float] = defaultdict(float)
    for sequence in sequences:
        seconds[unit(sequence)] += sequence.seconds if sequence.variant <= 0 else 0.0
    if not config.fraction or len(seconds) < 2:
        return set()
    most, total = config.most_hours * 3600, sum(seconds.values())
    chosen: set[str] = set()
    heard = 0.0
    for name in sorted(seconds, key=_position):
        if chosen and (_position(name) >= config.fraction or heard >= most or len(chosen) + 1 == len(seconds)):
            break
        if seconds[name] <= _LARGEST * total or len(seconds) < _FEW:
            chosen.add(name)
            heard += seconds[name]
    return chosen


def _position(unit: str) -> float:
    """A place in [0, 1) that has nothing to do with the one by which speech is held out."""
    return int.from_bytes(hashlib.sha256(f"validation/{unit}".encode()).digest()[:8], "big") / 2**64
