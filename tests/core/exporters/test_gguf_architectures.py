"""GGUF files of other architectures: llama.cpp computes what transformers computes, and the loss of a file is measured right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures.text_models import model_of
from tinywave_core.errors import CheckpointError
from tinywave_core.exporters.gguf import write_gguf
from tinywave_core.exporters.perplexity import GgufTensors, perplexity
from tinywave_core.exporters.weights import Weights
from tinywave_core.models.llama import load_llama
from tinywave_core.runtimes.llama_cpp import LlamaCppRuntime
from tinywave_core.tokenizers.directory import write_speech_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

pytestmark = pytest.mark.arithmetic
VOCABULARY = Vocabulary(text=3, hubert=40)
IDS = np.array([1, 4, 9, 33, 20, 21, 7, 40, 12, 30, 5], np.int64)


def written(kind: str, folder: Path) -> Path:
    model_of(kind, VOCABULARY.tokens, bos_token_id=1, eos_token_id=2, max_position_embeddings=128).save_pretrained(
        folder
    )
    write_speech_tokenizer(folder, VOCABULARY)
    return folder


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_llama_cpp_and_the_measured_perplexity_agree_with_transformers(kind: str, tmp_path: Path):
    """llama.cpp to the rounding of activations to 16 bits, 0.02 nats; weights of 16 bits to 0.1 percent of a perplexity."""
    folder = written(kind, tmp_path)
    path = folder / "tiny-f16.gguf"
    write_gguf(folder, VOCABULARY, path, "f16", "tiny")
    model = load_llama(folder)
    with torch.no_grad():
        log_p = model(torch.from_numpy(IDS)[None]).logits[0].log_softmax(-1)
    runtime = LlamaCppRuntime(path, VOCABULARY, threads=1)
    found = np.array([runtime.logprobs(IDS[:n].tolist()) for n in (1, 5, len(IDS))])
    runtime.close()
    assert np.abs(found - log_p[[0, 4, -1]].numpy()).max() < 0.02
    expected = float((-log_p[:-1].gather(1, torch.from_numpy(IDS[1:])[:, None]).mean()).exp())
    cpu = torch.device("cpu")
    assert perplexity(Weights(folder), model.config, [IDS], cpu) == pytest.approx(expected, rel=1e-4)
    assert perplexity(GgufTensors(path, model.config), model.config, [IDS], cpu) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", ["gpt_neox", "opt"])
def test_what_is_not_written_as_gguf_is_refused_by_name(kind: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(CheckpointError, match=f"of type '{kind}', which is not written as GGUF"):
        write_gguf(tmp_path, VOCABULARY, tmp_path / "x.gguf", "f16", "tiny")
