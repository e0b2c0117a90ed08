"""The `tinywave` command: arguments in, exit status out. Only pydantic is imported until a command has real work to do."""

import argparse
import atexit
import contextlib
import difflib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from flows import environment, surroundings
from flows.commands import COMMANDS, Command
from tasks import stopping, terminal
from tinywave_core.config.load import fields, load_config, load_file, preset_names
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.counts import count
from tinywave_core.errors import ConfigError, TinyWaveError
from tinywave_core.extras import extra_of, lacking, require

_interrupted, _stopped, _resumes = threading.Event(), threading.Event(), threading.Event()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (a fault of ours), 2 (something the user can mend) or 130 (Ctrl-C)."""
    # A worker that is told to stop must leave its work as Ctrl-C does: resumable.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    if arguments is None:  # this process is ours alone
        atexit.register(_ignore_signals)
        sys.excepthook = terminal.say_uncaught
        surroundings.speak_utf8()
        surroundings.find_home()
    words = _spelled(sys.argv[1:] if arguments is None else arguments)
    try:
        _check_command(words)
        _check_flags(words)
        options, rest = build_parser(words).parse_known_args(words)
        return run_command(options, rest)
    except TinyWaveError as error:
        terminal.say(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = extra_of(error.name)
        if extra is None:
            raise
        terminal.say(f"error: {lacking(extra, f'`tinywave {words[0]}`', [str(error.name)])}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough (`tinywave tokens … | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _say_stopped()
        return 130


def _spelled(words: Sequence[str]) -> list[str]:
    """Flags of settings in the spelling of `_flag`, so that people may write - or _."""
    settings = {key for key, _ in fields()}
    return [
        _flag(key) + equals + value
        if word.startswith("--") and (key := name[2:].replace("-", "_")) in settings
        else word
        for word in words
        for name, equals, value in [word.partition("=")]
    ]


def _flag(key: str) -> str:
    return f"--{key}" if "." in key else f"--{key.replace('_', '-')}"


def _check_command(words: list[str]) -> None:
    """ConfigError with the nearest names for a command, or a stage, that there is not."""
    names = [command.name for command in COMMANDS]
    if not words or words[0].startswith("-"):
        return
    if words[0] not in names:
        raise ConfigError(f"there is no command {words[0]!r}{_nearest(words[0], names)}; see `tinywave --help`")
    stages = ["pipeline", *STAGES]
    takes_stage = any(c.name == words[0] and any(a.names == ("what",) for a in c.arguments) for c in COMMANDS)
    if takes_stage and words[1:] and not words[1].startswith("-") and words[1] not in stages:
        raise ConfigError(
            f"there is no stage {words[1]!r}{_nearest(words[1], stages)}; expected one of {', '.join(stages)}"
        )


def _nearest(word: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, names, 2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _check_flags(words: list[str]) -> None:
    """Let the config say what comes closest to an unknown flag; argparse would complain about its value instead."""
    commands = [command for command in COMMANDS if command.has_settings and command.name in words[:1]]
    if not commands:
        return
    _check_source(words)
    own = {name for command in commands for argument in command.arguments for name in argument.names}
    flags = {_flag(key) for key, _ in fields()} | own | {"--preset", "--config", "--help"}
    for word in words[1:]:
        flag = word.partition("=")[0]
        if word.startswith("--") and flag not in flags:
            load_config("demo", {flag.removeprefix("--"): ""})


def _check_source(words: list[str]) -> None:
    """ConfigError for two sources: argparse would take the last flag, or call a second folder a stage."""
    found: list[str] = []
    for index, word in enumerate(words):
        if word == "--source":
            values = itertools.takewhile(lambda value: not value.startswith("-"), words[index + 1 :])
            found += [value for value in values if value not in ("pipeline", *STAGES)]
        elif word.startswith("--source="):
            found.append(word.partition("=")[2])
    if len(found) > 1:
        raise ConfigError(
            f"--source takes one folder; found {len(found)}: {', '.join(found)}. Run once for each, the corpus keeps what it took "
            "from all of them; or pass one folder that has them below it"
        )


def _interrupt(*_: object) -> None:
    """Stop in order at the first signal; at the second end at once, and every process that was started with it."""
    stopping.requested.set()
    if not _interrupted.is_set():
        _interrupted.set()
        raise KeyboardInterrupt
    _say_stopped()
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(130)


def _ignore_signals() -> None:
    """Ignore signals at the very end: Python would give them back to the system, and one would change the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _say_stopped() -> None:
    """Say so once, without Python's buffers: the interrupt may have come while they were in use."""
    if not _stopped.is_set():
        _stopped.set()
        kept = b": finished work is kept, and the same command goes on from there" if _resumes.is_set() else b""
        os.write(2, b"\nstopped" + kept + b"\n")


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """All commands of the table, each with its arguments; the settings, of which there are many, only where `words` ask for them."""
    parser = argparse.ArgumentParser(
        prog="tinywave",
        description="Turn raw speech audio into a small speech language model by distillation.",
        epilog="tinywave COMMAND --help tells more; `tinywave run --help` lists every setting, with --preset NAME as that preset has "
        "them. Exit status: 0 done, 1 a fault of TinyWave's, 2 something to mend in settings, source or store, 130 stopped.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        look: dict[str, Any] = {}
        if command.has_settings:
            own_words = "".join(f" [{a.options['metavar']}]" for a in command.arguments if a.names == ("what",))
            usage = f"tinywave {command.name}{own_words} [--source FOLDER] [--root STORE] [--preset NAME] [--config FILE] [--SETTING VALUE]"
            look = {"formatter_class": _Help, "allow_abbrev": False, "usage": usage}
        own = commands.add_parser(
            command.name, help=command.help, description=command.description or command.help, **look
        )
        own.set_defaults(command=command)
        if command.has_settings and command.name in words[:1]:
            _add_settings(own, words)
        for argument in command.arguments:
            own.add_argument(*argument.names, **argument.options)
    return parser


def _add_settings(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """--preset, --config, and every field of the config as a flag. Help tells the values that a setting has without its flag."""
    parser.add_argument(
        "--preset", default="demo", help=f"{', '.join(preset_names())}, or a .toml file (default: demo)"
    )
    parser.add_argument(
        "--config",
        dest="config_file",
        metavar="FILE",
        help="a .toml file with settings, of a preset's shape: they go before the preset's, and flags go before them",
    )
    below = _below(words) if {"-h", "--help"} & {*words} else None
    groups: dict[str, argparse._ArgumentGroup] = {}
    for key, field in fields():
        group = key.rpartition(".")[0] or "input and output"
        if group not in groups:
            groups[group] = parser.add_argument_group(group, _about(group))
        default = "" if below is None else _default(below, key)
        help_text = f"{' '.join((field.description or '').split())}{default}".replace("%", "%%")
        groups[group].add_argument(
            _flag(key), dest=key, help=help_text, metavar=_metavar(field.annotation), default=argparse.SUPPRESS
        )


def _below(words: Sequence[str]) -> PipelineConfig:
    """The settings that preset and file give: what holds where there is no flag."""
    asked = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    asked.add_argument("--preset", default="demo")
    asked.add_argument("--config")
    given, _ = asked.parse_known_args(words)
    return load_config(given.preset, load_file(given.config, given.preset) if given.config else {})


def _default(below: PipelineConfig, key: str) -> str:
    value: Any = below
    for name in key.split("."):
        value = getattr(value, name)
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value)) or "none"
    return "" if value is None else f" Default: {value}."


