"""The report of a run: one HTML page that needs nothing else, from the manifests and small files of the outputs.

Pictures are inline SVG, sounds are MP3 in data URIs. All text is escaped by the template (paths may hold HTML).
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from tinywave_core import plots
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.counts import count
from tinywave_core.exporters.judge_words import heard_briefly, judges_rows, judges_text
from tinywave_core.reporting.clips import clip_data
from tinywave_core.reporting.gap import gap_section
from tinywave_core.reporting.glossary import Linker, entries
from tinywave_core.reporting.lineage import lineage
from tinywave_core.reporting.preference import preference_section
from tinywave_core.reporting.quality import quality_section
from tinywave_core.run.record import StageRow
from tinywave_core.stages.adaptation.words import teacher_lines
from tinywave_core.stages.distillation.pull import advice, pull_lines
from tinywave_core.stages.distillation.words import distilled, loss_lines, term_lines
from tinywave_core.stages.evaluation.summary import (
    GeneratedSummary,
    ProbeScoresSummary,
    ProbesSummary,
    RatingsSummary,
    ScoresSummary,
    UnitsSummary,
)
from tinywave_core.stages.evaluation.unit_words import unit_rows, units_in_short, units_text
from tinywave_core.stages.evaluation.words import (
    SOURCES,
    comparison_rows,
    continuation_text,
    direction_rows,
    generated_rows,
    generated_text,
    headline,
    likelihood_rows,
    nll_by_kind,
    probe_rows,
    probes_in_short,
    probes_text,
    rating_rows,
    ratings_text,
    verdict_of,
)
from tinywave_core.stages.export.summary import JudgesSummary, VocoderSummary
from tinywave_core.stages.export.words import vocoder_rows, voice_text
from tinywave_core.stages.generation.summary import SamplesSummary
from tinywave_core.stages.ingestion.summary import CorpusSummary, LabelsSummary
from tinywave_core.stages.ingestion.words import duration_bins, label_facts, number_of_rejects, rejects
from tinywave_core.stages.logit_caching.summary import LogitsSummary
from tinywave_core.stages.logit_caching.words import target_rows
from tinywave_core.stages.tokenization.summary import BenchmarksSummary, NearDuplicatesSummary, TokensSummary
from tinywave_core.stages.tokenization.words import alignment_text, benchmarks_text, drift_text, near_duplicates_text
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.training.curves import curves_of, gradients_of
from tinywave_core.wording import MODELS, duration, size, unbroken

if TYPE_CHECKING:
    from pydantic import BaseModel

    from tinywave_core.run.record import RunRecord

MAX_SAMPLES = 12
# No further sample is embedded beyond this size of sounds and pictures: a phone has to open the page.
MAX_EMBEDDED_BYTES = 4_000_000
MAX_REJECTS = 50
MAX_ALIGNED, MAX_ALIGNED_S = 3, 8.0
MAX_PROBE_PAIRS = 2  # of each probe
MAX_TRANSCRIBED = 3  # prompts whose continuations are shown as text


# Sections by id, in their order; the contents list names those that a run has.
TITLES = {
    "listen": "Listen",
    "scores": "All figures of the models",
    "probes": "Probes: right or wrong recording",
    "gap": "The gap between student and teacher",
    "generated": "Continuations read as text",
    "preference": "Preference tuning",
    "sound": "How it sounds",
    "units": "Quality of the speech units",
    "stages": "The stages of this run",
    "data": "The speech that went in",
    "quality": "Quality of the utterances",
    "curves": "Training curves and targets",
    "lineage": "Lineage and settings",
    "glossary": "Glossary",
}


def render_report(record: "RunRecord", outputs: Outputs) -> str:
    """The page."""
    parts = _parts(record, outputs)
    absent = {
        name
        for name, needs in {"probes": "probe_text", "generated": "generated_text", "units": "units_text"}.items()
        if not parts[needs]
    }
    absent |= {
        name for name in ("gap", "preference", "quality") if not parts["quality_text" if name == "quality" else name]
    }
    contents = [(name, title) for name, title in TITLES.items() if name not in absent]
    return _template().render(**parts, titles=TITLES, contents=contents, glossary=entries(), terms=Linker())


def _parts(record: "RunRecord", outputs: Outputs) -> dict[str, Any]:
    """What the template shows, by name."""
    scores, shown = ScoresSummary.of(outputs["scores"]), samples(outputs["samples"])
    rows = comparison_rows(scores)
    return dict(
        record=record,
        headline=unbroken(headline(outputs)),
        verdict=[claim_and_figures(sentence) for sentence in verdict_lines(record, outputs)],
        comparison=rows[: len(MODELS)],
        floors=rows,
        held_out=scores.held_out,
        samples=shown,
        further_samples=SamplesSummary.of(outputs["samples"]).samples - len(shown),
        vocoder=SamplesSummary.of(outputs["samples"]).vocoder,
        voice=voice_text(VocoderSummary.of(outputs["vocoder"])) if "vocoder" in outputs else "",
        vocoder_rows=vocoder_rows(VocoderSummary.of(outputs["vocoder"])) if "vocoder" in outputs else [],
        stages_text=_stages_text(record),
        dag=Markup(_dag(record, outputs["corpus"].store)),
        corpus=CorpusSummary.of(outputs["corpus"]),
        tokens=outputs["tokens"].summary,
        drift=drift_text(TokensSummary.of(outputs["tokens"])),
        words=alignment_text(TokensSummary.of(outputs["tokens"])),
        aligned=aligned_examples(outputs["tokens"]),
        near_duplicates=near_duplicates_text(NearDuplicatesSummary.of(outputs["near_duplicates"]))
        if "near_duplicates" in outputs
        else "",
        benchmarks=benchmarks_text(BenchmarksSummary.of(outputs["benchmarks"])) if "benchmarks" in outputs else "",
        directions=direction_rows(scores),
        likelihood=likelihood_rows(scores),
        continuation=continuation_text(scores),
        **probe_section(outputs),
        **gap_section(outputs),
        **generated_section(outputs),
        **preference_section(outputs),
        **judges_section(outputs),
        **units_section(outputs),
        **quality_section(outputs),
        rejects=rejects(outputs["corpus"], MAX_REJECTS),
        more_rejects=max(0, number_of_rejects(CorpusSummary.of(outputs["corpus"])) - MAX_REJECTS),
        labels=label_facts(LabelsSummary.of(outputs["labels"])) if "labels" in outputs else [],
        data_plots=[Markup(svg) for svg in data_plots(outputs) if svg],
        curves=[Markup(svg) for svg in curve_plots(outputs) if svg],
        targets=target_rows(LogitsSummary.of(outputs["logits"])),
        targets_about=LogitsSummary.of(outputs["logits"]),
        lineage=lineage(record.rows, outputs, record.used_by),
        settings=settings(record.config),
        code_version=_code_versions(outputs),
        count=count,
        duration=duration,
        size=size,
    )


def verdict_lines(record: "RunRecord", outputs: Outputs) -> list[str]:
    """The verdict, and what was decided of the student; a warning about it comes first."""
    *warning, decision = record.promotion.sentences
    return [*warning, *verdict_of(outputs), decision]


def claim_and_figures(sentence: str) -> tuple[str, str]:
    """A sentence of the verdict in two: what it claims, and the figures after its colon."""
    claim, colon, figures = sentence.partition(": ")
    if claim in ("Warning", "Published", "Published before", "Not published"):
        more, colon, figures = figures.partition(": ")
        claim = f"{claim}: {more}"
    return (f"{claim}." if colon else claim), f"{figures[:1].upper()}{figures[1:]}"


def _stages_text(record: "RunRecord") -> str:
    computed, steps = sum(row.computed for row in record.rows), sum(len(row.steps) for row in record.rows)
    found = "" if computed == steps else ", the others were found in the store"
    return f"{computed} of {steps} steps were computed{found}; {record.seconds:.1f} s."


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("tinywave_core.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


# Listen ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """One player."""

    title: str
    seconds: float
    width: float
    """Share of the longest clip of the sample, so that pictures stand in line with their time."""
    cut: float | None
    """Where the prompt ends, as a share of the clip; None for the prompt itself."""
    audio: str
    picture: str


@dataclass(frozen=True)
class Sample:
    """One continuation with what it was made from."""

    number: int
    speaker: str | None
    transcript: str | None
    new_tokens: int
    clips: list[Clip]

    @property
    def embedded_bytes(self) -> int:
        return sum(len(clip.audio) + len(clip.picture) for clip in self.clips)


CLIPS = {
    "prompt": "Prompt, as recorded",
    "continuation": "Prompt and the student's continuation, through the vocoder",
    "original": "How it really went on, through the same vocoder",
}


def samples(artifact: Artifact) -> list[Sample]:
    """Players of the first samples of a `samples` artifact."""
    if "samples.json" not in artifact.files:
        return []
    rows = json.loads(artifact.path("samples.json").read_text(encoding="utf-8"))
    shown: list[Sample] = []
    for number, row in enumerate(rows[:MAX_SAMPLES], start=1):
        sample = _sample(artifact, number, row)
        if shown and sum(s.embedded_bytes for s in [*shown, sample]) > MAX_EMBEDDED_BYTES:
            break
        shown.append(sample)
    return shown


def _sample(artifact: Artifact, number: int, row: dict[str, Any]) -> Sample:
    longest = max(row["seconds"].values())
    clips = []
    for name, title in CLIPS.items():
        file = f"{number:02d}-{name}.wav"
        if file in artifact.files:
            seconds = row["seconds"][name]
            cut = None if name == "prompt" else min(1.0, row["seconds"]["prompt"] / max(seconds, 1e-6))
            audio, picture = clip_data(artifact.path(file).read_bytes())
            clips.append(Clip(title, seconds, seconds / max(longest, 1e-6), cut, audio, picture))
    return Sample(number, row["speaker"], row["transcript"], row["new_tokens"], clips)


# Words -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AlignedWord:
    """A word under its stretch of the picture."""

    text: str
    left: float
    """Where it begins, as a share of the clip."""
    width: float


@dataclass(frozen=True)
class Aligned:
    """One utterance with the times that its words were given."""

    seconds: float
    audio: str
    picture: str
    words: list[AlignedWord]


def aligned_examples(tokens: Artifact) -> list[Aligned]:
    """A few utterances that were aligned, to look and listen whether the words stand where they are spoken."""
    from tinywave_core.audio.utterances import read_utterances

    mixed = [s["id"] for s in tokens.summary.get("shards", []) if s.get("part") == "interleaved"]
    manifests = [tokens.store.find(i, "interleaved").manifest for i in mixed[:1]]
    shown: list[Aligned] = []
    for words in [
        tokens.store.find(i, "alignment") for manifest in manifests if manifest for i in manifest.inputs["words"]
    ]:
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in read_table(words.path("words.parquet")).to_pylist():
            rows.setdefault(row["utterance_id"], []).append(row)
        audio = [tokens.store.find(i, "shard") for i in words.manifest.inputs["audio"]]  # type: ignore[union-attr]
        for utterance in (u for shard in audio for u in read_utterances(shard)):
            seconds = len(utterance.samples) / SAMPLE_RATE
            if utterance.utterance_id in rows and seconds < MAX_ALIGNED_S and len(shown) < MAX_ALIGNED:
                shown.append(_aligned(utterance.samples, rows[utterance.utterance_id]))
    return shown


def _aligned(samples: Any, rows: list[dict[str, Any]]) -> Aligned:
    import soundfile

    wav = io.BytesIO()
    soundfile.write(wav, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    sound, picture = clip_data(wav.getvalue())
    words = [
        AlignedWord(
            row["word"],
            row["start_samples"] / len(samples),
            (row["end_samples"] - row["start_samples"]) / len(samples),
        )
        for row in rows
    ]
    return Aligned(len(samples) / SAMPLE_RATE, sound, picture, words)


# Probes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProbePair:
    """The right and the wrong recording of one item."""

    probe: str
    speaker: str
    about: str
    clips: list[Clip]


def probe_section(outputs: Outputs) -> dict[str, Any]:
    """Table, text and players of the probes; empty where a run has none."""
    if "probe_scores" not in outputs:
        return {"probe_text": "", "probe_short": "", "probe_rows": [], "probe_pairs": []}
    made, scores = ProbesSummary.of(outputs["probes"]), ProbeScoresSummary.of(outputs["probe_scores"])
    text, rows = probes_text(made, scores), probe_rows(scores)
    return {
        "probe_text": text,
        "probe_short": probes_in_short(scores),
        "probe_rows": rows,
        "probe_pairs": probe_pairs(outputs["probes"]),
    }


def probe_pairs(probes: Artifact) -> list[ProbePair]:
    """Players of the first pairs of every probe."""
    from tinywave_core.stages.evaluation.probes import read_index

    shown: list[ProbePair] = []
    for row in read_index(probes):
        probe = row["probe"].replace("_", " ")
        embedded = sum(len(clip.audio) + len(clip.picture) for pair in shown for clip in pair.clips)
        if sum(pair.probe == probe for pair in shown) < MAX_PROBE_PAIRS and embedded < MAX_EMBEDDED_BYTES:
            seconds, clips = row["samples"] / SAMPLE_RATE, []
            for version, title in (("positive", "Right"), ("negative", f"Wrong: {row['about']}")):
                audio, picture = clip_data(probes.path(row[version]).read_bytes())
                cut = row[f"{version}_splice_samples"] / row["samples"]
                clips.append(Clip(title, seconds, 1.0, cut, audio, picture))
            shown.append(ProbePair(probe, row["speaker"], row["about"], clips))
    return shown


# Continuations as text --------------------------------------------------------------------------------------------


def generated_section(outputs: Outputs) -> dict[str, Any]:
    """Text, table and some transcripts of the continuations that were judged; empty where no judges were given."""
    if "generated" not in outputs:
        return {"generated_text": "", "generated_rows": [], "transcripts": [], "ratings_text": "", "ratings_rows": []}
    continued = GeneratedSummary.of(outputs["generated"])
    text, rows = generated_text(continued), generated_rows(continued)
    said = RatingsSummary.of(outputs["ratings"]) if "ratings" in outputs else None
    return {
        "generated_text": text,
        "generated_rows": rows,
        "transcripts": transcripts(outputs["generated"]),
        "ratings_text": ratings_text(said) if said else "",
        "ratings_rows": rating_rows(said) if said else [],
    }


def judges_section(outputs: Outputs) -> dict[str, Any]:
    """How it sounds: text and table, or which judges were absent."""
    heard = JudgesSummary.of(outputs["judges"]) if "judges" in outputs else None
    return {"judges_text": judges_text(heard), "judges_rows": judges_rows(heard), "sound": _upper(heard_briefly(heard))}


def _upper(text: str) -> str:
    """As a sentence: a capital letter, where the rest has names that keep theirs."""
    return f"{text[:1].upper()}{text[1:]}."


def units_section(outputs: Outputs) -> dict[str, Any]:
    """What the units are worth; empty where it was not measured."""
    if "units" not in outputs:
        return {"units_text": "", "units_short": "", "units_rows": []}
    worth = UnitsSummary.of(outputs["units"])
    return {"units_text": units_text(worth), "units_short": units_in_short(worth), "units_rows": unit_rows(worth)}


def transcripts(generated: Artifact) -> list[dict[str, str]]:
    """What was heard of the first prompts' continuations, a dict per continuation."""
    rows = read_table(generated.path("generated.parquet"), ["utterance_id", "source", "transcript"]).to_pylist()
    numbers = {i: n for n, i in enumerate(dict.fromkeys(row["utterance_id"] for row in rows), start=1)}
    shown = [row for row in rows if numbers[row["utterance_id"]] <= MAX_TRANSCRIBED]
    return [
        {
            "prompt": str(numbers[row["utterance_id"]]),
            "by": SOURCES[row["source"]],
            "heard": row["transcript"] or "nothing",
        }
        for row in sorted(shown, key=lambda row: numbers[row["utterance_id"]])
    ]


