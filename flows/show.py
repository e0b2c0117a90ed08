"""`tinywave plan`, `inspect` and `lineage`: what would run, what there is, what came from what. Nothing is computed."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.console import console
from tasks import terminal
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.counts import count
from tinywave_core.errors import MissingInputError, SourceError, TrainingError
from tinywave_core.storage.store import Artifact, Manifest, NotYetComputedError, Store

if TYPE_CHECKING:
    from tinywave_core.costs.estimates import Estimate
    from tinywave_core.run.start import Start
    from tinywave_core.steps.base import Outputs, Step
    from tinywave_core.steps.reasons import Reason

_PROBED = 2000  # headers that a plan reads at most; the rest is scaled by bytes


def show_plan(what: str, config: PipelineConfig, *, explained: bool = False) -> int:
    """Per stage: steps cached and to run, why, and what the missing part will cost; `explained` says it of every step."""
    from tinywave_core.costs.expectations import expectation
    from tinywave_core.run.preflight import check_layers
    from tinywave_core.run.stages import estimate

    if what == "pipeline":
        check_layers(config)
    store = Store(config.root, create=False)
    (hours, files), device = _hours(config, store), _device(config)
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, title=f"plan for {hours:.2f} h of speech on {device}", title_justify="left"
    )
    for name in ("stage", "steps", "to run", "why"):
        table.add_column(name, overflow="fold")
    for name in ("about", "about MB"):
        table.add_column(name, justify="right")

    walk = _Walk(config, store)
    if config.source is not None:
        _say_source(config, store)
    stages = STAGES if what == "pipeline" else STAGES[: STAGES.index(what) + 1]
    looked = {stage: walk.look_at(stage) for stage in stages}
    start = walk.start(hours)
    if what == "pipeline" and (fault := walk.no_prompt()):
        looked["generation"] = (*looked["generation"][:2], fault)
    costs = estimate(start.config, hours, device)
    seconds = size = 0.0
    for stage, (reasons, known, problem) in looked.items():
        missing = [reason for reason in reasons if not reason.cached]
        share = len(missing) / len(reasons) if reasons and known else 1.0
        cost, why = costs[stage], problem or _why(reasons, missing, known)
        seconds, size = seconds + share * cost.seconds, size + share * cost.bytes
        steps = str(len(reasons)) if known else f"{len(reasons)} or more"
        to_run = str(len(missing)) if known else "all that is not cached"
        table.add_row(stage, steps, to_run, why, _time(share * cost.seconds), f"{share * cost.bytes / 1e6:,.1f}")
    table.add_section()
    table.add_row("in all", "", "", "", _time(seconds), f"{size / 1e6:,.1f}")
    console(width=150).print(table)
    terminal.say(f"the teacher {start.sentence}")
    for line in walk.left_out():
        terminal.say(line)
    training = hours * (1 - config.ingestion.held_out_fraction)
    if what == "pipeline" and (told := expectation(start.config.adaptation.teacher, training)):
        terminal.say(told)
    if explained:
        console(width=150).print(_explained(walk.steps))
    if what == "pipeline":
        terminal.say(_budget(start.config, hours))
        terminal.say(_scale(start.config, hours, costs, device, files, walk.audio_shards()))
    return 0


@dataclass
class _Walk:
    """A walk over the stages in their order, which computes nothing: what is known of each from those before it."""

    config: PipelineConfig
    store: Store
    steps: "list[tuple[Step, Reason]]" = field(default_factory=list)
    _outputs: "Outputs" = field(default_factory=dict)
    _blocked: str = ""
    """The first part that is not computed yet: what is built on it cannot be listed."""

    def look_at(self, stage: str) -> "tuple[list[Reason], bool, str]":
        """Why each of the stage's steps is cached or runs, whether these are all of its steps, and what forbids to run it."""
        from tinywave_core.run.pipeline import Look, build_stage
        from tinywave_core.steps.reasons import explain_all

        look, known, problem = Look(), True, ""
        try:
            if self._blocked:
                raise NotYetComputedError(self._outputs[self._blocked])
            self._outputs |= build_stage(stage, self.config, self.store, self._outputs, look)
        except NotYetComputedError as error:
            known, self._blocked = False, self._blocked or error.artifact.part or "corpus"
            self._outputs.setdefault(self._blocked, error.artifact)
        except KeyError:  # an output that a stage before would have, had it not stopped at the same place
            known = False
        except (MissingInputError, TrainingError) as error:
            # A teacher's folder that is not there, say, or a teacher that has nothing to teach: the plan says so and goes on.
            known, problem = False, str(error)
        reasons = explain_all([step for step, _ in look.steps], [artifact for _, artifact in look.steps])
        self.steps += zip((step for step, _ in look.steps), reasons, strict=True)
        return reasons, known, problem

    def start(self, hours: float) -> "Start":
        """From where the teacher starts; by the hours that the source seems to hold where nothing is ingested yet."""
        from tinywave_core.run.start import choose_start, expected_start

        corpus = self._outputs.get("corpus")
        if corpus is not None and corpus.complete:
            return choose_start(self.config, self.store, corpus)
        return expected_start(self.config, self.store, hours * (1 - self.config.ingestion.held_out_fraction))

    def no_prompt(self) -> str:
        """Why generation will have no prompt; empty where it will, or where nobody can know before ingestion."""
        from tinywave_core.stages.generation.lengths import why_no_prompt

        corpus = self._outputs.get("corpus")
        return why_no_prompt(self.config, corpus) if corpus is not None and corpus.complete else ""

    def audio_shards(self) -> int:
        """Those that were made and those that would be."""
        from tinywave_core.audio.catalog import Catalog
        from tinywave_core.steps.inputs import corpus_key

        new = {step.id for step, _ in self.steps if (step.stage, step.part) == ("ingestion", "shard")}
        return len(new.union(Catalog(self.store, corpus_key(self.config)).shard_ids()))

    def left_out(self) -> list[str]:
        """What thresholds leave out: of the corpus as it will be, or as it is where recordings are new."""
        from tinywave_core.run.pipeline import Look
        from tinywave_core.stages.ingestion import corpus as ingestion
        from tinywave_core.stages.ingestion.quality_words import plan_lines

        corpus = self._outputs.get("corpus")
        more = corpus is None or not corpus.complete
        if more and self.config.ingestion.keep.thresholds:
            before = self.config.model_copy(update={"source": None})
            with contextlib.suppress(SourceError):  # nothing is taken yet
                corpus = ingestion.build(before, self.store, Look())
        return plan_lines(self.config, corpus if corpus is not None and corpus.complete else None, more=more)


