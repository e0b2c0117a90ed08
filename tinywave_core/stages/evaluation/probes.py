"""Probes as parts of evaluation: recordings made from held-out speech, and what teacher, student and control make of them.

Part `probes`: <probe>/<id>-pos.wav and -neg.wav (16 kHz, 16 bits) and index.csv, to listen to and for other evaluators. Part
`probe_scores`: probe_scores.parquet, the score of every version under every model. New training speech makes no new probes.
"""

import csv
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinywave_core.audio.vad import vad_name
from tinywave_core.config.evaluation import ProbesConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.evaluation.scores import MODELS
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.stages.tokenization.tokens import (
    GATHERED_SAMPLES,
    batches,
    open_step_tokenizer,
    places,
    teacher_vocabulary,
)
from tinywave_core.steps.base import Execute, Output, Step, SummaryDict
from tinywave_core.steps.inputs import audio_of, held_out_shards
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact

if TYPE_CHECKING:
    from tinywave_core.audio.utterances import Utterance
    from tinywave_core.evals.probe_scores import Version
    from tinywave_core.evals.probes import Pair, Speech

VERSION = 2
INDEX, SCORES = "index.csv", "probe_scores.parquet"
PARTS = ("whole", "continuation")
COLUMNS = (
    "id",
    "probe",
    "positive",
    "negative",
    "group",  # the utterance that the pair was made of
    "speaker",
    "others",  # utterances of which something else is heard in it
    "about",
    "samples",  # of either version, at 16 kHz
    "positive_splice_samples",
    "negative_splice_samples",
)


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, student: Artifact, control: Artifact, execute: Execute
) -> dict[str, Artifact]:
    """The artifacts `probes` and `probe_scores`; none where no probes are wanted."""
    if not config.evaluation.probes.items:
        return {}
    spoken = [shard for shard in held_out_shards(tokens) if shard.part != "text"]
    (probes,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="probes",
                version=VERSION,
                run=run_probes,
                config=config.evaluation.probes,
                params={"vad": vad_name()},
                inputs={"audio": audio_of(spoken)},
                runtime=config.runtime,
            )
        ]
    )
    tokenizer = TokensSummary.of(tokens).tokenizer_artifact(tokens)
    vocabulary = teacher_vocabulary(config)
    (scores,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="probe_scores",
                version=VERSION,
                run=run_probe_scores,
                config=config.evaluation.probes,
                params={
                    "tokens": config.tokenization.tokens,
                    "sequence_length": config.distillation.training.sequence_length,
                    **({} if vocabulary is None else {"vocabulary": vocabulary.to_json()}),
                },
                context=places(config),
                inputs={
                    "probes": [probes],
                    "tokenizer": [tokenizer],
                    "teacher": [teacher],
                    "student": [student],
                    "control": [control],
                },
                runtime=config.runtime,
            )
        ]
    )
    return {"probes": probes, "probe_scores": scores}


# Part `probes` ---------------------------------------------------------------------------------------------------


def run_probes(step: Step, output: Output) -> SummaryDict:
    """Make the pairs, and count what could not be made."""
    from tinywave_core.evals.probes import PROBES, absent, pair_of

    config = step.config
    assert isinstance(config, ProbesConfig)
    looked_at, speech = _speech(step, config, output)
    rows: list[dict[str, Any]] = []
    why: dict[str, str] = {}
    skipped: dict[str, dict[str, int]] = {}
    for number, probe in enumerate(PROBES):
        output.progress(number, len(PROBES), probe)
        if reason := absent(probe, speech, config):
            why[probe] = reason
            continue
        reasons: Counter[str] = Counter()
        before = len(rows)
        for own in speech:
            if len(rows) - before == config.items:
                break
            pair = pair_of(probe, own, speech, config)
            if isinstance(pair, str):
                reasons[pair] += 1
            else:
                rows.append(_write(pair, output))
        skipped |= {probe: dict(sorted(reasons.items()))} if reasons else {}
        if len(rows) == before:
            why[probe] = _nothing(reasons)
    with (output.folder / INDEX).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    items = Counter(row["probe"] for row in rows)
    return {
        "items": {probe: items[probe] for probe in PROBES if items[probe]},
        "absent": why,
        "utterances": looked_at,
        "without_pause": looked_at - len(speech),
        "skipped": skipped,
        "seconds": 2 * sum(row["samples"] for row in rows) / SAMPLE_RATE,
    }