def _about(group: str) -> str | None:
    """What a group is about: the docstring of its field. Only of the groups of the pipeline itself, one for each stage."""
    field = PipelineConfig.model_fields.get(group)
    return None if field is None else field.description


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        terminal.say(f"tinywave {version('tinywave')}")
        parser.exit()


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=12, width=min(120, int(os.environ.get("COLUMNS", "100"))))


def _metavar(annotation: object) -> str:
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return {int: "INT", float: "NUMBER", str: "TEXT"}.get(annotation, "TEXT")  # type: ignore[call-overload, no-any-return]


def run_command(options: argparse.Namespace, rest: list[str]) -> int:
    """Check the arguments, see to the machine, and hand over to the command's handler; `rest`: what argparse does not know."""
    command: Command = options.command
    if command.resumes:
        _resumes.set()
    if command.has_settings:
        options.settings = settings_of(options, rest)
        if options.config_file:
            in_file = load_file(options.config_file, options.preset)
            terminal.say(_said_of_file(options, in_file), file=sys.stderr)
            options.settings = in_file | options.settings
        options.config = load_config(
            options.preset, options.settings
        )  # a wrong flag is said before Prefect is imported
    elif rest:
        raise ConfigError(f"unknown argument {rest[0]!r}; see --help")
    if command.extra:
        require(command.extra, f"`tinywave {command.name}`")
    if command.needs_machine:
        environment.prepare(quiet=True)
        surroundings.check_machine()
    return command.handler(options)


def _said_of_file(options: argparse.Namespace, in_file: dict[str, Any]) -> str:
    """What was taken from where. The record of the run has every setting as it came out."""
    overruled = sorted(in_file.keys() & options.settings.keys())
    by_flags = f"; flags overrule {', '.join(overruled)}" if overruled else ""
    return (
        f"settings: preset {options.preset}, then {count(len(in_file), 'setting')} of {options.config_file}{by_flags}"
    )


def settings_of(options: argparse.Namespace, rest: list[str]) -> dict[str, str]:
    """Settings that were given as flags, by dotted key."""
    keys = {key for key, _ in fields()}
    settings = {key: value for key, value in vars(options).items() if key in keys}
    if rest:  # a flag that argparse does not know: let the config say what comes closest
        flag = rest[0].removeprefix("--").partition("=")[0]
        settings[flag] = "" if rest[0].startswith("--") else rest[0]
    return settings


if __name__ == "__main__":
    sys.exit(main())
