"""Every setting has a place: it changes the key of its own stage and of none before it, or its help says that it has no part in a key.

Drawn from the config's models, so that a new setting is asked too. As in test_fingerprints.py the inputs have made-up ids: what
changes here is a step's own key. What builds on it follows, since the ids of all inputs are part of every key.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from safetensors.numpy import save_file

from tests.conventions.test_fingerprints import planned_steps
from tests.fixtures.encoders import save_encoder
from tests.fixtures.judges import write_classifier
from tests.fixtures.text_models import write_text_model
from tests.fixtures.tiny import merged
from tinywave_core.config.base import TrainingConfig
from tinywave_core.config.distillation import OnPolicyConfig, SequenceLevelConfig
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.config.preference import PreferenceConfig
from tinywave_core.storage.store import Store

Settings = dict[str, Any]
PIECES = Path(__file__).parents[1] / "fixtures" / "spiritlm" / "toy_tokenizer.model"
# Where something lies is no part of a key, its content is: tests/stages has a test for each kind of them.
PLACES = {
    "source",
    "root",
    "spiritlm_dir",
    "ingestion.measures.classifiers",
    "tokenization.units.encoder",
    "tokenization.units.codebook",
    "tokenization.alignment.path",
    "tokenization.text.source",
    "tokenization.benchmarks.suites",
    "adaptation.teacher",
    "adaptation.base",
    "distillation.start",
    "evaluation.generated.asr",
    "evaluation.generated.language_model",
    "evaluation.generated.judge",
    "evaluation.judges.dnsmos",
    "evaluation.judges.speaker_model",
}
# Settings that a stage before their own reads, too.
EARLIER = {
    r"adaptation\.(id_convention|text_rows|most_text_tokens)": {
        "tokenization"
    },  # the ids in the shards are the teacher's
    r"distillation\.training\.sequence_length": {"logit_caching"},  # which caches no more than fits in a row
    r"distillation\.sequence_level\..*": {
        "logit_caching"
    },  # where the teacher goes on with training speech, and is captured
    r"generation\.(temperature|top_p)": {"export"},  # it writes generation_config.json
    r"generation\.vocoder\..*": {"export"},  # it makes the voice and carries it; its speech is judged
}
# Settings whose part stands in another stage than they do: the light vocoder, which is judged, is trained there.
ELSEWHERE = {r"evaluation\.judges\..*": {"export"}}
# Groups that several stages read.
SHARED = {"validation": {"adaptation", "distillation"}}
# Settings that give others a say, or without which they cannot be changed.
ENCODER = {"tokenization": {"units": {"kind": "encoder", "encoder": "ENCODER", "layer": 0}}}
EXPLICIT = {"distillation": {"layer_map": "explicit", "layer_pairs": "0:1,1:2"}}
REPORTED = {"tokenization": {"near_duplicates": {"use": "report"}}}
LOOKED_UP = {"tokenization": {"benchmarks": {"suites": "SUITE"}}}
LABELLED = {"ingestion": {"measures": {"classifiers": "music=LABELS"}}}
ON_POLICY = {"distillation": {"regime": "on_policy", "on_policy": {"divergence": "reverse"}}}
PREFERENCE = {
    "distillation": {"preference": {"share": 0.5}},
    "tokenization": {"interleaving": {"policy": "speech"}, "text": {"source": None}},
}
OPINIONS = {"ingestion": {"measures": {"always": True, "dnsmos": True}}}
BESIDE: dict[str, Settings] = {
    "ingestion.measures.dnsmos": {"ingestion": {"measures": {"always": True}}},
    "ingestion.keep.min_dnsmos": OPINIONS,
    "ingestion.keep.most_of": LABELLED,
    "ingestion.keep.least_of": LABELLED,
    "tokenization.units.layer": ENCODER,
    "tokenization.near_duplicates.limit": REPORTED,
    "tokenization.near_duplicates.starts": REPORTED,
    "tokenization.benchmarks.use": LOOKED_UP,
    "tokenization.benchmarks.limit": LOOKED_UP,
    "adaptation.method": {"adaptation": {"teacher": "LLAMA"}},
    "adaptation.id_convention": {"adaptation": {"teacher": "LLAMA"}},
    "adaptation.most_text_tokens": {"adaptation": {"teacher": "TEXT_MODEL", "text_rows": "keep"}},
    "adaptation.text_rows": {
        "adaptation": {"teacher": "TEXT_MODEL"},
        "tokenization": {"interleaving": {"policy": "speech"}, "text": {"source": None}},
    },
    "distillation.layer_pairs": EXPLICIT,
    "distillation.copied_blocks": EXPLICIT,
    **{f"distillation.on_policy.{name}": ON_POLICY for name in OnPolicyConfig.model_fields},
    "distillation.on_policy.form": {
        "distillation": {"regime": "on_policy", "on_policy": {"divergence": "reverse", "drawn_every": 1}}
    },
    "distillation.on_policy.beta": {
        "distillation": {"regime": "on_policy", "on_policy": {"divergence": "jensen_shannon"}}
    },
    **{
        f"distillation.sequence_level.{name}": {"distillation": {"sequence_level": {"share": 0.5}}}
        for name in SequenceLevelConfig.model_fields
    },
    **{f"distillation.preference.{name}": PREFERENCE for name in PreferenceConfig.model_fields},
    "evaluation.preferred_prompts": PREFERENCE,
    "runtime.cluster": {"runtime": {"runner": "dask"}},
    "runtime.training_nodes": {"runtime": {"rendezvous": "node-0:29400"}},
    "runtime.track_live": {"runtime": {"mlflow_to": "runs"}},
    **{
        f"adaptation.base_training.{name}": {
            "adaptation": {"teacher": "base"},
            "tokenization": {"interleaving": {"policy": "speech"}, "text": {"source": None}},
        }
        for name in TrainingConfig.model_fields
    },
}
# Other values of settings, where what `other_values` draws by their type does not fit.
OTHER: dict[str, Settings] = {
    "adaptation.most_text_tokens": {"adaptation": {"most_text_tokens": 270}},
    "ingestion.keep.min_bandwidth_hz": {"ingestion": {"keep": {"min_bandwidth_hz": 4000}}},
    "ingestion.keep.min_level_db": {"ingestion": {"keep": {"min_level_db": -40}}},
    "ingestion.keep.most_of": {"ingestion": {"keep": {"most_of": "music.Speech=0.5"}}},
    "ingestion.keep.least_of": {"ingestion": {"keep": {"least_of": "music.Speech=0.5"}}},
    "tokenization.units.kind": ENCODER,
    "tokenization.alignment.kind": {"tokenization": {"alignment": {"kind": "ctc", "path": "LLAMA"}}},
    "adaptation.training.dropout": {"adaptation": {"training": {"dropout": 0.3}}},
    "adaptation.base_training.dropout": {"adaptation": {"base_training": {"dropout": 0.3}}},
    "distillation.training.dropout": {"distillation": {"training": {"dropout": 0.3}}},
    "runtime.rendezvous": {"runtime": {"rendezvous": "node-0:29400"}},
    "distillation.layer_map": {"distillation": {"layer_map": "segment_end"}},
    "distillation.width": {"distillation": {"width": 64}},
    "distillation.layer_pairs": {"distillation": {"layer_pairs": "0:3,1:5"}},
    "distillation.copied_blocks": {"distillation": {"copied_blocks": "1,2"}},
    "distillation.on_policy.after_share": {"distillation": {"on_policy": {"after_share": 0.3}}},
    "distillation.preference.judge": {"distillation": {"preference": {"judge": "perplexity"}}},
    "evaluation.probes.genders": {"evaluation": {"probes": {"genders": "84=f"}}},
    "evaluation.generated.language": {"evaluation": {"generated": {"language": "en"}}},
}


def settings_of(model: BaseModel, at: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Every setting: its name, its field, and what the help says of it and of the groups that it is in."""
    for name, value in model:
        field = type(model).model_fields[name]
        if isinstance(value, BaseModel):
            for path, inner, said in settings_of(value, f"{at}{name}."):
                yield path, inner, f"{field.description} {type(value).__doc__} {said}"
        else:
            yield f"{at}{name}", field, str(field.description)


