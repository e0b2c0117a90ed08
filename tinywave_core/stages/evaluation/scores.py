"""Evaluation on held-out recordings: teacher, student and undistilled control side by side, with intervals.

NLL per token by kind of token, perplexity, bits per second of audio by stream (comparable across vocabularies), all of it on
what comes after a prompt, each over the teacher's, continuation cloze. Beside them stand guessing and tables of counts of the
student's training tokens, which any model has to beat. Files: utterances.parquet (NLL of every utterance under every model, by
stream and after the prompt), cloze.parquet (every item's credits).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import MissingInputError, TrainingError
from tinywave_core.evals.figures import MODELS, Direction, HeldOut
from tinywave_core.stages.evaluation.summary import AgainstSummary, ScoresSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import each_held_out_row, held_out_shards
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import EOS_ID, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.evals.comparison import Mask, TokenNll
    from tinywave_core.evals.continuation_cloze import ClozeItem
    from tinywave_core.evals.perplexity import Floats
    from tinywave_core.evals.scoring import Score
    from tinywave_core.sequences.table import SequenceTable, TokenSequence

VERSION = 5


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, student: Artifact, control: Artifact, execute: Execute
) -> Artifact:
    """The `scores` artifact."""
    # Shards of training speech are no input: new ones leave every figure as it is.
    shards = held_out_shards(tokens)
    if not shards:
        raise TrainingError(
            "no recording is held out, so nothing can be evaluated: add recordings, raise ingestion.held_out_fraction, "
            "or pass --ingestion.split_by recording (all speech of one speaker is on one side otherwise)"
        )
    (scores,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="scores",
                version=VERSION,
                run=run_scores,
                # Settings of the other parts change nothing here, and must not compute it again.
                config=config.evaluation.without_parts(),
                params={"sequence_length": config.distillation.training.sequence_length},
                inputs={"tokens": shards, "teacher": [teacher], "student": [student], "control": [control]},
                runtime=config.runtime,
            )
        ]
    )
    return scores


def against(
    config: PipelineConfig, tokens: Artifact, student: Artifact, published: Artifact, execute: Execute
) -> Artifact:
    """The `against` artifact: a paired test of a new student and the published one on today's held-out speech."""
    (test,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="against",
                version=VERSION,
                run=run_against,
                config=config.evaluation.without_parts(),
                params={"sequence_length": config.distillation.training.sequence_length},
                inputs={"tokens": held_out_shards(tokens), "student": [student], "published": [published]},
                runtime=config.runtime,
            )
        ]
    )
    return test


# The models on the same texts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """A model's log-probabilities of every text, and its size."""

    scores: "list[Score]"
    parameters: int


def score_models(
    step: Step[Any, Any],
    output: Output,
    models: Sequence[str],
    texts: Sequence[npt.NDArray],
    vocabulary: Vocabulary,
    unit: str = "sequences",
) -> dict[str, Scored]:
    """The same texts under each of these inputs of a step, one model in memory at a time; `unit` is for its progress."""
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.scoring import token_log_probabilities
    from tinywave_core.models.llama import load_llama, on_device
    from tinywave_core.models.trim import in_ids_of
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)

    def report(before: int, done: int, total: int, _: str = "") -> None:
        output.progress(before * total + done, len(models) * total, f"{unit} scored")

    scored = {}
    for before, name in enumerate(models):
        folder = step.input(name).path("teacher" if name == "teacher" else "model")
        model = on_device(load_llama(folder), pick_device(output.runtime)).eval()
        scores = token_log_probabilities(model, in_ids_of(model, vocabulary, texts), partial(report, before))
        scored[name] = Scored(scores, sum(p.numel() for p in model.parameters()))
    return scored


def _held_out(step: Step[EvaluationConfig, Any]) -> "tuple[list[TokenSequence], int | None]":
    """The held-out sequences that are scored, in the order of their shards: all pieces of the utterances that are drawn; and of how many
    utterances these are, where not all of them are."""
    from tinywave_core.sequences.index import load_sequences

    table = load_sequences(step.inputs["tokens"], "held_out", step.params["sequence_length"])
    codes, names = table.codes("utterance_id")
    most = step.config.utterances
    if most is None or most >= len(names):
        return list(table), None
    hashes = [hashlib.sha256(f"scores/{step.config.seed}/{i}".encode()).digest() for i in names.to_pylist()]
    drawn = sorted(range(len(names)), key=hashes.__getitem__)[:most]
    return list(table.take(np.flatnonzero(np.isin(codes, drawn)))), len(names)


