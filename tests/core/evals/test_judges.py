"""Figures of what was heard, by hand."""

import pytest

from tinywave_core.evals.judges import Clip, mean, sources_figures

ORIGINALS = [Clip("a", 2.0, 4, 4, 4, "the sea", 0.9), Clip("b", 4.0, 3, 3, 3, "is calm to night", 0.7)]
AGAIN = [Clip("a", 2.0, 2, 2, 2, "the tea", 0.5), Clip("b", 4.0, 1, 1, 1, "is calm", 0.3)]
SAID = [Clip("a", 3.0, 2, 3, 1, None, None), Clip("b", 0.0)]


def test_resynthesis_is_held_against_the_transcript_and_apart_from_it_against_what_is_heard_in_the_original():
    figures = sources_figures({"original": ORIGINALS, "resynthesis": AGAIN}, {"a": "A sea!", "b": None}, seed=0)
    original, again = figures["original"], figures["resynthesis"]
    assert original.wer is not None and (original.wer.errors, original.wer.words) == (1, 2)
    assert again.wer is not None and (again.wer.errors, again.wer.words, again.wer.utterances) == (2, 2, 1)
    assert original.wer_heard is None  # it would be against itself
    assert again.wer_heard is not None and (again.wer_heard.errors, again.wer_heard.words) == (3, 6)


def test_without_a_transcript_there_is_no_error_against_transcripts():
    figures = sources_figures({"original": ORIGINALS, "resynthesis": AGAIN}, {"a": None, "b": ""}, seed=0)
    assert figures["original"].wer is None and figures["resynthesis"].wer is None
    assert figures["resynthesis"].wer_heard is not None


def test_silence_is_counted_and_no_opinion_of_it_is():
    figures = sources_figures({"original": ORIGINALS, "student": SAID}, {}, seed=0)["student"]
    assert (figures.clips, figures.silent, figures.seconds) == (1, 1, 3.0)
    assert figures.ovrl is not None and (figures.ovrl.value, figures.ovrl.clips) == (1.0, 1)
    assert figures.wer is None and figures.wer_heard is None and figures.similarity is None


def test_a_mean_has_the_interval_of_its_clips():
    found = mean([1.0, None, 3.0], seed=0)
    assert found is not None and (found.value, found.clips, found.interval) == (2.0, 2, (1.0, 3.0))
    assert mean([None], seed=0) is None


def test_lost_words_count_though_nothing_was_heard():
    figures = sources_figures(
        {"original": ORIGINALS, "resynthesis": [Clip("a", 0.0, transcript="")]}, {"a": "the sea"}, seed=0
    )
    assert figures["resynthesis"].wer is not None and figures["resynthesis"].wer.rate == pytest.approx(1.0)
