"""`tinywave bench-device`: how fast this machine reads its memory, and which presets' students would speak in real time on it."""

import json
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.console import console
from tasks import terminal
from tinywave_core.config.load import load_config, preset_names
from tinywave_core.costs.ondevice import REAL_TIME, Bandwidth, expected, machine, read_bandwidth, student_of


def bench_device(threads: int, *, as_json: bool) -> int:
    """Probe and print; `threads` 0 takes all cores."""
    facts = machine()
    probes = [read_bandwidth(count) for count in range(1, (threads or facts["cores"]) + 1)]
    best = max(probes, key=lambda probe: probe.bytes_per_s)
    rows = expected([student_of(name, load_config(name, {})) for name in preset_names()], best.bytes_per_s)
    if as_json:
        terminal.say(
            json.dumps({"machine": facts, "bandwidth": [asdict(p) for p in probes], "students": rows}, indent=1)
        )
        return 0
    show = console()
    show.print(", ".join(f"{name.replace('_', ' ')}: {_as_text(value)}" for name, value in facts.items()))
    show.print(_bandwidths(probes))
    show.print(_students(rows))
    limits = ", ".join(f"{kind} {enough:g} ({comfortable:g})" for kind, (enough, comfortable) in REAL_TIME.items())
    show.print(
        f"Tokens per second at {best.bytes_per_s / 1e9:.1f} GB/s. Real time (comfortable) is {limits} tokens per second."
    )
    if facts["load_average"] > 0.5:
        show.print("Other work was running: on a quiet machine these figures are higher.")
    return 0


def _as_text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _bandwidths(probes: list[Bandwidth]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("threads", "GB/s read", "GB/s per second of CPU"):
        table.add_column(name, justify="right")
    for probe in probes:
        table.add_row(str(probe.threads), f"{probe.bytes_per_s / 1e9:.1f}", f"{probe.bytes_per_core_s / 1e9:.1f}")
    return table


def _students(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("preset", "left"), ("tokens", "left"), ("weights", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("MB per token", "tokens per s"):
        table.add_column(name, justify="right")
    table.add_column("so it is")
    for row in rows:
        speed, size = row["tokens_per_s"], row["bytes_per_token"] / 1e6
        table.add_row(row["preset"], row["tokens"], row["form"], f"{size:,.1f}", f"{speed:,.1f}", row["verdict"])
    return table