# The DAG ---------------------------------------------------------------------------------------------------------


def stage_edges(store: Store, rows: Sequence[StageRow]) -> list[tuple[str, str]]:
    """(from, to) for every two stages of which one read the other's output: from the manifests, one per part."""
    edges: dict[tuple[str, str], None] = {}
    for row in rows:
        for artifact in {step.part: step.artifact for step in row.steps}.values():
            manifest = store.find(artifact).manifest
            inputs = manifest.inputs.values() if manifest else ()
            edges |= {(source.split("/")[0], row.stage): None for ids in inputs for source in ids}
    return [(start, end) for start, end in edges if start != end]


def _dag(record: "RunRecord", store: Store) -> str:
    place = {row.stage: i for i, row in enumerate(record.rows)}
    nodes = [plots.Node(row.stage, row.status, row.seconds, row.why, bool(row.computed)) for row in record.rows]
    return plots.dag_svg(nodes, [(place[start], place[end]) for start, end in stage_edges(store, record.rows)])


# Data ------------------------------------------------------------------------------------------------------------


def data_plots(outputs: Outputs) -> list[str]:
    """Durations, and how often every code of every stream occurs."""
    tokens = TokensSummary.of(outputs["tokens"])
    hz = tokens.vocabulary.rates.frames_hz
    codes = [
        (tokens.unit_histogram, f"Units, {hz['units']:g} Hz: most frequent first", "unit, by rank", True),
        (tokens.pitch_histogram, f"Pitch, {hz['pitch']:g} Hz: 0 is unvoiced, the rest rises", "pitch code", False),
        (tokens.style_histogram, f"Style, {hz['style']:g} Hz: most frequent first", "style code, by rank", True),
    ]
    pictures = [_figure("Length of utterances", _durations(CorpusSummary.of(outputs["corpus"])))]
    for counts, title, label, ranked in codes:
        shown = sorted(counts, reverse=True) if ranked else counts
        picture = plots.histogram_svg(shown, title=title, x_label=label, y_label="frames")
        unused = sum(not count for count in counts)
        pictures.append(_figure(title + (f" ({unused} of {len(counts)} never occur)" if unused else ""), picture))
    return pictures


