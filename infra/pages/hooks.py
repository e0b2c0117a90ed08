"""What the documentation site reads from the code: settings, commands, the Python names, and pages that lie beside the code.

mkdocs calls `on_files`; the pages are made at build time and never committed, so that each thing is said in one place. Nothing here
imports mkdocs until it does.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:  # mkdocs knows the folder of its config only
    sys.path.insert(0, str(ROOT))

from annotated_types import Ge, Gt, Le, Lt  # noqa: E402

from flows.cli import build_parser  # noqa: E402
from flows.commands import COMMANDS, Argument  # noqa: E402
from infra.pages import python_api  # noqa: E402
from tinywave_core.config.load import PRESETS, fields, preset_names  # noqa: E402

_SIGNS = {Ge: "≥ {0.ge}", Gt: "> {0.gt}", Le: "≤ {0.le}", Lt: "< {0.lt}"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def settings_page() -> str:
    """Every setting, by group: what it may be, its default, its help."""
    parts = [
        "# Settings",
        "Every setting is a flag of `tinywave run` and `tinywave plan`, a line of a preset's TOML file, a field of the form in Prefect, "
        "and an argument of `tinywave.run`. What is in the group `runtime` changes no result.",
        "## Presets",
        *(f"- `{name}`: {_first_words(name)}" for name in preset_names()),
    ]
    groups: dict[str, list[str]] = {}
    for key, field in fields():
        default = "–" if field.is_required() else f"`{'none' if field.default is None else field.default}`"
        help_text = " ".join((field.description or "").split())
        allowed = _allowed(field)
        row = f"| `{key}`{f'<br>{allowed}' if allowed else ''} | {default} | {_cell(help_text)} |"
        groups.setdefault(key.rpartition(".")[0], []).append(row)
    for group, rows in groups.items():
        parts += [f"## {group or 'Input and output'}", "| setting | default | meaning |\n|---|---|---|", *rows]
    return _joined(parts)


def _first_words(preset: str) -> str:
    comments = (PRESETS / f"{preset}.toml").read_text(encoding="utf-8").split("\n\n")[0]
    return comments.replace("# ", "").replace("\n", " ").split(". ")[0].rstrip(".")


def _allowed(field: Any) -> str:
    """Choices, or a range."""
    choices = [each for each in get_args(field.annotation) if isinstance(each, str)]
    bounds = [_SIGNS[type(mark)].format(mark) for mark in field.metadata if type(mark) in _SIGNS]
    return _cell(", ".join(choices or bounds))


def commands_page() -> str:
    """Every command with its own arguments; settings have a page of their own."""
    parsers = _parsers()
    parts = [
        "# Commands",
        "`tinywave` is in `.venv/bin`. Its exit status is 0, 2 for what you can mend (said in one line), 130 after Ctrl-C, and 1 for a fault "
        "of ours. `tinywave COMMAND --help` says the same as this page.",
    ]
    for command in COMMANDS:
        parts += [f"## {command.name}", _sentence(parsers[command.name].description.replace("%%", "%"))]
        if command.has_settings:
            parts.append("Takes `--preset` and every [setting](settings.md) as a flag.")
        if command.arguments:
            parts.append("| argument | meaning |\n|---|---|")
            parts += [_argument(argument) for argument in command.arguments]
    return _joined(parts)


def _sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _parsers() -> dict[str, Any]:
    parser = build_parser([])  # the settings have a page of their own
    (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(group.choices)


def _argument(argument: Argument) -> str:
    options = argument.options
    names = ", ".join(f"`{name}`" for name in argument.names)
    choices = options.get("choices")
    told = f"<br>{', '.join(map(str, choices))}" if choices else ""
    return f"| {names}{_cell(told)} | {_cell(str(options.get('help', '')).replace('%%', '%'))} |"


def _cell(text: str) -> str:
    """Text of a cell of a table."""
    return re.sub(r"<(?!br>)", "&lt;", text.replace("|", "\\|"))


def _joined(parts: list[str]) -> str:
    """Paragraphs with an empty line between them; rows of a table and of a list follow one another."""
    text = ""
    for part in parts:
        tight = part.startswith(("| `", "- `")) and text.rstrip().rpartition("\n")[2].startswith(("|", "- `"))
        text = f"{text.rstrip()}\n{part}\n" if tight else f"{text}\n{part}\n"
    return text.lstrip()


def beside(path: str, title: str = "") -> Callable[[], str]:
    """A page that lies beside the code; its links into the repository become names of files there."""

    def page() -> str:
        text = (ROOT / path).read_text(encoding="utf-8")
        if title:
            text = re.sub(r"^# .*", f"# {title}", text, count=1)
        return _LINK.sub(lambda match: _link(path, match), text)

    return page


def _link(path: str, match: re.Match[str]) -> str:
    _, words, target = match.groups()
    place, _, _ = target.partition("#")
    if not place or "://" in target:
        return match.group(0)
    file = (ROOT / path).parent.joinpath(place).resolve()
    return f"{words} (`{file.relative_to(ROOT)}`)"


GENERATED: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/commands.md": commands_page,
    "reference/python.md": python_api.page,
    "reference/http.md": beside("tinywave_core/serving/README.md", "HTTP and WebSocket"),
    "reference/lab-log.md": beside("infra/LAB_LOG.md"),
    "glossary.md": beside("tinywave_core/GLOSSARY.md"),
}
"""Pages by their place on the site."""


def on_files(files: Any, config: Any) -> Any:
    """mkdocs' event: the pages join those of docs/, and the notebook is there to download."""
    from mkdocs.structure.files import File

    for place, page in GENERATED.items():
        files.append(File.generated(config, place, content=page()))
    notebook = (ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8")
    files.append(File.generated(config, "tour.json", content=notebook))
    return files
