"""`tinywave completion`: a script that completes commands, flags and choices in bash, zsh or fish.

Made from the table of commands and the settings, for the shell to read once: a program that Python would answer at each press of Tab
takes as long as its start. In: the name of a shell. Out: the script's text.
"""

import shlex
from collections.abc import Iterable
from typing import get_args

from flows.commands import COMMANDS, Command
from tinywave_core.config.load import fields, preset_names
from tinywave_core.config.pipeline import STAGES

SHELLS = ("bash", "zsh", "fish")
INSTALL = {
    "bash": 'eval "$(tinywave completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(tinywave completion zsh)"     # in ~/.zshrc, after compinit',
    "fish": "tinywave completion fish | source       # in ~/.config/fish/config.fish",
}


def script(shell: str) -> str:
    """The script for a shell, with a line that says where it goes."""
    body = _fish() if shell == "fish" else _bash(zsh=shell == "zsh")
    return f"# {INSTALL[shell]}\n{body}"


def flags_of(command: Command) -> dict[str, tuple[str, ...]]:
    """Every flag of a command and what may follow it; empty where that is free text or a file."""
    found = {
        name: tuple(map(str, argument.options.get("choices", ())))
        for argument in command.arguments
        for name in argument.names
        if name.startswith("-")
    }
    if command.has_settings:
        found |= {"--preset": tuple(preset_names()), "--config": ()}
        found |= {
            f"--{key if '.' in key else key.replace('_', '-')}": _choices(field.annotation) for key, field in fields()
        }
    return found | {"--help": ()}


def _choices(annotation: object) -> tuple[str, ...]:
    if annotation is bool:
        return ("true", "false")
    values = get_args(annotation)
    return values if values and all(isinstance(value, str) for value in values) else ()


def words_of(command: Command) -> tuple[str, ...]:
    """What may stand right behind a command besides flags and files."""
    if command.name == "completion":
        return SHELLS
    return ("pipeline", *STAGES) if any(argument.names == ("what",) for argument in command.arguments) else ()


def _bash(*, zsh: bool) -> str:
    """For bash; zsh reads the same with its own `bashcompinit`."""
    values = sorted(
        f'    "{command.name} {flag}") words={_quoted(choices)} ;;'
        for command in COMMANDS
        for flag, choices in flags_of(command).items()
        if choices
    )
    commands = [
        f"    {command.name}) words={_quoted([*words_of(command), *flags_of(command)])} ;;" for command in COMMANDS
    ]
    top = [command.name for command in COMMANDS]
    lines = [
        *(["autoload -U +X bashcompinit && bashcompinit"] if zsh else []),
        "_tinywave() {",
        '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        "  COMPREPLY=()",
        '  if [ "$COMP_CWORD" -eq 1 ]; then',
        f"    words={_quoted([*top, '--help', '--version'])}",
        "  else",
        '    case "${COMP_WORDS[1]} $before" in',
        *values,
        '    *) case "${COMP_WORDS[1]}" in',
        *commands,
        "    esac ;;",
        "    esac",
        "  fi",
        '  COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _tinywave tinywave",
    ]
    return "\n".join(lines) + "\n"


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))


def _fish() -> str:
    lines = ["complete -c tinywave -n __fish_use_subcommand -l version -d 'print the version and end'"]
    for command in COMMANDS:
        lines.append(f"complete -c tinywave -f -n __fish_use_subcommand -a {command.name} -d {_in_fish(command.help)}")
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        if words := words_of(command):
            lines.append(f"complete -c tinywave -f {seen} -a {_in_fish(' '.join(words))}")
        for flag, choices in flags_of(command).items():
            values = f" -x -a {_in_fish(' '.join(choices))}" if choices else ""
            lines.append(f"complete -c tinywave {seen} -l {flag.removeprefix('--')}{values}")
    return "\n".join(lines) + "\n"


def _in_fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