# Part `against` ----------------------------------------------------------------------------------------------------


def run_against(step: Step[EvaluationConfig, AgainstSummary], output: Output) -> AgainstSummary:
    """Difference in nats per token, new minus published, with its 95 % interval over recordings; not comparable where the
    published student was trained on tokens of another vocabulary or of other codebooks."""
    from tinywave_core.evals.comparison import by_recording, paired_difference

    if why := _other_tokens(step):
        return AgainstSummary(comparable=False, why=why)
    sequences, _ = _held_out(step)
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    scored = score_models(step, output, ("student", "published"), [s.ids for s in sequences], vocabulary)
    nll = {name: np.array([-s.sum(dtype=np.float64) for s in of_model.scores]) for name, of_model in scored.items()}
    recordings = [s.recording_id for s in sequences]
    tokens = by_recording(recordings, np.array([len(s.ids) - 1 for s in sequences], dtype=np.float64))
    gaps = by_recording(recordings, nll["student"] - nll["published"])
    difference, interval = paired_difference(gaps, tokens, step.config.seed)
    return AgainstSummary(
        comparable=True,
        difference=difference,
        interval=interval,
        recordings=len(gaps),
        tokens=int(tokens.sum()),
        nll={name: float(values.sum() / tokens.sum()) for name, values in nll.items()},
    )


def _other_tokens(step: Step[EvaluationConfig, AgainstSummary]) -> str | None:
    """Why the published student's NLL cannot be compared on these tokens."""
    shards = step.inputs["tokens"]
    manifest = step.input("published").manifest
    assert manifest is not None
    trained_on = shards[0].store.find_all(manifest.inputs["tokens"], "shard")
    if shards[0].summary["vocabulary"] != next((s.summary["vocabulary"] for s in trained_on if s.complete), None):
        return "the published student has another vocabulary"
    # Codebooks of the same sizes that were fitted again give the same ids another meaning.
    if _tokenizers(trained_on) != _tokenizers(shards):
        return "the published student was trained on tokens of another speech tokenizer"
    return None


def _tokenizers(shards: Sequence[Artifact]) -> set[str]:
    return {i for shard in shards if shard.manifest for i in shard.manifest.inputs.get("tokenizer", ())}


# Part `scores` -----------------------------------------------------------------------------------------------------


def run_scores(step: Step[EvaluationConfig, ScoresSummary], output: Output) -> ScoresSummary:
    """Score every held-out utterance and every cloze item under the three models."""
    from tinywave_core.evals.comparison import TokenNll, compare_models, continuation
    from tinywave_core.evals.continuation_cloze import cloze_items, credits
    from tinywave_core.evals.floors import compare_with_floors, floor_scores
    from tinywave_core.evals.scoring import by_name
    from tinywave_core.storage.shards import write_table

    config = step.config
    sequences, drawn_from = _held_out(step)
    items = cloze_items(sequences, config)
    vocabulary = _vocabulary(step)
    across = _cross_modal_items(step, vocabulary)
    texts = _texts(sequences, items, across)
    scored = score_models(step, output, MODELS, [ids for _, ids in texts], vocabulary)
    pieces = {name: by_name(texts, of_model.scores) for name, of_model in scored.items()}

    cloze = {name: credits(items, of_model["right"], of_model["wrong"]) for name, of_model in pieces.items()}
    write_table(_cloze_table(items, cloze), output.folder / "cloze.parquet")
    trained_on = _trained_on(step)
    held_out = {name: of_model["held out"] for name, of_model in pieces.items()}
    floors = floor_scores(trained_on, sequences, vocabulary.tokens)
    nll = TokenNll.of(sequences, {**held_out, **floors}, vocabulary, config.seed)
    after_prompts = _after_prompts(step, sequences, vocabulary)
    write_table(_utterance_table(nll, after_prompts), output.folder / "utterances.parquet")
    models = {name: nll.figures(name, cloze[name], scored[name].parameters) for name in MODELS}
    summary = ScoresSummary(
        held_out=HeldOut(
            recordings=len({s.recording_id for s in sequences}),
            utterances=len({s.utterance_id for s in sequences}),
            hours=sum(s.seconds for s in sequences) / 3600,
            tokens=sum(len(s.ids) - 1 for s in sequences),
            cloze_items=len(items),
            **({} if drawn_from is None else {"drawn_from": drawn_from}),
        ),
        models=models,
        comparison=compare_models(nll, cloze, models),
        floors=compare_with_floors(nll, trained_on),
        ratios={name: nll.ratios(name) for name in MODELS[1:]},
        continuation=continuation(nll, after_prompts, config),
    )
    # Absent where there is no text: a field that is set is written.
    return summary.model_copy(update={"directions": _directions(across, pieces, config.seed)}) if across else summary


