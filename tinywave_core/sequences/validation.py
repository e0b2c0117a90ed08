"""Training sequences in two: those that are trained on, and those of other speakers (or recordings) that validate.

A speaker validates by a hash of the name alone, so that the part is stable as the corpus grows: new speech can only take the place
of what validated before, and what was trained on does not begin to validate. (It can where a corpus of under five speakers grows
past that, where a speaker comes to have more than 30 % of the speech, or where recordings are removed.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tinywave_core.config.validation import ValidationConfig
from tinywave_core.sequences.table import SequenceTable, TokenSequence
from tinywave_core.storage.fingerprint import place_of

Parts = tuple[SequenceTable, SequenceTable]
_FEW = 5  # of fewer speakers one is too much to do without
_LARGEST = 0.3  # share of the speech that may validate: a speaker of more is trained on


@dataclass(frozen=True)
class _Units:
    """Whatever validates as a whole: speakers, recordings, utterances or documents of S sequences."""

    numbers: npt.NDArray[np.int64]
    """Of each sequence's unit [S]."""
    names: Sequence[pa.Array]
    """Of the units: strings, in parts."""
    kinds: Sequence[str]
    """What each part has."""

    def places(self) -> npt.NDArray[np.float64]:
        """A place in [0, 1) for each unit, that has nothing to do with the one by which speech is held out."""
        kinds = zip(self.kinds, self.names, strict=True)
        return np.array([_position(f"{kind}{name}") for kind, names in kinds for name in names.to_pylist()])

    def all_names(self) -> list[str]:
        return [
            f"{kind}{name}" for kind, names in zip(self.kinds, self.names, strict=True) for name in names.to_pylist()
        ]


def split_validation(sequences: Sequence[TokenSequence], config: ValidationConfig, split_by: str) -> Parts:
    """What is trained on, and what validates: the latter in one drawing, empty where `config.fraction` is 0.

    `split_by` is `speaker` (recordings without one stand for themselves) or `recording`, as held-out speech is chosen. Of fewer
    than five speakers recordings are split, and utterances of fewer than five recordings; one utterance alone is trained on.
    Of text without speech about the same share validates, with no more tokens than speech has.
    """
    table = SequenceTable.of(sequences)
    is_spoken = table.seconds > 0
    validates, is_heard = np.zeros(len(table), bool), np.zeros(len(table), bool)
    if is_spoken.any():
        spoken = table.take(is_spoken)
        chosen = _chosen(spoken, config, _unit(spoken, split_by))
        validates[is_spoken] = chosen  # all drawings of them
        is_heard[is_spoken] = chosen & (spoken.variants <= 0)
    if not is_spoken.all():
        texts = _texts(table.take(~is_spoken), config, int(table.lengths[is_heard].sum()))
        validates[~is_spoken] = is_heard[~is_spoken] = texts
    pa.default_memory_pool().release_unused()  # the names of millions of sequences, which Arrow would keep room for
    heard = table.take(is_heard)
    return table.take(~validates), heard.take(np.argsort(heard.ids, kind="stable"))


def _texts(texts: SequenceTable, config: ValidationConfig, most_tokens: int) -> npt.NDArray[np.bool_]:
    """Which texts validate [S]: documents in the order of their hashes, whole ones, for their pieces must stay together."""
    documents = _of_names(texts, "utterance_id", "")
    places = documents.places()
    tokens = np.bincount(documents.numbers, weights=texts.lengths, minlength=len(places))
    is_chosen, room = np.zeros(len(places), bool), float(most_tokens)
    below = np.flatnonzero(places < config.fraction)
    for document in below[np.argsort(places[below], kind="stable")].tolist():
        if tokens[document] <= room:
            is_chosen[document] = True
            room -= tokens[document]
    return is_chosen[documents.numbers]


def _of_names(sequences: SequenceTable, column: str, kind: str) -> _Units:
    numbers, names = sequences.codes(column)
    return _Units(numbers, [names], [kind])


def _speakers(sequences: SequenceTable) -> _Units:
    """Speakers, and the recordings of those that have none."""
    speakers, recordings = (
        _of_names(sequences, "speaker", "speaker:"),
        _of_names(sequences, "recording_id", "recording:"),
    )
    # An empty name is none, as it is where speech is held out.
    unnamed = np.array([not name for name in speakers.names[0].to_pylist()], dtype=bool)
    has_none = (speakers.numbers < 0) | (unnamed[speakers.numbers] if len(unnamed) else False)
    used, own = np.unique(recordings.numbers[has_none], return_inverse=True)
    named, own_speakers = np.unique(speakers.numbers[~has_none], return_inverse=True)
    numbers = np.empty(len(sequences), np.int64)
    numbers[~has_none], numbers[has_none] = own_speakers, len(named) + own
    names = [speakers.names[0].take(pa.array(named)), recordings.names[0].take(pa.array(used))]
    return _Units(numbers, names, [*speakers.kinds, *recordings.kinds])


def _unit(sequences: SequenceTable, split_by: str) -> _Units:
    if split_by == "speaker":
        speakers = _speakers(sequences)
        if sum(map(len, speakers.names)) >= _FEW:
            return speakers
    recordings = _of_names(sequences, "recording_id", "recording:")
    return recordings if len(recordings.names[0]) >= _FEW else _of_names(sequences, "utterance_id", "utterance:")


def _chosen(sequences: SequenceTable, config: ValidationConfig, units: _Units) -> npt.NDArray[np.bool_]:
    """Which sequences validate [S]: units in the order of their hashes, those below the fraction, one at least, until there are hours
    enough; never all."""
    count = sum(map(len, units.names))
    own_seconds = np.where(sequences.variants <= 0, sequences.seconds, 0.0)
    seconds = np.bincount(units.numbers, weights=own_seconds, minlength=count)
    is_chosen = np.zeros(count, bool)
    if not config.fraction or count < 2:
        return is_chosen[units.numbers]
    if count < _FEW:
        names = units.all_names()
        is_chosen[min(range(count), key=lambda unit: (seconds[unit], names[unit]))] = True
        return is_chosen[units.numbers]
    places = units.places()
    most, largest = config.most_hours * 3600, _LARGEST * sum(seconds.tolist())
    heard, has_some = 0.0, False
    for unit in np.argsort(places, kind="stable").tolist():
        if has_some and (places[unit] >= config.fraction or heard >= most):
            break
        if heard + seconds[unit] <= largest:
            is_chosen[unit] = has_some = True
            heard += seconds[unit]
    return is_chosen[units.numbers]


def _position(unit: str) -> float:
    return place_of(f"validation/{unit}")
