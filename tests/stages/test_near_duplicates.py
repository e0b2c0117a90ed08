"""Near-duplicates of a corpus whose token shards were written by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from tests.conventions.test_fingerprints import NOTHING_HELD_BACK, SUMMARIES
from tests.fixtures.summaries import Anything
from tests.fixtures.tiny import CLIPS, Computed, copy_clips, run_tiny, tiny_config
from tinywave_core.audio.utterances import FILES_FILE
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.tokenization import near_duplicates
from tinywave_core.stages.tokenization.near_duplicates import PAIRS_FILE, reasons_to_leave_out, run_sets, runs_of_shards
from tinywave_core.stages.tokenization.stage import facts
from tinywave_core.stages.tokenization.summary import NearDuplicatesSummary
from tinywave_core.steps.base import Output, Step, Summary, compute
from tinywave_core.steps.inputs import training_key
from tinywave_core.storage.schemas import FILES, TOKENS, TOKENS_FILE
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.unit_runs import all_runs

CONFIG = PipelineConfig.model_validate(
    {"tokenization": {"near_duplicates": {"use": "report"}}, "adaptation": {"teacher": "fresh"}}
)
READING = np.random.default_rng(1).integers(0, 90, 400)
OTHER = np.random.default_rng(2).integers(0, 90, 300)
# Units by utterance: `h…` is held out.
SPEECH = {
    "h1": READING[100:250],  # an excerpt of `long`
    "long": READING,
    "other": OTHER,
    "part": OTHER[50:180],
    "alone": np.random.default_rng(3).integers(0, 90, 200),
    "short": OTHER[:15],
    "h2": np.random.default_rng(4).integers(0, 90, 200),
}


def shard_of(store: Store, names: list[str], **inputs: list[Artifact]) -> Artifact:
    def run(step: Step, output: Output) -> Summary:
        rows = [
            {field.name: None if field.nullable else [] for field in TOKENS}
            | {"utterance_id": name, "recording_id": f"r-{name}", "split": "held_out" if name[0] == "h" else "train"}
            | {"num_samples": 640 * len(SPEECH[name]), "units": SPEECH[name], "unvoiced_chunks": 0}
            for name in step.params["names"]
        ]
        write_table(pa.Table.from_pylist(rows, schema=TOKENS), output.folder / TOKENS_FILE)
        return Anything()

    return compute(Step(store, "tokenization", "shard", 1, run, CONFIG.tokenization, inputs, {"names": sorted(names)}))


def found_in(root: Path, *shards: list[str], config: PipelineConfig = CONFIG) -> tuple[dict[str, Artifact], Computed]:
    store = Store(str(root))
    made = [shard_of(store, names) for names in shards]
    names = sorted(name for shard in shards for name in shard)

    def run_corpus(step: Step, output: Output) -> Summary:
        files = [
            {field.name: None for field in FILES} | {"path": f"{n}.wav", "recording_id": f"r-{n}", "status": "accepted"}
            for n in names
        ]
        schema = pa.schema([field.with_nullable(True) for field in FILES])
        write_table(pa.Table.from_pylist(files, schema=schema), output.folder / FILES_FILE)
        return Anything()

    corpus = compute(Step(store, "ingestion", "corpus", 1, run_corpus, CONFIG.ingestion, params={"names": names}))
    train = {"train_utterances": 1, "train_tokens": 1, "train_seconds": 1.0}
    listed = [{"id": shard.id, "part": "shard", **train, **NOTHING_HELD_BACK} for shard in made]
    tokens = compute(
        Step(
            store,
            "tokenization",
            "tokens",
            1,
            lambda *_: Anything(**{**SUMMARIES["tokens"], "shards": listed}),
            CONFIG.tokenization,
            {"shards": made},
        )
    )
    execute = Computed()
    found = near_duplicates.find(config, corpus, made, corpus, execute)  # one beginning needs no tokenizer
    return {"tokens": tokens, **({"near_duplicates": found} if found else {})}, execute


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return found_in(tmp_path_factory.mktemp("store"), ["h1", "other", "short"], ["h2", "long"], ["part", "alone"])[0]


def rows_of(outputs: dict[str, Artifact]) -> list[dict]:
    return read_table(outputs["near_duplicates"].path(PAIRS_FILE)).to_pylist()


def test_each_pair_is_a_row_with_sides_and_paths(outputs: dict[str, Artifact]):
    assert rows_of(outputs) == [
        {
            "utterance_id": "h1",
            "of_utterance_id": "long",
            "share": 1.0,
            "kind": "excerpt",
            "sides": "held_out/train",
            "path": "h1.wav",
            "of_path": "long.wav",
        },
        {
            "utterance_id": "part",
            "of_utterance_id": "other",
            "share": 1.0,
            "kind": "excerpt",
            "sides": "train/train",
            "path": "part.wav",
            "of_path": "other.wav",
        },
    ]


def test_what_would_go_is_told_and_held_out_speech_never_goes(outputs: dict[str, Artifact]):
    assert reasons_to_leave_out(outputs["near_duplicates"]) == {
        "long": "whole of h1.wav",
        "part": "excerpt of other.wav",
    }
    summary = NearDuplicatesSummary.of(outputs["near_duplicates"])
    assert (summary.would_go, summary.would_go_seconds) == (2, (400 + 130) * 0.04)


def test_held_out_speech_that_training_has_is_counted_and_said(outputs: dict[str, Artifact]):
    summary = NearDuplicatesSummary.of(outputs["near_duplicates"])
    assert (summary.held_out_heard, summary.held_out_utterances, summary.recordings) == (1, 2, ["h1.wav"])
    assert (summary.utterances, summary.too_short) == (7, 1)
    said = dict(facts(outputs))["near-duplicates"]
    assert said.startswith("1 of 2 held-out utterances was heard in training under another name, such as h1.wav")
    assert "would leave out 2 training utterances" in said


def test_order_and_shards_change_nothing_and_new_speech_costs_its_own(outputs: dict[str, Artifact], tmp_path: Path):
    less, _ = found_in(tmp_path, ["part", "long", "other"], ["alone", "h2", "h1"])
    more, execute = found_in(tmp_path, ["short"], ["part", "long", "other"], ["alone", "h2", "h1"])
    assert rows_of(less) == rows_of(more) == rows_of(outputs)
    assert execute.parts() == ["tokenization/unit_runs", "tokenization/near_duplicates"]


def test_runs_belong_to_their_utterances_where_thresholds_took_some_out(tmp_path: Path):
    store = Store(str(tmp_path))
    whole = shard_of(store, list(SPEECH))
    kept = shard_of(store, ["long", "other", "short"], tokens=[whole])  # neither the first nor the last
    (runs,) = runs_of_shards(CONFIG, [kept], kept, Computed())
    own, _ = run_sets(runs, kept)
    assert [own[n].tolist() for n in range(3)] == [
        all_runs([SPEECH[name]]).tolist() for name in ("long", "other", "short")
    ]


def test_off_looks_for_nothing(tmp_path: Path):
    found, execute = found_in(tmp_path, ["h1", "long"], config=PipelineConfig())
    assert found.keys() == {"tokens"} and execute.parts() == []


def test_another_limit_hashes_nothing_again(tmp_path: Path):
    found_in(tmp_path, ["h1", "long"])
    near = {"use": "report", "limit": 0.9}
    asked = PipelineConfig.model_validate(
        {"tokenization": {"near_duplicates": near}, "adaptation": {"teacher": "fresh"}}
    )
    assert found_in(tmp_path, ["h1", "long"], config=asked)[1].parts() == ["tokenization/near_duplicates"]
    assert asked.model_dump()["tokenization"]["near_duplicates"]["limit"] == 0.9


def test_the_setting_changes_no_tokens():
    from tinywave_core.tokenizers.opening import choose_tokenizer

    assert (
        choose_tokenizer(CONFIG).settings().model_dump() == choose_tokenizer(PipelineConfig()).settings().model_dump()
    )


def test_copies_are_left_out_where_that_is_asked_and_training_knows(tmp_path: Path):
    source = copy_clips(tmp_path / "speech", CLIPS[:8])
    samples, rate = soundfile.read(source / CLIPS[5])
    soundfile.write(source / "copy.wav", samples[: -int(0.05 * rate)], rate)  # another digest, the same reading
    units, utterances, keys = {"units": {"clusters": 40}}, {}, {}
    for use in ("report", "leave_out"):
        config = tiny_config(source, tmp_path / "store", tokenization={**units, "near_duplicates": {"use": use}})
        outputs, _ = run_tiny(config, until="tokenization")
        shards = outputs["tokens"].store.find_all([s["id"] for s in outputs["tokens"].summary["shards"]], "shard")
        tables = [read_table(shard.path(TOKENS_FILE), ["utterance_id"]) for shard in shards]
        utterances[use] = {i for table in tables for i in table["utterance_id"].to_pylist()}
        keys[use] = training_key(config, outputs["tokens"])
    gone = reasons_to_leave_out(outputs["near_duplicates"])
    assert utterances["report"] - utterances["leave_out"] == set(gone) and len(gone) == 1
    assert keys["report"] != keys["leave_out"]
    said = dict(facts(outputs))["near-duplicates"]
    assert "one of each is kept, which leaves out 1 training utterance (" in said


def test_an_excerpt_that_begins_elsewhere_is_found_from_four_beginnings(tmp_path: Path):
    source = copy_clips(tmp_path / "speech", (*CLIPS[:1], *CLIPS[4:8]))
    samples, rate = soundfile.read(source / CLIPS[5])
    soundfile.write(source / "cut.wav", samples[int(0.505 * rate) :], rate)
    pairs = {}
    for starts in (1, 4):
        near = {"use": "report", "starts": starts}
        units = {"units": {"clusters": 40}}
        config = tiny_config(source, tmp_path / "store", tokenization={**units, "near_duplicates": near})
        pairs[starts] = rows_of(run_tiny(config, until="tokenization")[0])
    assert pairs[1] == []
    assert {frozenset((row["path"], row["of_path"])) for row in pairs[4]} == {frozenset(("cut.wav", CLIPS[5]))}
