"""What thresholds leave out: it costs what builds on it, and nothing is decoded, measured or tokenized again."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import soundfile

from tests.conftest import Finished
from tests.core.reporting.test_page import Page
from tests.fixtures.small_run import small_run
from tests.fixtures.tiny import CLIPS, EXAMPLES, NEW_CLIP, copy_clips, copy_store, merged, run_tiny, tiny_config
from tinywave_core.audio.utterances import decode_flac, read_utterances
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import MissingInputError, SourceError
from tinywave_core.evals import dnsmos
from tinywave_core.reporting.page import render_report
from tinywave_core.reporting.quality import heard, render_quality
from tinywave_core.run.pipeline import Look, build_stage
from tinywave_core.stages.ingestion import measures, quality
from tinywave_core.stages.ingestion.quality_words import plan_lines
from tinywave_core.stages.ingestion.stage import describe, facts, sections
from tinywave_core.stages.ingestion.summary import QualitySummary
from tinywave_core.stages.tokenization.kept import without
from tinywave_core.stages.tokenization.tokens import TOKENS_FILE
from tinywave_core.steps.base import Outputs, compute_all
from tinywave_core.steps.inputs import audio_of, corpus_key, held_out_shards, training_key, training_shards
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, NotYetComputedError, Store

DECODED = {"ingestion/shard", "ingestion/corpus", "tokenization/codebooks"}
NOISIER = {"min_snr_db": 24}


def keeping(config: PipelineConfig, **thresholds: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(merged(config.model_dump(), {"ingestion": {"keep": thresholds}}))


@pytest.fixture(scope="module")
def taken(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A store with tokens, and nothing after them. It is shared."""
    config = tiny_config(tiny_source, tmp_path_factory.mktemp("taken") / "store")
    outputs, computed = run_tiny(config, "tokenization")
    return Finished(config, Store(config.root), outputs, computed)


@pytest.fixture
def known(taken: Finished, tmp_path: Path) -> PipelineConfig:
    return copy_store(taken.config, tmp_path / "store")


@pytest.fixture(scope="module")
def measured(taken: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineConfig, Outputs]:
    """The same with 24 dB as the lowest ratio, up to its tokens. Its store is shared."""
    config = keeping(copy_store(taken.config, tmp_path_factory.mktemp("measured") / "store"), **NOISIER)
    outputs, computed = run_tiny(config, "tokenization")
    # Once, and then the derived shards; whatever was there before is as it was.
    assert sorted(set(computed.parts())) == [
        "ingestion/measures",
        "ingestion/quality",
        "tokenization/shard",
        "tokenization/tokens",
    ]
    return config, outputs


def rows(artifact: Artifact) -> list[dict[str, Any]]:
    return read_table(artifact.path(quality.QUALITY_FILE)).to_pylist()


def tokens_of(tokens: Artifact) -> dict[str, list[int]]:
    shards = tokens.store.find_all([shard["id"] for shard in tokens.summary["shards"]])
    tables = [read_table(shard.path(TOKENS_FILE), ["utterance_id", "ids"]) for shard in shards]
    return {row["utterance_id"]: row["ids"] for table in tables for row in table.to_pylist()}


def test_every_utterance_is_a_row_and_the_noisy_ones_have_a_reason(measured: tuple[PipelineConfig, Outputs]):
    table = rows(measured[1]["quality"])
    assert len(table) == 12 and all((row["reason"] == "noisy") == (row["snr_db"] < 24) for row in table)
    assert {row["split"] for row in table if row["reason"]} == {"train", "held_out"}
    (worst,) = [row for row in table if row["path"] == CLIPS[6]]
    assert worst["detail"] == "signal-to-noise ratio 19.9 dB, below 24"


def test_the_tokens_are_those_of_before_without_what_is_left_out(
    taken: Finished, measured: tuple[PipelineConfig, Outputs]
):
    left = {row["utterance_id"] for row in rows(measured[1]["quality"]) if row["reason"]}
    before, now = tokens_of(taken.outputs["tokens"]), tokens_of(measured[1]["tokens"])
    assert now == {i: ids for i, ids in before.items() if i not in left} and len(before) > len(now) > 0
    # What reads the sound behind the tokens still finds it.
    assert [a.id for a in audio_of(training_shards(measured[1]["tokens"]))] == [
        a.id for a in audio_of(training_shards(taken.outputs["tokens"]))
    ]


def test_without_thresholds_nothing_is_measured_and_all_is_as_it_was(taken: Finished):
    assert "quality" not in taken.outputs
    assert not any(step.part in ("measures", "quality") for step in taken.computed.steps)
    assert training_key(taken.config, taken.outputs["tokens"]) == corpus_key(taken.config)


