"""Every runtime keeps the same promises, and llama.cpp says what transformers says."""

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from tests.fixtures.gguf_model import VOCABULARY, write_model
from tests.fixtures.release import STRINGS
from tinywave_core.errors import CheckpointError, ConfigError, MissingInputError, TokenError
from tinywave_core.models.llama import load_llama
from tinywave_core.models.trim import trim
from tinywave_core.runtimes.base import RUNTIMES, Runtime, Sampling
from tinywave_core.runtimes.llama_cpp import find_gguf
from tinywave_core.runtimes.opening import open_runtime
from tinywave_core.runtimes.transformers_runtime import TransformersRuntime, probabilities
from tinywave_core.tokenizers.allowed import allowed_ids
from tinywave_core.tokenizers.vocabulary import EOS_ID, SPIRITLM_BASE, SPIRITLM_EXPRESSIVE

pytestmark = pytest.mark.arithmetic

PROMPT = [1, 260, 261, 262, 263]
LIKELIEST = Sampling(temperature=1e-3, max_new_tokens=40)
# Nats by which llama.cpp may differ from float32: it rounds activations to the file's type. Measured: 0.009 and 0.053.
ROUNDING = {"f16": 0.02, "bf16": 0.12}
FREE = Sampling(temperature=1.0, max_new_tokens=60, min_new_tokens=60, seed=7)


@pytest.fixture(scope="module")
def drafter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("drafter"), VOCABULARY, ("f16",), seed=1)


@pytest.fixture(scope="module", params=[(name, drafts) for name in RUNTIMES for drafts in (False, True)])
def runtime(request: pytest.FixtureRequest, gguf_folder: Path, drafter_folder: Path) -> Iterator[Runtime]:
    name, drafts = request.param
    quantization, drafter = "f16" if name == "llama.cpp" else None, drafter_folder if drafts else None
    opened = open_runtime(gguf_folder, name, quantization, "cpu", threads=1, drafter=drafter)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def reference(gguf_folder: Path) -> TransformersRuntime:
    return TransformersRuntime(load_llama(gguf_folder), VOCABULARY)


# Both ----------------------------------------------------------------------------------------------------------------


def test_the_runtime_knows_its_name_vocabulary_and_context(runtime: Runtime):
    assert runtime.name in RUNTIMES and runtime.vocabulary == VOCABULARY and runtime.context == 512


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(runtime: Runtime):
    made = list(runtime.stream(PROMPT, FREE, "speech"))
    assert made == list(runtime.stream(PROMPT, FREE, "speech"))
    assert made != list(runtime.stream(PROMPT, Sampling(**{**vars(FREE), "seed": 8}), "speech"))


@pytest.mark.one_machine  # about threads
@pytest.mark.parametrize("threads", [1, 2])
def test_it_takes_as_many_threads_as_it_is_given_in_whichever_thread_it_is_asked(gguf_folder: Path, threads: int):
    runtime = open_runtime(gguf_folder, "transformers", None, "cpu", threads)
    with ThreadPoolExecutor(1) as another:
        another.submit(list, runtime.stream(PROMPT, FREE, "speech")).result()
        assert another.submit(torch.get_num_threads).result() == threads


@pytest.mark.parametrize("output", ["speech", "text", "arbitrary"])
def test_only_allowed_ids_are_sampled(runtime: Runtime, output):
    assert set(runtime.stream(PROMPT, FREE, output)) <= set(allowed_ids(VOCABULARY, output)) - {EOS_ID}


@pytest.mark.one_machine  # counts tokens
def test_no_continuation_is_shorter_than_the_shortest_or_longer_than_the_longest(runtime: Runtime):
    hot = {"temperature": 4.0, "top_p": 1.0}
    lengths = [
        len(list(runtime.stream(PROMPT, Sampling(**hot, max_new_tokens=60, min_new_tokens=9, seed=s), "speech")))
        for s in range(12)
    ]
    assert 9 <= min(lengths) < 60 and max(lengths) <= 60
    assert len(list(runtime.stream(PROMPT, Sampling(max_new_tokens=5, min_new_tokens=99), "speech"))) == 5


