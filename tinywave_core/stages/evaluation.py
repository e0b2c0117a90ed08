"""Evaluation on held-out recordings: teacher, student and undistilled control side by side, with intervals.

NLL per token by kind of token, perplexity, bits per second of audio (comparable across vocabularies), continuation
cloze. Files: utterances.parquet (NLL of every utterance under every model), cloze.parquet (every item's credits).
"""

import math

import numpy as np
import pyarrow as pa

from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import TrainingError
from tinywave_core.stages.base import Execute, Output, Step, Summary
from tinywave_core.stages.logit_caching import held_out_shards
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

VERSION = 1
MODELS = ("teacher", "student", "control")


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, student: Artifact, control: Artifact, execute: Execute
) -> Artifact:
    """The `scores` artifact."""
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


def run_against(step: Step, output: Output) -> Summary:
    """Difference in nats per token, new minus published, with its 95 % interval over utterances; not comparable where the
    published student was trained on tokens of another vocabulary or of other codebooks."""
    from tinywave_core.evals.intervals import bootstrap_interval
    from tinywave_core.evals.scoring import token_log_probabilities
    from tinywave_core.models.llama import load_llama, on_device, pick_device
    from tinywave_core.models.trim import in_ids_of
    from tinywave_core.sequences.dataset import load_sequences
    from tinywave_core.threads import use_threads

    config = step.config
    assert isinstance(config, EvaluationConfig)
    if why := _other_tokens(step):
        return {"comparable": False, "why": why}
    sequences = load_sequences(step.inputs["tokens"], "held_out", step.params["sequence_length"])
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    use_threads(output.runtime)
    nll: dict[str, np.ndarray] = {}
    for number, name in enumerate(("student", "published")):
        model = on_device(load_llama(step.input(name).path("model")), pick_device(output.runtime)).eval()
        scores = token_log_probabilities(
            model,
            in_ids_of(model, vocabulary, [s.ids for s in sequences]),
            lambda d, t, _="", k=number: output.progress(k * t + d, 2 * t, "sequences scored"),
        )
        nll[name] = np.array([-s.sum(dtype=np.float64) for s in scores])
    lengths = np.array([len(s.ids) - 1 for s in sequences])
    utterances, at = np.unique([s.utterance_id for s in sequences], return_inverse=True)
    gaps = np.bincount(at, weights=nll["student"] - nll["published"])
    return {
        "comparable": True,
        "difference": float(gaps.sum() / lengths.sum()),
        "interval": bootstrap_interval(gaps, np.bincount(at, weights=lengths), config.seed),
        "utterances": len(utterances),
        "tokens": int(lengths.sum()),
        "nll": {name: float(values.sum() / lengths.sum()) for name, values in nll.items()},
    }


def _other_tokens(step: Step) -> str | None:
    """Why the published student's NLL cannot be compared on these tokens."""
    shards = step.inputs["tokens"]
    manifest = step.input("published").manifest
    assert manifest is not None
    heard = shards[0].store.find_all(manifest.inputs["tokens"], "shard")
    tokenizers = [
        {i for shard in some if shard.manifest for i in shard.manifest.inputs.get("tokenizer", ())}
        for some in (heard, shards)
    ]
    if shards[0].summary["vocabulary"] != next((s.summary["vocabulary"] for s in heard if s.complete), None):
        return "the published student has another vocabulary"
    if tokenizers[0] != tokenizers[1]:
        return "the published student was trained on tokens of another speech tokenizer"
    return None


