"""Base tokens: phonetic units only, through all eight stages."""

from tests.fixtures.tiny import run_tiny, tiny_config
from tinywave_core.tokenizers.vocabulary import Vocabulary


def test_the_whole_pipeline_runs_on_units_alone(tiny_source, tmp_path):
    outputs, _ = run_tiny(tiny_config(tiny_source, tmp_path, tokenization={"tokens": "base"}))
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    assert (vocabulary.pitch, vocabulary.style) == (0, 0)
    assert set(outputs["scores"].summary["models"]["student"]["nll_by_kind"]) == {"hubert", "marker"}
    assert outputs["samples"].summary["new_tokens"] > 0