def _say_source(config: PipelineConfig, store: Store) -> None:
    from tinywave_core.stages.ingestion.corpus import scan
    from tinywave_core.stages.ingestion.labels import summary_of
    from tinywave_core.stages.ingestion.look import said
    from tinywave_core.stages.ingestion.words import label_facts

    today = scan(config, store)
    for line in said(today):
        terminal.say(line)
    for what, value in label_facts(summary_of(today.labels)):
        terminal.say(f"{what}: {value}")


def _why(reasons: "Sequence[Reason]", missing: "Sequence[Reason]", known: bool) -> str:
    if missing:
        return missing[0].why
    return reasons[0].why if reasons and known else "depends on what comes before"


def _explained(steps: "Sequence[tuple[Step, Reason]]") -> Table:
    """Why each step is cached or has to run; steps of one part with the same answer are one row."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title="every step", title_justify="left")
    for name in ("step", "number", "cached", "why", "artifact"):
        table.add_column(name, overflow="fold")
    rows: dict[tuple[str, bool, str], list[str]] = {}
    for step, reason in steps:
        rows.setdefault((f"{step.stage}/{step.part}", reason.cached, reason.why), []).append(step.id)
    for (name, cached, why), ids in rows.items():
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        table.add_row(name, str(len(ids)), "yes" if cached else "no", why, ids[0] + more)
    return table


def _budget(config: PipelineConfig, hours: float) -> str:
    """What the models take on one data-centre GPU."""
    from tinywave_core.costs.budget import DOLLARS_PER_GPU_HOUR, budget

    b = budget(config, hours)
    return (
        f"models: teacher {b.teacher_parameters / 1e6:,.1f} M, student {b.student_parameters / 1e6:,.1f} M parameters; one pass is "
        f"{b.train_tokens / 1e6:,.2f} M tokens, cached logits {b.logit_bytes / 1e9:,.3f} GB\n"
        f"on one data-centre GPU in bfloat16: {b.adaptation_gib:,.1f} GiB for the teacher, {b.distillation_gib:,.1f} GiB for the "
        f"student, {b.gpu_hours:,.2f} GPU-hours, about ${b.dollars:,.2f} at ${DOLLARS_PER_GPU_HOUR:g} an hour; caching pays from pass "
        f"{b.passes_that_pay:.2f} on"
    )


def _scale(
    config: PipelineConfig, hours: float, costs: "dict[str, Estimate]", device: str, files: int, shards: int
) -> str:
    """What it takes beside time and bytes, if everything is computed."""
    from tinywave_core.costs.scale import scale

    s = scale(config, hours, costs, device, files, shards)
    lines = [
        f"in all {s.shards:,} shards a stage and {s.task_runs:,} task runs; the source is listed in {_time(s.listing_s)}; "
        f"{s.host_gib:,.1f} GiB of the machine's memory for the first process of a training, {s.disk_bytes / 1e9:,.2f} GB of its disk"
    ]
    if s.s3_requests:
        lines.append(
            f"store on S3: {s.s3_requests:,} requests, {s.s3_up_bytes / 1e9:,.2f} GB up, {s.s3_down_bytes / 1e9:,.2f} GB down to each "
            "machine, which keeps them in its temporary folder"
        )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever reads best."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds / 86_400:,.0f} days"


def _device(config: PipelineConfig) -> str:
    from tinywave_core.devices import pick_device

    return pick_device(config.runtime).type


def _hours(config: PipelineConfig, store: Store) -> tuple[float, int]:
    """Hours of speech in the source, from headers of local files, or from the bytes as if they were FLAC; and its recordings."""
    from tinywave_core.audio.source import Source
    from tinywave_core.costs.estimates import FLAC_BYTES_PER_S

    if config.source is None:
        from tinywave_core.stages.ingestion.summary import CorpusSummary

        found = [
            CorpusSummary.of(artifact)
            for artifact in map(store.find, store.artifact_ids("ingestion"))
            if artifact.part == "corpus"
        ]
        return sum(corpus.hours for corpus in found), sum(corpus.files.found for corpus in found)
    import soundfile

    files = Source(config.source).listing().audio
    probed = files[:: max(1, len(files) // _PROBED)]
    seconds = 0.0
    for file in probed:
        if not Path(file.location).is_file():
            seconds += file.bytes / FLAC_BYTES_PER_S
            continue
        with contextlib.suppress(soundfile.SoundFileError):  # ingestion will reject it with its reason
            seconds += min(soundfile.info(file.location).duration, 86_400)
    hours = seconds * sum(f.bytes for f in files) / max(sum(f.bytes for f in probed), 1) / 3600
    return hours, len(files)


def show_artifact(root: str, name: str | None) -> int:
    """One artifact in full, or a table of all."""
    store = Store(root, create=False)
    if name is not None:
        _show(store.resolve(name))
        return 0
    artifacts = [store.find(artifact_id) for artifact_id in store.artifact_ids()]
    if not artifacts:
        raise MissingInputError(f"the store {store.url} holds no artifact yet: run `tinywave run` first")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("artifact", "part", "made", "MB", "seconds"):
        table.add_column(column, overflow="fold")
    order = {stage: number for number, stage in enumerate(STAGES)}
    for artifact in sorted(
        artifacts, key=lambda a: (order.get(a.stage, 99), a.manifest.created_at if a.manifest else "")
    ):
        m = artifact.manifest
        if m is None:
            table.add_row(artifact.id, "damaged: files are missing or cut", "", "", "")
        else:
            table.add_row(artifact.id, m.part, m.created_at, f"{m.total_bytes / 1e6:.2f}", f"{m.seconds:.1f}")
    console(width=150).print(table)
    return 0


def _show(artifact: Artifact) -> None:
    manifest = artifact.manifest
    if manifest is None:
        raise MissingInputError(f"{artifact.id} is damaged: files are missing or cut; run its stage again")
    terminal.say(f"{artifact.id}  ({manifest.part})\n{artifact.url}")
    terminal.say(
        f"made {manifest.created_at} in {manifest.seconds:.1f} s by TinyWave {manifest.code_version}, version {manifest.version}"
    )
    for title, value in (("from", manifest.inputs), ("settings", manifest.config | _short(manifest.params))):
        terminal.say(f"\n{title}\n{json.dumps(value, indent=1)}")
    terminal.say(f"\nsummary\n{json.dumps(manifest.summary, indent=1)}")
    terminal.say("\nfiles")
    for entry in manifest.files:
        terminal.say(f"  {entry.bytes:>12,}  {entry.sha256[:12]}…  {entry.name}")


def _short(params: dict[str, Any]) -> dict[str, Any]:
    """Long lists of a shard's files as their number."""
    return {k: f"{len(v)} entries" if isinstance(v, list) and len(v) > 5 else v for k, v in params.items()}


