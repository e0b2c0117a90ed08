"""Continuations as part of evaluation: sampled from teacher, student and control, spoken, written down, judged as text.

Part `generated`: generated.parquet, every continuation with its tokens, transcript, NLL and auto-BLEU. Beside the three models
stands `recording`: how the utterance really went on, through the same vocoder, recogniser and language model: what a perfect model
would get. Only the continuation is spoken and written down: the prompt is the same for all, and would hide differences.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinywave_core.checkpoints.spiritlm import check_file, digest_of, vocoder_part
from tinywave_core.config.evaluation import GeneratedConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError, MissingInputError
from tinywave_core.evals.figures import MODELS
from tinywave_core.stages.evaluation.summary import GeneratedSummary
from tinywave_core.stages.export import vocoder
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import held_out_rows, held_out_shards
from tinywave_core.storage.records import RecordFault, seal, unseal
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.opening import choose_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.evals.generated import Judged
    from tinywave_core.tokenizers.vocabulary import Ids

VERSION = 3
GeneratedStep = Step[GeneratedConfig, GeneratedSummary]
FILE = "generated.parquet"
SOURCES = (*MODELS, "recording")
_IDENTIFYING = (".json", ".safetensors", ".txt", ".model")
_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("source", pa.string()),
        ("ids", pa.list_(pa.uint16())),
        ("seconds", pa.float64()),
        ("transcript", pa.string()),
        ("nll", pa.float64()),  # mean per token, in nats
        ("auto_bleu", pa.float64()),
    ]
)


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, student: Artifact, control: Artifact, execute: Execute
) -> dict[str, Artifact]:
    """The artifact `generated`; none where no models are given."""
    generated = config.evaluation.generated
    if not generated.asr:
        return {}
    check_generated(config)
    voice = vocoder.build(config, tokens, execute)  # the one that the export will have
    part = vocoder_part(config.tokenization.tokens)
    release = choose_tokenizer(config).vocoder()
    (continued,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="generated",
                version=VERSION,
                run=run_generated,
                # Models are identified by their content, not by where they lie.
                config=generated.model_copy(update={"asr": "given", "language_model": "given"}),
                params={
                    "asr_sha256": digest_of(_files(Path(generated.asr))),
                    "language_model_sha256": digest_of(_files(Path(generated.language_model))),
                    "vocoder": "voice" if release is None else release.digest(part),
                },
                context={
                    "asr": generated.asr,
                    "language_model": generated.language_model,
                    "spiritlm_dir": config.spiritlm_dir,
                },
                inputs={
                    "tokens": [shard for shard in held_out_shards(tokens) if shard.part != "text"],
                    "tokenizer": [TokensSummary.of(tokens).tokenizer_artifact(tokens)],
                    "teacher": [teacher],
                    "student": [student],
                    "control": [control],
                    **({"vocoder": list(voice.values())} if voice else {}),
                },
                runtime=config.runtime,
            )
        ]
    )
    return {"generated": continued}


# The directories ---------------------------------------------------------------------------------------------------


def check_generated(config: PipelineConfig) -> None:
    """Refuse directories that are missing or hold something else, before anything is trained."""
    generated = config.evaluation.generated
    if generated.asr:
        _check("asr", Path(generated.asr), _recogniser_fault, "a WhisperForConditionalGeneration or Wav2Vec2ForCTC")
        _check("language_model", Path(generated.language_model), _text_fault, "a causal language model of text")


def _check(name: str, folder: Path, fault: Callable[[Path, dict[str, Any]], str], expected: str) -> None:
    setting = f"evaluation.generated.{name} {str(folder)!r}"
    if not (folder / "config.json").is_file():
        raise MissingInputError(f"{setting} has no config.json; expected the directory of {expected}")
    check_file(folder / "config.json")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    problem = fault(folder, settings if isinstance(settings, dict) else {})
    if not problem and not list(folder.glob("*.safetensors")):
        problem = "no *.safetensors (other formats can run code, and are not opened)"
    if problem:
        raise CheckpointError(f"{setting} has {problem}; expected the directory of {expected}")
    for path in folder.glob("*.safetensors"):
        check_file(path)


def _recogniser_fault(folder: Path, settings: dict[str, Any]) -> str:
    known = {
        "whisper": ("WhisperForConditionalGeneration", ("preprocessor_config.json", "tokenizer_config.json")),
        "wav2vec2": ("Wav2Vec2ForCTC", ("vocab.json",)),
    }
    kind, architectures = settings.get("model_type"), settings.get("architectures")
    if kind not in known:
        return f"a model of type {kind!r}"
    architecture, needed = known[kind]
    return (
        f"the architectures {architectures}"
        if architectures and architecture not in architectures
        else _lacking(folder, needed)
    )


def _text_fault(folder: Path, settings: dict[str, Any]) -> str:
    architectures = settings.get("architectures") or []
    if not any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        return f"the architectures {architectures}"
    return _lacking(folder, ("tokenizer_config.json",))


def _lacking(folder: Path, names: Sequence[str]) -> str:
    missing = [name for name in names if not (folder / name).is_file()]
    return f"no {missing[0]}" if missing else ""


def _files(folder: Path) -> list[Path]:
    """The files that decide what a model of transformers computes."""
    return sorted(path for path in folder.iterdir() if path.suffix in _IDENTIFYING)


# The work ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """The beginning of a held-out utterance, and how it went on, in ids of the token shards."""

    utterance_id: str
    ids: "Ids"
    recording: "Ids"


def run_generated(step: GeneratedStep, output: Output) -> GeneratedSummary:
    """Continue, speak, write down and judge; what a crash left of a model's continuations or transcripts is used."""
    from tinywave_core.evals.generated import ratios_to_teacher, sources_figures
    from tinywave_core.threads import use_threads

    config = step.config
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    prompts = _prompts(step, vocabulary)
    asked = {"items": len(prompts), "prompt_s": config.prompt_s, "max_new_tokens": config.max_new_tokens}
    if not prompts:
        write_table(_SCHEMA.empty_table(), output.folder / FILE)
        why = f"no held-out utterance has {2 * config.prompt_s:g} s, twice the prompt"
        return GeneratedSummary(**asked, why=why, sources={}, ratios={})
    use_threads(output.runtime)
    progress = _Progress(output, (len(MODELS) + len(SOURCES)) * len(prompts))
    ids = {name: _continued(step, output, name, prompts, vocabulary, progress) for name in MODELS}
    ids["recording"] = [prompt.recording.tolist() for prompt in prompts]
    judged = _judged(step, output, ids, vocabulary, progress)
    rows = [row for source in SOURCES for row in _rows(source, prompts, ids[source], judged[source])]
    write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), output.folder / FILE)
    return GeneratedSummary(
        **asked,
        sources=sources_figures(judged, config.seed),
        ratios=ratios_to_teacher(judged, config.seed),
        vocoder="voice" if step.params["vocoder"] == "voice" else "HiFi-GAN of the SpiritLM release",
    )


