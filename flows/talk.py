"""`tinywave talk`: exported models behind a page on this machine, and behind HTTP and WebSocket for programs."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from flows.generate import Loading
from flows.listening import listen
from tasks import terminal
from tinywave_core.errors import ConfigError
from tinywave_core.serving.app import Server
from tinywave_core.serving.connections import TalkConfig
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.limits import Limits

SWITCH_S = 0.0005
"""After which a model gives Python's lock to the server: each of its many short steps waits for that (Python's own is ten times that)."""


def talk(
    models: Sequence[Loading],
    host: str,
    port: int,
    allowed_hosts: Sequence[str],
    *,
    max_prompt_s: float,
    max_wall_s: float,
    queue: int,
) -> int:
    """Load the models and serve them until Ctrl-C; ConfigError where a number is none that can be served with."""
    _check(port, max_prompt_s, max_wall_s, queue)
    sys.setswitchinterval(SWITCH_S)
    limits = Limits(prompt_s=max_prompt_s, wall_s=max_wall_s, waiting=queue)
    hosts = []
    for name, model in zip(names([model.model for model in models]), models, strict=True):
        generator = model.open()
        generator.warm_up()
        hosts.append(ModelHost(name, generator, limits))
        terminal.say(
            f"{name}: {generator.runtime.name}, vocoder {generator.speaker.name}, from {model.model}", flush=True
        )
    listening = listen(host, port)
    config = TalkConfig(Server(hosts, limits).app(allowed_hosts), limits, timeout_graceful_shutdown=5)
    printed_host = f"[{host}]" if ":" in host else host
    terminal.say(f"Talk to it at http://{printed_host}:{listening.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        terminal.say("\nstopped", file=sys.stderr)
        return 130
    return 0


def _check(port: int, max_prompt_s: float, max_wall_s: float, queue: int) -> None:
    """Before models are loaded, which takes its time."""
    if not 0 <= port <= 65_535:
        raise ConfigError(f"--port is {port}; expected 0 to 65535, 0 for a free one")
    for flag, seconds in (("--max-prompt", max_prompt_s), ("--max-wall", max_wall_s)):
        if not seconds > 0:
            raise ConfigError(f"{flag} is {seconds:g}; expected more than 0 seconds")
    if queue < 0:
        raise ConfigError(f"--queue is {queue}; expected 0 or more answers that wait")


def names(folders: Sequence[str]) -> list[str]:
    """A short name for each model: of one alone the name of its export, else the shortest end of its path that is different for each."""
    if len(folders) == 1 and (name := _name_of_export(Path(folders[0]).resolve())):
        return [name]
    paths = [Path(folder).resolve() for folder in folders]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        candidates = ["/".join(_without_model(path)[-length:]) for path in paths]
        if len(set(candidates)) == len(candidates):
            return candidates
    return [f"{name} {number}" for number, name in enumerate(candidates, start=1)]


def _name_of_export(folder: Path) -> str:
    """What `export.name` was; empty where the folder is not that of an export in a store."""
    manifest = folder.parent / "manifest.json"
    if folder.name != "model" or not manifest.is_file():
        return ""
    try:
        return str(json.loads(manifest.read_text(encoding="utf-8"))["config"]["name"])
    except (ValueError, KeyError, TypeError):
        return ""


def _without_model(path: Path) -> list[str]:
    """The path without the folder `model` that every export has, and its id cut short."""
    parts = [part[:12] if len(part) == 32 else part for part in path.parts]
    return parts[:-1] if parts[-1] == "model" and len(parts) > 1 else parts
