"""Training sequences in two: those that are trained on, and those of other speakers (or recordings) that validate.

A speaker validates by a hash of the name alone, so that the part is stable as the corpus grows: new speech can only take the place
of what validated before, and what was trained on does not begin to validate. (It can where a corpus of under five speakers grows
past that, where a speaker comes to have more than 30 % of the speech, or where recordings are removed.)
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from tinywave_core.config.validation import ValidationConfig
from tinywave_core.sequences.dataset import TokenSequence
from tinywave_core.storage.fingerprint import place_of

Parts = tuple[list[TokenSequence], list[TokenSequence]]
_FEW = 5  # of fewer speakers one is too much to do without
_LARGEST = 0.3  # share of the speech that may validate: a speaker of more is trained on


def split_validation(sequences: Sequence[TokenSequence], config: ValidationConfig, split_by: str) -> Parts:
    """What is trained on, and what validates: the latter in one drawing, empty where `config.fraction` is 0.

    `split_by` is `speaker` (recordings without one stand for themselves) or `recording`, as held-out speech is chosen. Of fewer
    than five speakers recordings are split, and utterances of fewer than five recordings; one utterance alone is trained on.
    Of text without speech about the same share validates, with no more tokens than speech has.
    """
    spoken = [s for s in sequences if s.seconds > 0]
    unit = _unit(spoken, split_by)
    chosen = _chosen(spoken, config, unit)
    speech = [s for s in spoken if unit(s) in chosen and s.variant <= 0]
    texts = _texts([s for s in sequences if s.seconds == 0], config, sum(len(s.ids) for s in speech))
    validates = {s.id for s in spoken if unit(s) in chosen} | {s.id for s in texts}  # all drawings of them
    return [s for s in sequences if s.id not in validates], sorted(speech + texts, key=lambda s: s.id)


def _texts(texts: Sequence[TokenSequence], config: ValidationConfig, most_tokens: int) -> list[TokenSequence]:
    """Documents in the order of their hashes: whole ones, for their pieces must stay together."""
    documents: dict[str, list[TokenSequence]] = defaultdict(list)
    for text in texts:
        documents[text.utterance_id].append(text)
    chosen: list[TokenSequence] = []
    for name in sorted(documents, key=_position):
        if _position(name) >= config.fraction:
            break
        if sum(len(s.ids) for s in (*chosen, *documents[name])) <= most_tokens:
            chosen += documents[name]
    return chosen


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
    if len(seconds) < _FEW:
        return {min(seconds, key=lambda name: (seconds[name], name))}
    most, largest = config.most_hours * 3600, _LARGEST * sum(seconds.values())
    chosen: set[str] = set()
    heard = 0.0
    for name in sorted(seconds, key=_position):
        if chosen and (_position(name) >= config.fraction or heard >= most):
            break
        if heard + seconds[name] <= largest:
            chosen.add(name)
            heard += seconds[name]
    return chosen


def _position(unit: str) -> float:
    """A place in [0, 1) that has nothing to do with the one by which speech is held out."""
    return place_of(f"validation/{unit}")