def _judged(
    step: GeneratedStep, output: Output, ids: dict[str, list[list[int]]], vocabulary: Vocabulary, progress: "_Progress"
) -> "dict[str, list[Judged]]":
    """The continuations of every source as text."""
    from tinywave_core.evals.generated import Judged

    judge = _Judge.load(step, output, vocabulary)
    judged = {}
    for source in SOURCES:
        path = output.resume / f"{source}-judged.json"
        judged[source] = [Judged(**values) for values in _kept(path, partial(judge.all, ids[source], progress))]
        progress.reached(len(ids[source]))
    return judged


def _rows(
    source: str, prompts: Sequence[Prompt], ids: Sequence[list[int]], judged: "Sequence[Judged]"
) -> list[dict[str, Any]]:
    """Rows of the table, one per prompt."""
    from tinywave_core.evals.generated import auto_bleu

    return [
        {
            "utterance_id": prompt.utterance_id,
            "source": source,
            "ids": new,
            "seconds": continuation.seconds,
            "transcript": continuation.transcript,
            "nll": continuation.nll,
            "auto_bleu": auto_bleu(continuation.transcript),
        }
        for prompt, new, continuation in zip(prompts, ids, judged, strict=True)
    ]


def _prompts(step: GeneratedStep, vocabulary: Vocabulary) -> list[Prompt]:
    """Held-out utterances at least twice as long as the prompt, in an order that a hash of their id decides."""
    from tinywave_core.tokenizers.speech import Streams, encode_utterance, merged_before

    config = step.config
    rows: dict[str, dict[str, Any]] = {}
    for row in held_out_rows(step.inputs["tokens"], ["utterance_id", "num_samples", "units", "pitch", "style"]):
        if row["num_samples"] >= 2 * config.prompt_s * SAMPLE_RATE:
            rows.setdefault(row["utterance_id"], row)
    prompts = []
    for i in sorted(rows, key=lambda i: _key(config, i))[: config.items]:
        streams = Streams.of_row(rows[i])
        whole = encode_utterance(streams, vocabulary)[:-1]
        opening = len(vocabulary.prompt_ids(vocabulary.speech_marker))
        cut = opening + merged_before(streams, config.prompt_s, vocabulary.rates)
        prompts.append(Prompt(i, whole[:cut], whole[cut:][: config.max_new_tokens]))
    return prompts


