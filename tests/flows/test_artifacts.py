"""Artifacts in the Prefect UI: each stage has its page, small and escaped; a failure is a warning, not a lost run."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from prefect import flow
from prefect.client.orchestration import get_client

from flows import watch
from tasks import artifacts
from tasks.artifacts import link_of, publish_run, publish_stage, run_markdown, stage_markdown
from tests.conftest import Finished
from tests.fixtures.markup import MARKUP
from tests.fixtures.small_run import small_run
from tinywave_core.audio.scan import NewFile, Scan
from tinywave_core.audio.sidecars import Label
from tinywave_core.audio.source import SourceFile
from tinywave_core.config.pipeline import STAGES
from tinywave_core.run.record import RunRecord, StageRow
from tinywave_core.steps.base import Outputs

Published = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Outputs]:
    return small_run(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def published(prefect_server: None, run: tuple[RunRecord, Outputs]) -> Published:
    record, outputs = run

    @flow
    def publish_all() -> None:
        for row in record.rows:
            publish_stage(row, outputs)
        publish_run(record)

    state = publish_all(return_state=True)
    wanted = {"artifacts": {"flow_run_id": {"any_": [str(state.state_details.flow_run_id)]}}, "limit": 100}
    with get_client(sync_client=True) as client:  # the server is that of all tests of this process
        found = client.request("POST", "/artifacts/filter", json=wanted).json()
    return {artifact["key"]: artifact for artifact in found if artifact["key"]}


def test_every_stage_and_the_run_have_a_page(published: Published):
    assert {stage.replace("_", "-") for stage in STAGES} | {"run", "report"} <= published.keys()


def test_a_stage_has_at_most_four_artifacts(published: Published):
    for stage in STAGES:
        assert 1 <= sum(key.startswith(stage.replace("_", "-")) for key in published) <= 4


def test_tables_and_pictures_are_where_they_are_natural(published: Published):
    tables = {key for key, artifact in published.items() if artifact["type"] == "table"}
    pictures = {key for key, artifact in published.items() if artifact["type"] == "image"}
    assert tables == {"ingestion-rejects", "logit-caching-targets", "distillation-terms", "evaluation-comparison"}
    assert pictures == {
        "ingestion-durations",
        "tokenization-units",
        "adaptation-loss",
        "distillation-losses",
        "evaluation-kinds",
    }


def test_artifacts_are_small(published: Published):
    sizes = {key: len(str(artifact["data"])) for key, artifact in published.items()}
    assert max(sizes.values()) < 100_000


def test_the_page_says_what_came_in_what_went_out_and_why(published: Published):
    page = str(published["ingestion"]["data"])
    for expected in ("203 files", "200 utterances, 30.0 min", "60 undecodable", "same settings and inputs as before"):
        assert expected in page


def test_every_file_without_speech_is_a_row_with_its_reason(published: Published):
    rows = json.loads(published["ingestion-rejects"]["data"])
    assert len(rows) == 60
    assert {row["reason"] for row in rows} == {"undecodable"}
    assert rows[0]["detail"] == "expected <audio>, found text | more"


@pytest.mark.parametrize(
    ("page", "facts"),
    [
        ("adaptation", ("5.900 → 3.200 nats per token", "random weights", "full, 450 steps")),
        # (0.12 · 26000 + 0.031 · 11000) / 37000
        ("logit-caching", ("| probability outside the top K | 9.4% of the teacher's", "K = 12 per token")),
        (
            "distillation",
            ("blocks 3, 6, 9, 12, 15 of the teacher", "in 300 of 300 steps", "logits 0.9", "student 4.600"),
        ),
        (
            "evaluation",
            (
                "## By stream, and after a prompt",
                "| 90.0 (85.0 to 95.0) |",
                "6 and 0 pairs (p = 0.031)",
                "| 180.0 (170.0 to 190.0) |",
            ),
        ),
        ("export", ("AutoModelForCausalLM.from_pretrained",)),
        ("run", ("Published: the first student of this store",)),
    ],
)
def test_a_page_answers_what_is_asked_of_its_stage_first(published: Published, page: str, facts: tuple[str, ...]):
    assert [fact for fact in facts if fact not in published[page]["data"]] == []


def test_a_student_that_went_on_says_from_where(tmp_path: Path):
    went_on = {"started_from": "distillation/aa", "new_sequences": 7, "replayed_sequences": 5, "continuations": 2}
    record, outputs = small_run(tmp_path, student=went_on)
    (row,) = [row for row in record.rows if row.stage == "distillation"]
    assert "distillation/aa, continued on 7 new sequences and 5 heard before" in stage_markdown(row, outputs, {})


def test_every_file_of_a_stage_has_its_place(published: Published, run: tuple[RunRecord, Outputs]):
    for part, artifact in run[1].items():
        page = published[artifact.stage.replace("_", "-")]["data"]
        assert artifact.url in page and all(f"`{name}`" in page for name in artifact.files), part


def test_lineage_goes_both_ways(published: Published, run: tuple[RunRecord, Outputs]):
    record, outputs = run
    (teacher,) = [line for line in published["run"]["data"].splitlines() if line.startswith("| adaptation, teacher")]
    assert f"tokens: {outputs['tokens'].id}" in teacher
    assert "logit_caching/logits, distillation/student, distillation/control, evaluation/scores" in teacher
    (row,) = [row for row in record.rows if row.stage == "adaptation"]
    assert "logit_caching/logits, distillation/student" in stage_markdown(row, outputs, record.model_dump())
    assert "tells when the run has ended" in published["adaptation"]["data"]


def test_the_run_is_a_diagram_and_a_comparison(published: Published):
    page = str(published["run"]["data"])
    assert "```mermaid" in page
    assert "distillation --> evaluation" in page
    assert "3.300 (3.200 to 3.400)" in page
    assert "Distillation helped beyond noise" in page


def test_links_say_their_place_in_words_too(published: Published, run: tuple[RunRecord, Outputs]):
    assert run[0].report in published["report"]["description"]
    assert run[0].student in published["export-model"]["description"]


def test_base_tokens_and_an_empty_run_have_pages(tmp_path: Path):
    record, outputs = small_run(
        tmp_path, corpus={"reasons": {}}, tokens={"pitch_histogram": [], "drift": {}}, logits={"kinds": {}}
    )
    assert all(stage_markdown(row, outputs, {}) for row in record.rows)
    assert run_markdown(record, outputs, [])


def test_a_failure_to_publish_is_a_warning_that_names_what_failed(
    prefect_server: None,
    run: tuple[RunRecord, Outputs],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(artifacts, "create_markdown_artifact", refuse)

    @flow
    def publish_one() -> str:
        publish_stage(run[0].rows[0], run[1])
        return "went on"

    with caplog.at_level(logging.WARNING):
        assert publish_one() == "went on"
    assert "could not publish the page of ingestion: ConnectionError: the server is gone" in caplog.text


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("/a b/c", "file:///a%20b/c"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("s3://bucket/a) [b](c", "s3://bucket/a%29%20%5Bb%5D%28c"),
    ],
)
def test_local_places_are_links_that_a_browser_opens(url: str, link: str):
    assert link_of(url) == link


def test_the_page_of_evaluation_has_probes_and_the_gap(finished: Finished):
    row = StageRow(stage="evaluation", came_in="", came_out="", seconds=0.0, steps=[])
    page = stage_markdown(row, finished.outputs, {})
    assert "## Probes\n" in page
    assert "KL from the teacher's" in page
    assert "| student 0, teacher 1 |" in page and "| units |" in page


def test_the_page_says_what_was_left_out_of_the_source(finished: Finished):
    notes = ["left out below the source: the store out"]
    row = StageRow(stage="ingestion", came_in="", came_out="", seconds=0.0, steps=[], notes=notes)
    assert "| note | left out below the source: the store out |" in stage_markdown(row, finished.outputs, {})


def test_names_of_others_are_text_on_every_page(tmp_path: Path):
    """Read by markdown-it, each page has what it has where names are plain words."""
    plain, marked = every_page(tmp_path, "word"), every_page(tmp_path, " ".join(MARKUP))
    assert [kinds(page) for page in marked] == [kinds(page) for page in plain]
    assert all("canary" in page for page in marked)


def every_page(folder: Path, name: str) -> list[str]:
    """Of a run in which a reason, the start of the student, a new file and the folder of the store have this name."""
    went_on = {"started_from": name, "new_sequences": 7, "replayed_sequences": 5, "continuations": 2}
    root = folder / name.replace("/", "")[:200]
    record, outputs = small_run(root, corpus={"reasons": {name: 3}}, student=went_on)
    file = NewFile(SourceFile(name, name, 1, ""), "0" * 64, Label())
    watched = watch.page(Scan(name, found=1, new=1, groups=((file,),)), {"found": 1})
    return [watched, run_markdown(record, outputs, []), *(stage_markdown(row, outputs, {}) for row in record.rows)]


def kinds(page: str) -> list[str]:
    """Everything in a page but its plain text and what stands in code."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page)
    inner = [child.type for token in tokens for child in token.children or ()]
    return [t.type for t in tokens] + [kind for kind in inner if kind not in ("text", "text_special", "code_inline")]