def test_another_threshold_measures_decodes_and_tokenizes_nothing(measured: tuple[PipelineConfig, Outputs]):
    _, computed = run_tiny(keeping(measured[0], min_snr_db=26), "tokenization")
    assert {step.part for step in computed.ran} == {"quality", "shard", "tokens"}
    assert all("left_out" in step.params for step in computed.ran if step.part == "shard")
    assert corpus_key(measured[0]) == corpus_key(keeping(measured[0], min_snr_db=None))


def test_a_threshold_that_leaves_out_the_same_has_the_same_tokens(measured: tuple[PipelineConfig, Outputs]):
    outputs, computed = run_tiny(keeping(measured[0], min_snr_db=24.1), "tokenization")
    assert computed.parts() == ["ingestion/quality"] and outputs["tokens"].id == measured[1]["tokens"].id


def test_held_out_speech_that_is_left_out_changes_no_training(taken: Finished, known: PipelineConfig):
    # The noisiest of all is held out.
    outputs, _ = run_tiny(keeping(known, min_snr_db=21), "tokenization")
    assert QualitySummary.of(outputs["quality"]).kept_held_out == 4
    before = taken.outputs["tokens"]
    assert [s.id for s in training_shards(outputs["tokens"])] == [s.id for s in training_shards(before)]
    assert [s.id for s in held_out_shards(outputs["tokens"])] != [s.id for s in held_out_shards(before)]


def test_models_of_other_thresholds_are_others(measured: tuple[PipelineConfig, Outputs]):
    config, tokens = measured[0], measured[1]["tokens"]
    keys = {training_key(keeping(config, min_snr_db=bound), tokens) for bound in (None, 24, 26)}
    assert len(keys) == 3 and corpus_key(config) in keys


def test_new_recordings_are_measured_alone(measured: tuple[PipelineConfig, Outputs], tmp_path: Path):
    config = copy_store(measured[0], tmp_path / "store")
    source = copy_clips(tmp_path / "more", [NEW_CLIP])
    outputs, computed = run_tiny(config.model_copy(update={"source": str(source)}), "tokenization")
    assert computed.parts().count("ingestion/measures") == 1
    assert len(rows(outputs["quality"])) == 13


def test_labels_that_come_later_measure_nothing_and_have_their_words_counted(
    measured: tuple[PipelineConfig, Outputs], tmp_path: Path
):
    config = copy_store(measured[0], tmp_path / "store")
    source = copy_clips(tmp_path / "labelled")
    (source / CLIPS[0]).with_suffix(".txt").write_text("in being comparatively modern", encoding="utf-8")
    config = keeping(config.model_copy(update={"source": str(source)}), min_snr_db=21, max_words_per_s=2.0)
    outputs, computed = run_tiny(config, "tokenization")
    assert not [step for step in computed.ran if step.part == "measures"]
    (row,) = [row for row in rows(outputs["quality"]) if row["words_per_s"] is not None]
    # Four words in 66 % of 1.9 s.
    assert row["reason"] == "many_words" and row["words_per_s"] == pytest.approx(
        4 / (row["speech_share"] * 1.9), rel=0.01
    )
    assert row["utterance_id"] not in tokens_of(outputs["tokens"])
    labelled = [s for s in computed.ran if s.part == "shard" and "left_out" not in s.params]
    assert all("tokens" in step.inputs for step in labelled)  # the derived shards, with labels: none from audio


def test_transcripts_that_come_later_train_nothing_anew_where_held_out_speech_is_left_out(
    taken: Finished, known: PipelineConfig, tmp_path: Path
):
    source = copy_clips(tmp_path / "labelled")
    (source / CLIPS[0]).with_suffix(".txt").write_text("in being comparatively modern", encoding="utf-8")
    outputs, _ = run_tiny(keeping(known.model_copy(update={"source": str(source)}), min_snr_db=21), "tokenization")
    assert outputs["corpus"].summary["relabelled"]["transcripts"] == 1
    now, before = (training_shards(tokens) for tokens in (outputs["tokens"], taken.outputs["tokens"]))
    assert [shard.id for shard in now] == [shard.id for shard in before]


def test_clipping_that_resampling_hides_is_that_of_the_recording(tmp_path: Path):
    # Cut at a third of its peak at 48 kHz: less of it is flat after resampling.
    samples, _ = soundfile.read(EXAMPLES / CLIPS[0], dtype="float32")
    top = float(abs(samples).max()) / 3
    (tmp_path / "source").mkdir()
    fine = np.interp(np.arange(0, len(samples), 1 / 3), np.arange(len(samples)), samples)
    soundfile.write(tmp_path / "source" / "cut.wav", fine.clip(-top, top), 48_000)
    config = tiny_config(tmp_path / "source", tmp_path / "store", ingestion={"measures": {"always": True}})
    outputs, _ = run_tiny(config, "ingestion")
    (row,), (file,) = rows(outputs["quality"]), read_table(outputs["corpus"].path("files.parquet")).to_pylist()
    assert row["clipped_share"] == pytest.approx(file["flat_share"], rel=1e-6) and file["flat_share"] > 0.01