def _durations(corpus: CorpusSummary) -> str:
    labels, counts = duration_bins(corpus)
    title = "Length of utterances"
    return plots.histogram_svg(counts, title=title, x_label="seconds", y_label="utterances", labels=labels)


def _figure(caption: str, svg: str) -> str:
    return str(Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(caption, Markup(svg))) if svg else ""


# Curves ----------------------------------------------------------------------------------------------------------


def curve_plots(outputs: Outputs) -> list[str]:
    """Losses, learning rates and NLL by kind of token."""
    step = "optimiser step"
    student, control = curves_of(distilled(outputs)), curves_of(outputs["control"])
    rates = [
        plots.Line(part, *plots.series_of(curve, "learning_rate"), part, noisy=False)
        for part, curve in (("teacher", curves_of(outputs["teacher"])), ("student", student or control))
        if curve
    ]
    losses = {
        "Teacher: loss on training and validation speech": (teacher_lines(outputs), "nats per token"),
        "Student and undistilled control: cross-entropy on the true tokens": (loss_lines(outputs), "nats per token"),
        "Student: every term of its loss": (term_lines(outputs), "per token"),
        "Learning rate": (rates, "rate"),
    }
    pictures = [
        _figure(title, plots.line_svg(lines, title=title, x_label=step, y_label=unit))
        for title, (lines, unit) in losses.items()
    ]
    by_kind = _figure("Held-out NLL by kind of token", _nll_by_kind(ScoresSummary.of(outputs["scores"])))
    return [*pictures, _pull_plot(outputs), by_kind]


