"""A model without text rows: what is left is what it was, in ids that plain AutoTokenizer gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from tests.conftest import Finished
from tests.fixtures.tiny import CLIPS, copy_store, run_tiny, tiny_config
from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.generation import GenerationConfig
from tinywave_core.errors import CheckpointError, ConfigError, TokenError
from tinywave_core.models.llama import fresh_llama
from tinywave_core.models.trim import in_ids_of, trim
from tinywave_core.run.preflight import check_run
from tinywave_core.steps.base import Outputs
from tinywave_core.synthesis.generator import Audio, Generator
from tinywave_core.tokenizers.directory import read_directory, write_speech_tokenizer
from tinywave_core.tokenizers.speech_only import build_speech_tokenizer
from tinywave_core.tokenizers.text import build_tokenizer
from tinywave_core.tokenizers.vocabulary import SPIRITLM_BASE, SPIRITLM_EXPRESSIVE, Vocabulary

FAST = Vocabulary(text=259, hubert=30, pitch=6, style=4)
SLOW = Vocabulary(text=400, hubert=30, padded=512, boundary=371)
both = pytest.mark.parametrize("vocabulary", [FAST, SLOW], ids=["fast", "slow"])


def model_of(vocabulary: Vocabulary) -> LlamaForCausalLM:
    shape = FreshTeacherConfig(layers=2, width=64, heads=4, intermediate=96)
    return fresh_llama(shape, vocabulary.rows, 64, seed=0).eval().requires_grad_(False)


def test_the_speech_vocabulary_of_each_layout_is_worked_out_by_hand():
    assert FAST.speech_only() == Vocabulary(text=3, hubert=30, pitch=6, style=4)
    assert SPIRITLM_BASE.speech_only() == Vocabulary(text=4, hubert=501, boundary=3)
    assert SPIRITLM_EXPRESSIVE.speech_only().tokens == 4 + 2 + 501 + 64 + 100
    assert SPIRITLM_BASE.speech_only_ids()[:7] == [0, 1, 2, 29_871, 32_000, 32_001, 32_002]
    assert FAST.speech_only().speech_only() == FAST.speech_only()


@both
def test_logits_of_the_kept_rows_are_the_same_bits(vocabulary: Vocabulary):
    model = model_of(vocabulary)
    trimmed, new, kept = trim(model, vocabulary)
    ids = torch.randint(len(kept), (2, 40), generator=torch.Generator().manual_seed(0))
    before = model(torch.tensor(kept)[ids]).logits[..., kept]
    assert torch.equal(trimmed(ids).logits, before)
    assert new.rows == len(kept) == trimmed.config.vocab_size
    assert model.config.vocab_size == vocabulary.rows  # the given one is left as it is


@pytest.mark.parametrize(("vocabulary", "rows"), [(SPIRITLM_BASE, 507), (SPIRITLM_EXPRESSIVE, 671)])
def test_the_2b_student_loses_about_11_percent_of_its_parameters(vocabulary: Vocabulary, rows: int):
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=vocabulary.rows, num_hidden_layers=10, hidden_size=4096, intermediate_size=11_008)
        )
    trimmed, _, kept = trim(model, vocabulary)
    before, after = (sum(p.numel() for p in each.parameters()) for each in (model, trimmed))
    assert len(kept) == rows
    assert before - after == 2 * 4096 * (vocabulary.rows - rows)
    assert 1 - after / before == pytest.approx(0.1145, abs=0.001)


def test_a_vocabulary_larger_than_the_model_is_refused():
    with pytest.raises(CheckpointError, match="the model has 512 embeddings, its vocabulary 32501 tokens"):
        trim(model_of(SLOW), Vocabulary(text=32_000, hubert=499))


def tokenizer_of(vocabulary: Vocabulary, folder: Path) -> Any:
    write_speech_tokenizer(folder, vocabulary)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize(("vocabulary", "head"), [(FAST, [1]), (SLOW, [1, 3])], ids=["fast", "slow"])
def test_auto_tokenizer_gives_prompts_in_the_new_numbering_and_back(vocabulary: Vocabulary, head, tmp_path: Path):
    new = vocabulary.speech_only()
    tokenizer = tokenizer_of(new, tmp_path)
    ids = tokenizer("[Speech][Hu1][Hu29][Hu1]")["input_ids"]
    hu = new.first["hubert"]
    assert ids == [*head, new.speech_marker, hu + 1, hu + 29, hu + 1]
    assert ids == [*new.prompt_ids(new.speech_marker), *new.encode("[Hu1][Hu29][Hu1]")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "[Speech][Hu1][Hu29][Hu1]"
    assert len(tokenizer) == new.rows


TEXTS = ("[Speech][Hu3]", "[Hu3]", "", "[Text] The[Speech][Hu2]", "[Speech] [Hu1]", "[Speech]x[Hu1]", "[Hu3]</s>")


def ids_as_before(ids: list[int], vocabulary: Vocabulary) -> list[int]:
    """Ids of the whole vocabulary in the new numbering; what lies beside each other and was not kept is one <unk>."""
    place = {old: new for new, old in enumerate(vocabulary.speech_only_ids())}
    found = [place.get(i, 0) for i in ids]
    return [i for n, i in enumerate(found) if i or not n or found[n - 1]]


@pytest.mark.parametrize("text", TEXTS)
def test_the_byte_tokenizers_kept_tokens_stay_where_they_were(text: str, tmp_path: Path):
    before = build_tokenizer(FAST).encode(text).ids
    assert build_speech_tokenizer(FAST.speech_only()).encode(text).ids == ids_as_before(before, FAST)


@pytest.mark.parametrize("text", TEXTS[:2] + TEXTS[3:])
@pytest.mark.parametrize("kind", ["base", "expressive"])
def test_spiritlms_kept_tokens_stay_where_they_were(text: str, kind: str, small_release: Path):
    folder = small_release / "spiritlm_model" / f"spirit-lm-{kind}-7b"
    vocabulary = read_directory(folder)
    before = LlamaTokenizer.from_pretrained(folder, add_bos_token=True, add_eos_token=False)(text)["input_ids"]
    assert build_speech_tokenizer(vocabulary.speech_only()).encode(text).ids == ids_as_before(before, vocabulary)


def test_a_tokenizer_for_speech_alone_is_refused_to_a_vocabulary_with_text():
    with pytest.raises(TokenError, match="has 259 text pieces"):
        build_speech_tokenizer(FAST)


# The export ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """The finished run again, with an export for speech alone."""
    config = copy_store(finished.config, tmp_path_factory.mktemp("speech") / "store")
    values = config.model_dump()
    values["export"]["vocabulary"] = "speech"
    return run_tiny(type(config).model_validate(values))[0]


def test_only_the_export_and_what_uses_it_are_made_again(finished: Finished, speech: Outputs):
    changed = {name for name in speech if speech[name].id != finished.outputs[name].id}
    assert changed == {"model", "samples"}


def test_the_export_is_smaller_by_the_text_and_its_figures_say_so(finished: Finished, speech: Outputs):
    full, small = finished.outputs["model"].summary, speech["model"].summary
    width = finished.config.adaptation.fresh.width
    assert full["parameters"] - small["parameters"] == 2 * width * 256
    assert small["trained_parameters"] == full["parameters"] == full["trained_parameters"]
    assert (small["vocabulary_rows"], small["trained_rows"]) == (293 - 256, 293)


def test_plain_transformers_open_the_export_and_see_the_same_logits(finished: Finished, speech: Outputs):
    full, small = (each.path("model") for each in (finished.outputs["model"], speech["model"]))
    kept = Vocabulary.from_json(json.loads((full / "speech.json").read_text())["vocabulary"]).speech_only_ids()
    logits = []
    for folder in (full, small):
        ids = AutoTokenizer.from_pretrained(folder, local_files_only=True)("[Speech][Hu1][Hu2]", return_tensors="pt")
        logits.append(AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)(**ids).logits)
    assert torch.equal(logits[0][..., kept], logits[1])


def test_speech_json_has_the_new_vocabulary_and_the_one_that_was_trained_on(speech: Outputs):
    about = json.loads((speech["model"].path("model") / "speech.json").read_text())
    trained = Vocabulary.from_json(speech["tokens"].summary["vocabulary"])
    assert about["trained_vocabulary"] == trained.to_json()
    assert Vocabulary.from_json(about["vocabulary"]) == trained.speech_only()
    assert read_directory(speech["model"].path("model")) == trained.speech_only()
    assert about["golden_prompts"][0]["ids"] == [1, 4, 5, 6]


def test_the_stage_generation_continues_with_it(speech: Outputs):
    samples = json.loads(speech["samples"].path("samples.json").read_text())
    assert all(s["prompt"].startswith("[Speech][") and s["new_tokens"] for s in samples)
    assert all(s["seconds"]["continuation"] > 0 for s in samples)


def test_the_generator_continues_a_recording_with_it(speech: Outputs, tiny_source: Path):
    generator = Generator.load(speech["model"].path("model"), device="cpu")
    few = GenerationConfig(max_new_tokens=24, min_new_tokens=20)
    made = generator([Audio(str(tiny_source / CLIPS[1]))], "speech", few)
    assert made.prompt.startswith("[Speech][") and [run.modality for run in made.runs] == ["speech"]
    assert np.abs(made.audio).max() > 0


# Trained without text -------------------------------------------------------------------------------------------


def test_token_sequences_are_renumbered_for_a_model_without_text_and_left_alone_for_others():
    full = model_of(SLOW)
    trimmed, new, _ = trim(full, SLOW)
    ids = np.array([*SLOW.prompt_ids(SLOW.speech_marker), *SLOW.encode("[Hu1][Hu29]"), 2], dtype=np.uint16)
    (same,), (renumbered,) = in_ids_of(full, SLOW, [ids]), in_ids_of(trimmed, SLOW, [ids])
    assert same is ids
    assert renumbered.tolist() == [*new.prompt_ids(new.speech_marker), *new.encode("[Hu1][Hu29]"), 2]


def test_text_for_a_model_without_text_is_refused():
    trimmed, _, _ = trim(model_of(SLOW), SLOW)
    with pytest.raises(TokenError, match="the sequence has the text token 77 in it"):
        in_ids_of(trimmed, SLOW, [np.array([1, 77], dtype=np.uint16)])


@pytest.fixture(scope="module")
def trained(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """A run whose student is trained on speech alone."""
    config = copy_store(finished.config, tmp_path_factory.mktemp("trained") / "store")
    distillation = config.distillation.model_copy(update={"vocabulary": "speech"})
    return run_tiny(config.model_copy(update={"distillation": distillation}))[0]


def test_a_student_of_speech_alone_is_trained_scored_exported_and_continues(finished: Finished, trained: Outputs):
    vocabulary = read_directory(finished.outputs["teacher"].path("teacher"))
    model = AutoModelForCausalLM.from_pretrained(trained["student"].path("model"), local_files_only=True)
    assert model.config.vocab_size == vocabulary.speech_only().rows < vocabulary.rows
    assert trained["control"].summary["vocabulary"] == trained["student"].summary["vocabulary"] == "speech"
    assert trained["student"].summary["parameters"] < finished.outputs["student"].summary["parameters"]
    assert (
        trained["teacher"].id == finished.outputs["teacher"].id
        and trained["logits"].id == finished.outputs["logits"].id
    )
    assert read_directory(trained["model"].path("model")) == vocabulary.speech_only()
    assert trained["samples"].summary["samples"] == finished.outputs["samples"].summary["samples"]


def test_it_is_measured_against_its_teacher_as_the_whole_copy_is(finished: Finished, trained: Outputs):
    """The rows that it lacks would make an untrained copy look better than its teacher."""
    assert trained["student"].summary["nll_at_start"] == finished.outputs["student"].summary["nll_at_start"]


def test_a_student_without_text_is_refused_for_speech_and_text(finished: Finished):
    settings = {"distillation": {"vocabulary": "speech"}, "tokenization": {"interleaving": {"policy": "poisson"}}}
    with pytest.raises(ConfigError, match="distillation.vocabulary is speech, a student without text"):
        check_run(tiny_config(finished.config.source, finished.config.root, **settings))