def _nothing(reasons: Counter[str]) -> str:
    if not reasons:
        return "no held-out utterance has a pause near its middle"
    return ", ".join(f"{reason.replace('_', ' ')} ({count} utterances)" for reason, count in sorted(reasons.items()))


def _speech(step: Step, config: ProbesConfig, output: Output) -> "tuple[int, list[Speech]]":
    """How many utterances were looked at, and those that can be spliced, in the order in which pairs are made of them."""
    from tinywave_core.audio.utterances import UTTERANCES_FILE, read_utterances
    from tinywave_core.evals.probes import chosen, prepare

    columns = ["utterance_id", "recording_id", "speaker", "num_samples", "split"]
    held_out: dict[str, dict[str, Any]] = {}
    for shard in step.inputs["audio"]:
        rows = read_table(shard.path(UTTERANCES_FILE), columns).to_pylist()
        for row in rows:
            if row["split"] == "held_out":  # an utterance that is in two shards is the first one's
                held_out.setdefault(row["utterance_id"], row | {"shard": shard.id})
    wanted = chosen(held_out.values(), config)
    ready: dict[str, Speech | None] = {}
    for shard in step.inputs["audio"]:
        here = {i for i in wanted if held_out[i]["shard"] == shard.id}
        for utterance in read_utterances(shard, here) if here else ():
            ready[utterance.utterance_id] = prepare(utterance, config)
            output.progress(len(ready), len(wanted), "utterances searched for pauses")
    found = [ready[i] for i in wanted]
    return len(found), [speech for speech in found if speech is not None]


def _write(pair: "Pair", output: Output) -> dict[str, Any]:
    import soundfile

    (output.folder / pair.probe).mkdir(exist_ok=True)
    names = {"positive": f"{pair.probe}/{pair.id}-pos.wav", "negative": f"{pair.probe}/{pair.id}-neg.wav"}
    for version, name in names.items():
        soundfile.write(output.folder / name, getattr(pair, version), SAMPLE_RATE, subtype="PCM_16")
    return names | {
        "id": pair.id,
        "probe": pair.probe,
        "group": pair.utterance_id,
        "speaker": pair.speaker,
        "others": " ".join(pair.others),
        "about": pair.about,
        "samples": len(pair.positive),
        "positive_splice_samples": pair.positive_splice,
        "negative_splice_samples": pair.negative_splice,
    }


def read_index(probes: Artifact) -> list[dict[str, Any]]:
    """The rows of a `probes` artifact's index."""
    with probes.path(INDEX).open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    numbers = [name for name in COLUMNS if name.endswith("samples")]
    return [row | {name: int(row[name]) for name in numbers} for row in rows]


# Part `probe_scores` ---------------------------------------------------------------------------------------------


