"""Thresholds: what is left out, for which reason, and what is not known."""

import numpy as np
import pytest

from tinywave_core.audio.keeping import LIMITS, MEASURES, detail, reasons, words_per_s
from tinywave_core.config.ingestion import IngestionConfig, KeepConfig
from tinywave_core.config.load import check
from tinywave_core.errors import ConfigError

NAN = float("nan")


def columns(**known: list[float]) -> dict[str, np.ndarray]:
    size = len(next(iter(known.values())))
    return {name: np.array(known.get(name, [NAN] * size)) for name in MEASURES}


def left_out(thresholds: dict[str, float], **known: list[float]) -> list[str | None]:
    return [None if n < 0 else LIMITS[n].reason for n in reasons(columns(**known), thresholds)]


def test_every_threshold_is_a_setting_and_every_setting_a_threshold():
    assert [*(limit.setting for limit in LIMITS), "most_of", "least_of"] == list(KeepConfig.model_fields)
    assert {limit.measure for limit in LIMITS} == set(MEASURES)
    assert len({limit.reason for limit in LIMITS}) == len(LIMITS)


def test_what_is_at_a_threshold_is_kept():
    assert left_out({"min_snr_db": 10}, snr_db=[9.9, 10, 30]) == ["noisy", None, None]
    assert left_out({"max_clipped_share": 0.5}, clipped_share=[0.4, 0.5, 0.6]) == [None, None, "clipped"]


def test_a_lowest_and_a_highest_rate_of_words_have_reasons_of_their_own():
    both = {"min_words_per_s": 1.0, "max_words_per_s": 4.0}
    assert left_out(both, words_per_s=[0.5, 2, 5]) == ["few_words", None, "many_words"]


def test_what_is_not_known_is_kept():
    every = {limit.setting: 1e9 if limit.is_lowest else -1e9 for limit in LIMITS}
    assert left_out(every, snr_db=[NAN]) == [None]


def test_the_first_reason_counts_and_the_detail_has_all():
    thresholds = {"min_level_db": -40.0, "min_snr_db": 10.0}
    assert left_out(thresholds, snr_db=[5, 20], level_db=[-50, -50]) == ["noisy", "quiet"]
    values = {**dict.fromkeys(MEASURES), "snr_db": 5.0, "level_db": -50.0}
    assert (
        detail(values, thresholds)
        == "signal-to-noise ratio 5.0 dB, below 10; level of the speech -50.0 dBFS, below -40"
    )


def test_words_per_second_are_of_the_time_that_is_speech():
    assert words_per_s("a word or so", 0.5, 4.0) == 2.0
    assert words_per_s("", 0.5, 4.0) == 0.0
    assert words_per_s("yes", 0.5, 4.0) == 0.5


def test_words_per_second_are_not_known_without_words_or_speech():
    assert words_per_s(None, 0.5, 4.0) is None
    assert words_per_s("a word", 0.0, 4.0) is None
    assert words_per_s("你好世界", 0.5, 4.0) is None  # no spaces stand between its words


def test_settings_that_cannot_be_met_are_refused():
    with pytest.raises(ConfigError, match=r"min_words_per_s is 5, above max_words_per_s \(4\)"):
        check(IngestionConfig, {"keep": {"min_words_per_s": 5, "max_words_per_s": 4}})
    with pytest.raises(ConfigError, match=r"keep.min_dnsmos is set, but nothing is rated: set measures.dnsmos"):
        check(IngestionConfig, {"keep": {"min_dnsmos": 3}})
