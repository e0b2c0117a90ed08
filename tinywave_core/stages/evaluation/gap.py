"""The gap between student and teacher as a part of evaluation: per block, per stream, per position, and where it is widest.

Files: gaps.parquet (every figure with its interval), tokens.parquet (the tokens that cost most), worst.json and NN.wav (the
utterances in which the student loses most, with what each of their tokens costs it). The undistilled control is measured
beside the student: what both lack is not distillation's doing.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinywave_core.config.evaluation import GapConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.distillation.summary import StudentSummary
from tinywave_core.stages.evaluation.summary import Blocks, CostlyToken, GapSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import audio_of, each_held_out_row, held_out_shards
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.evals.side_by_side import SideBySide
    from tinywave_core.sequences.table import TokenSequence

VERSION = 3
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


def run_gap(step: Step[GapConfig, GapSummary], output: Output) -> GapSummary:
    """Run the three models side by side over a sample of the held-out utterances."""
    from tinywave_core.evals.gaps import worst
    from tinywave_core.sequences.index import load_sequences
    from tinywave_core.storage.shards import write_table

    config = step.config
    sequences = sample(load_sequences(step.inputs["tokens"], "held_out", step.params["sequence_length"]), config)
    models = _side_by_side(step, output)
    for number, sequence in enumerate(sequences, start=1):
        models.add(sequence)
        output.progress(number, len(sequences), "utterances compared")

    figures = models.tally.figures(config.seed)
    write_table(pa.Table.from_pylist([figure.model_dump() for figure in figures]), output.folder / GAPS)
    costly = _costly(step, models)
    write_table(pa.Table.from_pylist([row.model_dump() for row in costly], schema=_COSTLY), output.folder / TOKENS)
    by_id = {sequence.id: sequence for sequence in sequences}
    # Only speech can be listened to, token by token at its time.
    speech = {i: gap for i, (_, gap) in models.gaps.items() if not _has_text(by_id[i], models.vocabulary)}
    lost_most = [by_id[i] for i in worst(speech, config.worst, config.worst_min_tokens)]
    (output.folder / WORST).write_text(json.dumps(_worst(step, output, lost_most, models), indent=1), encoding="utf-8")
    return GapSummary(
        utterances=len({s.utterance_id for s in sequences}),
        tokens=sum(len(s.ids) - 1 for s in sequences),
        figures=figures,
        closer=models.tally.closer(*STUDENTS, config.seed),
        cosines={name: models.mean_cosines(name).round(4).tolist() for name in STUDENTS},
        pairs=models.pairs,
        costly=costly,
        worst=len(lost_most),
    )


_COSTLY = pa.schema(
    [("token", pa.string()), ("id", pa.int32()), ("count", pa.int64()), ("mean", pa.float64()), ("total", pa.float64())]
)


def _side_by_side(step: Step[GapConfig, GapSummary], output: Output) -> "SideBySide":
    """The three models, loaded."""
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.side_by_side import SideBySide
    from tinywave_core.models.llama import load_llama
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    return SideBySide(
        teacher=load_llama(step.input("teacher").path("teacher")),
        students={name: load_llama(step.input(name).path("model")) for name in STUDENTS},
        pairs=_pairs(step.input("student").summary),
        vocabulary=Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"]),
        config=step.config,
        device=pick_device(output.runtime),
        kept=StudentSummary.of(step.input("student")).kept,
    )


def _pairs(student: dict[str, Any]) -> list[Blocks]:
    """Which block of the teacher a block of the student is compared with: the one it learned from, else was copied from."""
    learned: dict[int, int] = dict(student["layers_aligned"])
    return [(block, learned.get(block, copied)) for block, copied in enumerate(student["layers_copied"])]


def sample(sequences: "Sequence[TokenSequence]", config: GapConfig) -> "list[TokenSequence]":
    """All sequences of so many utterances, which a hash of their ids draws."""

    def key(utterance_id: str) -> bytes:
        return hashlib.sha256(f"{config.seed}/{utterance_id}".encode()).digest()

    # By a hash, so that the same ones are drawn again beside new utterances.
    drawn = set(sorted({s.utterance_id for s in sequences}, key=key)[: config.utterances])
    return [s for s in sequences if s.utterance_id in drawn]


def _costly(step: Step[GapConfig, GapSummary], models: "SideBySide") -> list[CostlyToken]:
    """The tokens that cost most, by name."""
    from tinywave_core.evals.gaps import costly_tokens
    from tinywave_core.tokenizers.directory import open_fast

    names = open_fast(step.input("teacher").path("teacher") / "tokenizer.json")
    costs = costly_tokens(models.gaps.values(), step.config.costly_tokens, step.config.costly_min_count)
    return [CostlyToken(token=names.id_to_token(cost.id), **dict(cost)) for cost in costs]


def _has_text(sequence: "TokenSequence", vocabulary: Vocabulary) -> bool:
    return bool((vocabulary.kinds(sequence.ids) == KINDS.index("text")).any())


# The utterances in which the student loses most -------------------------------------------------------------------


def _worst(
    step: Step[GapConfig, GapSummary], output: Output, sequences: "list[TokenSequence]", models: "SideBySide"
) -> list[dict[str, Any]]:
    """A row for each, and its recording as NN.wav."""
    import soundfile

    from tinywave_core.audio.utterances import recordings

    wanted = {sequence.utterance_id for sequence in sequences}
    samples = recordings(step.inputs["audio"], wanted)
    token_rows = _token_rows(step, wanted)
    rows = []
    for number, sequence in enumerate(sequences, start=1):
        token_row, (_, gap) = token_rows[sequence.utterance_id], models.gaps[sequence.id]
        name = f"{number:02d}.wav"
        soundfile.write(output.folder / name, samples[sequence.utterance_id], SAMPLE_RATE, subtype="PCM_16")
        rows.append(
            {
                "file": name,
                "utterance_id": sequence.utterance_id,
                "speaker": sequence.speaker,
                "transcript": token_row["transcript"],
                "nll": models.nll[sequence.id],
                "times_s": _times_s(token_row, sequence, models.vocabulary),
                "gap": gap.round(4).tolist(),
            }
        )
    return rows


def _token_rows(step: Step[GapConfig, GapSummary], wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Rows of the token shards, by utterance."""
    columns = ["utterance_id", "transcript", "ids", "units", "pitch", "style"]
    rows = each_held_out_row(step.inputs["tokens"], columns)
    return {row["utterance_id"]: row for row in rows if row["utterance_id"] in wanted}


def _times_s(row: dict[str, Any], sequence: "TokenSequence", vocabulary: Vocabulary) -> list[float] | None:
    """When each token from the second on begins; None for a piece of an utterance that was too long for one sequence."""
    from tinywave_core.tokenizers.speech import Streams, merged_times_s

    # The streams of the row are those of the whole utterance.
    if not np.array_equal(np.asarray(row["ids"], np.uint16), sequence.ids):
        return None
    streams = Streams.of_row(row)
    opening, hz = len(vocabulary.prompt_ids(vocabulary.speech_marker)), vocabulary.rates.merge_hz["units"]
    times = [*[0.0] * opening, *merged_times_s(streams, vocabulary.rates).tolist(), len(streams.units) / hz]
    return [round(time, 3) for time in times[1:]]
