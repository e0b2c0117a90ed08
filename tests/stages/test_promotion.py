"""A new student is published only if held-out speech shows that it is no worse than the one before, and better than counts."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.small_run import SUMMARIES, small_run
from tests.fixtures.tiny import Computed, copy_store, run_tiny, tiny_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import MissingInputError
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.run.promotion import LOG, Promotion, promote, publish, published
from tinywave_core.stages.evaluation.summary import ScoresSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.store import Store

LONGER = {"steps": 60, "learning_rate": 5e-3}
# Worse on every machine: as it was cut out of the teacher. A rate that is too high ruins a student on some CPUs only.
UNTRAINED = {"steps": 1, "learning_rate": 1e-9, "warmup_steps": 0}


@pytest.fixture(scope="module")
def exported(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> PipelineConfig:
    """A run up to the export, with as little evaluation as the decision needs."""
    evaluation = {"probes": {"items": 0}, "gap": {"utterances": 0}}
    config = tiny_config(tiny_source, tmp_path_factory.mktemp("exported") / "store", evaluation=evaluation)
    run_tiny(config, until="export")
    return config


@pytest.fixture
def config(exported: PipelineConfig, tmp_path: Path) -> PipelineConfig:
    """A store with a student that is published."""
    config = copy_store(exported, tmp_path / "store")
    assert decide(config)[1].outcome == "published"
    return config


def decide(config: PipelineConfig, **promotion: Any) -> tuple[Outputs, Promotion]:
    store, execute = Store(config.root), Computed()
    outputs = run_pipeline(config, store, execute, until="export")
    config = config.model_copy(update={"promotion": config.promotion.model_copy(update=promotion)})
    return outputs, promote(config, store, outputs, execute)


def trained(config: PipelineConfig, **training: Any) -> PipelineConfig:
    """The same with another training of the student."""
    changed = config.distillation.training.model_copy(update=training)
    return config.model_copy(update={"distillation": config.distillation.model_copy(update={"training": changed})})


def test_the_first_student_is_published(exported: PipelineConfig, tmp_path: Path):
    config = copy_store(exported, tmp_path / "store")
    assert published(Store(config.root)) is None
    outputs, promotion = decide(config)
    assert (promotion.outcome, promotion.model) == ("published", outputs["model"].id)
    now = published(Store(config.root))
    assert now is not None and (now.number, now.student, now.replaces) == (1, outputs["student"].id, None)


def test_a_run_with_nothing_new_publishes_nothing_again(config: PipelineConfig):
    _, promotion = decide(config)
    assert promotion.outcome == "already"
    assert len(Store(config.root).log(LOG).records()) == 1


def test_a_better_student_takes_the_place(config: PipelineConfig):
    before = published(Store(config.root))
    outputs, promotion = decide(trained(config, **LONGER))
    assert promotion.outcome == "published" and promotion.test is not None
    assert promotion.test.interval[1] < 0 and "better" in promotion.why
    now = published(Store(config.root))
    assert now is not None and before is not None
    assert (now.model, now.replaces, now.number) == (outputs["model"].id, before.model, 2)


def test_a_worse_student_does_not(config: PipelineConfig):
    decide(trained(config, **LONGER))
    before = published(Store(config.root))
    outputs, promotion = decide(trained(config, **UNTRAINED))
    assert promotion.outcome == "kept" and promotion.test is not None and before is not None
    assert promotion.test.interval[0] > 1 and promotion.why.startswith("worse: ")
    assert promotion.model == before.model != outputs["model"].id
    assert published(Store(config.root)) == before


def test_the_difference_is_the_difference_of_both_evaluations(config: PipelineConfig):
    first, _ = decide(config)
    second, promotion = decide(trained(config, **UNTRAINED))
    nll = [outputs["scores"].summary["models"]["student"]["nll"] for outputs in (second, first)]
    assert promotion.test is not None
    assert promotion.test.difference == pytest.approx(nll[0] - nll[1], abs=1e-5)


def test_a_margin_of_nothing_keeps_what_is_not_shown_to_be_better(config: PipelineConfig):
    """One more step at a rate of nearly nothing: a difference far below the margin in both directions."""
    nearly = trained(config, seed=1)
    _, promotion = decide(nearly, margin=0.0)
    assert promotion.test is not None
    low, high = promotion.test.interval
    assert (promotion.outcome == "published") == (high <= 0)
    assert low <= promotion.test.difference <= high


def test_a_decision_is_computed_once(config: PipelineConfig):
    worse = trained(config, **UNTRAINED)
    decide(worse)
    store, execute = Store(config.root), Computed()
    promote(worse, store, run_pipeline(worse, store, execute, until="export"), execute)
    assert execute.ran == []


def test_codebooks_that_were_fitted_again_cannot_be_compared(config: PipelineConfig):
    tokenization = config.tokenization.model_copy(
        update={"units": config.tokenization.units.model_copy(update={"clusters": 19})}
    )
    _, promotion = decide(config.model_copy(update={"tokenization": tokenization}))
    assert promotion.outcome == "kept"
    assert "another vocabulary" in promotion.why and "publish by hand" in promotion.why
    assert promotion.model_dump(mode="json")["test"] == {
        "comparable": False,
        "why": "the published student has another vocabulary",
    }


@pytest.mark.parametrize(("policy", "outcome"), [("always", "published"), ("never", "kept")])
def test_policies_that_ask_no_test(config: PipelineConfig, policy: str, outcome: str):
    _, promotion = decide(trained(config, **UNTRAINED), policy=policy)
    assert promotion.outcome == outcome and promotion.test is None


def test_a_published_student_that_is_gone_is_replaced(config: PipelineConfig):
    now = published(Store(config.root))
    assert now is not None
    better = trained(config, **LONGER)
    shutil.rmtree(Path(config.root, now.student))
    _, promotion = decide(better)
    assert promotion.outcome == "published" and "no longer in the store" in promotion.why


def test_publishing_by_hand_takes_any_whole_export_and_nothing_else(config: PipelineConfig):
    outputs, promotion = decide(trained(config, **UNTRAINED))
    assert promotion.outcome == "kept"
    store = Store(config.root)
    assert publish(store, outputs["model"], "by hand").model == outputs["model"].id
    with pytest.raises(MissingInputError, match="is no whole export"):
        publish(store, outputs["student"], "by hand")


def against_counts(config: PipelineConfig, **promotion: Any) -> tuple[Outputs, Promotion]:
    """The decision with the floor that users have: a tiny student is far worse than counts."""
    return decide(config, **{"floor": "counts", **promotion})


def test_a_first_student_that_is_worse_than_counts_is_not_published(exported: PipelineConfig, tmp_path: Path):
    config = copy_store(exported, tmp_path / "store")
    outputs, promotion = against_counts(config)
    floors = ScoresSummary.of(outputs["scores"]).floors
    assert floors.above_counts["student"].interval[0] > 0
    assert (promotion.outcome, published(Store(config.root))) == ("kept", None)
    assert promotion.sentences[0].startswith("Not published: it is worse than guessing: ")
    assert "Add speech" in promotion.why and "`tinywave publish`" in promotion.why


def test_a_student_worse_than_counts_does_not_take_the_place_of_a_worse_one(config: PipelineConfig):
    before = published(Store(config.root))
    outputs, promotion = against_counts(trained(config, **LONGER))
    assert promotion.outcome == "kept" and promotion.test is None and before is not None
    assert promotion.model == before.model != outputs["model"].id
    assert published(Store(config.root)) == before
    floors = ScoresSummary.of(outputs["scores"]).floors
    assert promotion.sentences[0].startswith("Not published: it is worse than a table of counts: ")
    assert f"{floors.floor.nll:.3f} (difference +{floors.above_counts['student'].nll:.3f}" in promotion.why


def test_a_student_worse_than_counts_can_be_published_all_the_same(exported: PipelineConfig, tmp_path: Path):
    config = copy_store(exported, tmp_path / "store")
    outputs, promotion = against_counts(config)
    assert promotion.outcome == "kept"
    assert publish(Store(config.root), outputs["model"], "by hand").model == outputs["model"].id
    another = copy_store(exported, tmp_path / "another")
    assert against_counts(another, policy="always")[1].outcome == "published"


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        ((-0.9, -0.1), "published"),
        ((-0.9, 0.0), "kept"),  # not surely better
        ((-0.9, 0.1), "kept"),
        ((0.1, 0.9), "kept"),
    ],
)
def test_a_first_student_is_published_if_the_whole_interval_is_below_the_counts(
    tmp_path: Path, interval: tuple[float, float], outcome: str
):
    above = {"nll": sum(interval) / 2, "interval": list(interval)}
    made = SUMMARIES["scores"]["floors"]
    floors = made | {"above_counts": made["above_counts"] | {"student": above}}
    _, outputs = small_run(tmp_path / "store", scores=SUMMARIES["scores"] | {"floors": floors})
    config = PipelineConfig(root=str(tmp_path / "store"))
    promotion = promote(config, Store(config.root), outputs, Computed())
    assert promotion.outcome == outcome
    assert (published(Store(config.root)) is not None) == (outcome == "published")


def test_a_student_that_is_published_already_stays_although_it_is_worse_than_counts(config: PipelineConfig):
    _, promotion = against_counts(config)
    assert promotion.outcome == "already"


def promoted(root: Path, gain: tuple[float, float], *, recordings: int = 20, student: float = -0.7) -> Promotion:
    """The decision about a first student that gains so much over its control, and is so far above the counts."""
    made = SUMMARIES["scores"]
    interval = {"distillation_gain_nll": sum(gain) / 2, "distillation_gain_nll_interval": list(gain)}
    above = {"nll": student, "interval": [student - 0.05, student + 0.05]}
    floors = made["floors"] | {
        "recordings": recordings,
        "above_counts": made["floors"]["above_counts"] | {"student": above},
    }
    worse = made["models"] | {"control": made["models"]["control"] | {"nll": 3.1}}
    scores = made | {"floors": floors, "comparison": made["comparison"] | interval, "models": worse}
    _, outputs = small_run(root, scores=scores)
    config = PipelineConfig(root=str(root))
    return promote(config, Store(config.root), outputs, Computed())


def test_a_first_student_that_is_worse_than_its_control_is_published_with_a_warning(tmp_path: Path):
    promotion = promoted(tmp_path, (-0.3, -0.1))
    now = published(Store(str(tmp_path)))
    assert promotion.outcome == "published" and now is not None and now.warning == promotion.warning
    assert promotion.sentences == [
        "Warning: the published student is worse than its undistilled control, which had the same training without the teacher: 3.300 "
        "nats per token on held-out speech, the control 3.100 (difference +0.200, 95% interval +0.100 to +0.300, paired over 20 "
        "held-out recordings).",
        "Published: the first student of this store.",
    ]


@pytest.mark.parametrize(("gain", "recordings"), [((-0.3, 0.0), 20), ((-0.3, 0.1), 20), ((-0.3, -0.1), 9)])
def test_of_a_student_that_is_not_shown_to_be_worse_nothing_is_warned(
    tmp_path: Path, gain: tuple[float, float], recordings: int
):
    promotion = promoted(tmp_path, gain, recordings=recordings)
    assert (promotion.outcome, promotion.warning, len(promotion.sentences)) == ("published", "", 1)


def test_a_student_that_is_not_published_needs_no_warning(tmp_path: Path):
    promotion = promoted(tmp_path, (-0.3, -0.1), student=0.4)
    assert (promotion.outcome, promotion.warning) == ("kept", "")


def test_a_student_worse_than_counts_that_is_published_by_hand_carries_a_warning(tmp_path: Path):
    kept = promoted(tmp_path, (0.1, 0.3), student=0.4)
    store = Store(str(tmp_path))
    now = publish(store, store.find(kept.model, "model"), "by hand")
    assert now.warning.startswith("is worse than a table of counts: ")