def test_an_utterance_that_two_shards_have_is_measured_and_left_out_once(tmp_path: Path):
    copy_clips(tmp_path / "first", CLIPS[:1])
    copy_clips(tmp_path / "second", CLIPS[1:3])
    samples, rate = soundfile.read(tmp_path / "first" / CLIPS[0], dtype="int16")
    soundfile.write(tmp_path / "second" / "again.flac", samples, rate)
    keep = {"shard_megabytes": 10, "keep": {"min_level_db": -1}}
    for source in ("first", "second"):
        config = tiny_config(tmp_path / source, tmp_path / "store", ingestion=keep)
        outputs, _ = run_tiny(config, "ingestion")
    assert [len(ids) for ids in outputs["corpus"].summary["duplicates"].values()] == [1]
    assert len(rows(outputs["quality"])) == len({row["utterance_id"] for row in rows(outputs["quality"])}) == 3
    audio = outputs["corpus"].store.find_all(outputs["corpus"].summary["shards"], "shard")
    made: list[dict[str, Any]] = []

    def step(part: str, run: Any, inputs: dict[str, list[Artifact]], params: dict[str, Any]) -> Any:
        made.append(params)

    left = quality.left_out(config, outputs["corpus"])
    without(left, outputs["corpus"].summary["duplicates"], audio, audio, step, lambda steps: audio)
    assert sorted(len(params["left_out"]) for params in made) == [1, 2] and len(left) == 3


def test_a_plan_says_what_a_threshold_leaves_out_before_it_does(measured: tuple[PipelineConfig, Outputs]):
    config, outputs = measured
    lines = plan_lines(keeping(config, min_snr_db=27), outputs["corpus"], more=False)
    assert lines[0].startswith("left out: 5 of 12 utterances") and "5 noisy" in lines[0]
    look = Look()
    build_stage("tokenization", keeping(config, min_snr_db=27), Store(config.root), {"corpus": outputs["corpus"]}, look)
    assert sum("left_out" in step.params for step, found in look.steps if not found.complete) > 0
    assert plan_lines(keeping(config, min_snr_db=None), outputs["corpus"], more=True) == []


def test_a_plan_says_what_is_not_measured_yet(known: PipelineConfig, taken: Finished):
    config = keeping(known, **NOISIER)
    corpus = Store(known.root).find(taken.outputs["corpus"].id)
    assert plan_lines(config, corpus, more=True)[0].startswith(
        "left out of 12 utterances that are not measured and of new recordings: known after measuring"
    )
    with pytest.raises(NotYetComputedError):
        quality.left_out(config, corpus)


def test_pages_tell_what_is_left_out_and_why(measured: tuple[PipelineConfig, Outputs]):
    outputs = measured[1]
    assert describe(outputs)[1].endswith("; 3 left out (3 noisy)")
    assert dict(facts(outputs))["left out"].startswith("3 of 12 utterances, ")
    quantiles, left = sections(outputs)
    assert quantiles.rows[0]["known of"] == 12 and quantiles.rows[0]["leaves out"] == "min_snr_db 24: 3"
    assert {row["reason"] for row in left.rows} == {"noisy"} and len(left.rows) == 3


def test_the_page_has_a_histogram_with_the_threshold_and_players_of_both_its_sides(
    measured: tuple[PipelineConfig, Outputs],
):
    page = render_quality(measured[1]["quality"])
    assert page.count('class="mark"') == 1 and page.count("min_snr_db 24</text>") == 1
    assert page.count("<svg") == 5  # nothing is known of words, and nobody asked for DNSMOS
    assert page.count("At the threshold: ") == 2 and page.count("<audio") >= 30
    assert page.count("<audio") == page.count('preload="metadata"') and page.count("<h1>") == 1
    assert "left out as noisy" in page and "data:audio/mpeg" in page


def test_the_report_has_them_before_the_curves_and_closes_every_tag(
    measured: tuple[PipelineConfig, Outputs], tmp_path: Path
):
    record, outputs = small_run(tmp_path)
    html = render_report(record, {**outputs, "quality": measured[1]["quality"]})
    assert Page(html).open == [] and "script" not in Page(html).tags
    assert html.index('id="data"') < html.index('id="quality"') < html.index('id="curves"')
    assert 'id="quality"' not in render_report(record, outputs)


