"""Tokens of an encoder that the user names: known by its content, checked before anything starts."""

import shutil
from pathlib import Path

import pytest

from tests.fixtures.encoders import save_encoder
from tests.fixtures.tiny import Computed, run_tiny, tiny_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.stages.export.model import rate_fields
from tinywave_core.stages.tokenization.stage import STAGE
from tinywave_core.stages.tokenization.summary import CodebooksSummary, TokensSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store
from tinywave_core.tokenizers.base import Places
from tinywave_core.tokenizers.opening import open_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "whisper"
    save_encoder(folder, "whisper")
    return folder


def asking(source: Path, root: Path | str, folder: Path, **units: object) -> PipelineConfig:
    asked = {"kind": "encoder", "encoder": str(folder), "layer": 2, "clusters": 10, **units}
    return tiny_config(source, root, tokenization={"tokens": "base", "units": asked})


@pytest.fixture(scope="module")
def made(tiny_source: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineConfig, Outputs]:
    config = asking(tiny_source, tmp_path_factory.mktemp("run") / "store", folder)
    return config, run_tiny(config, "tokenization")[0]


def test_every_shard_has_units_at_the_encoders_rate_and_figures_are_complete(made: tuple[PipelineConfig, Outputs]):
    tokens = made[1]["tokens"]
    summary = TokensSummary.of(tokens)
    rows = [
        row
        for shard in summary.shards
        for row in read_table(tokens.store.find(shard.id).path("tokens.parquet")).to_pylist()
    ]
    assert rows and all(len(row["units"]) == row["num_samples"] // 320 for row in rows)
    assert summary.vocabulary.rates.units == rate_fields(summary.vocabulary.rates)["unit_rate_hz"] == 50
    fitted = CodebooksSummary.of(summary.tokenizer_artifact(tokens))
    assert len(fitted.unit_counts) == 10 and sum(fitted.unit_counts) and max(summary.drift.values()) < 1


def test_a_shard_is_what_its_recordings_give_alone(made: tuple[PipelineConfig, Outputs], folder: Path):
    from tinywave_core.audio.utterances import read_utterances
    from tinywave_core.stages.ingestion.summary import CorpusSummary

    tokens, corpus = made[1]["tokens"], made[1]["corpus"]
    summary = TokensSummary.of(tokens)
    tokenizer = open_tokenizer(summary.tokenizer_artifact(tokens).path(), None, Places(encoder=str(folder)), "cpu")
    alone = {
        utterance.utterance_id: tokenizer.tokenize([utterance.samples])[0].units.tolist()
        for shard in corpus.store.find_all(CorpusSummary.of(corpus).shards, "shard")
        for utterance in read_utterances(shard)
    }
    for shard in summary.shards:
        for row in read_table(tokens.store.find(shard.id).path("tokens.parquet")).to_pylist():
            assert row["units"] == alone[row["utterance_id"]]


def test_an_encoder_that_was_moved_computes_nothing_and_another_one_all_tokens(
    made: tuple[PipelineConfig, Outputs], tiny_source: Path, folder: Path, tmp_path: Path
):
    config = made[0]
    shutil.copytree(folder, tmp_path / "moved")
    again = Computed()
    run_pipeline(asking(tiny_source, config.root, tmp_path / "moved"), Store(config.root), again, "tokenization")
    assert not again.ran
    save_encoder(tmp_path / "other", "whisper", seed=1)
    planned = [step.fingerprint for step in again.of("tokenization")]
    changed = asking(tiny_source, config.root, tmp_path / "other")
    other = Computed()
    run_pipeline(changed, Store(config.root), other, "tokenization")
    assert {step.part for step in other.ran} == {"codebooks", "shard", "tokens"}
    assert not {step.fingerprint for step in other.of("tokenization")} & set(planned)


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ({"encoder": "nowhere"}, "nowhere has no config.json"),
        ({"layer": 4}, "hidden states 0 to 3, tokenization.units.layer is 4"),
        ({"codebook": "nowhere.npy"}, "there is no codebook nowhere.npy"),
    ],
)
def test_what_cannot_work_is_refused_before_any_tokens_are_made(
    tiny_source: Path, tmp_path: Path, folder: Path, units: dict, said: str
):
    config = asking(tiny_source, tmp_path / "store", folder, **units)
    ran = Computed()
    with pytest.raises(CheckpointError, match=said):
        run_pipeline(config, Store(config.root), ran)
    assert not ran.of("tokenization")


def test_an_encoder_that_was_changed_after_the_plan_is_refused(tiny_source: Path, tmp_path: Path, folder: Path):
    shutil.copytree(folder, tmp_path / "encoder")
    config = asking(tiny_source, tmp_path / "store", tmp_path / "encoder")

    class Changing(Computed):
        def __call__(self, steps):
            if steps[0].part == "codebooks":
                save_encoder(tmp_path / "encoder", "whisper", seed=1)
            return super().__call__(steps)

    with pytest.raises(CheckpointError, match="the tokens were made with"):
        run_pipeline(config, Store(config.root), Changing(), "tokenization")


def test_estimates_grow_with_the_encoder(tiny_source: Path, tmp_path: Path, folder: Path):
    asked = asking(tiny_source, tmp_path, folder)
    large = tmp_path / "large"
    save_encoder(large, "whisper", vocab_size=99_000)
    assert STAGE.cost(asking(tiny_source, tmp_path, large), 2.0, "cpu").seconds > STAGE.cost(asked, 2.0, "cpu").seconds
