"""Auto-BLEU and generative perplexity by hand; continuations that belong to their seed; texts under a model of text."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tests.fixtures.judges import WORDS, write_judges
from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.evals import transcription
from tinywave_core.evals.continuations import GumbelTopK, continuations
from tinywave_core.evals.generated import Judged, auto_bleu, ratios_to_teacher, sources_figures
from tinywave_core.evals.text_likelihood import TextModel
from tinywave_core.evals.transcription import load_recogniser
from tinywave_core.models.llama import fresh_llama
from tinywave_core.tokenizers.vocabulary import EOS_ID, Vocabulary

VOCABULARY = Vocabulary(text=259, hubert=20, pitch=4, style=2)


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_judges(tmp_path_factory.mktemp("judges"))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("the sea is calm", 0.0),  # three bigrams, all different
        ("the sea, the sea", 2 / 3),  # the sea, sea the, the sea
        ("no no no", 1.0),
        ("No, NO; no!", 1.0),
        ("once", None),
        ("", None),
    ],
)
def test_auto_bleu_is_the_share_of_bigrams_that_occur_again(text: str, share: float | None):
    assert auto_bleu(text) == share


def test_generative_perplexity_is_the_exponential_of_the_mean_and_its_ratio_that_of_the_mean_gap():
    teacher, student = (
        [Judged("a b", 1.0, 2.0), Judged("c d", 3.0, 2.0)],
        [Judged("a a a", 2.0, 1.0), Judged("", 6.0, 3.0)],
    )
    figures = sources_figures({"teacher": teacher, "student": student}, seed=0)
    ratios = ratios_to_teacher({"teacher": teacher, "student": student}, seed=0)
    assert figures["teacher"].gen_ppl == pytest.approx(math.e**2)
    own = figures["student"]
    assert own.gen_ppl == pytest.approx(math.e**4)
    assert list(ratios) == ["student"] and ratios["student"].gen_ppl == pytest.approx(math.e**2)
    assert ratios["student"].gen_ppl_interval == (pytest.approx(math.e), pytest.approx(math.e**3))
    assert (own.empty, own.without_bigrams, own.seconds, own.silent) == (1, 1, 2.0, 0)
    assert own.auto_bleu == 1.0  # of the one text that has bigrams


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return fresh_llama(FreshTeacherConfig(layers=2, width=32, heads=2, intermediate=64), VOCABULARY.rows, 128, 0).eval()


def prompts(*lengths: int) -> list[np.ndarray]:
    head = VOCABULARY.prompt_ids(VOCABULARY.speech_marker)
    return [np.array([*head, *(VOCABULARY.first["hubert"] + np.arange(n) % 20)]) for n in lengths]


SAMPLED = {"max_new_tokens": 12, "temperature": 0.8, "top_k": 5}


def test_a_continuation_belongs_to_its_seed_whatever_it_is_sampled_with(model: LlamaForCausalLM):
    together = continuations(model, prompts(3, 11, 7), VOCABULARY, [5, 6, 7], **SAMPLED)
    for prompt, seed, expected in zip(prompts(3, 11, 7), [5, 6, 7], together, strict=True):
        (alone,) = continuations(model, [prompt], VOCABULARY, [seed], **SAMPLED)
        assert alone.tolist() == expected.tolist()
    (other,) = continuations(model, prompts(3), VOCABULARY, [8], **SAMPLED)
    assert other.tolist() != together[0].tolist()


def test_continuations_are_speech_and_end_before_the_end_of_speech(model: LlamaForCausalLM):
    for new in continuations(model, prompts(*range(2, 20)), VOCABULARY, range(18), **SAMPLED):
        assert len(new) <= 12 and EOS_ID not in new
        assert all(i in VOCABULARY.speech_ids() for i in new)


def test_gumbel_noise_samples_from_the_softmax_of_the_likeliest():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    scores = torch.from_numpy(np.log(p)).float()[None].repeat(4000, 1)
    drawn = GumbelTopK(range(4000), 1.0, 2)(None, scores).argmax(dim=-1)  # type: ignore[arg-type]
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.025)  # three standard errors


def test_the_nll_of_a_text_is_the_mean_over_its_tokens_after_the_beginning(judges: dict[str, str]):
    text = TextModel.load(Path(judges["text"]))
    ids = [1, *(11 + WORDS.index(word) for word in ("the", "sea"))]
    log_p = torch.log_softmax(text.model(torch.tensor([ids])).logits[0], dim=-1)
    assert text.mean_nll("the sea") == pytest.approx(-float(log_p[0, ids[1]] + log_p[1, ids[2]]) / 2, rel=1e-5)


def test_an_empty_text_is_one_that_ends_at_once(judges: dict[str, str]):
    text = TextModel.load(Path(judges["text"]))
    log_p = torch.log_softmax(text.model(torch.tensor([[1]])).logits[0, 0], dim=-1)
    assert text.mean_nll("") == pytest.approx(-float(log_p[0]), rel=1e-5)


@pytest.mark.parametrize("kind", ["whisper", "ctc"])
def test_nothing_is_heard_in_nothing_and_the_same_in_the_same(judges: dict[str, str], kind: str):
    transcribe = load_recogniser(Path(judges[kind]))
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    assert transcribe(np.zeros(0, np.float32)) == ""
    assert transcribe(noise) == transcribe(noise)


def test_whisper_hears_the_language_it_is_told_and_refuses_one_it_does_not_know(judges: dict[str, str]):
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    assert load_recogniser(Path(judges["whisper"]), "en")(noise) != load_recogniser(Path(judges["whisper"]), "fr")(
        noise
    )
    with pytest.raises(ConfigError, match="language is de, which .* does not know: it hears en, fr"):
        load_recogniser(Path(judges["whisper"]), "de")


def test_whisper_writes_down_as_much_as_it_has_places_for_where_its_directory_names_no_length(tmp_path: Path):
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    folder = Path(write_judges(tmp_path)["whisper"])
    short = load_recogniser(folder, "en")(noise)
    about = json.loads((folder / "generation_config.json").read_text())
    assert about.pop("max_length") == 12
    (folder / "generation_config.json").write_text(json.dumps(about))
    whole = load_recogniser(folder, "en")(noise)  # transformers' own 20 would not fit into the 16 places
    assert whole.startswith(short) and len(whole.split()) == len(short.split()) + 16 - 12


def test_whisper_says_no_run_of_tokens_twice(judges: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    noise = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    monkeypatch.setattr(transcription, "LONGEST_REPEATED", 1)
    words = load_recogniser(Path(judges["whisper"]), "en")(noise).split()
    monkeypatch.setattr(transcription, "LONGEST_REPEATED", 0)
    free = load_recogniser(Path(judges["whisper"]), "en")(noise).split()
    assert len(set(words)) == len(words) > 1 and len(set(free)) < len(free)


def test_weights_that_are_not_all_there_are_refused(judges: dict[str, str], tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = write_judges(tmp_path)["text"]
    weights = load_file(f"{folder}/model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="not a whole AutoModelForCausalLM: 1 tensors.*model.norm.weight"):
        TextModel.load(Path(folder))


def test_neither_pickles_nor_code_of_a_directory_are_run(tmp_path: Path):
    canary = tmp_path / "canary"
    folders = write_judges(tmp_path)
    spring = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    for folder in map(Path, folders.values()):
        (folder / "model.safetensors").unlink()
        torch.save({"lm_head.weight": _Touches(spring)}, folder / "pytorch_model.bin")
        (folder / "modeling_own.py").write_text(spring)
        about = json.loads((folder / "config.json").read_text())
        auto = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "modeling_own.Own")
        (folder / "config.json").write_text(json.dumps(about | {"auto_map": auto}))
    with pytest.raises(CheckpointError):
        TextModel.load(Path(folders["text"]))
    for name in ("whisper", "ctc"):
        with pytest.raises(CheckpointError):
            load_recogniser(Path(folders[name]))
    assert not canary.exists()


class _Touches:
    """Runs code where it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple:
        return exec, (self.code,)