def test_what_a_recording_is_called_is_no_markup(measured: tuple[PipelineConfig, Outputs], tmp_path: Path):
    config = copy_store(measured[0], tmp_path / "store")
    (tmp_path / "odd").mkdir()
    name = "a <script>alert(1)</script> & co.opus"
    copy_clips(tmp_path / "clips", [NEW_CLIP])
    (tmp_path / "clips" / NEW_CLIP).rename(tmp_path / "odd" / name.replace("/", "|"))
    config = keeping(config.model_copy(update={"source": str(tmp_path / "odd")}), min_level_db=-1)
    page = render_quality(run_tiny(config, "ingestion")[0]["quality"])
    assert "a &lt;script&gt;" in page and Page(page).open == [] and "script" not in Page(page).tags


def test_what_is_kept_for_listening_is_the_utterance(measured: tuple[PipelineConfig, Outputs]):
    heard = read_table(measured[1]["quality"].path(quality.LISTENING_FILE))
    ratios = heard.filter(pc.equal(heard["measure"], "snr_db")).to_pylist()
    values = sorted(row["snr_db"] for row in rows(measured[1]["quality"]))
    assert [row["value"] for row in ratios if row["place"] == "worst"] == values[:3]
    spoken = {u.utterance_id: u.samples for u in read_utterances(audio_of(training_shards(measured[1]["tokens"]))[0])}
    same = [row for row in ratios if row["utterance_id"] in spoken]
    assert same
    for row in same:
        assert (decode_flac(row["flac"]) == spoken[row["utterance_id"]][: 6 * 16_000]).all()


def test_a_page_has_the_first_players_of_every_measure_where_not_all_fit(measured: tuple[PipelineConfig, Outputs]):
    few = heard(measured[1]["quality"], 350_000)
    sizes = [clip.embedded_bytes for measure in few for clip in measure.clips]
    assert sum(sizes) <= 350_000 and {len(measure.clips) for measure in few} <= {1, 2, 3} and len(few) == 5


def test_what_leaves_nothing_to_train_on_is_refused_with_the_threshold(measured: tuple[PipelineConfig, Outputs]):
    with pytest.raises(SourceError, match=r"nothing is left to train on.*--ingestion.keep.min_level_db -20"):
        run_tiny(keeping(measured[0], min_level_db=-20), "adaptation")


def test_dnsmos_is_asked_where_it_is_there_and_missed_where_it_has_a_say(
    known: PipelineConfig, taken: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    corpus = Store(known.root).find(taken.outputs["corpus"].id)
    asked = PipelineConfig.model_validate(merged(known.model_dump(), {"ingestion": {"measures": {"dnsmos": True}}}))
    judge = tmp_path / "sig_bak_ovr.onnx"
    judge.write_bytes(b"a judge")
    monkeypatch.setattr(dnsmos, "installed_dnsmos", lambda: judge)
    monkeypatch.setattr(dnsmos, "load_dnsmos", lambda _: lambda samples: dnsmos.Quality(1, 1, len(samples) / 32_000))
    rated = quality.build(keeping(asked, min_dnsmos=1.5), corpus, compute_all)["quality"]
    assert {row["reason"] for row in rows(rated) if row["num_samples"] < 48_000} == {"low_dnsmos"}
    assert {row["reason"] for row in rows(rated) if row["num_samples"] >= 48_000} == {None}
    planned = measures.measures_steps(asked, corpus)
    monkeypatch.setattr(dnsmos, "installed_dnsmos", lambda: None)
    assert {s.fingerprint for s in measures.measures_steps(asked, corpus)}.isdisjoint(s.fingerprint for s in planned)
    with pytest.raises(MissingInputError, match="DNSMOS is not installed.*pip install"):
        quality.build(keeping(asked, min_dnsmos=1.5), corpus, compute_all)


def test_the_figures_are_those_of_the_table(measured: tuple[PipelineConfig, Outputs]):
    summary, table = QualitySummary.of(measured[1]["quality"]), rows(measured[1]["quality"])
    (noisy,) = summary.left_out
    assert (noisy.utterances, noisy.alone, noisy.bound) == (3, 3, 24.0)
    left = [row for row in table if row["reason"]]
    assert noisy.hours == pytest.approx(sum(row["num_samples"] for row in left) / 16_000 / 3600)
    assert (summary.kept_train, summary.kept_held_out) == tuple(
        sum(row["split"] == side and not row["reason"] for row in table) for side in ("train", "held_out")
    )
    figures = {each.measure: each for each in summary.measured}
    assert figures["snr_db"].quantiles["50"] == pytest.approx(median(row["snr_db"] for row in table))
    assert sum(figures["snr_db"].counts) == 12 and figures["words_per_s"].known == 0
    assert json.dumps(summary.model_dump(mode="json"))
