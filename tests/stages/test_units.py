"""What the units are worth, in the tiny pipeline: from transcripts, from TextGrids, and from nothing."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished
from tests.fixtures.tiny import CLIPS, copy_store, copy_transcribed, run_tiny, tiny_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.evaluation import units
from tinywave_core.stages.evaluation.summary import UnitsSummary
from tinywave_core.stages.evaluation.unit_words import unit_columns, units_text
from tinywave_core.stages.evaluation.units import SPANS, units_step
from tinywave_core.steps.base import compute
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, Store

GRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
3
<exists>
2
"IntervalTier"
"words"
0
3
2
0
0.5
"{first}"
0.5
1
"calm"
"{second}"
"{tier}"
0
3
3
0
0.3
"S"
0.3
0.5
"IY"
0.5
1
"K"
"""


def asked(finished: Finished, root: Path, alignment: dict[str, Any], **others: Any) -> tuple[PipelineConfig, Artifact]:
    config = copy_store(finished.config, root)
    values = config.model_dump()
    values["evaluation"]["units"] = {"items": 20, "split": "all", **others}
    values["tokenization"]["alignment"] = alignment
    # Of the copy: what is measured lies in the store of its tokens.
    return PipelineConfig.model_validate(values), Store(config.root).find(finished.outputs["tokens"].id)


def measured(config: PipelineConfig, tokens: Artifact) -> tuple[UnitsSummary, Artifact]:
    made = compute(units_step(config, tokens))
    return UnitsSummary.of(made), made


def test_transcripts_give_phones_and_words(tmp_path: Path):
    asking = {"evaluation": {"units": {"items": 20, "split": "all"}}}
    config = tiny_config(copy_transcribed(tmp_path / "speech"), tmp_path / "store", **asking)
    summary, made = measured(config, run_tiny(config, until="tokenization")[0]["tokens"])
    figures = summary.figures
    assert figures is not None and figures.phones is not None and summary.why == ""
    assert 0 < figures.phones.pnmi.value < 1 and figures.phones.phones > 15
    rows = read_table(made.path(SPANS)).to_pylist()
    assert {row["kind"] for row in rows} == {"phone", "word"}
    assert sum(summary.refused.values()) + len({row["utterance_id"] for row in rows}) == figures.utterances
    assert "–" not in unit_columns(summary)["PNMI"] and "without silence" in units_text(summary)


@pytest.mark.parametrize("tier", ["phones", "syllables"])
def test_a_tier_of_phones_is_read_and_without_one_words_are_measured_alone(
    finished: Finished, tmp_path: Path, tier: str
):
    for n, clip in enumerate(CLIPS):
        path = (tmp_path / "grids" / clip).with_suffix(".TextGrid")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GRID.format(first="sea" if n % 2 else "night", second="IntervalTier", tier=tier))
    summary, _ = measured(*asked(finished, tmp_path / "store", {"kind": "given", "path": str(tmp_path / "grids")}))
    assert summary.figures is not None
    if tier == "phones":
        assert summary.figures.phones is not None and summary.figures.phones.phones == 3
    else:
        assert summary.figures.phones is None and "only words have times" in units_text(summary)
    assert summary.figures.words_across is not None


def test_without_the_extra_what_needs_no_times_is_measured_and_it_is_said(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, tokens = asked(finished, tmp_path / "store", {"kind": "pocketsphinx"})
    there = units_step(config, tokens)
    monkeypatch.setattr(units, "find_spec", lambda _: None)
    assert units_step(config, tokens).id != there.id
    summary, _ = measured(config, tokens)
    assert summary.figures is not None and summary.figures.phones is None and summary.figures.units_per_s.value > 5
    assert "pip install 'tinywave[alignment]'" in units_text(summary)


def test_held_out_speech_alone_is_looked_at_unless_all_is_asked_for(finished: Finished, tmp_path: Path):
    config, tokens = asked(finished, tmp_path / "store", {"kind": "pocketsphinx"}, split="held_out", items=3)
    own = {shard["id"] for shard in tokens.summary["shards"] if shard["held_out_utterances"]}
    assert {artifact.id for artifact in units_step(config, tokens).inputs["tokens"]} == own