def show_lineage(root: str, name: str) -> int:
    """Backward from an artifact to audio files; forward from an audio file to everything that heard it."""
    store = Store(root, create=False)
    manifests = {m.fingerprint: m for a in store.artifact_ids() if (m := store.find(a).manifest) is not None}
    by_id = {f"{m.stage}/{m.fingerprint}": m for m in manifests.values()}
    shards = {
        artifact_id
        for artifact_id, row in _audio_files(store, by_id, list(by_id))
        if (row["sha256"].startswith(name.lower()) and len(name) >= 8)
        or row["path"] == name
        or Path(name).name == row["path"]
    }
    if shards:
        _print_forward(name, shards, by_id)
    else:
        _print_backward(store, store.resolve(name).id, by_id)
    return 0


def _audio_files(
    store: Store, by_id: dict[str, Manifest], among: "Iterable[str]"
) -> "Iterator[tuple[str, dict[str, Any]]]":
    """Shard and row of every file in the audio shards among these artifacts."""
    from tinywave_core.audio.utterances import FILES_FILE
    from tinywave_core.storage.shards import rows_of

    shards = [i for i in among if i in by_id and by_id[i].stage == "ingestion" and by_id[i].part == "shard"]
    for i in shards:
        for row in rows_of(store.find(i).path(FILES_FILE), ["path", "sha256", "status"]):
            yield i, row