def _vocabulary(step: Step[EvaluationConfig, ScoresSummary]) -> Vocabulary:
    """That of the token shards, which has to be the teacher's."""
    from tinywave_core.tokenizers.directory import read_directory

    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    read_directory(step.input("teacher").path("teacher")).require_same(vocabulary, "the teacher", "the token shards")
    return vocabulary


def _trained_on(step: Step[EvaluationConfig, ScoresSummary]) -> "SequenceTable":
    """Training sequences of the student, those that it or the students before it heard included, without what validated."""
    from tinywave_core.sequences.index import load_sequences
    from tinywave_core.stages.adaptation.teacher import training_parts
    from tinywave_core.stages.distillation.student import share_of

    # By the student's own lineage, not by today's shards: the student identifies them, and new training speech alone evaluates
    # nothing again.
    student = step.input("student").manifest
    assert student is not None
    shards = step.store.find_all([*student.inputs["tokens"], *student.inputs.get("heard", [])])
    if gone := [shard.id for shard in shards if not shard.complete]:
        raise MissingInputError(
            f"{len(gone)} of the {len(shards)} shards that the student was trained on are not in the store ({gone[0]}), so its training "
            "tokens cannot be counted: train it on what is there, with --refresh.student always"
        )
    sequences = load_sequences(shards, "train", step.params["sequence_length"])
    return share_of(training_parts(sequences, student.params["validation"])[0], student.config.get("share", 1.0))


def _texts(
    sequences: "Sequence[TokenSequence]",
    items: "Sequence[ClozeItem]",
    across: "Mapping[str, Sequence[ClozeItem]]",
) -> list[tuple[str, npt.NDArray]]:
    """All that is scored, each with the name of what it belongs to; both versions of an item of a direction in turn."""
    # Batches are made of equal lengths in this order, and the last bits of a score are those of its batch: another order
    # would be another result.
    texts = [("held out", s.ids) for s in sequences]
    texts += [("right", item.right) for item in items] + [("wrong", item.wrong) for item in items]
    for direction, of_direction in across.items():
        for item in of_direction:
            texts += [(f"{direction}, right", item.right), (f"{direction}, wrong", item.wrong)]
    return texts


def _directions(
    across: "Mapping[str, Sequence[ClozeItem]]", pieces: "Mapping[str, Mapping[str, list[Score]]]", seed: int
) -> dict[str, Direction]:
    """The cross-modal cloze under every model, from its scores by name."""
    from tinywave_core.evals.comparison import compare_in_direction

    directions = {}
    for direction, items in across.items():
        right, wrong = (
            {name: of_model[f"{direction}, {version}"] for name, of_model in pieces.items()}
            for version in ("right", "wrong")
        )
        directions[direction] = compare_in_direction(items, right, wrong, seed)
    return directions


