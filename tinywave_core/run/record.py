"""What one stage did in a run, in a line a person can read: what came in, what came out, seconds, cached or why not."""

from typing import Any

from pydantic import BaseModel

from tinywave_core.run.promotion import Promotion
from tinywave_core.steps.base import Step, Summary
from tinywave_core.steps.reasons import Reason
from tinywave_core.storage.store import Artifact
from tinywave_core.wording import duration, figure



class StepRow(BaseModel):
    """One step of a stage in this run."""

    part: str
    artifact: str
    cached: bool
    why: str
    seconds: float
    bytes: int


class StageRow(BaseModel):
    """One stage of a run."""

    stage: str
    came_in: str
    came_out: str
    seconds: float
    """Wall time of the stage in this run, orchestration included."""
    steps: list[StepRow]

    @property
    def computed(self) -> int:
        return sum(not step.cached for step in self.steps)

    @property
    def status(self) -> str:
        """`cached`, `run`, or how many of its steps ran."""
        if not self.computed:
            return "cached"
        return "run" if self.computed == len(self.steps) else f"{self.computed} of {len(self.steps)} run"

    @property
    def why(self) -> str:
        """The reason that counts: of the first step that ran, else of pinning, else of caching."""
        ran = [step.why for step in self.steps if not step.cached]
        pinned = [step.why for step in self.steps if step.why.startswith("pinned")]
        return (ran or pinned or [step.why for step in self.steps] or ["nothing to do"])[0]

    def line(self) -> str:
        return f"  {self.stage:<14} {self.status:<12} {self.seconds:6.1f} s  {self.came_in} → {self.came_out}  ({self.why})"


def stage_row(stage: str, outputs: Outputs, runs: list[tuple[Step, Reason, Artifact]], seconds: float) -> StageRow:
    """The row of a stage from its steps and all outputs so far."""
    came_in, came_out = _texts(stage, outputs)
    steps = [
        StepRow(
            part=step.part,
            artifact=artifact.id,
            cached=reason.cached,
            why=reason.why,
            seconds=artifact.manifest.seconds if artifact.manifest and not reason.cached else 0.0,
            bytes=artifact.manifest.total_bytes if artifact.manifest else 0,
        )
        for step, reason, artifact in runs
    ]
    return StageRow(stage=stage, came_in=came_in, came_out=came_out, seconds=seconds, steps=steps)


def _texts(stage: str, outputs: Outputs) -> tuple[str, str]:
    """What came in and what came out."""
    s = {part: artifact.summary for part, artifact in outputs.items()}
    match stage:
        case "ingestion":
            files, corpus = s["corpus"]["files"], s["corpus"]
            rejected = f", {files['rejected']} rejected" if files["rejected"] else ""
            skipped = f", {files['skipped']} skipped" if files["skipped"] else ""
            out = f"{corpus['utterances']} utterances, {duration(corpus['hours'])}, {corpus['speakers']} speakers"
            return f"{files['found']} files", out + rejected + skipped
        case "tokenization":
            tokens = s["tokens"]
            return (
                f"{len(tokens['shards'])} shards",
                f"{tokens['tokens']:,} tokens, {tokens['tokens_per_s']:.1f} per second",
            )
        case "adaptation":
            teacher = s["teacher"]
            nll = teacher["held_out_nll_after"]
            scored = f", held-out NLL {nll:.3f}" if nll is not None else ""
            out = f"teacher of {teacher['parameters'] / 1e6:.2f} M in {teacher['layers']} blocks{scored}"
            return f"{teacher['train_tokens']:,} training tokens", out
        case "logit_caching":
            logits = s["logits"]
            return (
                f"{logits['sequences']} sequences",
                f"{logits['tokens']:,} targets of {logits['bytes_per_token']:.1f} B",
            )
        case "distillation":
            student = s["student"]
            out = f"student of {student['parameters'] / 1e6:.2f} M in {student['layers']} blocks, and its control"
            replayed = f", {student['replayed_sequences']} of them again" if student.get("continuations") else ""
            return f"{student['train_sequences']} sequences{replayed}, {student['steps']} steps", out
        case "evaluation":
            scores = s["scores"]
            nll = ", ".join(f"{name} {scores['models'][name]['nll']:.3f}" for name in ("teacher", "student", "control"))
            return f"{scores['held_out']['sequences']} held-out utterances", f"NLL: {nll}{_probes(s)}{_generated(s)}"
        case "export":
            model = s["model"]
            return (
                f"student of {model['parameters'] / 1e6:.2f} M",
                f"{model['name']}, {model['bytes'] / 1e6:.1f} MB{rounding_losses(model)}",
            )
        case "generation":
            samples = s["samples"]
            out = f"{samples['new_tokens']} tokens, {samples['seconds']:.1f} s of audio"
            return f"{samples['samples']} prompts", out
    raise AssertionError(stage)


def rounding_losses(model: Summary) -> str:
    """What the GGUF files of an export lose in perplexity, as in "; GGUF Q8_0 +0.01%"."""
    losses = model.get("perplexity") or {}
    told = ", ".join(f"{name.upper()} {figure(loss, '+.2%')}" for name, loss in losses.get("loss", {}).items())
    return f"; perplexity of GGUF {told}" if told else ""


def _probes(summaries: dict[str, Summary]) -> str:
    probes = summaries.get("probe_scores")
    if not probes or not probes["items"]:
        return ""
    right = ", ".join(f"{name} {each['accuracy']:.0%}" for name, each in probes["overall"].items())
    return f"; of {probes['items']} probes right: {right}"


def _generated(summaries: dict[str, Summary]) -> str:
    generated = summaries.get("generated")
    if not generated or not generated["sources"]:
        return ""
    told = (f"{name} {figure(found['gen_ppl'], '.1f')}" for name, found in generated["sources"].items())
    return f"; generative perplexity: {', '.join(told)}"


class RunRecord(BaseModel):
    """One run of the pipeline; kept as runs/NNNNNN.json."""

    number: int = 0
    finished_at: str
    seconds: float
    config: dict[str, Any]
    rows: list[StageRow]
    outputs: dict[str, str]
    """Artifact id by part."""
    artifacts: dict[str, list[str]]
    """All artifact ids used, by "stage/part"."""
    used_by: dict[str, list[str]] = {}
    """By "stage/part", which of them were made from it."""
    student: str
    """Where the exported student lies."""
    samples: list[str]
    """Where the generated wav files lie."""
    promotion: Promotion
    """Whether its student is published, and why."""
    report: str = ""
    """Where the HTML report lies."""
    report_sha256: str = ""