def test_a_prompt_that_was_read_before_continues_the_same(runtime: Runtime):
    made = list(runtime.stream(PROMPT, LIKELIEST, "speech"))
    for beginning in (PROMPT[:2], PROMPT[:4], PROMPT, [*PROMPT[:3], 280, 281], [*PROMPT, *made]):
        runtime.prefill(beginning)
    assert list(runtime.stream(PROMPT, LIKELIEST, "speech")) == made


def test_closing_the_iterator_ends_it_and_the_next_continuation_is_as_ever(runtime: Runtime):
    whole = list(runtime.stream(PROMPT, FREE, "speech"))
    started = runtime.stream(PROMPT, FREE, "speech")
    assert [next(started) for _ in range(3)] == whole[:3]
    started.close()
    assert list(runtime.stream(PROMPT, FREE, "speech")) == whole


@pytest.mark.parametrize(
    ("prompt", "sampling", "error", "said"),
    [
        ([], FREE, TokenError, "the prompt has no tokens"),
        ([1, 301], FREE, TokenError, "the prompt has the id 301, this model's are 0 to 300"),
        ([1, -1], FREE, TokenError, "the prompt has the id -1"),
        ([1] * 460, FREE, ConfigError, "has 460 tokens and 60 are to follow, the model reads 512"),
        (PROMPT, Sampling(temperature=0), ConfigError, "expected a temperature above 0"),
        (PROMPT, Sampling(top_p=0), ConfigError, "expected a temperature above 0"),
        (PROMPT, Sampling(seed=2**64), ConfigError, "a seed of 20 digits; expected one of 64 bits"),
    ],
)
def test_what_cannot_be_continued_is_refused_before_anything_runs(runtime: Runtime, prompt, sampling, error, said):
    with pytest.raises(error, match=said):
        runtime.stream(prompt, sampling, "speech")


def test_what_cannot_be_read_ahead_is_refused(runtime: Runtime):
    with pytest.raises(TokenError, match="the prompt has the id 301"):
        runtime.prefill([1, 301])
    with pytest.raises(ConfigError, match="has 513 tokens, the model reads 512"):
        runtime.prefill([1] * 513)


# One beside the other ------------------------------------------------------------------------------------------------


def test_the_likeliest_tokens_of_llama_cpp_are_those_of_transformers(gguf_folder: Path, reference: TransformersRuntime):
    """Of those that rounding can tell apart: the first of two ids 0.0006 nats apart differs by instruction set."""
    other = open_runtime(gguf_folder, "llama.cpp", "f16", threads=1)
    made = list(other.stream(PROMPT, LIKELIEST, "speech"))
    logits = reference.model(torch.tensor([[*PROMPT, *made]])).logits[0].detach()
    logprobs = logits[len(PROMPT) - 1 : -1][:, allowed_ids(VOCABULARY, "speech")].log_softmax(-1).numpy()
    chosen = [allowed_ids(VOCABULARY, "speech").index(token) for token in made]
    assert len(made) == 40 and (logprobs.max(1) - logprobs[np.arange(40), chosen]).max() <= ROUNDING["f16"]


@pytest.mark.parametrize("quantization", ["bf16", "f16"])
def test_llama_cpps_probabilities_are_those_of_transformers(
    gguf_folder: Path, reference: TransformersRuntime, quantization
):
    ids = [*PROMPT, *reference.stream(PROMPT, FREE, "arbitrary")][:64]
    other = open_runtime(gguf_folder, "llama.cpp", quantization, threads=1)
    theirs = np.array([other.logprobs(ids[: n + 1]) for n in range(len(ids))])
    ours = reference.model(torch.tensor([ids])).logits[0].log_softmax(-1).detach().numpy()
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] >= 0.9999
    assert np.abs(theirs - ours).max() <= ROUNDING[quantization]
    given_up = ours.max(1) - ours[np.arange(64), theirs.argmax(1)]
    assert given_up.max() <= ROUNDING[quantization]


def test_a_student_without_text_draws_the_same_tokens_as_the_whole_one(reference: TransformersRuntime):
    model, vocabulary, kept = trim(reference.model, VOCABULARY)
    prompt = [kept.index(i) for i in PROMPT]
    made = [kept[i] for i in TransformersRuntime(model, vocabulary).stream(prompt, FREE, "speech")]
    assert made == list(reference.stream(PROMPT, FREE, "speech"))


