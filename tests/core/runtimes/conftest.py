"""A tiny model with bytes as text, as a transformers directory with GGUF files beside it."""

import hashlib
import json
from pathlib import Path

import pytest

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.export import Quantization
from tinywave_core.exporters.gguf import write_gguf
from tinywave_core.models.llama import fresh_llama, save_llama
from tinywave_core.tokenizers.text import write_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text=259, hubert=30, pitch=6, style=4)
ALL: tuple[Quantization, ...] = ("bf16", "f16", "q8_0", "q4_0")


def write_model(folder: Path, vocabulary: Vocabulary, quantizations: tuple[Quantization, ...]) -> Path:
    """A directory as the stage export writes it, as far as runtimes look at it."""
    save_llama(
        fresh_llama(FreshTeacherConfig(layers=2, width=64, heads=4, intermediate=96), vocabulary.rows, 512, 0), folder
    )
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary.to_json()))
    if vocabulary.text == 259:
        write_tokenizer(vocabulary, folder)
    listed = []
    for quantization in quantizations:
        path = folder / f"tiny-{quantization}.gguf"
        write_gguf(folder, vocabulary, path, quantization, "tiny")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        listed.append({"file": path.name, "quantization": quantization, "bytes": path.stat().st_size, "sha256": digest})
    (folder / "speech.json").write_text(json.dumps({"vocabulary": vocabulary.to_json(), "gguf": listed}))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), VOCABULARY, ALL)