ALL = {path: (field, said) for path, field, said in settings_of(PipelineConfig())}


def other_values(field: FieldInfo, value: Any) -> list[Any]:
    """Values to try in place of this one, by the setting's type."""
    if get_origin(field.annotation) is Literal:
        return [each for each in get_args(field.annotation) if each != value]
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1, value * 2, value / 2, value - 1]
        case None:
            return [1, "other"]
        case tuple() | list():
            return [value[:-1] if value else ["other"]]
    return ["other"]


def placed(settings: Settings, places: dict[str, str]) -> Settings:
    """With the place of the model that stands for all."""
    return json.loads(
        json.dumps(settings)
        .replace("LLAMA", places["llama"])
        .replace("TEXT_MODEL", places["text_model"])
        .replace("SUITE", places["suite"])
        .replace("LABELS", places["labels"])
        .replace('"ENCODER"', f'"{places["encoder"]}"')
    )


def nested(path: str, value: Any) -> Settings:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def other_config(path: str, values: Settings, places: dict[str, str]) -> PipelineConfig | None:
    """The config with another value of one setting; None of a setting that has one value only."""
    before = PipelineConfig.model_validate(values)
    group: Any = before
    *groups, last = path.split(".")
    for name in groups:
        group = getattr(group, name)
    # A setting that came later than the stores is left out of the dump at its default.
    value = group.model_dump().get(last, getattr(group, last))
    tried = (
        [placed(OTHER[path], places)]
        if path in OTHER
        else [nested(path, each) for each in other_values(ALL[path][0], value)]
    )
    for change in tried:
        try:
            after = PipelineConfig.model_validate(merged(values, change))
        except ValidationError:
            continue
        assert after != before
        return after
    assert not tried, f"{path}: write another value of it into OTHER, and what it needs into BESIDE"
    return None


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A recording, a text, and directories that pass for models as far as planning looks."""
    folder = tmp_path_factory.mktemp("identity")
    (folder / "speech").mkdir()
    (folder / "speech" / "one.wav").write_bytes(b"RIFF")
    (folder / "words.txt").write_text("some words\n", encoding="utf-8")
    for name, kind, architecture in (
        ("whisper", "whisper", "WhisperForConditionalGeneration"),
        ("llama", "llama", "LlamaForCausalLM"),
    ):
        (folder / name).mkdir()
        about = {"vocab_size": 1280, "model_type": kind, "architectures": [architecture]}
        for file, content in (("config", about), ("preprocessor_config", {}), ("tokenizer_config", {})):
            (folder / name / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
        save_file({"weight": np.zeros(1)}, folder / name / "model.safetensors")
        shutil.copyfile(PIECES, folder / name / "tokenizer.model")
    save_encoder(folder / "encoder", "hubert")
    write_text_model(folder / "text_model")
    write_classifier(folder / "labels")
    (folder / "suite").mkdir()
    (folder / "suite" / "pairs.jsonl").write_text('{"id": "1", "pos": "yes", "neg": "sey"}', encoding="utf-8")
    return {
        name: str(folder / name)
        for name in ("speech", "words.txt", "whisper", "llama", "encoder", "suite", "labels", "text_model")
    }


@pytest.fixture(scope="module")
def everything(places: dict[str, str]) -> Settings:
    """Settings under which every part of every stage is there."""
    settings = {
        "source": places["speech"],
        "adaptation": {"teacher": "fresh"},
        "tokenization": {"interleaving": {"policy": "poisson"}, "text": {"source": places["words.txt"]}},
        "evaluation": {"generated": {"asr": places["whisper"], "language_model": places["llama"]}},
    }
    return merged(PipelineConfig().model_dump(mode="json"), settings)


@cache
def keys(config: PipelineConfig) -> dict[str, str]:
    """Keys of all steps in a store of their own, by "stage/part"."""
    store = Store("memory://identity")
    found = {f"{step.stage}/{step.part}": step.fingerprint for step in planned_steps(config, store)}
    store.filesystem.rm(store.root, recursive=True)
    return found


@pytest.mark.parametrize("path", [path for path in ALL if path not in PLACES])
def test_a_setting_is_part_of_its_own_stages_keys_and_of_none_before(
    path: str, everything: Settings, places: dict[str, str]
):
    values = merged(everything, placed(BESIDE.get(path, {}), places))
    after = other_config(path, values, places)
    if after is None:
        return
    old, new = keys(PipelineConfig.model_validate(values)), keys(after)
    changed = {key.partition("/")[0] for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    if not changed:
        assert "identif" in ALL[path][1].lower(), (
            f"{path} changes no key: put it into one, or say so in its help or its group's"
        )
        return
    stage = path.partition(".")[0]
    also = set().union(*(stages for pattern, stages in EARLIER.items() if re.fullmatch(pattern, path)))
    before = set(STAGES[: STAGES.index(stage)]) if stage in STAGES else set(STAGES)
    elsewhere = set().union(*(stages for pattern, stages in ELSEWHERE.items() if re.fullmatch(pattern, path)))
    own = elsewhere or SHARED.get(stage, {stage})
    assert own <= changed and changed & before - own == also


def test_ids_of_all_inputs_are_part_of_a_key(everything: Settings):
    steps = planned_steps(PipelineConfig.model_validate(everything), Store("memory://identity-of-inputs"))
    assert len({f"{step.stage}/{step.part}" for step in steps}) == 24
    for step in steps:
        for name, artifacts in step.inputs.items():
            other = [replace(artifacts[0], fingerprint="0" * 32), *artifacts[1:]]
            assert replace(step, inputs={**step.inputs, name: other}).fingerprint != step.fingerprint