def test_transformers_own_generate_finds_the_same_likeliest_tokens(reference: TransformersRuntime):
    out = reference.model.generate(
        torch.tensor([PROMPT]), do_sample=False, max_new_tokens=12, min_new_tokens=12, pad_token_id=0
    )
    new = list(reference.stream(PROMPT, Sampling(1e-4, 1.0, 12, 12), "arbitrary"))
    assert new == out[0, len(PROMPT) :].tolist()


def test_probabilities_are_those_of_transformers_warpers():
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 3
    warped = LogitsProcessorList([TemperatureLogitsWarper(0.7), TopPLogitsWarper(0.8)])(None, scores[None])
    ours = probabilities(scores, Sampling(temperature=0.7, top_p=0.8))
    assert torch.equal(ours, warped[0].softmax(-1)) and 0 < (ours > 0).sum() < 50


# What may be sampled -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_p", [5e-324, 0.5, 1 - 1e-16, 1])
@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30, 1e-6, 1e30, 1.7e308, float("inf")])
def test_extreme_temperatures_are_the_likeliest_token_and_any(temperature: float, top_p: float):
    scores = torch.tensor([-1e4, -torch.inf, 30.0, 1e4, -30.0])
    found = probabilities(scores, Sampling(temperature, top_p))
    assert found.sum() == pytest.approx(1) and found[1] == 0
    if temperature < 1 or top_p < 0.1:
        assert found.tolist() == [0, 0, 0, 1, 0]
    elif top_p > 0.9:
        assert found.max() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("dtype", "most"), [("auto", 1e-5), ("float32", 1e-5), ("bfloat16", ROUNDING["bf16"])])
@pytest.mark.parametrize("drafts", [False, True])
def test_transformers_computes_in_the_precision_that_is_asked_for(
    gguf_folder: Path, drafter_folder: Path, reference: TransformersRuntime, dtype, most: float, drafts: bool
):
    drafter = drafter_folder if drafts else None
    other = open_runtime(gguf_folder, device="cpu", threads=1, drafter=drafter, dtype=dtype)
    assert isinstance(other, TransformersRuntime)
    models = [other.model, other._drafter] if other._drafter else [other.model]
    assert len(models) == 1 + drafts
    assert {model.dtype for model in models} == {torch.bfloat16 if dtype == "bfloat16" else torch.float32}
    ours, theirs = (log_probabilities(runtime, PROMPT) for runtime in (reference, other))
    assert (dtype == "bfloat16") <= bool((ours != theirs).any())
    assert (ours - theirs).abs().max() <= most
    made = list(other.stream(PROMPT, FREE, "speech"))
    assert len(made) == 60 and made == list(other.stream(PROMPT, FREE, "speech"))


def log_probabilities(runtime: TransformersRuntime, prompt: list[int]) -> torch.Tensor:
    """Of each token after the prompt [V]."""
    with torch.no_grad():
        return runtime.model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)


@pytest.mark.parametrize("temperature", [1e-300, 1e300])
def test_extreme_temperatures_are_sampled(runtime: Runtime, temperature: float):
    tokens = list(runtime.stream(PROMPT, Sampling(temperature, 1e-300, 5, 5), "speech"))
    assert len(tokens) == 5


@pytest.mark.parametrize("case", STRINGS["forbidden"])
def test_spiritlms_bans_and_the_padding_are_never_allowed_and_the_end_always_is(case: str):
    model, output = case.split("/")
    vocabulary = {"base": SPIRITLM_BASE, "expressive": SPIRITLM_EXPRESSIVE}[model]
    banned = {i for first, last in STRINGS["forbidden"][case]["ids_ranges"] for i in range(first, last + 1)}
    expected = (set(range(vocabulary.tokens)) - banned) | {EOS_ID}
    assert allowed_ids(vocabulary, output) == sorted(expected)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize("name", RUNTIMES)