def _key(config: GeneratedConfig, utterance_id: str) -> bytes:
    return hashlib.sha256(f"generated/{config.seed}/{utterance_id}".encode()).digest()


class _Progress:
    """Samples that were made or judged, over all sources."""

    def __init__(self, output: Output, total: int) -> None:
        self.output, self.total, self.before = output, total, 0

    def __call__(self, done: int, total: int, note: str = "") -> None:  # noqa: ARG002 (a source does not know the others)
        self.output.progress(self.before + done, self.total, note)

    def reached(self, more: int) -> None:
        """One source is through."""
        self.before += more


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What an earlier try of this very step wrote to a file, if that is as it was; else what is made now and written there."""
    with contextlib.suppress(FileNotFoundError, RecordFault):
        return unseal(path.read_bytes())["made"]
    made = make()
    # Under another name until it is whole: a killed run leaves no half file to be read.
    unfinished = path.with_suffix(".partial")
    unfinished.write_bytes(seal({"made": made}))
    unfinished.replace(path)
    return made


def _continued(
    step: GeneratedStep, output: Output, name: str, prompts: list[Prompt], vocabulary: Vocabulary, progress: _Progress
) -> list[list[int]]:
    """Ids of one model's continuations."""

    def make() -> list[list[int]]:
        from tinywave_core.devices import pick_device
        from tinywave_core.evals.continuations import continuations
        from tinywave_core.models.llama import load_llama, on_device
        from tinywave_core.models.trim import in_ids_of

        config = step.config
        folder = step.input(name).path("teacher" if name == "teacher" else "model")
        model = on_device(load_llama(folder), pick_device(output.runtime)).eval()
        heads = [prompt.ids.astype(np.uint16) for prompt in prompts]
        own = in_ids_of(model, vocabulary, heads)
        # A student of speech alone has ids of its own; what it says is compared, and spoken, in those of the shards.
        renumbered = own[0] is not heads[0]
        new = continuations(
            model,
            own,
            vocabulary.speech_only() if renumbered else vocabulary,
            [int.from_bytes(_key(config, prompt.utterance_id)[:6], "little") for prompt in prompts],
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            progress=progress,
        )
        back = np.array(vocabulary.speech_only_ids()) if renumbered else np.arange(vocabulary.rows)
        return [back[ids].tolist() for ids in new]

    found: list[list[int]] = _kept(output.resume / f"{name}.json", make)
    progress.reached(len(prompts))
    return found


@dataclass(frozen=True)
class _Judge:
    """Vocoder, recogniser and language model of text, loaded."""

    vocabulary: Vocabulary
    speak: Callable[[Any], Any]
    transcribe: Callable[[Any], str]
    mean_nll: Callable[[str], float]

    @classmethod
    def load(cls, step: GeneratedStep, output: Output, vocabulary: Vocabulary) -> "_Judge":
        from tinywave_core.devices import pick_device
        from tinywave_core.evals.text_likelihood import TextModel
        from tinywave_core.evals.transcription import load_recogniser
        from tinywave_core.synthesis.speaking import load_speaker

        config = step.config
        device = pick_device(output.runtime)
        return cls(
            vocabulary,
            load_speaker(
                step.input("tokenizer").path(),
                vocabulary,
                step.context["spiritlm_dir"],
                device,
                step.input("vocoder").path() if "vocoder" in step.inputs else None,
            ),
            load_recogniser(Path(step.context["asr"]), config.language, device),
            TextModel.load(Path(step.context["language_model"]), device).mean_nll,
        )

    def all(self, ids: list[list[int]], progress: _Progress) -> list[dict[str, Any]]:
        """Seconds, transcript and NLL of every continuation; one without a unit is silent."""
        units = range(self.vocabulary.first["hubert"], self.vocabulary.first["hubert"] + self.vocabulary.hubert)
        judged = []
        for number, new in enumerate(ids, start=1):
            has_units = any(i in units for i in new)
            wave = self.speak(np.asarray(new, dtype=np.int64)) if has_units else np.zeros(0, np.float32)
            text = self.transcribe(wave)
            judged.append({"seconds": len(wave) / SAMPLE_RATE, "transcript": text, "nll": self.mean_nll(text)})
            progress(number, len(ids), "continuations judged")
        return judged
