"""The part `classes`: one audio shard and one given model in, the probability of each of its labels for each utterance out.

A step for each shard and model, known by the content of both: another model, or another name for it, computes nothing anew of the
others. Read from the FLAC of the shard, as the measures are, and joined to them as columns `name.label`. File: classes.parquet with
utterance_id and a column per label (float32). See infra/decisions/0047-labels-by-given-models.md.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tinywave_core.audio.utterances import UTTERANCES_FILE, read_utterances
from tinywave_core.checkpoints.model_directory import model_digest
from tinywave_core.config.ingestion import MeasuresConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.evals.classifiers import SHORTEST_SAMPLES, given_models, read_labels, shared_classifier
from tinywave_core.stages.ingestion.summary import ClassesSummary, CorpusSummary, hours_of, original_of
from tinywave_core.steps.base import Output, Step
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.threads import use_one_thread

VERSION = 1
PART, CLASSES_FILE = "classes", "classes.parquet"
SHOWN = 6  # labels of a model that people see although no threshold names them
ClassesStep = Step[MeasuresConfig, ClassesSummary]
Classes = Mapping[str, Sequence[Artifact]]
"""By the name of a model, its artifact of each shard of a corpus."""


def classes_steps(config: PipelineConfig, corpus: Artifact) -> dict[str, list[ClassesStep]]:
    """By model, a step for each shard of the corpus, in its order."""
    models = given_models(config)
    shards = corpus.store.find_all(CorpusSummary.of(corpus).shards, "shard") if models else []
    return {
        model.name: [
            Step(
                corpus.store,
                "ingestion",
                PART,
                VERSION,
                run_classes,
                MeasuresConfig(),  # none of the settings has a say in it
                {"audio": [original_of(shard)]},
                {"model": model.digest},
                {"folder": str(model.folder)},
                config.runtime,
                hours_of(shard),
            )
            for shard in shards
        ]
        for model in models
    }


def run_classes(step: ClassesStep, output: Output) -> ClassesSummary:
    """Ask the model of one utterance after the other."""
    folder, audio = Path(step.context["folder"]), step.input("audio")
    if not folder.is_dir() or model_digest(folder) != step.params["model"]:
        raise CheckpointError(
            f"{folder} is not the model that the run was planned with: have the same on all machines, or plan again"
        )
    from tinywave_core.devices import pick_device

    use_one_thread()
    labels, classify = read_labels(folder), shared_classifier(folder, pick_device(output.runtime))
    total = read_table(audio.path(UTTERANCES_FILE), ["utterance_id"]).num_rows
    ids, rows = list[str](), list[np.ndarray]()
    for utterance in read_utterances(audio):
        output.progress(len(ids), total, "utterances")
        ids.append(utterance.utterance_id)
        is_long = len(utterance.samples) >= SHORTEST_SAMPLES
        rows.append(classify(utterance.samples) if is_long else np.full(len(labels), np.nan))
    found_UK = np.asarray(rows, np.float32).reshape(len(ids), len(labels))
    write_table(_table(ids, labels, found_UK), output.folder / CLASSES_FILE)
    likeliest = Counter(dict.fromkeys(labels, 0)) if len(labels) <= SHOWN else Counter[str]()
    likeliest.update(labels[row.argmax()] for row in found_UK if np.isfinite(row).all())
    return ClassesSummary(utterances=len(ids), likeliest=dict(likeliest.most_common()))


def _table(ids: Sequence[str], labels: Sequence[str], found_UK: Any) -> pa.Table:
    fields = [
        pa.field("utterance_id", pa.string(), nullable=False),
        *(pa.field(label, pa.float32()) for label in labels),
    ]
    columns = [pa.array(ids, pa.string()), *(pa.array(column, pa.float32(), from_pandas=True) for column in found_UK.T)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


# Joined to the measures -----------------------------------------------------------------------------------------------


def labels_shown(classes: Classes, wanted: Iterable[str]) -> list[str]:
    """Columns that people see: labels that thresholds name, and those of each model that are likeliest of most utterances."""
    shown = list(wanted)
    for name, artifacts in classes.items():
        counts = Counter[str]()
        for each in artifacts:
            counts.update(ClassesSummary.of(each).likeliest if each.complete else {})
        first = sorted(counts, key=lambda label: (-counts[label], label))[:SHOWN]
        shown += [f"{name}.{label}" for label in first]
    return list(dict.fromkeys(shown))


def with_labels(table: pa.Table, of_shard: Mapping[str, Artifact], columns: Iterable[str]) -> pa.Table:
    """The utterances of a shard with these columns, name.label, of its artifacts by model."""
    for column in columns:
        name, _, label = column.partition(".")
        found = read_table(of_shard[name].path(CLASSES_FILE), ["utterance_id", label])
        assert found["utterance_id"].equals(table["utterance_id"]), "probabilities stand in the order of their shard"
        table = table.append_column(column, found[label])
    return table
