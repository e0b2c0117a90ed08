"""Continuations as text, as part of evaluation: those of teacher, student and control spoken, written down, and judged.

Part `generated`: generated.parquet, every continuation with its tokens, transcript, NLL and auto-BLEU. Beside the three models
stands `recording`: how the utterance really went on, through the same vocoder, recogniser and language model: what a perfect model
would get. Only the continuation is spoken and written down: the prompt is the same for all, and would hide differences.
"""

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
from tinywave_core.evals.rating import is_gguf
from tinywave_core.stages.evaluation import ratings
from tinywave_core.stages.evaluation.continuations import SOURCES, Continued, Progress, continued, kept, speaks
from tinywave_core.stages.evaluation.judges_given import files_of
from tinywave_core.stages.evaluation.summary import GeneratedSummary
from tinywave_core.stages.export import vocoder
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.opening import choose_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.evals.generated import Judged

VERSION = 4
GeneratedStep = Step[GeneratedConfig, GeneratedSummary]
FILE = "generated.parquet"
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
    config: PipelineConfig, tokens: Artifact, continuations: dict[str, Artifact], execute: Execute
) -> dict[str, Artifact]:
    """The artifact `generated`, and `ratings` where a judge is given; none where no models are given."""
    generated = config.evaluation.generated
    if not generated.language_model:
        return {}
    check_generated(config)
    voice = vocoder.build(config, tokens, execute)  # the one that the export will have
    part = vocoder_part(config.tokenization.tokens)
    release = choose_tokenizer(config).vocoder()
    step: GeneratedStep = Step(
        store=tokens.store,
        stage="evaluation",
        part="generated",
        version=VERSION,
        run=run_generated,
        # Models are identified by their content, not by where they lie.
        config=generated.model_copy(update={"asr": "given", "language_model": "given", "judge": ""}),
        params={
            "asr_sha256": digest_of(files_of(Path(generated.asr))),
            "language_model_sha256": digest_of(files_of(Path(generated.language_model))),
            "vocoder": "voice" if release is None else release.digest(part),
        },
        context={
            "asr": generated.asr,
            "language_model": generated.language_model,
            "spiritlm_dir": config.spiritlm_dir,
        },
        inputs={
            "continuations": [continuations["continuations"]],
            "tokenizer": [TokensSummary.of(tokens).tokenizer_artifact(tokens)],
            **({"vocoder": list(voice.values())} if voice else {}),
        },
        runtime=config.runtime,
    )
    (judged,) = execute([step])
    return {"generated": judged, **ratings.build(generated.judge, tokens, judged, step, execute)}


# The directories ---------------------------------------------------------------------------------------------------


def check_generated(config: PipelineConfig) -> None:
    """Refuse directories that are missing or hold something else, before anything is trained."""
    generated = config.evaluation.generated
    if generated.asr:
        _check("asr", Path(generated.asr), _recogniser_fault, "a WhisperForConditionalGeneration or Wav2Vec2ForCTC")
    if generated.language_model:
        _check("language_model", Path(generated.language_model), _text_fault, "a causal language model of text")
    if generated.judge and is_gguf(Path(generated.judge)):
        ratings.check_gguf(Path(generated.judge))
    elif generated.judge:
        _check("judge", Path(generated.judge), _text_fault, "a causal language model of text, or a GGUF file")


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


# The work ----------------------------------------------------------------------------------------------------------


def run_generated(step: GeneratedStep, output: Output) -> GeneratedSummary:
    """Speak, write down and judge; what a crash left of a source's transcripts is used."""
    from tinywave_core.evals.generated import ratios_to_teacher, sources_figures
    from tinywave_core.threads import use_threads

    config, made = step.config, continued(step.input("continuations"), step.config.items)
    asked = {"items": made.items, "prompt_s": config.prompt_s, "max_new_tokens": config.max_new_tokens}
    if made.why:
        write_table(_SCHEMA.empty_table(), output.folder / FILE)
        return GeneratedSummary(**asked, why=made.why, sources={}, ratios={})
    use_threads(output.runtime)
    judged = _judged(step, output, made)
    rows = [row for source in SOURCES for row in _rows(source, made, judged[source])]
    write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), output.folder / FILE)
    return GeneratedSummary(
        **asked,
        sources=sources_figures(judged, config.seed),
        ratios=ratios_to_teacher(judged, config.seed),
        vocoder="voice" if step.params["vocoder"] == "voice" else "HiFi-GAN of the SpiritLM release",
    )


def _judged(step: GeneratedStep, output: Output, made: Continued) -> "dict[str, list[Judged]]":
    """The continuations of every source as text."""
    from tinywave_core.evals.generated import Judged

    judge, progress = _Judge.load(step, output, made.vocabulary), Progress(output, len(SOURCES) * made.items)
    judged = {}
    for source in SOURCES:
        path = output.resume / f"{source}-judged.json"
        judged[source] = [Judged(**values) for values in kept(path, partial(judge.all, made.ids[source], progress))]
        progress.reached(made.items)
    return judged


def _rows(source: str, made: Continued, judged: "Sequence[Judged]") -> list[dict[str, Any]]:
    """Rows of the table, one per prompt."""
    from tinywave_core.evals.generated import auto_bleu

    return [
        {
            "utterance_id": utterance_id,
            "source": source,
            "ids": new,
            "seconds": continuation.seconds,
            "transcript": continuation.transcript,
            "nll": continuation.nll,
            "auto_bleu": auto_bleu(continuation.transcript),
        }
        for utterance_id, new, continuation in zip(made.utterance_ids, made.ids[source], judged, strict=True)
    ]


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

        text = TextModel.load(Path(step.context["language_model"]), pick_device(output.runtime))
        spoken = ratings.speaker_and_recogniser(step, output, vocabulary, step.config.language)
        return cls(vocabulary, *spoken, text.mean_nll)

    def all(self, ids: list[list[int]], progress: Progress) -> list[dict[str, Any]]:
        """Seconds, transcript and NLL of every continuation; one without a unit is silent."""
        judged = []
        for number, new in enumerate(ids, start=1):
            has_units = speaks(new, self.vocabulary)
            wave = self.speak(np.asarray(new, dtype=np.int64)) if has_units else np.zeros(0, np.float32)
            text = self.transcribe(wave)
            judged.append({"seconds": len(wave) / SAMPLE_RATE, "transcript": text, "nll": self.mean_nll(text)})
            progress(number, len(ids), "continuations judged")
        return judged
