"""`tinywave verify`, `repair`, `gc` and `forget`: check a store, mend it, clean it, and remove a recording from it."""

import sys
import time
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.console import console
from tasks import terminal
from tinywave_core.audio.source import printable
from tinywave_core.config.pipeline import STAGES
from tinywave_core.counts import count
from tinywave_core.errors import ConfigError, MissingInputError
from tinywave_core.storage.care.census import Census, Folder, take_census
from tinywave_core.storage.care.collect import collect, find_garbage
from tinywave_core.storage.care.forget import Traces, find_traces, forget
from tinywave_core.storage.care.repair import flip_back, repair
from tinywave_core.storage.care.verify import Finding, check_listing, verify
from tinywave_core.storage.store import ABOUT, Store

_MOST_ROWS = 60  # findings that a table lists


def verify_store(root: str) -> int:
    """Check everything and print a table of what is wrong; exit status 2 if anything is."""
    census = take_census(_open(root, mend=True))
    findings = verify(census, _Progress())
    wrong = [finding for finding in findings if not finding.harmless]
    if findings:
        _show_findings(findings)
    number = len(census.artifacts)
    if not wrong:
        terminal.say(f"nothing is wrong with {count(number, 'artifact')} in {census.store.url}")
        return 0
    places = len({finding.where for finding in wrong})
    terminal.say(
        f"{count(places, 'place')} of {census.store.url} to mend; the other artifacts of {number} are as they were made"
    )
    return 2


def repair_store(root: str) -> int:
    """Move damage out of the way, and say what was done and how the rest comes back."""
    store = _open(root, mend=True)
    with store.lock("tinywave repair"):
        done = flip_back(take_census(store))
        census = take_census(store)
        done += repair(census, verify(census, _Progress()))
        for action in done:
            terminal.say(f"{action.where}: {action.what}")
        remaining = [finding for finding in check_listing(take_census(store)) if not finding.harmless]
    if not done:
        terminal.say(f"nothing to repair in {store.url}")
    if remaining:
        _show_findings(remaining)
        terminal.say(f"the next run computes what is missing again, with the same ids:\n  {_run_again(census)}")
    return 0


def collect_garbage(root: str, keep: int, older_than_hours: float, yes: bool) -> int:
    """List what nothing needs any more, by stage; with --yes remove it."""
    for flag, value in {"--keep": keep, "--older-than": older_than_hours}.items():
        if value < 0:
            raise ConfigError(f"{flag} is {value:g}; expected 0 or more")
    store = _open(root)
    with store.lock("tinywave gc"):
        census = take_census(store)
        garbage = find_garbage(census, keep, older_than_hours * 3600)
        _show_by_stage(garbage.artifacts, garbage.leftovers.values())
        number = len(garbage.artifacts) + len(garbage.leftovers)
        if yes:
            collect(census, garbage)
    what = f"{count(number, 'artifact')} and leftovers, {garbage.bytes / 1e6:,.1f} MB; {count(garbage.kept, 'artifact')} to stay"
    terminal.say(f"removed {what}" if yes else f"would remove {what}" + (": add --yes to do it" if number else ""))
    return 0


def forget_recording(root: str, name: str, yes: bool) -> int:
    """List what was made from a recording; with --yes remove all of it, and never take the recording in again."""
    store = _open(root)
    with store.lock("tinywave forget"):
        census = take_census(store)
        traces = find_traces(census, printable(name))
        _show_traces(traces)
        if not yes:
            terminal.say("nothing was removed: add --yes to do it")
            return 0
        forget(census, traces)
    terminal.say(f"forgotten: {count(len(traces.artifacts), 'artifact')} removed, only the digest of the file is kept")
    terminal.say(f"the next run makes what is missing without it:\n  {_run_again(census)}")
    return 0


def _show_traces(traces: Traces) -> None:
    for digest in traces.digests:
        terminal.say(f"{digest}")
    for path in traces.paths:
        terminal.say(f"  {path}")
    terminal.say(
        f"\nwent into {count(len(traces.artifacts), 'artifact')}, {sum(f.bytes for f in traces.artifacts) / 1e6:,.1f} MB:"
    )
    for folder in reversed(traces.artifacts):
        terminal.say(f"  {folder.id}  {folder.manifest.part if folder.manifest else ''}")
    for pin in traces.pins:
        terminal.say(f"  {pin}  points to one of them")
    for report in traces.reports:
        terminal.say(f"  {report}  shows one of them")
    terminal.say(
        "  unfinished work and everything that was set aside, for they do not record which recordings they hold"
    )
    if traces.neighbours:
        terminal.say(
            f"\n{count(traces.neighbours, 'other file')} in the same shards: the next run takes them from its source again, so "
            "pass one that still has them"
        )


def _show_findings(findings: Sequence[Finding]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("where", "what", "", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings[:_MOST_ROWS]:
        table.add_row(finding.where, finding.what, finding.detail, finding.advice)
    console(width=150).print(table)
    if len(findings) > _MOST_ROWS:
        terminal.say(f"and {len(findings) - _MOST_ROWS} more")


def _show_by_stage(folders: Sequence[Folder], leftovers: Iterable[int]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    for column in ("artifacts", "MB"):
        table.add_column(column, justify="right")
    order = {stage: number for number, stage in enumerate(STAGES)}
    for stage in sorted({folder.stage for folder in folders}, key=lambda stage: order.get(stage, len(order))):
        sizes = [folder.bytes for folder in folders if folder.stage == stage]
        table.add_row(stage, str(len(sizes)), f"{sum(sizes) / 1e6:,.1f}")
    if leftover_bytes := list(leftovers):
        table.add_row("leftovers", str(len(leftover_bytes)), f"{sum(leftover_bytes) / 1e6:,.1f}")
    if table.rows:
        console(width=150).print(table)


def _run_again(census: Census) -> str:
    """The command that computes the rest; the source of the last run where there is a record of one."""
    runs = [run for log in census.of("runs") for run in log.readable]
    source = (runs[-1].get("config", {}).get("source") if runs else None) or "SOURCE"
    return f"tinywave run --source {source} --root {census.store.url}  (and the settings of the run before)"


def _open(root: str, *, mend: bool = False) -> Store:
    store = Store(root, create=False, mend=mend)
    if not store.exists(ABOUT):
        raise MissingInputError(f"there is no store at {store.url}: pass --root")
    return store


class _Progress:
    """A line on a terminal that says how far the check is, at most five times a second."""

    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty() and (done == total or time.monotonic() - self._said > 0.2):
            self._said = time.monotonic()
            terminal.say_over(f"checked {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", last=done == total)
