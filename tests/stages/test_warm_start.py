"""A student goes on from the one before it: when, from where, on which speech; and what makes it start again.

The first half decides only: artifacts without files and an `execute` that trains nothing. The second half trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.show import show_lineage
from tests.conftest import Finished
from tests.fixtures.killed import kill_in_step
from tests.fixtures.sequence_ids import id_of
from tests.fixtures.small_run import SUMMARIES
from tests.fixtures.summaries import Anything
from tests.fixtures.tiny import CLIPS, NEW_CLIP, Computed, copy_clips, copy_store, digests, run_tiny, tiny_config
from tests.stages.test_kill import KILLED
from tinywave_core.config.base import Config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import TrainingError
from tinywave_core.models.llama import load_llama
from tinywave_core.run.pipeline import Look, run_pipeline
from tinywave_core.sequences.index import load_sequences
from tinywave_core.sequences.table import EVERY_EPOCH, SequenceTable, TokenSequence, replayed
from tinywave_core.stages.adaptation.teacher import training_parts
from tinywave_core.stages.distillation import student as distillation
from tinywave_core.steps.base import Execute, Outputs, Step, compute
from tinywave_core.steps.reasons import explain
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.teacher.layer_map import LayerMap
from tinywave_core.tokenizers.vocabulary import Vocabulary


@dataclass
class Corpus:
    """Token shards of an hour each, their teacher, and the students that come of them; nothing is trained."""

    store: Store
    shards: tuple[str, ...] = ("a",)
    teacher: str = "teacher"
    text: str | None = None
    settings: dict[str, Any] = field(default_factory=lambda: {"distillation": {"on_new_audio": "continue"}})
    ran: list[Step] = field(default_factory=list)
    asked: list[Step] = field(default_factory=list)

    def students(self, execute: Execute | None = None, **refresh: Any) -> tuple[Artifact, Artifact]:
        shards = {name: self.made("tokenization", "shard", name) for name in self.shards}
        if self.text:
            shards[self.text] = self.made("tokenization", "text", self.text)
        about = {"train_seconds": 3600.0, "train_utterances": 1, "held_out_utterances": 0}
        described = [{"id": shard.id, "part": shard.part, **about} for shard in shards.values()]
        summary = {"shards": described, "tokenizer": "tokenization/codebooks"}
        tokens = self.made("tokenization", "tokens", str(described), **summary)
        captured = [self.made("logit_caching", "shard", self.teacher + name).id for name in shards]
        logits = self.made("logit_caching", "logits", str(captured), **SUMMARIES["logits"] | {"shards": captured})
        teacher = self.made("adaptation", "teacher", self.teacher)
        self.ran.clear(), self.asked.clear()
        made = distillation.build(self.config(refresh), tokens, teacher, logits, execute or self.pretend)
        return made["student"], made["control"]

    def config(self, refresh: dict[str, Any]) -> PipelineConfig:
        return PipelineConfig.model_validate(
            {"root": self.store.url, "adaptation": {"teacher": "fresh"}, **self.settings, "refresh": refresh}
        )

    def made(self, stage: str, part: str, name: str, **summary: Any) -> Artifact:
        return compute(
            Step(self.store, stage, part, 1, lambda *_: Anything(**summary), Config(), params={"name": name})
        )

    def pretend(self, steps: Sequence[Step]) -> list[Artifact]:
        self.asked += steps
        self.ran += [step for step in steps if not step.find().complete]
        summary = lambda step, _: Anything(
            **SUMMARIES["student"] | {"continuations": distillation._continuations(step)}
        )
        return [compute(replace(step, run=summary)) for step in steps]

    def grow(self, *names: str) -> None:
        self.shards += names

    def heard(self, name: str) -> list[str]:
        """Names of the shards that the student was given under an input."""
        by_id = {self.made("tokenization", "shard", shard).id: shard for shard in self.shards}
        return [by_id.get(shard.id, "?") for shard in self.asked[0].inputs.get(name, [])]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(Store(str(tmp_path / "store")))


def test_with_new_speech_student_and_control_each_go_on_from_the_one_before(corpus: Corpus):
    before = corpus.students()
    corpus.grow("b")
    after = corpus.students()
    assert [step.input("previous") for step in corpus.ran] == list(before)
    assert [a.summary["continuations"] for a in after] == [1, 1]
    assert (corpus.heard("tokens"), corpus.heard("heard")) == (["b"], ["a"])


def test_what_was_heard_adds_up_over_continuations(corpus: Corpus):
    corpus.students()
    corpus.grow("b")
    second, _ = corpus.students()
    corpus.grow("c", "d")
    third, _ = corpus.students()
    assert corpus.ran[0].input("previous") == second
    assert (corpus.heard("tokens"), corpus.heard("heard")) == (["c", "d"], ["a", "b"])
    assert third.summary["continuations"] == 2


@pytest.mark.parametrize("student", ["pinned", "growth", "always"])
def test_an_unchanged_corpus_trains_nothing(corpus: Corpus, student: str):
    corpus.students()
    corpus.grow("b")
    before = corpus.students()
    assert corpus.students(student=student) == before
    assert not corpus.ran


def test_pinned_keeps_the_student_whatever_comes(corpus: Corpus):
    first = corpus.students(student="pinned")
    corpus.grow("b", "c")
    assert corpus.students(student="pinned") == first
    corpus.teacher = "another"
    assert corpus.students(student="pinned") == first


def test_growth_waits_and_then_takes_all_that_came_meanwhile(corpus: Corpus):
    corpus.shards = ("a", "b")
    first = corpus.students(student="growth", growth_fraction=0.9)
    corpus.grow("c")
    assert corpus.students(student="growth", growth_fraction=0.9) == first
    corpus.grow("d")
    corpus.students(student="growth", growth_fraction=0.9)
    assert (corpus.heard("tokens"), corpus.heard("heard")) == (["c", "d"], ["a", "b"])


def another_teacher(corpus: Corpus) -> None:
    corpus.grow("b")
    corpus.teacher = "another"


def removed_speech(corpus: Corpus) -> None:
    corpus.shards = ("b", "c")


def only_removed_speech(corpus: Corpus) -> None:
    corpus.shards = ("b",)


def only_other_text(corpus: Corpus) -> None:
    corpus.text = "other text"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (another_teacher, "the teacher is another"),
        (removed_speech, "speech that it heard was removed"),
        (only_removed_speech, "speech that it heard was removed"),
        (only_other_text, "what it learned from changed, and no speech is new"),
    ],
)
def test_what_makes_a_student_start_from_its_teacher_again(tmp_path: Path, change: Any, why: str):
    old, fresh = (Corpus(Store(str(tmp_path / name)), ("a", "b")) for name in ("old", "fresh"))
    old.students()
    for corpus in (old, fresh):
        change(corpus)
    assert old.students() == fresh.students()
    assert old.ran[0].context == {"restarted": why}


def test_text_that_is_drawn_anew_is_replayed_and_never_new(corpus: Corpus):
    corpus.text = "text for one hour"
    corpus.students()
    corpus.grow("b")
    corpus.text = "text for two hours"
    corpus.students()
    assert (corpus.heard("tokens"), corpus.heard("heard")) == (["b"], ["a", "?"])


def test_other_settings_of_the_student_start_from_the_teacher(corpus: Corpus):
    corpus.students()
    corpus.grow("b")
    corpus.settings = {"distillation": {"on_new_audio": "continue", "layers": 3}}
    corpus.students()
    assert not any("previous" in step.inputs for step in corpus.ran)


def test_settings_of_the_continuation_identify_continued_students_only(corpus: Corpus):
    first, _ = corpus.students()
    corpus.settings = {"distillation": {"on_new_audio": "continue", "continuation": {"steps": 7}}}
    assert corpus.students()[0] == first
    corpus.grow("b")
    seven, _ = corpus.students()
    corpus.settings = {"distillation": {"on_new_audio": "continue", "continuation": {"steps": 8}}}
    eight, _ = corpus.students()
    assert seven != eight
    assert corpus.ran[0].input("previous") == first  # the last continuation is made again, none is put on top


def test_restarting_ids_do_not_depend_on_what_was_there_before(tmp_path: Path):
    restart = {"distillation": {"on_new_audio": "restart"}}
    old, fresh = (Corpus(Store(str(tmp_path / name)), settings=restart) for name in ("old", "fresh"))
    old.students()
    for corpus in (old, fresh):
        corpus.grow("b")
    assert old.students() == fresh.students()


def test_a_lost_student_is_made_again_before_it_goes_on(corpus: Corpus):
    first, _ = corpus.students()
    corpus.store.filesystem.rm(f"{corpus.store.root}/{first.id}", recursive=True)
    corpus.grow("b")
    corpus.students()
    student = [step for step in corpus.ran if step.part == "student"]
    assert student[0].id == student[1].input("previous").id == first.id


def test_a_plan_names_the_steps_that_a_run_then_takes(corpus: Corpus):
    corpus.students()
    corpus.grow("b")
    look = Look()
    planned = corpus.students(look)
    assert ["goes on from" in explain(*seen).why for seen in look.steps] == [True, True]
    assert corpus.students() == planned


# How much is replayed ------------------------------------------------------------------------------------------------


def some(prefix: str, lengths: Sequence[int], variant: int = 0) -> list[TokenSequence]:
    ids = (np.zeros(length, np.uint16) for length in lengths)
    return [
        TokenSequence(id_of(f"{prefix}{n:03}"), f"{prefix}{n}", "", None, i, 1.0, variant) for n, i in enumerate(ids)
    ]


def tokens(sequences: Sequence[TokenSequence]) -> int:
    return sum(len(s.ids) for s in sequences)


@pytest.mark.parametrize(("share", "old_tokens"), [(0.0, 0), (0.25, 100), (0.5, 300), (0.9, 2700)])
def test_replay_is_the_asked_share_of_all_tokens(share: float, old_tokens: int):
    drawn = replayed(some("old", [10] * 1000), some("new", [30] * 10), share, "0/replay/1")
    assert tokens(drawn) == old_tokens


def test_all_is_replayed_where_there_is_not_as_much():
    old = some("old", [10] * 5)
    assert sorted(s.id for s in replayed(old, some("new", [30] * 10), 0.5, "")) == sorted(s.id for s in old)


def test_the_drawing_depends_on_key_and_ids_and_not_on_the_order():
    old, new = some("old", [10] * 100), some("new", [10] * 10)
    drawn = [s.id for s in replayed(old, new, 0.5, "0/replay/1")]
    assert drawn == [s.id for s in replayed(old[::-1], new, 0.5, "0/replay/1")]
    assert set(drawn) != {s.id for s in replayed(old, new, 0.5, "0/replay/2")}


def test_what_comes_in_every_epoch_counts_as_often_as_there_are_drawings():
    """Of 2 drawings an epoch takes one: 100 of the 200 new tokens, so 100 old ones."""
    new = some("first", [10] * 10, 0) + some("second", [10] * 10, 1)
    assert tokens(replayed(some("old", [10] * 99, EVERY_EPOCH), new, 0.5, "")) == 100


# Trained -------------------------------------------------------------------------------------------------------------

CONTINUATION = {"steps": 5, "learning_rate": 1e-3, "replay": 0.5}


def grown(finished: Finished, folder: Path, **continuation: Any) -> PipelineConfig:
    """The finished store and one more reader, with a student that goes on."""
    source = copy_clips(folder / "source", (*CLIPS, NEW_CLIP))
    copy_store(finished.config, folder / "store")
    settings = {"on_new_audio": "continue", "continuation": {**CONTINUATION, **continuation}}
    return tiny_config(source, folder / "store", distillation=settings)


@pytest.fixture(scope="module")
def continued(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineConfig, Outputs, Computed]:
    config = grown(finished, tmp_path_factory.mktemp("continued"))
    return config, *run_tiny(config)


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return load_llama(artifact.path("model")).state_dict()


def test_a_continuation_begins_at_the_weights_of_the_student_before(finished: Finished, tmp_path: Path):
    config = grown(finished, tmp_path, steps=1, learning_rate=1e-12)
    outputs, _ = run_tiny(config, until="distillation")
    for part in ("student", "control"):
        before, after = weights(finished.outputs[part]), weights(outputs[part])
        assert all(torch.equal(after[name], before[name]) for name in before if name.endswith("proj.weight"))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


def test_it_learned_from_the_new_speech_and_as_much_of_the_old(finished: Finished, continued: Any):
    _, outputs, _ = continued
    before, after = finished.outputs["student"].summary, outputs["student"].summary
    assert after["started_from"] == finished.outputs["student"].id and before["started_from"] == "teacher"
    assert (before["continuations"], after["continuations"]) == (0, 1)
    assert (before["new_sequences"], before["replayed_sequences"]) == (before["train_sequences"], 0)
    assert after["new_sequences"] == 1
    assert after["replayed_tokens"] == pytest.approx(after["new_tokens"], abs=80)
    assert after["train_sequences"] == after["new_sequences"] + after["replayed_sequences"] < before["train_sequences"]
    assert after["steps"] == 5


def test_the_floor_of_a_continued_student_is_counted_from_all_that_it_heard(continued: Any):
    """Not from the new speech alone: that would be a lower hurdle."""
    _, outputs, _ = continued
    made = outputs["student"].manifest
    shards = [outputs["student"].store.find_all(made.inputs[name]) for name in ("tokens", "heard")]
    new, heard = (load_sequences(of_name, "train", 128) for of_name in shards)
    train, _ = training_parts(SequenceTable.joined([new, heard]), made.params["validation"])
    assert outputs["scores"].summary["floors"]["counted_tokens"] == tokens(train) > tokens(new)


def test_all_that_follows_takes_the_continued_student_and_a_second_run_computes_nothing(continued: Any):
    config, outputs, _ = continued
    assert outputs["scores"].manifest.inputs["student"] == [outputs["student"].id]
    again, computed = run_tiny(config)
    assert again == outputs and not computed.ran
    look = Look()
    run_pipeline(config, Store(config.root), look)
    assert all(artifact.complete for _, artifact in look.steps)


def test_the_same_continuation_has_the_same_bytes_also_after_kill_9(finished: Finished, continued: Any, tmp_path: Path):
    config = grown(finished, tmp_path)
    assert kill_in_step(config, "distillation/student", 3) == KILLED
    run_tiny(config, until="distillation")
    expected = digests(Store(continued[0].root))
    assert digests(Store(config.root)).items() <= expected.items()


def test_only_targets_of_what_is_trained_on_are_needed(continued: Any):
    _, outputs, computed = continued
    step = next(step for step in computed.ran if step.part == "student")
    used = distillation._material(step).sequences
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    assert len(used) < outputs["logits"].summary["sequences"]
    assert len(distillation._cached(step, vocabulary, used).places) == len(used)
    with pytest.raises(TrainingError, match="1 of 1 training sequences have no cached logits, such as 6666"):
        distillation._cached(step, vocabulary, SequenceTable.of(some("f" * 13, [9])))


def test_a_student_of_another_shape_is_not_gone_on_from(continued: Any):
    _, outputs, computed = continued
    step = next(step for step in computed.ran if step.part == "student")
    teacher = load_llama(outputs["teacher"].path("teacher"))
    with pytest.raises(
        TrainingError, match="num_hidden_layers 2, the student of these settings 3.*on_new_audio restart"
    ):
        distillation._start(step, teacher, LayerMap((0, 1, 2), ()), None, None)


def test_its_lineage_reaches_all_recordings_that_were_heard(continued: Any, capsys: pytest.CaptureFixture[str]):
    config, outputs, _ = continued
    show_lineage(config.root, outputs["student"].id)
    assert f"\n{len(CLIPS) + 1} audio files went in" in capsys.readouterr().out
