"""Summaries: typed where they are read, and an artifact of another version is named."""

from pathlib import Path

import pytest

from tests.fixtures.summaries import Anything
from tinywave_core.config.export import ExportConfig
from tinywave_core.errors import SchemaVersionError
from tinywave_core.steps.base import Output, Step, Summary, compute
from tinywave_core.storage.store import Artifact, Store


class Words(Summary):
    words: int
    rare: int | None = None


def made(folder: Path, **figures: object) -> Artifact:
    def run(step: Step, output: Output) -> Anything:
        return Anything(**figures)

    return compute(Step(Store(str(folder)), "export", "model", 1, run, ExportConfig()))


def test_a_figure_that_was_not_set_is_not_written(tmp_path: Path):
    def run(step: Step, output: Output) -> Words:
        return Words(words=3)

    artifact = compute(Step(Store(str(tmp_path)), "export", "model", 1, run, ExportConfig()))
    assert artifact.summary == {"words": 3}
    assert Words.of(artifact) == Words(words=3)


@pytest.mark.parametrize(
    ("figures", "field"), [({}, "words"), ({"words": 1, "pages": 2}, "pages"), ({"words": "a"}, "words")]
)
def test_a_summary_of_another_version_is_named_with_its_artifact(
    tmp_path: Path, figures: dict[str, object], field: str
):
    artifact = made(tmp_path, **figures)
    with pytest.raises(SchemaVersionError, match=rf"{artifact.id} \(model\) .*1 fields, such as {field}"):
        Words.of(artifact)
