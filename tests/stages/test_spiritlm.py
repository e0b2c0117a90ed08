"""The whole pipeline on a release of SpiritLM: its tokens, its ids, its language model as teacher, its vocoder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from transformers import AutoTokenizer, LlamaTokenizer

from tests.fixtures import release
from tests.fixtures.tiny import Computed, run_tiny, tiny_config
from tinywave_core.audio.utterances import read_utterances
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store
from tinywave_core.tokenizers.speech import Streams, encode_utterance
from tinywave_core.tokenizers.spiritlm import SpiritLMTokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

ADAPTED = {"teacher": "spiritlm", "method": "lora", "training": {"learning_rate": 1e-2, "steps": 12}}


@pytest.fixture(scope="module", params=["expressive", "base"])
def outputs(request, tiny_source: Path, small_release: Path, tmp_path_factory) -> Outputs:
    """All stages with SpiritLM's model of one kind as teacher."""
    config = tiny_config(
        tiny_source,
        tmp_path_factory.mktemp(request.param) / "store",
        spiritlm_dir=str(small_release),
        tokenization={"tokens": request.param},
        adaptation=ADAPTED,
    )
    return run_tiny(config)[0]


def kind_of(outputs: Outputs) -> str:
    return "expressive" if outputs["tokens"].summary["vocabulary"]["pitch"] else "base"


def rows_of(tokens) -> dict[str, dict]:
    shards = [tokens.store.find(shard["id"]) for shard in tokens.summary["shards"]]
    return {row["utterance_id"]: row for s in shards for row in read_table(s.path("tokens.parquet")).to_pylist()}


def test_shards_hold_what_the_tokenizer_gives_for_each_utterance_alone(outputs: Outputs, small_release: Path):
    tokenizer = SpiritLMTokenizer.load(small_release, kind_of(outputs))
    rows = rows_of(outputs["tokens"])
    corpus = outputs["corpus"]
    audio = [u for i in corpus.summary["shards"] for u in read_utterances(corpus.store.find(i))]
    assert rows.keys() == {u.utterance_id for u in audio}
    for utterance in audio:
        alone, row = tokenizer(utterance.samples), rows[utterance.utterance_id]
        assert row["units"] == alone.hubert.tolist()
        assert row["pitch"] == ([] if alone.pitch is None else alone.pitch.tolist())
        assert row["style"] == ([] if alone.style is None else alone.style.tolist())
        assert row["ids"] == [*alone.ids.tolist(), 2]


def test_ids_are_those_of_the_language_models_own_slow_tokenizer(outputs: Outputs, small_release: Path):
    folder = small_release / "spiritlm_model" / f"spirit-lm-{kind_of(outputs)}-7b"
    slow = LlamaTokenizer.from_pretrained(folder, add_bos_token=True, add_eos_token=False)
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    for row in rows_of(outputs["tokens"]).values():
        names = vocabulary.decode(row["ids"][3:-1])
        assert slow("[Speech]" + names)["input_ids"] == row["ids"][:-1]


def test_the_convention_is_recorded_with_the_shards_and_with_the_export(outputs: Outputs):
    tokens = outputs["tokens"]
    shard = tokens.store.find(tokens.summary["shards"][0]["id"])
    metadata = read_table(shard.path("tokens.parquet")).schema.metadata
    speech = json.loads((outputs["model"].path("model") / "speech.json").read_text())
    assert metadata[b"id_convention"] == b"slow"
    assert speech["id_convention"] == "slow"
    assert speech["vocabulary"] == tokens.summary["vocabulary"] == json.loads(metadata[b"vocabulary"])


def test_plain_auto_tokenizer_reads_prompts_of_the_export_as_the_shards_have_them(outputs: Outputs):
    exported = AutoTokenizer.from_pretrained(outputs["model"].path("model"), local_files_only=True)
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    row = next(iter(rows_of(outputs["tokens"]).values()))
    assert exported("[Speech]" + vocabulary.decode(row["ids"][3:-1]))["input_ids"] == row["ids"][:-1]


def test_the_teacher_is_the_releases_model_with_its_embeddings(outputs: Outputs):
    teacher = outputs["teacher"].summary
    assert teacher["started_from"] == "checkpoint"
    assert teacher["held_out_nll_after"] < teacher["held_out_nll_before"]


def test_continuations_are_spoken_by_the_releases_vocoder(outputs: Outputs):
    samples = outputs["samples"]
    assert samples.summary["vocoder"].startswith("HiFi-GAN")
    wave, rate = soundfile.read(samples.path("01-continuation.wav"))
    assert rate == 16_000
    assert len(wave) % 640 == 0 and len(wave) > 16_000
    assert np.abs(wave).max() > 0


def test_nothing_of_the_release_but_digests_goes_into_the_export(outputs: Outputs):
    folder = outputs["model"].path("model") / "speech_tokenizer"
    assert [path.name for path in folder.iterdir()] == ["release.json"]
    about = json.loads((folder / "release.json").read_text())
    wanted = (
        {"hubert", "quantizer", "pitch", "style", "fcpe"}
        if kind_of(outputs) == "expressive"
        else {"hubert", "quantizer"}
    )
    assert about["digests"].keys() == wanted


