"""The exported directory: the same ids everywhere, weights as they were, GGUF files whose loss is measured."""

import hashlib
import json
import math
import re
import shutil
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, pipeline

from tests.conftest import Finished
from tinywave_core.config.load import load_config
from tinywave_core.errors import ConfigError
from tinywave_core.exporters import weights
from tinywave_core.exporters.perplexity import GgufTensors, perplexity
from tinywave_core.exporters.weights import Weights, copy_weights
from tinywave_core.runtimes.base import Sampling
from tinywave_core.runtimes.opening import open_runtime
from tinywave_core.storage.shards import read_table

SPEECH = Path(__file__).parents[2] / "examples" / "speech"


@pytest.fixture(scope="module")
def model(finished: Finished) -> Path:
    return finished.outputs["model"].path("model")


@pytest.fixture(scope="module")
def speech(model: Path) -> dict:
    return json.loads((model / "speech.json").read_text())


def test_the_weights_are_the_students(finished: Finished, model: Path):
    ours = load_file(finished.outputs["student"].path("model") / "model.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(model, local_files_only=True).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_generation_json_has_the_sampling_of_the_run(finished: Finished, model: Path):
    sampling, expected = GenerationConfig.from_pretrained(model), finished.config.generation
    assert (sampling.do_sample, sampling.temperature, sampling.top_p) == (True, expected.temperature, expected.top_p)


def test_golden_prompts_have_their_ids_in_auto_tokenizer(model: Path, speech: dict):
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    assert len(speech["golden_prompts"]) == 6
    for prompt in speech["golden_prompts"]:
        assert tokenizer(prompt["string"])["input_ids"] == prompt["ids"]


def test_the_ids_of_a_shard_are_what_auto_tokenizer_gives_for_its_strings(finished: Finished, model: Path):
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    shard = finished.store.find(finished.outputs["tokens"].summary["shards"][0]["id"])
    for row in read_table(shard.path("tokens.parquet")).to_pylist():
        assert tokenizer(tokenizer.decode(row["ids"], skip_special_tokens=True))["input_ids"] == row["ids"][:-1]


def test_a_padded_batch_in_transformers_pipeline_continues_as_each_prompt_alone(model: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own about sampling flags that greedy decoding leaves unused
        generate = pipeline("text-generation", str(model), device="cpu", trust_remote_code=False)
        asked = {"max_new_tokens": 8, "do_sample": False, "skip_special_tokens": False, "return_tensors": True}
        prompts = ["[Speech][Hu0][Hu1]", "[Speech][Hu3]", "[Speech][Hu2][Hu1][Hu4][Hu0]"]
        alone = [generate(prompt, **asked)[0]["generated_token_ids"] for prompt in prompts]
        (*together,) = generate(prompts, batch_size=3, **asked)
    assert generate.tokenizer.pad_token_id == generate.model.generation_config.pad_token_id == 0
    assert all(len(ids) > 4 for ids in alone)
    padded = [each[0]["generated_token_ids"] for each in together]
    assert padded[1][0] == 0  # on the left
    for ids, expected in zip(padded, alone, strict=True):
        start = next(at for at, token in enumerate(ids) if token)
        assert ids[start : start + len(expected)] == expected


def test_the_examples_of_the_card_run_and_the_first_makes_audio(model: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clip, rate = soundfile.read(SPEECH / "LJSpeech/wavs/LJ001-0002.flac")
    soundfile.write("question.wav", clip, rate)
    examples = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(), re.DOTALL)
    assert len(examples) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for example in examples:
            exec(example.replace("path/to/this/directory", str(model)), {})
    answer = soundfile.info("answer.wav")
    assert answer.samplerate == 16_000 and answer.frames > 1_000
    assert "[Hu1]" in capsys.readouterr().out


def test_the_recipe_for_servers_asks_for_speech_alone_and_gives_audio(model: Path, tmp_path: Path, monkeypatch):
    """docs/how-to/serving.md, with llama.cpp's own server in this process."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SPEECH / "LJSpeech/wavs/LJ001-0002.flac", "question.wav")
    page = (SPEECH.parents[1] / "docs/how-to/serving.md").read_text()
    ask, speak = (
        block.replace("store/export/ID/model", str(model))
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    )
    exec(ask, {})
    vllm, sglang, llama = (json.loads(Path(f"{name}.json").read_text()) for name in ("vllm", "sglang", "llama.cpp"))
    # vLLM ignores fields that it does not know. These are of its 0.32.0, whose server answered them.
    sampling = {"temperature", "top_p"}
    assert vllm.keys() == {"model", "prompt", "max_tokens", "allowed_token_ids", "return_token_ids"} | sampling
    assert sglang["sampling_params"].keys() == {"max_new_tokens", "logit_bias"} | sampling  # SGLang 0.5.23
    allowed, rows = set(vllm["allowed_token_ids"]), LlamaConfig.from_pretrained(model).vocab_size
    assert vllm["prompt"] == sglang["input_ids"] == llama["prompt"] and vllm["prompt"][0] == 1
    assert {int(i) for i in sglang["sampling_params"]["logit_bias"]} == {*range(rows)} - allowed
    first = json.loads((model / "speech.json").read_text())["first_id"]["hubert"]
    assert min(allowed - {2}) == first and 2 in allowed
    with closing(open_runtime(model, "llama.cpp", "q8_0", threads=1)) as runtime:
        heard: list[int] = []
        told = llama | {
            "n_predict": 40,
            "logprobs": 1,
            "stream": False,
            "logit_bias": [*llama["logit_bias"], [2, False]],
        }
        runtime._server.handle_completions(
            told, lambda answer: heard.extend(e["id"] for e in answer["choices"][0]["logprobs"]["content"])
        )
    assert len(heard) == 40 and {*heard} <= allowed
    spoken = []
    # As llama.cpp, vLLM and SGLang answer; the two last have </s> at the end.
    for answer in ({"tokens": heard}, {"choices": [{"token_ids": [*heard, 2]}]}, {"output_ids": [*heard, 2]}):
        Path("answer.json").write_text(json.dumps(answer))
        exec(speak, {})
        spoken.append(soundfile.read("answer.wav")[0])
    assert len(spoken[0]) > 1_000 and all(np.array_equal(spoken[0], other) for other in spoken[1:])
    Path("answer.json").write_text(json.dumps({"output_ids": [2]}))
    exec(speak, {})
    assert soundfile.info("answer.wav").frames == 0


def test_what_it_was_trained_on_is_recorded(model: Path, speech: dict, finished: Finished):
    heard = sum(shard["train_utterances"] for shard in finished.outputs["tokens"].summary["shards"])
    assert speech["trained_on"] == {"speech": heard, "text": 0, "mixed": 0}
    assert (speech["inputs"], speech["outputs"]) == (["speech"], ["speech"])
    assert f"trained on speech alone ({heard} sequences)" in (model / "README.md").read_text()


def test_speech_json_has_the_digest_of_every_file_it_names(model: Path, speech: dict):
    listed = [(file["file"], file["sha256"]) for file in speech["gguf"]]
    listed += [(f"speech_tokenizer/{name}", digest) for name, digest in speech["speech_tokenizer_sha256"].items()]
    assert {name for name, _ in listed} == {
        p.relative_to(model).as_posix()
        for p in [*model.glob("*.gguf"), *(model / "speech_tokenizer").rglob("*")]
        if p.is_file()
    }
    for name, digest in listed:
        assert hashlib.sha256((model / name).read_bytes()).hexdigest() == digest
    assert [(f["quantization"], f["bytes"]) for f in speech["gguf"]] == [
        (q, (model / f"tinywave-student-{q.upper()}.gguf").stat().st_size) for q in ("q8_0", "q4_0")
    ]


def test_llama_cpp_runs_the_export(model: Path, speech: dict):
    runtime = open_runtime(model, "llama.cpp", "q8_0", threads=1)
    made = list(
        runtime.stream(speech["golden_prompts"][0]["ids"], Sampling(max_new_tokens=8, min_new_tokens=8), "speech")
    )
    assert len(made) == 8 and min(made) >= speech["first_id"]["hubert"]


def test_the_loss_of_each_form_is_in_the_summary_and_the_card(finished: Finished, model: Path):
    figures = finished.outputs["model"].summary["perplexity"]
    assert abs(figures["loss"]["q8_0"]) < 0.01 and abs(figures["loss"]["q4_0"]) < 0.1
    card = (model / "README.md").read_text()
    assert f"{figures['gguf']['q4_0']:.3f} ({figures['loss']['q4_0']:+.2%})" in card


def test_perplexity_block_by_block_is_that_of_transformers(model: Path, speech: dict):
    whole = AutoModelForCausalLM.from_pretrained(model, local_files_only=True)
    sequences = [np.arange(260, 290), np.array([1, 260, 265, 261, 270])]
    nll = sum(
        float(whole(torch.from_numpy(s)[None], labels=torch.from_numpy(s)[None]).loss.detach()) * (len(s) - 1)
        for s in sequences
    )
    expected = math.exp(nll / sum(len(s) - 1 for s in sequences))
    config, cpu = LlamaConfig.from_pretrained(model), torch.device("cpu")
    assert perplexity(Weights(model), config, sequences, cpu) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("quantization", "most"), [("q8_0", 1 / 127), ("q4_0", 1 / 7)])
def test_tensors_come_back_from_gguf_where_they_were(model: Path, speech: dict, quantization: str, most: float):
    name = next(file["file"] for file in speech["gguf"] if file["quantization"] == quantization)
    ours, theirs = Weights(model), GgufTensors(model / name, LlamaConfig.from_pretrained(model))
    for tensor in ours.names():
        gap = (ours.read(tensor) - theirs.read(tensor)).abs().max() / ours.read(tensor).abs().max()
        assert gap <= most


def test_large_weights_are_written_in_shards_that_transformers_loads(model: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(weights, "SHARD_BYTES", 40_000)
    for file in ("config.json", "generation_config.json"):
        (tmp_path / file).write_bytes((model / file).read_bytes())
    copy_weights(model, tmp_path, torch.bfloat16)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True, dtype="auto").state_dict()
    assert all(torch.equal(Weights(model).read(name).bfloat16(), tensor) for name, tensor in loaded.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("q4_0", ("q4_0",)), ("bf16, q8_0", ("bf16", "q8_0")), ("none", ()), ("", ())],
)
def test_the_forms_can_be_chosen_on_the_command_line(text: str, expected: tuple):
    assert load_config("demo", {"export.gguf": text}).export.gguf == expected


def test_an_unknown_form_is_refused():
    with pytest.raises(ConfigError, match="export.gguf"):
        load_config("demo", {"export.gguf": "q5_k_m"})