def _after_prompts(
    step: Step[EvaluationConfig, ScoresSummary], sequences: "list[TokenSequence]", vocabulary: Vocabulary
) -> "list[Mask]":
    """For every sequence which predicted tokens come after the prompt: all False for sequences that are too short, have text in
    them, or begin in the middle of their utterance."""
    from tinywave_core.evals.perplexity import after_prompt

    prompts = _prompts(step, {s.utterance_id for s in sequences if _is_long(s, step.config)}, vocabulary)
    chosen = []
    for s in sequences:
        ids, prompt = prompts.get(s.utterance_id, (np.empty(0), 0))
        # A later piece of a long utterance begins with other ids, and so does one with text in it.
        begins = _is_long(s, step.config) and np.array_equal(ids[: len(s.ids)], s.ids)
        after = after_prompt(prompt, len(s.ids), ended=s.ids[-1] == EOS_ID)
        chosen.append(after if begins else np.zeros(len(s.ids) - 1, dtype=bool))
    return chosen


def _is_long(sequence: "TokenSequence", config: EvaluationConfig) -> bool:
    """Whether enough comes after the prompt."""
    return sequence.seconds >= config.continuation_min_s


def _prompts(
    step: Step[EvaluationConfig, ScoresSummary], wanted: set[str], vocabulary: Vocabulary
) -> dict[str, tuple[np.ndarray, int]]:
    """By utterance, its ids as speech alone, and how many of them are the prompt."""
    from tinywave_core.tokenizers.speech import Streams, encode_utterance, merged_before

    columns = ["utterance_id", "num_samples", "units", "pitch", "style"]
    prompts = {}
    for row in each_held_out_row(step.inputs["tokens"], columns):
        if row["utterance_id"] in wanted and row["num_samples"]:
            streams = Streams.of_row(row)
            opening = len(vocabulary.prompt_ids(vocabulary.speech_marker))
            length = opening + merged_before(streams, step.config.continuation_prompt_s, vocabulary.rates)
            prompts[row["utterance_id"]] = (encode_utterance(streams, vocabulary), length)
    return prompts


def _cross_modal_items(
    step: Step[EvaluationConfig, ScoresSummary], vocabulary: Vocabulary
) -> "dict[str, list[ClozeItem]]":
    """Items of the cross-modal cloze by direction; none where no words have times."""
    from tinywave_core.evals.cross_modal_cloze import Timed, cross_modal_items
    from tinywave_core.sequences.interleaving import text_encoder
    from tinywave_core.tokenizers.directory import open_fast

    # Times of words are in interleaved shards only.
    mixed = [shard for shard in step.inputs["tokens"] if shard.part == "interleaved"]
    timed = [Timed.of(row) for row in each_held_out_row(mixed, Timed.COLUMNS) if row["words"]]
    if not timed:
        return {}
    tokenizer = open_fast(step.input("teacher").path("teacher") / "tokenizer.json")
    encode_text = text_encoder(tokenizer, vocabulary)
    return cross_modal_items(timed, vocabulary, encode_text, step.config, step.params["sequence_length"])


# Tables ------------------------------------------------------------------------------------------------------------


def _cloze_table(items: "Sequence[ClozeItem]", cloze: "Mapping[str, Floats]") -> pa.Table:
    """A row per item: both utterances, and what each model gets for it."""
    names = {"utterance_id": [i.utterance_id for i in items], "other_id": [i.other_id for i in items]}
    return pa.table(names | {f"{name}_credit": cloze[name] for name in MODELS})


def _utterance_table(nll: "TokenNll", after_prompts: "Sequence[Mask]") -> pa.Table:
    """A row per sequence: tokens and seconds, and the NLL of each model in nats; by stream, and after the prompt."""
    from tinywave_core.evals.comparison import STREAMS, count
    from tinywave_core.evals.perplexity import sums

    parts = {"": nll.all, **{f"{name}_": nll.kinds[name] for name in STREAMS}, "continuation_": after_prompts}
    columns: dict[str, Any] = {"utterance_id": [s.utterance_id for s in nll.sequences]}
    columns |= {f"{part}tokens": count(chosen).astype(np.int64) for part, chosen in parts.items()}
    columns["seconds"] = [s.seconds for s in nll.sequences]
    for part, chosen in parts.items():
        columns |= {f"{name}_{part}nll": sums(nll.by_model[name], chosen) for name in MODELS}
    return pa.table(columns)