def test_the_export_carries_the_releases_licence(outputs: Outputs):
    folder = outputs["model"].path("model")
    head = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert (head["license"], head["license_name"]) == ("other", "fair-noncommercial-research-license")
    assert (folder / head["license_link"]).read_text().startswith("FAIR Noncommercial Research License")


# What identifies, and what is refused --------------------------------------------------------------------------------


def tokens_config(source: Path, root: Path, **settings):
    return tiny_config(source, root, **{"tokenization": {"tokens": "base"}, **settings})


def test_a_release_that_was_moved_computes_nothing_again(tiny_source: Path, small_release: Path, tmp_path: Path):
    config = tokens_config(tiny_source, tmp_path / "store", spiritlm_dir=str(small_release))
    run_tiny(config, "tokenization")
    moved = shutil.copytree(small_release, tmp_path / "elsewhere")
    again = Computed()
    run_pipeline(config.model_copy(update={"spiritlm_dir": str(moved)}), Store(config.root), again, "tokenization")
    assert not again.ran


def test_settings_of_the_embedded_tokenizer_do_not_identify_tokens_of_a_release(
    tiny_source: Path, small_release: Path, tmp_path: Path
):
    config = tokens_config(tiny_source, tmp_path / "store", spiritlm_dir=str(small_release))
    run_tiny(config, "tokenization")
    other = tokens_config(
        tiny_source,
        tmp_path / "store",
        spiritlm_dir=str(small_release),
        tokenization={"tokens": "base", "units": {"clusters": 77}, "fit_hours": 1.0},
    )
    again = Computed()
    run_pipeline(other, Store(config.root), again, "tokenization")
    assert not again.ran


def test_a_fresh_teacher_learns_a_releases_tokens_in_the_fast_convention(
    tiny_source: Path, small_release: Path, tmp_path: Path
):
    config = tokens_config(tiny_source, tmp_path / "store", spiritlm_dir=str(small_release))
    outputs, _ = run_tiny(config, "tokenization")
    assert outputs["tokens"].summary["vocabulary"] == Vocabulary(text=259, hubert=501).to_json()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adaptation": {"teacher": "spiritlm"}, "spiritlm_dir": "nowhere"}, "there is no folder nowhere"),
        ({"spiritlm_dir": "$NOT_SET"}, "environment variable NOT_SET is not set"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_computed(
    tiny_source: Path, tmp_path: Path, settings: dict, said: str
):
    config = tiny_config(tiny_source, tmp_path / "store", **settings)
    ran = Computed()
    with pytest.raises((ConfigError, CheckpointError), match=said):
        run_pipeline(config, Store(config.root), ran)
    assert not ran.ran


def test_a_quantizer_of_another_size_than_the_models_vocabulary_is_refused_before_tokenization(
    tiny_source: Path, small_release: Path, tmp_path: Path
):
    broken = shutil.copytree(small_release, tmp_path / "release")
    path = broken / "speech_tokenizer" / "hubert_25hz" / "L11_quantizer_500.pt"
    release.write_kmeans(path, clusters=100, width=32)
    config = tokens_config(tiny_source, tmp_path / "store", spiritlm_dir=str(broken), adaptation=ADAPTED)
    ran = Computed()
    with pytest.raises(CheckpointError, match=r"gives 100 units, the language model's vocabulary has 501"):
        run_pipeline(config, Store(config.root), ran)
    assert not ran.ran


def test_base_tokens_need_neither_pitch_nor_style_models(tiny_source: Path, small_release: Path, tmp_path: Path):
    lean = shutil.copytree(small_release, tmp_path / "release")
    for part in ("vqvae_f0_quantizer", "style_encoder_w2v2"):
        shutil.rmtree(lean / "speech_tokenizer" / part)
    config = tokens_config(tiny_source, tmp_path / "store", spiritlm_dir=str(lean))
    outputs, _ = run_tiny(config, "tokenization")
    assert {len(row["pitch"]) + len(row["style"]) for row in rows_of(outputs["tokens"]).values()} == {0}


def test_a_release_that_changes_under_a_running_shard_is_noticed(
    tiny_source: Path, small_release: Path, tmp_path: Path
):
    release_dir = shutil.copytree(small_release, tmp_path / "release")
    config = tokens_config(tiny_source, tmp_path / "store", spiritlm_dir=str(release_dir))
    planned = Computed()

    def until_shards(steps):
        if steps[0].part == "shard" and steps[0].stage == "tokenization":
            release.write_kmeans(
                release_dir / "speech_tokenizer" / "hubert_25hz" / "L11_quantizer_500.pt", clusters=501, width=32
            )
        return planned(steps)

    with pytest.raises(CheckpointError, match="not those that the tokens were made with"):
        run_pipeline(config, Store(config.root), until_shards, "tokenization")


def test_silence_in_the_corpus_has_a_recorded_result(small_release: Path):
    tokenizer = SpiritLMTokenizer.load(small_release, "expressive")
    silent = tokenizer(np.zeros(16_000 * 3, np.float32))
    assert silent.unvoiced_chunks == 1
    assert silent.pitch is not None and len(silent.pitch) == (48_000 // 80 + 1) // 16
    streams = Streams(silent.hubert, silent.pitch, silent.style)
    assert encode_utterance(streams, tokenizer.vocabulary)[:-1].tolist() == silent.ids.tolist()
