"""The part `quality`: measures of all shards of a corpus and thresholds in; which utterances are left out, and why.

Files: quality.parquet (a row per utterance, with its reason where it is left out) and listening.parquet (a few utterances of each
measure as FLAC, from the worst end, the threshold's edge and the middle). Tables alone are read but for those. Tokenization does not wait
for this part: `left_out` tells it, and a plan, from the measures, so that a changed threshold is known before anything runs.
See infra/decisions/0039-what-is-left-out.md.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tinywave_core.audio.keeping import MEASURES, detail, flag_of, is_label, limits, measure_of, reasons, words_per_s
from tinywave_core.audio.utterances import UTTERANCES_FILE, decode_flac, encode_flac, flac_of
from tinywave_core.config.ingestion import KeepConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import MissingInputError, SourceError
from tinywave_core.evals.dnsmos import INSTALL
from tinywave_core.stages.ingestion.classes import Classes, classes_steps, labels_shown, with_labels
from tinywave_core.stages.ingestion.measures import MEASURES_FILE, measures_steps
from tinywave_core.stages.ingestion.summary import (
    CorpusSummary,
    LeftOut,
    MeasureFigures,
    MeasuresSummary,
    QualitySummary,
)
from tinywave_core.steps.base import Execute, Output, Outputs, Step, find_steps
from tinywave_core.storage.schemas import LISTENING, QUALITY, SAMPLE_RATE
from tinywave_core.storage.shards import RowWriter, read_table, rows_of, write_table
from tinywave_core.storage.store import Artifact, NotYetComputedError

VERSION = 1
PART, QUALITY_FILE, LISTENING_FILE = "quality", "quality.parquet", "listening.parquet"
PERCENTS = (0, 1, 5, 25, 50, 75, 95, 99, 100)
WORST, BESIDE_EDGE, MIDDLE = 3, 2, 3  # utterances that are kept for listening, of each measure
HEARD_SAMPLES = 6 * SAMPLE_RATE
QualityStep = Step[KeepConfig, QualitySummary]


def build(config: PipelineConfig, corpus: Artifact, execute: Execute) -> Outputs:
    """The part, where anybody asks for measures."""
    if not config.ingestion.measures_wanted:
        return {}
    classes = {name: execute(steps) for name, steps in classes_steps(config, corpus).items()}
    inputs = {"corpus": [corpus], "measures": execute(measures_steps(config, corpus))}
    # In the order of the names, each model's shards in that of the corpus; nothing where no model is given, as before there were any.
    named = {"classes": [artifact for name in sorted(classes) for artifact in classes[name]]} if classes else {}
    step = Step(
        corpus.store,
        "ingestion",
        PART,
        VERSION,
        run_quality,
        config.ingestion.keep,
        inputs | named,
        {"classifiers": sorted(classes)} if classes else {},
        runtime=config.runtime,
    )
    return {PART: execute([step])[0]}


def _classes_of(step: QualityStep) -> Classes:
    names, artifacts = step.params.get("classifiers", []), step.inputs.get("classes", [])
    shards = len(step.inputs["measures"])
    return {name: artifacts[at * shards : (at + 1) * shards] for at, name in enumerate(names)}


def left_out(config: PipelineConfig, corpus: Artifact) -> dict[str, str]:
    """Reason by utterance, of those that thresholds leave out; NotYetComputedError where some are not measured yet."""
    thresholds = config.ingestion.keep.thresholds
    if not thresholds:
        return {}
    wanted, kinds = config.ingestion.keep.labels, limits(thresholds)
    named = {label.partition(".")[0] for label in wanted}
    classes = {name: _complete(steps) for name, steps in classes_steps(config, corpus).items() if name in named}
    out: dict[str, str] = {}
    for table in measured_tables(corpus, _complete(measures_steps(config, corpus)), classes, wanted):
        out_U = reasons(_columns(table), thresholds)
        places = np.flatnonzero(out_U >= 0)
        ids = table["utterance_id"].take(pa.array(places)).to_pylist()
        out |= {i: kinds[number].reason for i, number in zip(ids, out_U[places].tolist(), strict=True)}
    return out


def ids_left_out(quality: Artifact) -> set[str]:
    """Utterances that the part `quality` says are left out."""
    rows = rows_of(quality.path(QUALITY_FILE), ["utterance_id", "reason"], lambda table: pc.is_valid(table["reason"]))
    return {row["utterance_id"] for row in rows}


def outlook(config: PipelineConfig, corpus: Artifact) -> tuple[QualitySummary | None, int]:
    """What the thresholds leave out, as far as it is measured, and how many utterances of the corpus are not yet. For a plan."""
    measures = find_steps(measures_steps(config, corpus))
    classes = {name: find_steps(steps) for name, steps in classes_steps(config, corpus).items()}
    total = CorpusSummary.of(corpus).utterances
    if not any(all(artifact.complete for artifact in each) for each in zip(measures, *classes.values(), strict=True)):
        return None, total
    labels = labels_shown(classes, config.ingestion.keep.labels)
    numbers = Numbers(config.ingestion.keep.thresholds, labels)
    for table in measured_tables(corpus, measures, classes, labels):
        numbers.add(table)
    return numbers.summary(), total - numbers.utterances


def _complete(steps: Sequence[Step]) -> list[Artifact]:
    """Their artifacts; NotYetComputedError where one is not there."""
    found = find_steps(steps)
    for artifact in found:
        if not artifact.complete:
            raise NotYetComputedError(artifact)
    return found


def measured_tables(
    corpus: Artifact, measures: Sequence[Artifact], classes: Classes | None = None, labels: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """A table per shard of the corpus, a row per utterance: QUALITY without reasons, its transcript and shard, and these `labels` of given
    models. Shards of which anything is only planned are left out."""
    summary = CorpusSummary.of(corpus)
    shards = corpus.store.find_all(summary.shards, "shard")
    for at, (shard, own) in enumerate(zip(shards, measures, strict=True)):
        of_shard = {name: each[at] for name, each in (classes or {}).items()}
        if own.complete and all(each.complete for each in of_shard.values()):
            yield _of_shard(shard, own, of_shard, labels, summary.duplicates.get(shard.id, []))


def _of_shard(
    shard: Artifact, measures: Artifact, classes: dict[str, Artifact], labels: Sequence[str], drop: Sequence[str]
) -> pa.Table:
    index = read_table(shard.path(UTTERANCES_FILE), ["utterance_id", "path", "split", "num_samples", "transcript"])
    table = read_table(measures.path(MEASURES_FILE))
    assert table["utterance_id"].equals(index["utterance_id"]), "measures stand in the order of their shard"
    for name in index.column_names[1:]:
        table = table.append_column(name, index[name])
    rates = map(
        words_per_s,
        table["transcript"].to_pylist(),
        table["speech_share"].to_pylist(),
        (table["num_samples"].to_numpy() / SAMPLE_RATE).tolist(),
    )
    table = table.append_column("words_per_s", pa.array(list(rates), pa.float32()))
    table = with_labels(table, classes, labels)
    table = table.append_column("shard", pa.array([shard.id] * table.num_rows, pa.string()))
    return table.filter(pc.invert(pc.is_in(table["utterance_id"], pa.array(drop, pa.string())))) if drop else table


def _columns(table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
    """Numbers by measure; NaN is what is not known."""
    return {name: pc.fill_null(table[name].cast(pa.float64()), float("nan")).to_numpy() for name in _measures_in(table)}


def _measures_in(table: pa.Table) -> list[str]:
    return [*MEASURES, *filter(is_label, table.column_names)]


# The part ------------------------------------------------------------------------------------------------------------


def run_quality(step: QualityStep, output: Output) -> QualitySummary:
    """Join the measures, apply the thresholds, count, and pick what to listen to."""
    thresholds = step.config.thresholds
    _require_opinions(step)
    labels = labels_shown(_classes_of(step), step.config.labels)
    numbers = Numbers(thresholds, labels)
    schema = pa.schema([*QUALITY, *(pa.field(label, pa.float32()) for label in labels)])
    with RowWriter(output.folder / QUALITY_FILE, schema) as writer:
        for table in _tables_of(step, labels):
            out_U = numbers.add(table)
            details = pa.array(_details(table, out_U, thresholds), pa.string())
            judged = _with_reasons(table, out_U, thresholds).append_column("detail", details)
            writer.add_table(judged.select(schema.names).cast(schema))
    _write_listening(step, numbers, output)
    return numbers.summary()


def _tables_of(step: QualityStep, labels: Sequence[str]) -> Iterator[pa.Table]:
    return measured_tables(step.input("corpus"), step.inputs["measures"], _classes_of(step), labels)


def _with_reasons(table: pa.Table, out_U: npt.NDArray[np.int64], thresholds: dict[str, float]) -> pa.Table:
    kinds = limits(thresholds)
    codes = [None if number < 0 else kinds[number].reason for number in out_U.tolist()]
    return table.append_column("reason", pa.array(codes, pa.string()))


def _require_opinions(step: QualityStep) -> None:
    wanted = step.config.min_dnsmos is not None
    if wanted and not any(MeasuresSummary.of(measures).dnsmos for measures in step.inputs["measures"]):
        raise MissingInputError(
            f"ingestion.keep.min_dnsmos is set, but DNSMOS is not installed, so that nothing is rated: {INSTALL}, or leave it out"
        )


def _details(table: pa.Table, out_U: npt.NDArray[np.int64], thresholds: dict[str, float]) -> list[str | None]:
    places = np.flatnonzero(out_U >= 0)
    rows = table.select(_measures_in(table)).take(pa.array(places)).to_pylist()
    told: list[str | None] = [None] * table.num_rows
    for place, row in zip(places.tolist(), rows, strict=True):
        told[place] = detail(row, thresholds)
    return told


class Numbers:
    """The numbers of the part, shard by shard. Of an utterance its measures are kept, in 40 bytes, and no text."""

    def __init__(self, thresholds: dict[str, float], labels: Sequence[str] = ()) -> None:
        """`labels`: columns of given models that the tables have beside the measures."""
        self.thresholds, self.labels = thresholds, labels
        self._values: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in (*MEASURES, *labels)}
        self._samples: list[npt.NDArray[np.int64]] = []
        self._is_train: list[npt.NDArray[np.bool_]] = []
        self._out: list[npt.NDArray[np.int8]] = []

    def add(self, table: pa.Table) -> npt.NDArray[np.int64]:
        """Take in a table of `measured_tables`; the number of the limit that leaves each utterance out, -1 for none."""
        columns = _columns(table)
        out_U = reasons(columns, self.thresholds)
        for name, values_U in columns.items():
            self._values[name].append(values_U.astype(np.float32))  # as they lie in the table
        self._samples.append(table["num_samples"].to_numpy())
        self._is_train.append(pc.equal(table["split"], "train").to_numpy(zero_copy_only=False))
        self._out.append(out_U.astype(np.int8))
        return out_U

    @property
    def utterances(self) -> int:
        return sum(map(len, self._samples))

    def values(self, measure: str) -> npt.NDArray[np.float64]:
        """A measure of all utterances, NaN where it is not known."""
        return np.concatenate([np.zeros(0, np.float32), *self._values[measure]]).astype(np.float64)

    def summary(self) -> QualitySummary:
        """Of all tables so far."""
        hours_U = np.concatenate([np.zeros(0, np.int64), *self._samples]) / SAMPLE_RATE / 3600
        train_U = np.concatenate([np.zeros(0, bool), *self._is_train])
        out_U = np.concatenate([np.zeros(0, np.int8), *self._out])
        kept_U = out_U < 0
        return QualitySummary(
            utterances=self.utterances,
            hours=float(hours_U.sum()),
            kept_train=int((kept_U & train_U).sum()),
            kept_held_out=int((kept_U & ~train_U).sum()),
            hours_left_out=float(hours_U[~kept_U].sum()),
            left_out=[
                LeftOut(
                    reason=limit.reason,
                    setting=limit.setting,
                    bound=self.thresholds[limit.setting],
                    utterances=int((out_U == number).sum()),
                    hours=float(hours_U[out_U == number].sum()),
                    alone=int(limit.leaves_out(self.values(limit.measure), self.thresholds[limit.setting]).sum()),
                )
                for number, limit in enumerate(limits(self.thresholds))
                if limit.setting in self.thresholds
            ],
            measured=[_measured(name, self.values(name)) for name in self._values],
        )


def _measured(name: str, values_U: npt.NDArray[np.float64]) -> MeasureFigures:
    known, edges = values_U[np.isfinite(values_U)], np.asarray(measure_of(name).edges, np.float64)
    counts = np.histogram(np.clip(known, edges[0], edges[-1]), edges)[0]
    found = np.percentile(known, PERCENTS).tolist() if len(known) else []
    return MeasureFigures(
        measure=name,
        known=len(known),
        quantiles=dict(zip(map(str, PERCENTS), found, strict=False)),
        edges=edges.tolist(),
        counts=counts.tolist(),
    )


# Listening -----------------------------------------------------------------------------------------------------------


def _write_listening(step: QualityStep, numbers: Numbers, output: Output) -> None:
    picked: list[dict[str, Any]] = [
        {"measure": name, "place": place, "row": row}
        for name in (*MEASURES, *numbers.labels)
        for place, row in picks(numbers.values(name), name, step.config.thresholds)
    ]
    about = _about(step, numbers, {int(pick["row"]) for pick in picked})
    sounds: dict[str, bytes] = {}
    for shard in step.store.find_all(sorted({row["shard"] for row in about.values()}), "shard"):
        ids = {row["utterance_id"] for row in about.values() if row["shard"] == shard.id}
        sounds |= {i: _beginning(flac) for i, flac in flac_of(shard, ids).items()}
    rows = [
        {
            **{name: about[pick["row"]][name] for name in ("utterance_id", "path", "transcript", "reason")},
            "measure": pick["measure"],
            "place": pick["place"],
            "value": about[pick["row"]][pick["measure"]],
            "flac": sounds[about[pick["row"]]["utterance_id"]],
        }
        for pick in picked
    ]
    write_table(pa.Table.from_pylist(rows, schema=LISTENING), output.folder / LISTENING_FILE)


def _about(step: QualityStep, numbers: Numbers, wanted: set[int]) -> dict[int, dict[str, Any]]:
    """Rows of a few utterances, by their place in the corpus."""
    about: dict[int, dict[str, Any]] = {}
    first = 0
    for table in _tables_of(step, numbers.labels):
        places = sorted(place for place in wanted if first <= place < first + table.num_rows)
        if places:
            few = table.take(pa.array([place - first for place in places], pa.int64()))
            few = _with_reasons(few, reasons(_columns(few), numbers.thresholds), numbers.thresholds)
            about |= dict(zip(places, few.to_pylist(), strict=True))
        first += table.num_rows
    return about


def picks(values_U: npt.NDArray[np.float64], name: str, thresholds: dict[str, float]) -> Iterator[tuple[str, int]]:
    """Place and row of a few utterances of a measure: the worst, those on both sides of each threshold, and the middle ones."""
    # By value and then by row, so that the same corpus has the same page.
    order = np.argsort(values_U, kind="stable")
    order = order[np.isfinite(values_U[order])]
    if not len(order):
        return
    worst = order if measure_of(name).worst_is_low else order[::-1]
    found = [("worst", row) for row in worst[:WORST]]
    for limit in limits(thresholds):
        if limit.measure == name and limit.setting in thresholds:
            edge = int(
                np.searchsorted(values_U[order], thresholds[limit.setting], "left" if limit.is_lowest else "right")
            )
            found += [("edge", row) for row in order[max(0, edge - BESIDE_EDGE) : edge + BESIDE_EDGE]]
    first = max(0, (len(order) - MIDDLE) // 2)
    found += [("middle", row) for row in order[first : first + MIDDLE]]
    seen: set[int] = set()
    for place, row in found:
        if int(row) not in seen:
            seen.add(int(row))
            yield place, int(row)


def _beginning(flac: bytes) -> bytes:
    samples_N = decode_flac(flac)
    if len(samples_N) <= HEARD_SAMPLES:
        return flac
    return encode_flac(np.round(samples_N[:HEARD_SAMPLES] * 32_768).astype(np.int16))


def require_kept(config: PipelineConfig, utterances: dict[str, int]) -> None:
    """SourceError where thresholds leave nothing on a side of the split; `utterances` are those that are kept, by side."""
    thresholds = config.ingestion.keep.thresholds
    empty = [side for side, number in utterances.items() if not number]
    if thresholds and empty:
        flags = ", ".join(flag_of(name, value) for name, value in thresholds.items())
        raise SourceError(
            f"nothing is left to {' or to '.join(empty)}: all of it is left out by {flags}. `tinywave quality` shows what each of them "
            "leaves out; set them lower, or to none"
        )
