"""Which training speech validates: by a hash of the speaker, stable, never all of it, and never what one speaker mostly is."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from tests.fixtures.sequence_ids import hashed_id
from tinywave_core.audio.cutting import split_of
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.config.validation import ValidationConfig
from tinywave_core.sequences.table import EVERY_EPOCH, TokenSequence
from tinywave_core.sequences.validation import split_validation

TENTH = ValidationConfig(fraction=0.1)


def speech(speakers: int, of_each: int = 1, seconds: float = 10.0, named: bool = True) -> list[TokenSequence]:
    """Recordings of so many speakers; two utterances in each."""
    return [
        TokenSequence(
            hashlib.sha256(f"{s}/{r}/{u}".encode()).hexdigest()[:32],
            f"u{s}-{r}-{u}",
            f"r{s}-{r}",
            f"s{s}" if named else None,
            np.arange(5, dtype=np.uint16),
            seconds,
        )
        for s in range(speakers)
        for r in range(of_each)
        for u in range(2)
    ]


def speakers(sequences: list[TokenSequence]) -> set[str | None]:
    return {s.speaker for s in sequences}


def test_about_a_tenth_of_the_speakers_validates_and_none_of_them_is_trained_on():
    train, validation = split_validation(speech(1000), TENTH, "speaker")
    assert not speakers(train) & speakers(validation)
    assert 70 < len(speakers(validation)) < 130  # 100 expected, standard deviation 9.5
    assert len(train) + len(validation) == 2000


def test_speech_that_comes_later_turns_no_training_speech_into_validation():
    everything = speech(300)
    before = {s.id for s in split_validation(everything[:200], TENTH, "speaker")[0]}
    after = {s.id for s in split_validation(everything, TENTH, "speaker")[1]}
    assert after and not before & after


def test_validation_has_nothing_to_do_with_what_is_held_out():
    """A speaker's two places are drawn apart: else the first tenth would be held out, and none would be left to validate."""
    config = IngestionConfig(held_out_fraction=0.3)
    train = [s for s in speech(1000) if split_of(config, s.speaker, s.recording_id) == "train"]
    validation = split_validation(train, TENTH, "speaker")[1]
    assert 0.06 < len(validation) / len(train) < 0.14


def test_of_few_speakers_one_validates_all_the_same():
    train, validation = split_validation(speech(6), ValidationConfig(fraction=1e-9), "speaker")
    assert len(speakers(validation)) == 1 and len(speakers(train)) == 5


@pytest.mark.parametrize(
    ("count", "of_each", "unit"), [(1, 20, "recording_id"), (4, 5, "recording_id"), (1, 2, "utterance_id")]
)
def test_where_one_speaker_is_too_much_recordings_validate_and_then_utterances(count, of_each, unit):
    train, validation = split_validation(speech(count, of_each), TENTH, "speaker")
    assert train and validation
    assert not {getattr(s, unit) for s in train} & {getattr(s, unit) for s in validation}


def test_recordings_without_a_speaker_validate_by_themselves():
    _, validation = split_validation(speech(200, named=False), TENTH, "speaker")
    assert 5 < len({s.recording_id for s in validation}) < 40


def test_by_recording_a_speaker_may_be_on_both_sides():
    train, validation = split_validation(speech(5, 40), TENTH, "recording")
    assert speakers(train) & speakers(validation)


def test_hours_enough_end_it():
    _, validation = split_validation(speech(1000, seconds=360), replace_hours(1.0), "speaker")
    assert sum(s.seconds for s in validation) == 5 * 720  # speakers of 720 s each, until 3,600 s are there


def replace_hours(hours: float) -> ValidationConfig:
    return TENTH.model_copy(update={"most_hours": hours})


def test_a_speaker_of_most_of_the_speech_is_trained_on():
    everything = speech(9)
    for loud in speakers(everything):
        heavier = [replace(s, seconds=1000.0) if s.speaker == loud else s for s in everything]
        assert loud in speakers(split_validation(heavier, ValidationConfig(fraction=0.89), "speaker")[0])


def test_nothing_validates_at_fraction_0_or_of_one_utterance():
    assert not split_validation(speech(50), ValidationConfig(fraction=0.0), "speaker")[1]
    assert [len(part) for part in split_validation(speech(1)[:1], TENTH, "speaker")] == [1, 0]


@pytest.mark.parametrize("count", range(2, 8))
def test_something_is_left_to_train_on_whatever_the_fraction(count):
    train, validation = split_validation(speech(count), ValidationConfig(fraction=0.89), "speaker")
    assert train and validation


def test_text_takes_no_place_of_speech_and_no_more_tokens():
    text = [
        replace(
            s,
            variant=EVERY_EPOCH,
            speaker=None,
            seconds=0.0,
            id=hashed_id(f"t{s.id}"),
            utterance_id=f"t{s.utterance_id}",
        )
        for s in speech(500)
    ]
    for count in (1, 3, 60):
        spoken = speech(count, 3)
        alone = split_validation(spoken, TENTH, "speaker")[1]
        train, validation = split_validation(spoken + text, TENTH, "speaker")
        assert [s.id for s in validation if s.seconds] == [s.id for s in alone]
        tokens = [sum(len(s.ids) for s in validation if bool(s.seconds) is spoken) for spoken in (True, False)]
        assert 0 < tokens[1] <= tokens[0]
        assert not {s.id for s in train} & {s.id for s in validation}


def test_of_few_the_shortest_validates():
    lengths = [replace(s, seconds=28.0 if s.utterance_id.endswith("0") else 1.0) for s in speech(1)]
    assert [s.seconds for s in split_validation(lengths, TENTH, "speaker")[1]] == [1.0]


def test_drawings_of_an_utterance_stay_together_and_one_of_them_validates():
    everything = [replace(s, variant=v, id=hashed_id(f"{s.id}{v}")) for s in speech(60) for v in range(3)]
    text = [replace(s, variant=EVERY_EPOCH, speaker=None, id=hashed_id(f"t{s.id}")) for s in speech(60)]
    train, validation = split_validation(everything + text, TENTH, "speaker")
    assert not {s.utterance_id for s in train if s.variant >= 0} & {
        s.utterance_id for s in validation if s.variant >= 0
    }
    assert {s.variant for s in validation} <= {0, EVERY_EPOCH}
