"""`tinywave plan`, `inspect` and `lineage`: what would run, what there is, what came from what. Nothing is computed."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.console import console
from tasks import terminal
from tinywave_core.audio.source import printable
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.counts import count
from tinywave_core.errors import MissingInputError
from tinywave_core.storage.store import Artifact, Manifest, Store

if TYPE_CHECKING:
    from tinywave_core.run.plan import Plan
    from tinywave_core.steps.base import Step
    from tinywave_core.steps.reasons import Reason


def show_plan(what: str, config: PipelineConfig, *, explained: bool = False) -> int:
    """Per stage: steps cached and to run, why, and what the missing part will cost; `explained` says it of every step."""
    from tinywave_core.run.plan import make_plan

    whole = what == "pipeline"
    plan = make_plan(config, STAGES[-1] if whole else what, whole=whole)
    for line in plan.source:
        terminal.say(line)
    title = f"plan for {plan.hours:.2f} h of speech on {plan.device}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("stage", "steps", "to run", "why"):
        table.add_column(name, overflow="fold")
    for name in ("about", "about MB"):
        table.add_column(name, justify="right")
    for row in plan.stages:
        steps = str(row.steps) if row.is_whole else f"{row.steps} or more"
        to_run = str(row.to_run) if row.is_whole else "all that is not cached"
        table.add_row(row.stage, steps, to_run, row.why, _time(row.seconds), f"{row.bytes / 1e6:,.1f}")
    table.add_section()
    table.add_row("in all", "", "", "", _time(plan.seconds), f"{plan.bytes / 1e6:,.1f}")
    console(width=150).print(table)
    terminal.say(f"the teacher {plan.teacher}")
    for line in plan.notes:
        terminal.say(line)
    if explained:
        console(width=150).print(_explained(plan.all_steps))
    if whole:
        terminal.say(_budget(plan.config, plan.hours))
        terminal.say(_scale(plan))
    return 0


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


def _scale(plan: "Plan") -> str:
    """What it takes beside time and bytes, if everything is computed."""
    from tinywave_core.costs.scale import scale

    s = scale(plan.config, plan.hours, plan.costs, plan.device, plan.recordings, plan.audio_shards)
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
    store, name = Store(root, create=False), printable(name)
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
