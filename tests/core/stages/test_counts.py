"""What stages count and choose from rows, and what they say of it."""

from typing import Any

import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import Computed
from tinywave_core.config.generation import GenerationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.counts import count
from tinywave_core.errors import TinyWaveError
from tinywave_core.exporters.files import RoundingLoss
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.stages.adaptation.teacher import other_starts
from tinywave_core.stages.export.summary import VocoderQuality
from tinywave_core.stages.generation.lengths import too_short, why_no_prompt
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


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(0, "file", "0 files"), (1, "training utterance", "1 training utterance"), (1204, "step", "1,204 steps")],
)
def test_a_number_and_its_noun_agree(number: int, noun: str, said: str):
    assert count(number, noun) == said


def test_a_prompt_that_no_held_out_utterance_is_long_enough_for_is_known_after_ingestion(finished: Finished):
    """The longest held-out utterance of the fixture is between 3 and 5 s; the error says which prompt would do."""
    corpus = finished.outputs["corpus"]
    with_prompt = lambda seconds: finished.config.model_copy(update={"generation": GenerationConfig(prompt_s=seconds)})
    assert why_no_prompt(with_prompt(1.0), corpus) == ""
    fault = why_no_prompt(with_prompt(5.0), corpus)
    assert fault.startswith("generation.prompt_s is 5, but no held-out utterance is a second longer than that")
    shorter = float(fault.rpartition(" ")[2])
    assert why_no_prompt(with_prompt(shorter - 0.1), corpus) == "" != why_no_prompt(with_prompt(shorter + 0.1), corpus)
    execute = Computed()
    with pytest.raises(TinyWaveError, match="pass --generation.prompt_s with less than"):
        run_pipeline(with_prompt(5.0), finished.store, execute)
    assert {step.stage for step in execute.steps} == {"ingestion"}


def test_where_all_is_too_short_for_any_prompt_more_speech_is_the_advice():
    assert too_short(1.0, 19_000).endswith(
        "(the longest has 1.2 s): add held-out speech of more than 1.2 s in one piece"
    )


@pytest.mark.parametrize(
    ("settings", "advice", "not_advised"),
    [
        ({}, "--adaptation.teacher base, or a Llama's folder", "does not go"),
        ({"tokenization": {"units": {"kind": "encoder", "encoder": "hubert", "layer": 9}}}, "the base does not go with these settings", "teacher base"),
        ({"adaptation": {"teacher": "base"}}, "knows more than the base (a Llama's folder", "teacher base"),
    ],
)  # fmt: skip
def test_only_a_teacher_that_goes_with_the_settings_is_advised(settings: dict[str, Any], advice: str, not_advised: str):
    said = other_starts(PipelineConfig.model_validate({**settings}))
    assert advice in said and not_advised not in said