def _print_forward(name: str, shards: set[str], by_id: dict[str, Manifest]) -> None:
    reached = set(shards)
    while more := {i for i, m in by_id.items() if i not in reached and reached & _inputs(m)}:
        reached |= more
    terminal.say(f"{name} went into {count(len(reached), 'artifact')}:")
    for artifact_id in sorted(reached, key=lambda i: (STAGES.index(by_id[i].stage), by_id[i].created_at)):
        terminal.say(f"  {artifact_id}  {by_id[artifact_id].part}  {by_id[artifact_id].created_at}")


def _print_backward(store: Store, artifact_id: str, by_id: dict[str, Manifest]) -> None:
    seen: set[str] = set()

    def walk(current: str, depth: int) -> None:
        manifest = by_id.get(current)
        part = manifest.part if manifest else "not in the store any more"
        again = " (see above)" if current in seen else ""
        terminal.say(f"{'  ' * depth}{current}  {part}{again}")
        if manifest is None or again:
            return
        seen.add(current)
        for upstream in sorted(_inputs(manifest)):
            walk(upstream, depth + 1)

    walk(artifact_id, 0)
    files = _audio_files(store, by_id, seen)
    taken = sorted((row["path"], row["sha256"][:12]) for _, row in files if row["status"] == "accepted")
    terminal.say(f"\n{count(len(taken), 'audio file')} went in:")
    for path, digest in taken:
        terminal.say(f"  {digest}…  {path}")


def _inputs(manifest: Manifest) -> set[str]:
    return {artifact_id for ids in manifest.inputs.values() for artifact_id in ids}