def run_scores(step: Step, output: Output) -> Summary:
    """Score every held-out utterance and every cloze item under the three models."""
    from tinywave_core.evals.continuation_cloze import cloze_items, credits
    from tinywave_core.evals.scoring import token_log_probabilities
    from tinywave_core.models.llama import load_llama, on_device, pick_device
    from tinywave_core.models.trim import in_ids_of
    from tinywave_core.sequences.dataset import load_sequences
    from tinywave_core.storage.shards import write_table
    from tinywave_core.threads import use_threads
    from tinywave_core.tokenizers.directory import read_directory

    config = step.config
    assert isinstance(config, EvaluationConfig)
    sequences = load_sequences(step.inputs["tokens"], "held_out", step.params["sequence_length"])
    items = cloze_items(sequences, config)
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    read_directory(step.input("teacher").path("teacher")).require_same(vocabulary, "the teacher", "the token shards")
    use_threads(output.runtime)
    across = _across(step, vocabulary, config)
    texts = [s.ids for s in sequences] + [i.right for i in items] + [i.wrong for i in items]
    n, m = len(sequences), len(items)
    texts += [ids for found in across.values() for item in found for ids in (item.right, item.wrong)]
    scores_across: dict = {}
    nll, cloze, parameters = {}, {}, {}
    for number, name in enumerate(MODELS):
        folder = step.input(name).path("teacher" if name == "teacher" else "model")
        model = on_device(load_llama(folder), pick_device(output.runtime)).eval()
        parameters[name] = sum(p.numel() for p in model.parameters())
        scores = token_log_probabilities(
            model,
            in_ids_of(model, vocabulary, texts),
            lambda d, t, _="", k=number: output.progress(k * t + d, 3 * t, "sequences scored"),
        )
        nll[name] = [-s for s in scores[:n]]
        cloze[name] = credits(items, scores[n : n + m], scores[n + m : n + 2 * m])
        rest = iter(scores[n + 2 * m :])
        scores_across[name] = {}
        for direction, found in across.items():
            pairs = [(next(rest), next(rest)) for _ in found]
            scores_across[name][direction] = ([right for right, _ in pairs], [wrong for _, wrong in pairs])

    about = {"utterance_id": [s.utterance_id for s in sequences], "tokens": [len(s.ids) - 1 for s in sequences]}
    totals = {f"{name}_nll": [float(x.sum(dtype=np.float64)) for x in nll[name]] for name in MODELS}
    seconds = [s.seconds for s in sequences]
    write_table(pa.table(about | {"seconds": seconds} | totals), output.folder / "utterances.parquet")
    names = {"utterance_id": [i.utterance_id for i in items], "other_id": [i.other_id for i in items]}
    write_table(pa.table(names | {f"{k}_credit": cloze[k] for k in MODELS}), output.folder / "cloze.parquet")

    kinds = _kinds([s.ids for s in sequences], vocabulary)
    if kinds["text"].any():  # seconds of audio say nothing where a part of it was given as text
        seconds = []
    models = {
        name: _figures(nll[name], cloze[name], kinds, seconds, config) | {"parameters": parameters[name]}
        for name in MODELS
    }
    tokens = sum(len(s.ids) - 1 for s in sequences)
    report = {
        "held_out": {
            "sequences": n,
            "hours": sum(s.seconds for s in sequences) / 3600,
            "tokens": tokens,
            "cloze_items": m,
        },
        "models": models,
        "comparison": _comparison(nll, cloze, models, config),
    }
    return report | ({"directions": _directions(across, scores_across, config)} if across else {})


def _across(step: Step, vocabulary: Vocabulary, config: EvaluationConfig) -> dict:
    """Items of the cross-modal cloze by direction; none where no words have times."""
    from tokenizers import Tokenizer

    from tinywave_core.evals.cross_modal_cloze import Timed, cross_modal_items
    from tinywave_core.sequences.interleaving import text_encoder
    from tinywave_core.storage.shards import read_table

    mixed = [shard for shard in step.inputs["tokens"] if shard.part == "interleaved"]
    rows = [row for shard in mixed for row in read_table(shard.path("tokens.parquet")).to_pylist()]
    timed = [Timed.of(row) for row in rows if row["split"] == "held_out" and row["words"]]
    if not timed:
        return {}
    tokenizer = Tokenizer.from_file(str(step.input("teacher").path("teacher") / "tokenizer.json"))
    encode_text = text_encoder(tokenizer, vocabulary)
    return cross_modal_items(timed, vocabulary, encode_text, config, step.params["sequence_length"])


