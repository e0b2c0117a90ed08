"""Sequence-level distillation in the tiny pipeline: what the teacher goes on with, who learns from it, and who does not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Finished
from tests.fixtures.tiny import Computed, copy_store, run_tiny
from tinywave_core.config.distillation import DistillationConfig, SequenceLevelConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.models.llama import load_llama
from tinywave_core.run.preflight import check_run
from tinywave_core.sequences.index import load_sequences
from tinywave_core.stages.distillation.stage import facts
from tinywave_core.stages.distillation.student import _material
from tinywave_core.stages.logit_caching.taught import is_drawn
from tinywave_core.steps.base import Outputs, Step
from tinywave_core.storage.shards import read_table
from tinywave_core.tokenizers.vocabulary import EOS_ID, Vocabulary

ASKED = {"share": 0.6, "prompt_tokens": 16, "new_tokens": 24, "top_k": 5}


def asking(config: PipelineConfig, **settings: Any) -> PipelineConfig:
    asked = SequenceLevelConfig.model_validate(ASKED | settings)
    changed = DistillationConfig.model_validate(config.distillation.model_dump() | {"sequence_level": asked})
    return config.model_copy(update={"distillation": changed})


@pytest.fixture(scope="module")
def ran(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineConfig, Outputs, Computed]:
    config = asking(copy_store(finished.config, tmp_path_factory.mktemp("taught") / "store"))
    return config, *run_tiny(config, until="distillation")


def taught_steps(computed: Computed) -> list[Step]:
    """Each once: logits and student ask for the same ones."""
    return list({step.find().id: step for step in computed.of("logit_caching") if step.part == "taught"}.values())


def rows_of(computed: Computed) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Training rows as they were and as the student has them."""
    pairs = []
    for step in taught_steps(computed):
        before = {r["utterance_id"]: r for r in read_table(step.input("tokens").path("tokens.parquet")).to_pylist()}
        now = read_table(step.find().path("tokens.parquet")).to_pylist()
        assert [row["utterance_id"] for row in now] == [i for i, r in before.items() if r["split"] == "train"]
        pairs += [(before[row["utterance_id"]], row) for row in now]
    return pairs


def test_the_control_is_what_it_was_and_the_student_another(
    ran: tuple[PipelineConfig, Outputs, Computed], finished: Finished
):
    outputs, computed = ran[1], ran[2]
    assert outputs["control"].id == finished.outputs["control"].id
    assert outputs["student"].id != finished.outputs["student"].id
    assert set(computed.parts()) == {
        "logit_caching/taught",
        "logit_caching/shard",
        "logit_caching/logits",
        "distillation/student",
    }
    assert "; the teacher goes on with 60% of the training utterances" in dict(facts(outputs))["regime"]


def test_drawn_utterances_keep_their_beginning_and_go_on_as_the_teacher_says(
    ran: tuple[PipelineConfig, Outputs, Computed],
):
    config, outputs, computed = ran
    asked, changed, vocabulary = (
        config.distillation.sequence_level,
        0,
        Vocabulary.from_json(outputs["tokens"].summary["vocabulary"]),
    )
    teacher = load_llama(outputs["teacher"].path("teacher")).eval()
    for before, now in rows_of(computed):
        assert now["taught"] == (is_drawn(asked, before["utterance_id"]) and len(before["ids"]) > 16)
        if not now["taught"]:
            assert now["ids"] == before["ids"]
            continue
        changed += 1
        new = now["ids"][16:]
        assert now["ids"][:16] == before["ids"][:16] and len(new) <= 24
        assert (new[-1] == EOS_ID) or len(new) == 24
        assert EOS_ID not in new[:-1] and set(new) <= {*vocabulary.speech_ids(), EOS_ID}
        # Each token is one of the five that the teacher finds likeliest there, of those that may be said.
        logits = teacher(torch.tensor([now["ids"]])).logits[0, 15:-1]
        allowed = torch.full_like(logits[0], -torch.inf)
        allowed[[*vocabulary.speech_ids(), EOS_ID]] = 0
        likeliest = (logits + allowed).topk(5).indices.tolist()
        assert all(token in five for token, five in zip(new, likeliest, strict=True))
    taught = [step.find().summary for step in taught_steps(computed)]
    assert changed == sum(each["taught"] for each in taught) > 0
    assert sum(each["utterances"] for each in taught) == len(rows_of(computed)) > changed