def test_text_from_a_model_without_text_is_refused(name: str, tmp_path: Path):
    folder = write_model(tmp_path, VOCABULARY.speech_only(), ("q8_0",))
    opened = open_runtime(folder, name)
    with pytest.raises(ConfigError, match="this model has no text in its vocabulary"):
        opened.stream([1, 4, 5], FREE, "text")
    assert len(list(opened.stream([1, 4, 5], FREE, "speech"))) == 60


@pytest.fixture
def copied(gguf_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gguf_folder, tmp_path / "model"))


@pytest.mark.one_machine  # about files
def test_without_a_choice_the_first_file_is_taken(gguf_folder: Path):
    assert find_gguf(gguf_folder, None).name == "tiny-bf16.gguf"
    assert find_gguf(gguf_folder, "f16").name == "tiny-f16.gguf"


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ollama",), "there is no runtime 'ollama'; expected one of transformers, llama.cpp"),
        (("transformers", "q8_0"), "q8_0 files are for the runtime llama.cpp"),
        (
            ("transformers", None, "cpu", 1, None, None, "float16"),
            "no dtype 'float16'; expected one of auto, float32, bfloat16",
        ),
        (
            ("llama.cpp", None, "cpu", 1, None, None, "bfloat16"),
            "bfloat16 is for transformers: leave dtype out, or take",
        ),
    ],
)
def test_an_unknown_runtime_or_precision_is_refused(gguf_folder: Path, arguments, said: str):
    with pytest.raises(ConfigError, match=said):
        open_runtime(gguf_folder, *arguments)


@pytest.mark.one_machine  # about files
def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="expected the model/ directory of an export"):
        open_runtime(tmp_path, "llama.cpp")


@pytest.mark.one_machine  # about files
def test_a_missing_file_says_how_to_get_it(copied: Path):
    (copied / "speech.json").write_text(json.dumps({"gguf": [{"quantization": "bf16"}]}))
    with pytest.raises(CheckpointError, match=r"no GGUF file of q4_0 \(there: bf16\).*--export.gguf q4_0"):
        open_runtime(copied, "llama.cpp", "q4_0")


@pytest.mark.one_machine  # about files
def test_a_package_that_is_not_installed_is_named(gguf_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingInputError, match=r"pip install 'tinywave\[llama-cpp\]'"):
        open_runtime(gguf_folder, "llama.cpp")


@pytest.mark.one_machine  # about files
def test_a_file_of_another_vocabulary_is_refused_with_both(copied: Path, tmp_path: Path):
    from tinywave_core.runtimes.llama_cpp import LlamaCppRuntime

    other = write_model(tmp_path / "other", VOCABULARY.speech_only(), ("q8_0",))
    with pytest.raises(CheckpointError, match=r"found 45 tokens \(text 3, .*expected 301 tokens \(text 259"):
        LlamaCppRuntime(other / "tiny-q8_0.gguf", VOCABULARY)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize("name", ["../tiny-q8_0.gguf", "/etc/hosts", "a/../../tiny-q8_0.gguf"])
def test_a_file_outside_the_folder_is_not_opened(copied: Path, name: str):
    about = {"gguf": [{"file": name, "quantization": "q8_0", "bytes": (copied / "tiny-q8_0.gguf").stat().st_size}]}
    (copied / "speech.json").write_text(json.dumps(about))
    (copied / "tiny-q8_0.gguf").rename(copied.parent / "tiny-q8_0.gguf")
    with pytest.raises(CheckpointError, match=r"speech.json names .*; expected the name of a file right beside it"):
        find_gguf(copied, "q8_0")


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(copied: Path, share: float):
    from tinywave_core.runtimes.llama_cpp import LlamaCppRuntime

    path = copied / "tiny-q8_0.gguf"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="speech.json says"):
        open_runtime(copied, "llama.cpp", "q8_0")
    with pytest.raises(CheckpointError, match="is no GGUF file, or a truncated one"):
        LlamaCppRuntime(path, VOCABULARY)


@pytest.mark.one_machine  # about files
def test_a_closed_runtime_says_so(gguf_folder: Path):
    opened = open_runtime(gguf_folder, "llama.cpp", "q4_0")
    opened.close()
    with pytest.raises(ConfigError, match="the runtime has been closed"):
        list(opened.stream(PROMPT, FREE, "speech"))