def _kinds(ids: "list[np.ndarray]", vocabulary: Vocabulary) -> "dict[str, np.ndarray]":
    """Which of the predicted tokens are of a kind; `switch` are the markers within sequences and the tokens after them."""
    from tinywave_core.sequences.interleaving import switches

    kinds = vocabulary.kinds(np.concatenate([each[1:] for each in ids]))
    found = {kind: kinds == i for i, kind in enumerate(KINDS)}
    return found | {"switch": np.concatenate([switches(each, vocabulary)[1:] for each in ids])}


def _directions(across: dict, scores: dict, config: EvaluationConfig) -> dict:
    """Accuracy of each model in each direction of the cross-modal cloze, with intervals; chance is 0.5."""
    from tinywave_core.evals.continuation_cloze import credits
    from tinywave_core.evals.intervals import bootstrap_interval, wilson_interval

    table: dict = {}
    for direction, items in across.items():
        found = {name: credits(items, *scores[name][direction]) for name in MODELS}
        table[direction] = {
            name: {
                "accuracy": float(each.mean()),
                "interval": wilson_interval(float(each.sum()), len(each)),
                "items": len(each),
            }
            for name, each in found.items()
        }
        gain = found["student"] - found["control"]
        table[direction]["gain_interval"] = bootstrap_interval(gain, np.ones(len(gain)), config.seed)
    return table


def _figures(nll: list, credits: np.ndarray, kinds: dict, seconds: list[float], config: EvaluationConfig) -> dict:
    from tinywave_core.evals.intervals import bootstrap_interval, wilson_interval

    flat = np.concatenate(nll).astype(np.float64)
    totals, lengths = [x.sum(dtype=np.float64) for x in nll], [len(x) for x in nll]
    figures = {
        "nll": float(flat.mean()),
        "nll_interval": bootstrap_interval(totals, lengths, config.seed),
        "perplexity": math.exp(flat.mean()),
        "bits_per_second": float(flat.sum() / math.log(2) / sum(seconds)) if seconds else None,
        "nll_by_kind": {name: float(flat[mask].mean()) for name, mask in kinds.items() if mask.any()},
    }
    if len(credits):
        figures["cloze"] = float(credits.mean())
        figures["cloze_interval"] = wilson_interval(float(credits.sum()), len(credits))
    return figures


def _comparison(nll: dict, cloze: dict, models: dict, config: EvaluationConfig) -> dict:
    """Paired differences on the same utterances; a gap whose interval holds 0 is within noise."""
    from tinywave_core.evals.intervals import bootstrap_interval

    lengths = [len(x) for x in nll["student"]]
    totals = {name: np.array([x.sum(dtype=np.float64) for x in nll[name]]) for name in MODELS}
    gain = bootstrap_interval(totals["control"] - totals["student"], lengths, config.seed)
    gap = models["control"]["nll"] - models["teacher"]["nll"]
    out = {
        "distillation_gain_nll": models["control"]["nll"] - models["student"]["nll"],
        "distillation_gain_nll_interval": gain,
        "distillation_helps": gain[0] > 0,
        "nll_gap_closed": (models["control"]["nll"] - models["student"]["nll"]) / gap if gap > 0 else None,
        "student_is_better_than_teacher": models["student"]["nll"] < models["teacher"]["nll"],
    }
    if len(cloze["student"]):
        above = {name: models[name]["cloze"] - 0.5 for name in MODELS}
        out["cloze_retention"] = models["student"]["cloze"] / models["teacher"]["cloze"]
        out["cloze_above_chance_retention"] = above["student"] / above["teacher"] if above["teacher"] > 0 else None
        out["cloze_gain_interval"] = bootstrap_interval(
            cloze["student"] - cloze["control"], np.ones(len(cloze["student"])), config.seed
        )
    return out
