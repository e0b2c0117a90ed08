"""Evaluation on held-out recordings: teacher, student and undistilled control side by side, with intervals.

NLL per token by kind of token, perplexity, bits per second of audio by stream (comparable across vocabularies), all of it on
what comes after a prompt, each over the teacher's, continuation cloze. Files: utterances.parquet (NLL of every utterance under
every model, by stream and after the prompt), cloze.parquet (every item's credits).
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import TrainingError
from tinywave_core.steps.base import Execute, Output, Step, SummaryDict
from tinywave_core.steps.inputs import held_out_shards
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import EOS_ID, KINDS, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.evals.perplexity import Floats
    from tinywave_core.sequences.dataset import TokenSequence

VERSION = 2
MODELS = ("teacher", "student", "control")
STREAMS = ("hubert", "pitch", "style")


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


def run_against(step: Step, output: Output) -> SummaryDict:
    """Difference in nats per token, new minus published, with its 95 % interval over utterances; not comparable where the
    published student was trained on tokens of another vocabulary or of other codebooks."""
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.intervals import bootstrap_interval
    from tinywave_core.evals.scoring import token_log_probabilities
    from tinywave_core.models.llama import load_llama, on_device
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


def run_scores(step: Step, output: Output) -> SummaryDict:
    """Score every held-out utterance and every cloze item under the three models."""
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.continuation_cloze import cloze_items, credits
    from tinywave_core.evals.scoring import token_log_probabilities
    from tinywave_core.models.llama import load_llama, on_device
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

    names = {"utterance_id": [i.utterance_id for i in items], "other_id": [i.other_id for i in items]}
    write_table(pa.table(names | {f"{k}_credit": cloze[k] for k in MODELS}), output.folder / "cloze.parquet")
    measured = _Measured(sequences, nll, _kinds([s.ids for s in sequences], vocabulary), config.seed)
    continued = _after_prompts(step, sequences, vocabulary, config)
    write_table(_utterances(measured, continued), output.folder / "utterances.parquet")

    models = {name: measured.figures(name) | _cloze(cloze[name]) | {"parameters": parameters[name]} for name in MODELS}
    report = {
        "held_out": {
            "sequences": n,
            "hours": sum(s.seconds for s in sequences) / 3600,
            "tokens": sum(len(s.ids) - 1 for s in sequences),
            "cloze_items": m,
        },
        "models": models,
        "comparison": _comparison(nll, cloze, models, config),
        "ratios": {name: measured.ratios(name) for name in MODELS[1:]},
        "continuation": _continuation(measured, continued, config),
    }
    return report | ({"directions": _directions(across, scores_across, config)} if across else {})


@dataclass(frozen=True)
class _Measured:
    """NLL of the predicted tokens of N sequences under every model, [L - 1] each, and of which kind they are."""

    sequences: "list[TokenSequence]"
    nll: "dict[str, list[np.ndarray]]"
    kinds: "dict[str, list[np.ndarray]]"
    """By kind, for every sequence which tokens are of it."""
    seed: int

    @property
    def spoken(self) -> bool:
        """Whether all is speech: seconds of audio say nothing where a part of it was given as text."""
        return not any(each.any() for each in self.kinds["text"])

    @property
    def all(self) -> "list[np.ndarray]":
        return [np.ones(len(s.ids) - 1, dtype=bool) for s in self.sequences]

    @property
    def seconds(self) -> "Floats":
        return np.array([s.seconds for s in self.sequences])

    def sums(self, model: str, chosen: "list[np.ndarray]") -> "Floats":
        from tinywave_core.evals.perplexity import sums

        return sums(self.nll[model], chosen)

    def tokens(self, chosen: "list[np.ndarray]") -> "Floats":
        return np.array([each.sum() for each in chosen], dtype=np.float64)

    def streams(self) -> list[str]:
        """Streams that there are."""
        return [name for name in STREAMS if any(each.any() for each in self.kinds[name])]

    def figures(self, model: str) -> dict[str, Any]:
        """What one model makes of all tokens, of each kind, and of each stream."""
        from tinywave_core.evals.perplexity import per_second, per_token

        total = self.sums(model, self.all)
        speech = [np.logical_or.reduce(of) for of in zip(*(self.kinds[name] for name in STREAMS), strict=True)]
        found = per_token(total, self.tokens(self.all), self.seed)
        found |= per_second(total, self.seconds, self.seed) if self.spoken else {"bits_per_second": None}
        return found | {
            "nll_by_kind": self._means(model, self.kinds),
            "nll_by_modality": self._means(model, {"speech": speech, "text": self.kinds["text"]}),
            "by_stream": {
                name: per_second(self.sums(model, self.kinds[name]), self.seconds, self.seed)
                for name in (self.streams() if self.spoken else ())
            },
        }

    def ratios(self, model: str) -> dict[str, Any]:
        """A model over the teacher, on all tokens and by stream."""
        from tinywave_core.evals.perplexity import against_teacher, ratio

        own, teacher = self.sums(model, self.all), self.sums("teacher", self.all)
        return against_teacher(own, teacher, self.tokens(self.all), self.seed) | {
            "by_stream": {
                name: ratio(
                    self.sums(model, self.kinds[name]), self.sums("teacher", self.kinds[name]), self.seed, "nll"
                )
                for name in self.streams()
            }
        }

    def _means(self, model: str, chosen: "dict[str, list[np.ndarray]]") -> dict[str, float]:
        counts = {name: self.tokens(each).sum() for name, each in chosen.items()}
        return {name: float(self.sums(model, chosen[name]).sum() / count) for name, count in counts.items() if count}


def _after_prompts(
    step: Step, sequences: "list[TokenSequence]", vocabulary: Vocabulary, config: EvaluationConfig
) -> "list[np.ndarray]":
    """For every sequence which predicted tokens come after the prompt; none of those that are too short, or not all speech,
    or that do not begin where their utterance does."""
    from tinywave_core.evals.perplexity import after_prompt
    from tinywave_core.storage.shards import read_table
    from tinywave_core.tokenizers.speech import Streams, encode_utterance, merged_before

    long = {s.utterance_id for s in sequences if s.seconds >= config.continuation_min_s}
    prompts: dict[str, tuple[np.ndarray, int]] = {}
    for shard in step.inputs["tokens"]:
        for row in read_table(shard.path("tokens.parquet")).to_pylist():
            if row["utterance_id"] in long and row["num_samples"]:
                streams = Streams(*(np.asarray(row[name], dtype=np.int64) for name in ("units", "pitch", "style")))
                opening = len(vocabulary.prompt_ids(vocabulary.speech_marker))
                length = opening + merged_before(streams, config.continuation_prompt_s, vocabulary.rates)
                prompts[row["utterance_id"]] = (encode_utterance(streams, vocabulary), length)
    found = []
    for s in sequences:
        ids, prompt = prompts.get(s.utterance_id, (np.empty(0), 0))
        begins = s.seconds >= config.continuation_min_s and np.array_equal(ids[: len(s.ids)], s.ids)
        chosen = after_prompt(prompt, len(s.ids), ended=s.ids[-1] == EOS_ID)
        found.append(chosen if begins else np.zeros(len(s.ids) - 1, dtype=bool))
    return found


def _continuation(measured: _Measured, chosen: "list[np.ndarray]", config: EvaluationConfig) -> dict[str, Any]:
    """Every model on the tokens after the prompts; no models where no utterance is long enough."""
    from tinywave_core.evals.perplexity import against_teacher, per_second, per_token

    tokens = measured.tokens(chosen)
    of = tokens > 0
    seconds = (measured.seconds - config.continuation_prompt_s)[of]
    about = {
        "prompt_s": config.continuation_prompt_s,
        "min_s": config.continuation_min_s,
        "utterances": int(of.sum()),
        "tokens": int(tokens.sum()),
        "seconds": float(seconds.sum()),
    }
    if not of.any():
        return about | {"models": {}, "ratios": {}}
    nll, seed = {name: measured.sums(name, chosen)[of] for name in MODELS}, config.seed
    models = {name: per_token(nll[name], tokens[of], seed) | per_second(nll[name], seconds, seed) for name in MODELS}
    ratios = {name: against_teacher(nll[name], nll["teacher"], tokens[of], seed) for name in MODELS[1:]}
    return about | {"models": models, "ratios": ratios}


def _utterances(measured: _Measured, continued: "list[np.ndarray]") -> pa.Table:
    """A row per sequence: tokens and seconds, and the NLL of each model in nats; by stream, and after the prompt."""
    parts = {"": measured.all, **{f"{name}_": measured.kinds[name] for name in STREAMS}, "continuation_": continued}
    columns: dict[str, Any] = {"utterance_id": [s.utterance_id for s in measured.sequences]}
    columns |= {f"{part}tokens": measured.tokens(chosen).astype(np.int64) for part, chosen in parts.items()}
    columns["seconds"] = measured.seconds
    for part, chosen in parts.items():
        columns |= {f"{name}_{part}nll": measured.sums(name, chosen) for name in MODELS}
    return pa.table(columns)


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


def _kinds(ids: "list[np.ndarray]", vocabulary: Vocabulary) -> "dict[str, list[np.ndarray]]":
    """Of every sequence, which of the predicted tokens are of a kind; `switch` are the markers within it and the tokens after
    them."""
    from tinywave_core.sequences.interleaving import switches

    kinds = [vocabulary.kinds(each[1:]) for each in ids]
    found = {kind: [each == i for each in kinds] for i, kind in enumerate(KINDS)}
    return found | {"switch": [switches(each, vocabulary)[1:] for each in ids]}


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


def _cloze(credits: np.ndarray) -> dict[str, Any]:
    """Accuracy and its interval; nothing where there are no items."""
    from tinywave_core.evals.intervals import wilson_interval

    if not len(credits):
        return {}
    interval = wilson_interval(float(credits.sum()), len(credits))
    return {"cloze": float(credits.mean()), "cloze_interval": interval}


def _comparison(nll: dict, cloze: dict, models: dict, config: EvaluationConfig) -> dict:
    """Paired differences on the same utterances; a gap whose interval holds 0 is within noise."""
    from tinywave_core.evals.intervals import bootstrap_interval, retention

    lengths = [len(x) for x in nll["student"]]
    totals = {name: np.array([x.sum(dtype=np.float64) for x in nll[name]]) for name in MODELS}
    gain = bootstrap_interval(totals["control"] - totals["student"], lengths, config.seed)
    gap = models["control"]["nll"] - models["teacher"]["nll"]
    gaps = totals["control"] - totals["teacher"]
    there_is_one = bootstrap_interval(gaps, lengths, config.seed)[0] > 0
    out = {
        "distillation_gain_nll": models["control"]["nll"] - models["student"]["nll"],
        "distillation_gain_nll_interval": gain,
        "distillation_helps": gain[0] > 0,
        "nll_gap_closed": (models["control"]["nll"] - models["student"]["nll"]) / gap if gap > 0 else None,
        "nll_gap_closed_interval": bootstrap_interval(totals["control"] - totals["student"], gaps, config.seed)
        if there_is_one
        else None,
        "student_is_better_than_teacher": models["student"]["nll"] < models["teacher"]["nll"],
    }
    if len(cloze["student"]):
        out["cloze_retention"] = asdict(retention(cloze["student"], cloze["teacher"], 0.5, config.seed))
        out["cloze_gain_interval"] = bootstrap_interval(
            cloze["student"] - cloze["control"], np.ones(len(cloze["student"])), config.seed
        )
    return out