def test_the_student_learns_from_them_and_validates_on_recordings(ran: tuple[PipelineConfig, Outputs, Computed]):
    step = next(s for s in ran[2].of("distillation") if s.part == "student")
    control = next(s for s in ran[2].of("distillation") if s.part == "control")
    material, recorded = _material(step), _material(control)
    length = step.config.training.sequence_length
    taught = {bytes(i) for i in load_sequences(step.inputs["taught"], "train", length).ids}
    learned = {bytes(i) for i in material.sequences.ids}
    assert learned <= taught and learned != {bytes(i) for i in recorded.sequences.ids}
    assert material.validation.ids.tolist() == recorded.validation.ids.tolist() != []
    names = (set(table.column("utterance_id").to_pylist()) for table in (material.sequences, material.validation))
    assert not set.intersection(*names)
    assert set(material.sequences.column("utterance_id").to_pylist()) == set(
        recorded.sequences.column("utterance_id").to_pylist()
    )


def test_what_the_teacher_says_belongs_to_seed_and_utterance(
    ran: tuple[PipelineConfig, Outputs, Computed], finished: Finished, tmp_path: Path
):
    said = {now["utterance_id"]: now["ids"] for _, now in rows_of(ran[2]) if now["taught"]}
    config = copy_store(finished.config, tmp_path / "store")
    # With others beside it: every utterance is drawn.
    _, every = run_tiny(asking(config, share=1.0), until="logit_caching")
    again = {now["utterance_id"]: now["ids"] for _, now in rows_of(every) if now["taught"]}
    assert len(again) > len(said) and {name: again[name] for name in said} == said
    _, other = run_tiny(asking(config, share=1.0, seed=1), until="logit_caching")
    others = {now["utterance_id"]: now["ids"] for _, now in rows_of(other) if now["taught"]}
    assert others.keys() == again.keys() and all(others[name] != ids for name, ids in again.items())


def test_the_share_is_that_of_many_utterances():
    asked = SequenceLevelConfig(share=0.3)
    drawn = [is_drawn(asked, f"u{i}") for i in range(4000)]
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.03)  # four standard errors
    assert all(is_drawn(SequenceLevelConfig(share=1.0), f"u{i}") for i in range(100))
    more = SequenceLevelConfig(share=0.5)
    assert all(is_drawn(more, f"u{i}") for i in range(4000) if drawn[i])  # a larger share draws the same and more


def test_what_it_cannot_be_combined_with_is_refused(finished: Finished):
    with pytest.raises(ValueError, match="prompt_tokens 16 and new_tokens 200 are longer than a row"):
        asking(finished.config, new_tokens=200)
    with pytest.raises(ValueError, match="on_new_audio is continue"):
        DistillationConfig.model_validate(
            {"on_new_audio": "continue", "sequence_level": {"share": 0.5}, "regime": "aligned"}
        )
    mixed = finished.config.tokenization.interleaving.model_copy(update={"policy": "poisson"})
    tokenization = finished.config.tokenization.model_copy(update={"interleaving": mixed})
    with pytest.raises(ConfigError, match="sequence_level.share is 0.6, which goes on with speech alone"):
        check_run(asking(finished.config.model_copy(update={"tokenization": tokenization})))


def test_students_that_were_made_before_stay_what_they_are():
    assert "sequence_level" not in DistillationConfig().model_dump()
    assert "on_policy" not in DistillationConfig().model_dump()
    asked = DistillationConfig.model_validate({"sequence_level": {"share": 0.5}})
    assert asked.model_dump()["sequence_level"]["share"] == 0.5
    assert "sequence_level" not in asked.control().model_dump()
