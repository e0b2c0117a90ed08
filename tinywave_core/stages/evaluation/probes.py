"""Probes as parts of evaluation: recordings made from held-out speech, and what teacher, student and control make of them.

Part `probes`: <probe>/<id>-pos.wav and -neg.wav (16 kHz, 16 bits) and index.csv, to listen to and for other evaluators. Part
`probe_scores`: probe_scores.parquet, the score of every version under every model. New training speech makes no new probes.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinywave_core.audio.vad import vad_name
from tinywave_core.config.evaluation import ProbesConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.counts import count
from tinywave_core.evals.figures import MODELS, ProbeFigures
from tinywave_core.stages.evaluation.scores import score_models
from tinywave_core.stages.evaluation.summary import ProbeScoresSummary, ProbesSummary
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.stages.tokenization.tokens import (
    GATHERED_SAMPLES,
    batches,
    of_teachers_ids,
    open_step_tokenizer,
    places,
)
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import audio_of, held_out_shards
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import rows_of, where, write_table
from tinywave_core.storage.store import Artifact

if TYPE_CHECKING:
    from tinywave_core.audio.utterances import Utterance
    from tinywave_core.evals.probe_scores import Credits, Version
    from tinywave_core.evals.probes import Pair, Speech
    from tinywave_core.tokenizers.vocabulary import Vocabulary

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
    (probes,) = execute([_probes_step(config, tokens)])
    models = {"teacher": [teacher], "student": [student], "control": [control]}
    (scores,) = execute([_scores_step(config, tokens, probes, models)])
    return {"probes": probes, "probe_scores": scores}


def _probes_step(config: PipelineConfig, tokens: Artifact) -> Step[ProbesConfig, ProbesSummary]:
    spoken = [shard for shard in held_out_shards(tokens) if shard.part != "text"]
    return Step(
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


def _scores_step(
    config: PipelineConfig, tokens: Artifact, probes: Artifact, models: dict[str, list[Artifact]]
) -> Step[ProbesConfig, ProbeScoresSummary]:
    tokenizer = TokensSummary.of(tokens).tokenizer_artifact(tokens)
    return Step(
        store=tokens.store,
        stage="evaluation",
        part="probe_scores",
        version=VERSION,
        run=run_probe_scores,
        config=config.evaluation.probes,
        params={
            "tokens": config.tokenization.tokens,
            "sequence_length": config.distillation.training.sequence_length,
            **of_teachers_ids(config),
        },
        context=places(config),
        inputs={"probes": [probes], "tokenizer": [tokenizer], **models},
        runtime=config.runtime,
    )


# Part `probes` ---------------------------------------------------------------------------------------------------


def run_probes(step: Step[ProbesConfig, ProbesSummary], output: Output) -> ProbesSummary:
    """Make the pairs, and count what could not be made."""
    from tinywave_core.evals.probes import PROBES, absent

    utterances, speech = _speech(step, output)
    rows: list[dict[str, Any]] = []
    why: dict[str, str] = {}
    skipped: dict[str, dict[str, int]] = {}
    for number, probe in enumerate(PROBES):
        output.progress(number, len(PROBES), probe)
        if reason := absent(probe, speech, step.config):
            why[probe] = reason
            continue
        reasons: Counter[str] = Counter()
        pairs = [_write(pair, output) for pair in _pairs(probe, speech, step.config, reasons)]
        rows += pairs
        skipped |= {probe: dict(sorted(reasons.items()))} if reasons else {}
        if not pairs:
            why[probe] = _why_no_pair(reasons)
    with (output.folder / INDEX).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    items = Counter(row["probe"] for row in rows)
    return ProbesSummary(
        items={probe: items[probe] for probe in PROBES if items[probe]},
        absent=why,
        utterances=utterances,
        without_pause=utterances - len(speech),
        skipped=skipped,
        seconds=2 * sum(row["samples"] for row in rows) / SAMPLE_RATE,
    )


def _pairs(probe: str, speech: "Sequence[Speech]", config: ProbesConfig, reasons: Counter[str]) -> "Iterator[Pair]":
    """As many pairs of a probe as are wanted; `reasons` counts the utterances of which none could be made."""
    from tinywave_core.evals.probes import pair_of

    wanted = config.items
    for own in speech:
        if not wanted:
            return
        pair = pair_of(probe, own, speech, config)
        if isinstance(pair, str):
            reasons[pair] += 1
        else:
            wanted -= 1
            yield pair


def _why_no_pair(reasons: Counter[str]) -> str:
    if not reasons:
        return "no held-out utterance has a pause near its middle"
    return ", ".join(
        f"{reason.replace('_', ' ')} ({count(number, 'utterance')})" for reason, number in sorted(reasons.items())
    )


def _speech(step: Step[ProbesConfig, ProbesSummary], output: Output) -> "tuple[int, list[Speech]]":
    """How many utterances were looked at, and those that can be spliced, in the order in which pairs are made of them."""
    from tinywave_core.audio.utterances import read_utterances
    from tinywave_core.evals.probes import chosen, prepare

    wanted = chosen(_HeldOut(step.inputs["audio"]), step.config)
    lies_in = _shards_of(step.inputs["audio"], set(wanted))
    ready: dict[str, Speech | None] = {}
    for shard in step.inputs["audio"]:
        in_shard = {i for i in wanted if lies_in[i] == shard.id}
        for utterance in read_utterances(shard, in_shard) if in_shard else ():
            ready[utterance.utterance_id] = prepare(utterance, step.config)
            output.progress(len(ready), len(wanted), "utterances searched for pauses")
    in_order = [ready[i] for i in wanted]
    return len(in_order), [speech for speech in in_order if speech is not None]


@dataclass(frozen=True)
class _HeldOut:
    """What is known of every held-out utterance of audio shards without its sound, read anew each time that it is gone through."""

    shards: Sequence[Artifact]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from tinywave_core.audio.utterances import UTTERANCES_FILE

        columns = ["utterance_id", "recording_id", "speaker", "num_samples", "split"]
        for shard in self.shards:
            yield from rows_of(shard.path(UTTERANCES_FILE), columns, where("split", "held_out"))


def _shards_of(shards: Sequence[Artifact], wanted: set[str]) -> dict[str, str]:
    """The shard of each of these held-out utterances: of two the first."""
    found: dict[str, str] = {}
    for shard in shards:
        for row in _HeldOut([shard]):
            if row["utterance_id"] in wanted:
                found.setdefault(row["utterance_id"], shard.id)
    return found


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


def run_probe_scores(step: Step[ProbesConfig, ProbeScoresSummary], output: Output) -> ProbeScoresSummary:
    """Tokenize both versions of every pair and score them under the three models."""
    from tinywave_core.evals.probe_scores import overall

    rows = read_index(step.input("probes"))
    about = {name: [row[name] for row in rows] for name in ("id", "probe", "group")}
    absent = ProbesSummary.of(step.input("probes")).absent
    if not rows:
        write_table(pa.table({name: pa.array([], pa.string()) for name in about}), output.folder / SCORES)
        return ProbeScoresSummary(items=0, probes={}, overall={}, absent=absent, truncated=0)
    versions, vocabulary = _tokens(step, rows, output)
    columns = _score_columns(step, output, versions, vocabulary)
    write_table(pa.table(about | columns), output.folder / SCORES)
    credits = _credits(columns)
    return ProbeScoresSummary(
        items=len(rows),
        probes=_probe_figures(about["probe"], credits, step.config.seed),
        overall=overall(credits["whole"], about["group"], step.config.seed),
        absent=absent,
        truncated=sum(len(version.ids) > step.params["sequence_length"] for version in versions),
    )


def _score_columns(
    step: Step[ProbesConfig, ProbeScoresSummary], output: Output, versions: "list[Version]", vocabulary: "Vocabulary"
) -> dict[str, np.ndarray]:
    """Scores of positives and negatives under every model, by column of the table."""
    from tinywave_core.evals.probe_scores import means
    from tinywave_core.tokenizers.directory import read_directory

    read_directory(step.input("teacher").path("teacher")).require_same(vocabulary, "the teacher", "the probes' tokens")
    texts = [version.ids[: step.params["sequence_length"]] for version in versions]
    # Equal sequences are scored once, so that ties are ties whatever they are batched with.
    at: dict[bytes, int] = {}
    numbers = [at.setdefault(ids.tobytes(), len(at)) for ids in texts]
    unique = [texts[numbers.index(number)] for number in range(len(at))]
    columns: dict[str, np.ndarray] = {}
    for name, scored in score_models(step, output, MODELS, unique, vocabulary, "recordings").items():
        of_versions = np.array([means(v, scored.scores[i]) for v, i in zip(versions, numbers, strict=True)])
        positive, negative = of_versions[0::2], of_versions[1::2]
        for k, part in enumerate(PARTS):
            columns |= {f"{name}_positive_{part}": positive[:, k], f"{name}_negative_{part}": negative[:, k]}
    return columns


def _credits(columns: Mapping[str, np.ndarray]) -> "dict[str, dict[str, Credits]]":
    """By part of the recordings and model, of which pairs the positive is likelier."""
    from tinywave_core.evals.probe_scores import credits

    return {
        part: {name: credits(columns[f"{name}_positive_{part}"], columns[f"{name}_negative_{part}"]) for name in MODELS}
        for part in PARTS
    }


def _probe_figures(
    probe_of: Sequence[str], credits: "Mapping[str, Mapping[str, Credits]]", seed: int
) -> dict[str, ProbeFigures]:
    """Figures of every probe, from which probe each pair is of and the credits of all pairs."""
    from tinywave_core.evals.probe_scores import probe_figures

    figures = {}
    for probe in dict.fromkeys(probe_of):
        own = np.array(probe_of) == probe
        whole, continuation = ({name: won[own] for name, won in credits[part].items()} for part in PARTS)
        figures[probe] = probe_figures(whole, continuation, seed)
    return figures


def _tokens(
    step: Step[ProbesConfig, ProbeScoresSummary], rows: list[dict[str, Any]], output: Output
) -> "tuple[list[Version], Vocabulary]":
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
            # Without </s>: where a recording is cut is the probe's doing, not speech.
            ids = encode_utterance(streams, vocabulary)[:-1].astype(np.uint16)
            versions.append(Version(ids, opening + merged_before(streams, seconds, vocabulary.rates)))
        output.progress(len(versions), len(splices), "recordings tokenized")
    return versions, vocabulary


def _recordings(step: Step[ProbesConfig, ProbeScoresSummary], rows: list[dict[str, Any]]) -> "Iterable[Utterance]":
    import soundfile

    from tinywave_core.audio.utterances import Utterance

    for row in rows:
        for version in ("positive", "negative"):
            samples, _ = soundfile.read(step.input("probes").path(row[version]), dtype="float32")
            yield Utterance(
                row["group"], row[version], row[version], 0, row["speaker"] or None, None, "held_out", samples
            )
