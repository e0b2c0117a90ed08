"""What stages count and choose from rows, without a store."""

from typing import Any

import pytest

from tinywave_core.config.generation import GenerationConfig
from tinywave_core.errors import TinyWaveError
from tinywave_core.exporters.files import RoundingLoss
from tinywave_core.stages.export.summary import VocoderQuality
from tinywave_core.stages.generation.samples import choose_prompts
from tinywave_core.stages.ingestion.counts import summarise_corpus, without_duplicates

Row = dict[str, Any]


def utterance(number: int, seconds: float, split: str = "train", speaker: str | None = None) -> Row:
    names = {"utterance_id": f"u{number}", "recording_id": f"r{number}", "speaker": speaker, "transcript": None}
    return names | {"num_samples": round(seconds * 16_000), "split": split}


def test_an_utterance_of_exactly_an_edge_lies_below_it():
    summary = summarise_corpus([], {}, [], [utterance(0, 1.0), utterance(1, 1.1), utterance(2, 61)])
    assert summary.duration_histogram.utterances == [1, 1, 0, 0, 0, 0, 0, 0, 1]


def test_both_sides_of_the_split_are_counted_apart():
    rows = [utterance(0, 3600, "train", "anna"), utterance(1, 1800, "held_out", "ben"), utterance(2, 1800, "held_out")]
    summary = summarise_corpus([], {}, [], rows)
    assert (summary.hours, summary.hours_train, summary.hours_held_out) == (2.0, 1.0, 1.0)
    assert (summary.speakers, summary.speakers_held_out, summary.unlabelled_recordings) == (2, 1, 1)


def test_a_file_of_which_an_earlier_shard_has_all_is_skipped():
    files = [{"recording_id": f"r{number}", "status": "accepted"} for number in range(2)]
    first, second = without_duplicates(files, [utterance(0, 1.0)])
    assert (first["status"], first["utterances"], first["speech_samples"]) == ("accepted", 1, 16_000)
    assert (second["status"], second["reason"], second["utterances"]) == ("skipped", "duplicate", 0)


def test_prompts_are_more_than_a_second_shorter_than_their_utterance():
    rows = [utterance(0, 4.0), utterance(1, 4.01)]
    assert choose_prompts(rows, GenerationConfig(prompt_s=3)) == rows[1:]
    with pytest.raises(TinyWaveError, match=r"the longest has 4\.0 s"):
        choose_prompts(rows, GenerationConfig(prompt_s=3.1))


def test_the_same_prompts_are_chosen_in_any_order_of_rows():
    rows = [utterance(number, 5.0) for number in range(20)]
    config = GenerationConfig(samples=3)
    assert choose_prompts(rows, config) == choose_prompts(rows[::-1], config) != rows[:3]


@pytest.mark.parametrize("summary", [RoundingLoss(), VocoderQuality()])
def test_figures_that_were_not_measured_are_not_written(summary: RoundingLoss | VocoderQuality):
    assert summary.model_dump(exclude_unset=True) == {}
