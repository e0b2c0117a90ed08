"""Golden fingerprints: what identifies an output of each stage, written down.

A fingerprint that changes makes every store compute that stage and all that follow it again: days, for a large corpus.
So a change must be seen in review, as a line below. Every step here has the default settings and inputs with made-up ids,
so that a change of one stage changes that stage's lines and no other's.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fixtures import summaries
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.evals import dnsmos
from tinywave_core.run import start
from tinywave_core.run.pipeline import build_stage
from tinywave_core.stages.evaluation import probes, units
from tinywave_core.stages.ingestion import corpus as ingestion
from tinywave_core.stages.tokenization import near_duplicates, tokens
from tinywave_core.steps.base import Step
from tinywave_core.storage.store import STORE_VERSION, Artifact, Manifest, Store

GOLDEN = {
    "ingestion/shard": "2a6f066310425d7bf07d4c7cc75096e2",
    "ingestion/corpus": "1d0cd894bb73a5fa4b45f32741fcd3e3",
    "tokenization/codebooks": "f04ef89f7f6f44e479357b284be7fb8b",
    "tokenization/shard": "9ef6bddbf27953f6dc7951079424cdab",
    "tokenization/tokens": "2c3bbc5f0055842a23e6ceb965de36f6",
    "adaptation/teacher": "40b33b18c0b5f7332e2dbf3818b8e036",
    "logit_caching/shard": "547dadf0a7f0dea8d3d80fbc46923013",
    "logit_caching/logits": "cb7b97f1102807eb37bb1d3c88532e05",
    "distillation/student": "4fe689dabd715a8b221e9f6910f6de1e",
    "distillation/control": "879b6d00317ee3d3d9be99d32f7983ff",
    "evaluation/scores": "8d786cf6bcd0ae07f6ae060726e51eda",
    "evaluation/probes": "9854e71f76b1f440c0ee89b3e28ef1c2",
    "evaluation/probe_scores": "fe1f14d6d623f22a441c2f6741de5f3a",
    "evaluation/units": "9f9d9b2879f62dd14e1e785d4c14e027",
    "evaluation/gap": "39a34a4bb076360b27c04f786eb68350",
    "export/vocoder": "e97c4f44d33adbd659dba4a6404ffd16",
    "export/model": "89ae5eda5bd592a1fb3ab9d4b7ef465f",
    "generation/samples": "32609889085a372ca86be92dd43ab5c5",
}

ADVICE = (
    "the identity of {step} changed, so every store would compute it and what follows again. If its results changed, "
    "raise VERSION in tinywave_core/stages/{stage}/; if only settings were added, that is the price of the new "
    "setting. Either way write the new fingerprint into GOLDEN on purpose, and a line into CHANGELOG.md. If neither was "
    "meant, undo what changed it"
)
TRAIN, HELD_OUT = "tokenization/" + "a" * 32, "tokenization/" + "b" * 32
AUDIO = "ingestion/" + "c" * 32
VOCABULARY = {"text": 259, "hubert": 100, "pitch": 32, "style": 16, "padded": 0, "boundary": None}
TRAINING = {"train_utterances": 1, "train_tokens": 9, "train_seconds": 3600.0}
NO_TRAINING = {"train_utterances": 0, "train_tokens": 0, "train_seconds": 0.0}
HELD_BACK = {"held_out_utterances": 1, "held_out_tokens": 1, "held_out_seconds": 1.0}
NOTHING_HELD_BACK = {"held_out_utterances": 0, "held_out_tokens": 0, "held_out_seconds": 0.0}
TOKEN_SHARD = {
    "vocabulary": VOCABULARY,
    "unvoiced_chunks": 0,
    "ids_bytes": 20,
    **TRAINING,
    **NOTHING_HELD_BACK,
    "kinds": {},
    "units_counts": [],
    "pitch_counts": [],
    "style_counts": [],
}
# What the stages read from the summaries of their inputs when they plan their steps.
SUMMARIES = {
    "corpus": summaries.corpus(shards=[AUDIO]),
    "ingestion/shard": summaries.audio_shard(),
    "tokens": {
        "shards": [
            {"id": TRAIN, "part": "shard", **TRAINING, **NOTHING_HELD_BACK},
            {"id": HELD_OUT, "part": "shard", **NO_TRAINING, **HELD_BACK},
        ],
        "tokenizer": "tokenization/" + "d" * 32,
        "tokenizer_kind": "codebooks",
        "vocabulary": VOCABULARY,
        "unvoiced_chunks": 0,
        **TRAINING,
        **HELD_BACK,
        "tokens": 10,
        "tokens_per_s": 1.0,
        "bytes_per_token": 2.0,
        "streams": {},
        "unit_histogram": [],
        "pitch_histogram": [],
        "style_histogram": [],
        "drift": {},
    },
    "leaks": {
        split: {"utterances": 1, "by_recording": 0, "by_sound": 0, "recordings": []} for split in ("held_out", "train")
    },
    "teacher": summaries.teacher(),
    "shard": TOKEN_SHARD,
    "interleaved": {**TOKEN_SHARD, "drawings": 1, "patterns": {}, "modalities": [], "switches": 0},
    "logits": {
        "shards": ["logit_caching/" + "e" * 32],
        **{"sequences": 1, "tokens": 9, "bytes": 400, "bytes_per_token": 44.4, "kinds": {}},
    },
}


def made_up(store: Store, stage: str, part: str, artifact_id: str | None = None) -> Artifact:
    """A committed artifact without files whose id depends on its name only."""
    digest = (artifact_id or "").partition("/")[2] or hashlib.sha256(f"{stage}/{part}".encode()).hexdigest()[:32]
    manifest = Manifest(
        store_version=STORE_VERSION,
        stage=stage,
        part=part,
        version=1,
        fingerprint=digest,
        config={},
        params={},
        inputs={"audio": [AUDIO]},
        summary=SUMMARIES.get(f"{stage}/{part}", SUMMARIES.get(part, {})),
        files=[],
        seconds=0.0,
        created_at="",
        code_version="",
    )
    if not store.exists(f"{stage}/{digest}/manifest.json"):
        store.create_record(f"{stage}/{digest}/manifest.json", manifest)
    return store.find(f"{stage}/{digest}", part)


def planned_steps(config: PipelineConfig, store: Store) -> list[Step]:
    """All steps of all stages, each on inputs with made-up ids."""
    made_up(store, "ingestion", "shard", AUDIO)
    made_up(store, "tokenization", "shard", TRAIN)
    made_up(store, "tokenization", "shard", HELD_OUT)
    steps: list[Step] = []

    def note(asked: Sequence[Step]) -> list[Artifact]:
        steps.extend(asked)
        return [made_up(step.store, step.stage, step.part) for step in asked]

    done: dict[str, Artifact] = {}
    with pytest.MonkeyPatch.context() as patch:  # versions of libraries are the lock file's business
        patch.setattr(ingestion, "decoder_name", lambda: "decoder")
        patch.setattr(ingestion, "vad_name", lambda: "vad")
        patch.setattr(probes, "vad_name", lambda: "vad")
        patch.setattr(dnsmos, "installed_dnsmos", lambda: None)  # an extra
        patch.setattr(units, "find_spec", lambda _: None)  # another
        patch.setattr(tokens, "left_out", lambda config, corpus: {})  # nothing is measured
        patch.setattr(near_duplicates, "reasons_to_leave_out", lambda found: {})  # nothing is found
        patch.setattr(start, "held_out_recordings", lambda corpus: set())  # the corpus has no files
        for stage in STAGES:
            done |= build_stage(stage, config, store, done, note)
    return steps


@pytest.fixture(scope="module")
def fingerprints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Fingerprints of all steps of all stages with the default config, by "stage/part"."""
    folder: Path = tmp_path_factory.mktemp("golden")
    (folder / "speech").mkdir()
    (folder / "speech" / "one.wav").write_bytes(b"RIFF")
    config = PipelineConfig.model_validate({"source": str(folder / "speech"), "adaptation": {"teacher": "fresh"}})
    steps = planned_steps(config, Store(str(folder / "store")))
    return {f"{step.stage}/{step.part}": step.fingerprint for step in steps}


def test_every_step_has_a_golden_fingerprint(fingerprints: dict[str, str]):
    assert list(fingerprints) == list(GOLDEN)


@pytest.mark.parametrize("step", GOLDEN)
def test_fingerprint_is_the_golden_one(fingerprints: dict[str, str], step: str):
    assert fingerprints[step] == GOLDEN[step], ADVICE.format(step=step, stage=step.partition("/")[0])