def _pull_plot(outputs: Outputs) -> str:
    title = "Student: how hard each term of its loss pulls"
    svg = plots.line_svg(pull_lines(outputs), title=title, x_label="optimiser step", y_label="norm of the gradient")
    return _figure(f"{title}. {advice(gradients_of(distilled(outputs))).capitalize()}.", svg)


def _nll_by_kind(scores: ScoresSummary) -> str:
    kinds, series = nll_by_kind(scores)
    return plots.bars_svg(kinds, series, title="Held-out NLL by kind of token", y_label="nats per token")


# Settings --------------------------------------------------------------------------------------------------------


def _code_versions(outputs: Outputs) -> str:
    versions = {artifact.manifest.code_version for artifact in outputs.values() if artifact.manifest}
    return ", ".join(sorted(versions))


@dataclass(frozen=True)
class Setting:
    """One setting as it was in the run."""

    name: str
    value: str
    default: str
    changed: bool
    help: str


def settings(config: dict[str, Any]) -> list[Setting]:
    """All settings of a run, flat, beside their defaults."""
    defaults, helps = _flat(PipelineConfig().model_dump(mode="json")), _helps(PipelineConfig)
    return [
        Setting(name, _shown(value), _shown(defaults.get(name)), value != defaults.get(name), helps.get(name, ""))
        for name, value in _flat(config).items()
    ]


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in config.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return out


def _helps(model: "type[BaseModel]", prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for name, info in model.model_fields.items():
        nested = info.annotation
        if isinstance(nested, type) and hasattr(nested, "model_fields"):
            out |= _helps(nested, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = info.description or ""
    return out


def _shown(value: Any) -> str:
    return "—" if value is None else str(value)
