"""The gap between student and teacher as a part of evaluation: per block, per stream, per position, and where it is widest.

Files: gaps.parquet (every figure with its interval), tokens.parquet (the tokens that cost most), worst.json and NN.wav (the
utterances in which the student loses most, with what each of their tokens costs it). The undistilled control is measured
beside the student: what both lack is not distillation's doing.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinywave_core.config.evaluation import GapConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.steps.base import Execute, Output, Step, SummaryDict
from tinywave_core.steps.inputs import audio_of, held_out_shards
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.evals.comparison import Comparison
    from tinywave_core.sequences.dataset import TokenSequence

VERSION = 1
STUDENTS = ("student", "control")
GAPS, TOKENS, WORST = "gaps.parquet", "tokens.parquet", "worst.json"


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, student: Artifact, control: Artifact, execute: Execute
) -> dict[str, Artifact]:
    """The `gap` artifact; none where it is not wanted."""
    if not config.evaluation.gap.utterances:
        return {}
    shards = held_out_shards(tokens)
    (gap,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="gap",
                version=VERSION,
                run=run_gap,
                config=config.evaluation.gap,
                params={"sequence_length": config.distillation.training.sequence_length},
                inputs={
                    "tokens": shards,
                    "audio": audio_of([shard for shard in shards if shard.part != "text"]),
                    "teacher": [teacher],
                    "student": [student],
                    "control": [control],
                },
                runtime=config.runtime,
            )
        ]
    )
    return {"gap": gap}


def run_gap(step: Step, output: Output) -> SummaryDict:
    """Run the three models side by side over a sample of the held-out utterances."""
    from tokenizers import Tokenizer

    from tinywave_core.devices import pick_device
    from tinywave_core.evals.comparison import Comparison
    from tinywave_core.evals.gaps import costly_tokens, worst
    from tinywave_core.models.llama import load_llama
    from tinywave_core.sequences.dataset import load_sequences
    from tinywave_core.storage.shards import write_table
    from tinywave_core.threads import use_threads

    config = step.config
    assert isinstance(config, GapConfig)
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    sequences = _chosen(load_sequences(step.inputs["tokens"], "held_out", step.params["sequence_length"]), config)
    use_threads(output.runtime)
    comparison = Comparison(
        teacher=load_llama(step.input("teacher").path("teacher")),
        students={name: load_llama(step.input(name).path("model")) for name in STUDENTS},
        pairs=_pairs(step.input("student").summary),
        vocabulary=vocabulary,
        config=config,
        device=pick_device(output.runtime),
    )
    for number, sequence in enumerate(sequences, start=1):
        comparison.add(sequence)
        output.progress(number, len(sequences), "utterances compared")

    figures = comparison.tally.figures(config.seed)
    write_table(pa.Table.from_pylist(figures), output.folder / GAPS)
    costly = costly_tokens(comparison.gaps.values(), config.costly_tokens, config.costly_min_count)
    names = Tokenizer.from_file(str(step.input("teacher").path("teacher") / "tokenizer.json"))
    costly = [{"token": names.id_to_token(row["id"]), **row} for row in costly]
    write_table(pa.Table.from_pylist(costly, schema=_COSTLY), output.folder / TOKENS)
    by_id = {sequence.id: sequence for sequence in sequences}
    speech = {i: gap for i, (_, gap) in comparison.gaps.items() if not _has_text(by_id[i], vocabulary)}
    chosen = [by_id[i] for i in worst(speech, config.worst, config.worst_min_tokens)]
    (output.folder / WORST).write_text(json.dumps(_worst(step, output, chosen, comparison), indent=1), encoding="utf-8")
    return {
        "utterances": len({s.utterance_id for s in sequences}),
        "tokens": sum(len(s.ids) - 1 for s in sequences),
        "figures": figures,
        "closer": comparison.tally.closer(*STUDENTS, config.seed),
        "cosines": {name: comparison.mean_cosines(name).round(4).tolist() for name in STUDENTS},
        "pairs": [list(pair) for pair in comparison.pairs],
        "costly": costly,
        "worst": len(chosen),
    }


_COSTLY = pa.schema(
    [("token", pa.string()), ("id", pa.int32()), ("count", pa.int64()), ("mean", pa.float64()), ("total", pa.float64())]
)


def _pairs(student: dict[str, Any]) -> list[tuple[int, int]]:
    """Which block of the teacher a block of the student is compared with: the one it learned from, else was copied from."""
    learned: dict[int, int] = dict(student["layers_aligned"])
    return [(block, learned.get(block, copied)) for block, copied in enumerate(student["layers_copied"])]


def _chosen(sequences: "list[TokenSequence]", config: GapConfig) -> "list[TokenSequence]":
    """All sequences of so many utterances, which a hash of their ids draws."""

    def key(utterance_id: str) -> bytes:
        return hashlib.sha256(f"{config.seed}/{utterance_id}".encode()).digest()

    drawn = set(sorted({s.utterance_id for s in sequences}, key=key)[: config.utterances])
    return [s for s in sequences if s.utterance_id in drawn]


def _has_text(sequence: "TokenSequence", vocabulary: Vocabulary) -> bool:
    return bool((vocabulary.kinds(sequence.ids) == KINDS.index("text")).any())


# The utterances in which the student loses most -------------------------------------------------------------------


def _worst(
    step: Step, output: Output, sequences: "list[TokenSequence]", comparison: "Comparison"
) -> list[dict[str, Any]]:
    """A row for each, and its recording as NN.wav."""
    import soundfile

    from tinywave_core.audio.utterances import recordings

    wanted = {sequence.utterance_id for sequence in sequences}
    samples = recordings(step.inputs["audio"], wanted)
    spoken = _rows(step, wanted)
    rows = []
    for number, sequence in enumerate(sequences, start=1):
        about, (_, gap) = spoken[sequence.utterance_id], comparison.gaps[sequence.id]
        name = f"{number:02d}.wav"
        soundfile.write(output.folder / name, samples[sequence.utterance_id], SAMPLE_RATE, subtype="PCM_16")
        rows.append(
            {
                "file": name,
                "utterance_id": sequence.utterance_id,
                "speaker": sequence.speaker,
                "transcript": about["transcript"],
                "nll": comparison.nll[sequence.id],
                "times_s": _times_s(about, sequence, comparison.vocabulary),
                "gap": gap.round(4).tolist(),
            }
        )
    return rows


def _rows(step: Step, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Rows of the token shards, by utterance."""
    from tinywave_core.storage.shards import read_table

    columns = ["utterance_id", "transcript", "ids", "units", "pitch", "style"]
    rows = (r for s in step.inputs["tokens"] for r in read_table(s.path("tokens.parquet"), columns).to_pylist())
    return {row["utterance_id"]: row for row in rows if row["utterance_id"] in wanted}


def _times_s(row: dict[str, Any], sequence: "TokenSequence", vocabulary: Vocabulary) -> list[float] | None:
    """When each token from the second on begins; None for a piece of an utterance that was too long for one sequence."""
    from tinywave_core.tokenizers.speech import Streams, merged_times_s

    if not np.array_equal(np.asarray(row["ids"], np.uint16), sequence.ids):
        return None
    streams = Streams.of_row(row)
    opening, hz = len(vocabulary.prompt_ids(vocabulary.speech_marker)), vocabulary.rates.merge_hz["units"]
    times = [*[0.0] * opening, *merged_times_s(streams, vocabulary.rates).tolist(), len(streams.units) / hz]
    return [round(time, 3) for time in times[1:]]