def run_probe_scores(step: Step, output: Output) -> SummaryDict:
    """Tokenize both versions of every pair and score them under the three models."""
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.probe_scores import credits, means, overall, probe_figures
    from tinywave_core.evals.scoring import token_log_probabilities
    from tinywave_core.models.llama import load_llama, on_device
    from tinywave_core.models.trim import in_ids_of
    from tinywave_core.threads import use_threads
    from tinywave_core.tokenizers.directory import read_directory

    config = step.config
    assert isinstance(config, ProbesConfig)
    rows = read_index(step.input("probes"))
    about = {name: [row[name] for row in rows] for name in ("id", "probe", "group")}
    absent = step.input("probes").summary["absent"]
    if not rows:
        write_table(pa.table({name: pa.array([], pa.string()) for name in about}), output.folder / SCORES)
        return {"items": 0, "probes": {}, "overall": {}, "absent": absent, "truncated": 0}
    versions, vocabulary = _tokens(step, rows, output)
    read_directory(step.input("teacher").path("teacher")).require_same(vocabulary, "the teacher", "the probes' tokens")
    longest = step.params["sequence_length"]
    texts = [version.ids[:longest] for version in versions]
    use_threads(output.runtime)
    # Equal sequences are scored once, so that ties are ties whatever they are batched with.
    at: dict[bytes, int] = {}
    numbers = [at.setdefault(ids.tobytes(), len(at)) for ids in texts]
    unique = [texts[numbers.index(number)] for number in range(len(at))]
    columns: dict[str, np.ndarray] = {}
    for number, name in enumerate(MODELS):
        folder = step.input(name).path("teacher" if name == "teacher" else "model")
        model = on_device(load_llama(folder), pick_device(output.runtime)).eval()
        log_p = token_log_probabilities(
            model,
            in_ids_of(model, vocabulary, unique),
            lambda d, t, _="", k=number: output.progress(k * t + d, 3 * t, "recordings scored"),
        )
        scored = np.array([means(version, log_p[i]) for version, i in zip(versions, numbers, strict=True)])
        for k, part in enumerate(PARTS):
            columns |= {f"{name}_positive_{part}": scored[0::2, k], f"{name}_negative_{part}": scored[1::2, k]}
    write_table(pa.table(about | columns), output.folder / SCORES)

    found = {
        part: {name: credits(columns[f"{name}_positive_{part}"], columns[f"{name}_negative_{part}"]) for name in MODELS}
        for part in PARTS
    }
    figures = {}
    for probe in dict.fromkeys(about["probe"]):
        own = np.array(about["probe"]) == probe
        whole, continuation = ({name: each[own] for name, each in found[part].items()} for part in PARTS)
        figures[probe] = probe_figures(whole, continuation, config.seed)
    return {
        "items": len(rows),
        "probes": figures,
        "overall": overall(found["whole"], about["group"], config.seed),
        "absent": absent,
        "truncated": sum(len(version.ids) > longest for version in versions),
    }


def _tokens(step: Step, rows: list[dict[str, Any]], output: Output) -> "tuple[list[Version], Any]":
    """Tokens of every positive and negative in turn, without </s>: how a recording ends is not asked."""
    from tinywave_core.evals.probe_scores import Version
    from tinywave_core.threads import keep_large_blocks, use_one_thread
    from tinywave_core.tokenizers.speech import encode_utterance, merged_before

    use_one_thread()
    keep_large_blocks()
    tokenizer = open_step_tokenizer(step)
    vocabulary = tokenizer.vocabulary
    opening = len(vocabulary.prompt_ids(vocabulary.speech_marker))
    splices = [row[f"{version}_splice_samples"] for row in rows for version in ("positive", "negative")]
    versions: list[Version] = []
    for batch in batches(_recordings(step, rows), GATHERED_SAMPLES):
        for streams in tokenizer.tokenize([each.samples for each in batch]):
            seconds = splices[len(versions)] / SAMPLE_RATE
            ids = encode_utterance(streams, vocabulary)[:-1].astype(np.uint16)
            versions.append(Version(ids, opening + merged_before(streams, seconds, vocabulary.rates)))
        output.progress(len(versions), len(splices), "recordings tokenized")
    return versions, vocabulary


def _recordings(step: Step, rows: list[dict[str, Any]]) -> "Iterable[Utterance]":
    import soundfile

    from tinywave_core.audio.utterances import Utterance

    for row in rows:
        for version in ("positive", "negative"):
            samples, _ = soundfile.read(step.input("probes").path(row[version]), dtype="float32")
            yield Utterance(
                row["group"], row[version], row[version], 0, row["speaker"] or None, None, "held_out", samples
            )
