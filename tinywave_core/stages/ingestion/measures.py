"""The part `measures`: one audio shard in, how good each of its utterances is as speech out. Thresholds have no say in it.

Read from the FLAC of the shard as it was cut, never from the source, so labels that come later measure nothing again either. File:
measures.parquet (schema MEASURES).
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tinywave_core.audio.measures import measure
from tinywave_core.audio.quality import LOWEST_PEAK
from tinywave_core.audio.utterances import FILES_FILE, UTTERANCES_FILE, Utterance, read_utterances
from tinywave_core.audio.vad import vad_name
from tinywave_core.checkpoints.digests import sha256_once
from tinywave_core.config.ingestion import MeasuresConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.evals import dnsmos
from tinywave_core.stages.ingestion.summary import CorpusSummary, MeasuresSummary, hours_of, original_of
from tinywave_core.steps.base import Output, Step
from tinywave_core.storage.schemas import MEASURES
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact

VERSION = 1
PART, MEASURES_FILE = "measures", "measures.parquet"
MeasuresStep = Step[MeasuresConfig, MeasuresSummary]
Rate = Callable[[npt.NDArray[np.float32]], float | None]


def measures_steps(config: PipelineConfig, corpus: Artifact) -> list[MeasuresStep]:
    """A step for each shard of the corpus, in its order."""
    judge = dnsmos.installed_dnsmos() if config.ingestion.measures.dnsmos else None
    params = {"vad": vad_name()} | ({"dnsmos": sha256_once(judge)} if judge else {})
    return [
        Step(
            corpus.store,
            "ingestion",
            PART,
            VERSION,
            run_measures,
            # Whether thresholds ask for it or the setting does: it is the same. Models of labels are parts of their own.
            config.ingestion.measures.model_copy(update={"always": True, "classifiers": ""}),
            {"audio": [original_of(shard)]},
            params,
            {"dnsmos": str(judge)} if judge else {},
            config.runtime,
            hours_of(shard),
        )
        for shard in corpus.store.find_all(CorpusSummary.of(corpus).shards, "shard")
    ]


def run_measures(step: MeasuresStep, output: Output) -> MeasuresSummary:
    """Measure one utterance after the other."""
    audio, rate = step.input("audio"), _rate(step)
    flat = _flat_recordings(audio)
    total = read_table(audio.path(UTTERANCES_FILE), ["utterance_id"]).num_rows
    rows: list[dict[str, Any]] = []
    for utterance in read_utterances(audio):
        output.progress(len(rows), total, "utterances")
        rows.append(_row(utterance, flat, rate))
    write_table(pa.Table.from_pylist(rows, schema=MEASURES), output.folder / MEASURES_FILE)
    return MeasuresSummary(utterances=len(rows), dnsmos=sum(row["dnsmos"] is not None for row in rows))


def _row(utterance: Utterance, flat: dict[str, float], rate: Rate) -> dict[str, Any]:
    found = measure(np.round(utterance.samples * 32_768).astype(np.int16))
    # Resampling rounds flat tops off. A recording that stays whole has what was seen of it at its own rate.
    before = flat.get(utterance.recording_id, 0.0) if utterance.utterance_id == utterance.recording_id else 0.0
    clipped = max(found.clipped_share, before)
    return {
        "utterance_id": utterance.utterance_id,
        **asdict(found),
        "clipped_share": clipped,
        "dnsmos": rate(utterance.samples),
    }


def _flat_recordings(audio: Artifact) -> dict[str, float]:
    """Share of flat tops by recording, as it was decoded."""
    columns = ["recording_id", "flat_share", "peak", "status"]
    table = read_table(audio.path(FILES_FILE), columns).to_pydict()
    rows = zip(*(table[name] for name in columns), strict=True)
    return {i: flat or 0.0 for i, flat, peak, status in rows if status == "accepted" and (peak or 0) >= LOWEST_PEAK}


def _rate(step: MeasuresStep) -> Rate:
    """DNSMOS, overall; what says nothing where nobody asked or it is not installed."""
    wanted = step.params.get("dnsmos")
    if wanted is None:
        return lambda _: None
    judge = dnsmos.installed_dnsmos()
    if judge is None or sha256_once(judge) != wanted:
        raise CheckpointError(
            f"DNSMOS is not the one that the run was planned with: have the same on all machines ({dnsmos.INSTALL})"
        )
    rated = dnsmos.load_dnsmos(judge)
    return lambda samples_N: rated(samples_N).ovrl
