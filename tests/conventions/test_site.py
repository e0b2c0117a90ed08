"""The documentation site: its list of pages is whole, what it quotes is said by the code, and its generated pages have all of it.

`make docs` builds it, and ends at a broken link; that takes a minute of a busy machine, so it is not done here.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import tinywave
from flows.commands import COMMANDS
from infra.pages.hooks import GENERATED, beside
from tinywave_core.config.load import fields, preset_names

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "infra" / "pages" / "mkdocs.yml").read_text(encoding="utf-8"))
SOURCES = [path for part in ("flows", "tinywave_core") for path in (ROOT / part).rglob("*.py")]


def leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [leaf for entry in (nav.values() if isinstance(nav, dict) else nav) for leaf in leaves(entry)]


def test_the_list_of_pages_has_every_page_once_and_no_other():
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert not written & GENERATED.keys(), "a generated page is never committed"
    assert sorted(leaves(CONFIG["nav"])) == sorted(written | GENERATED.keys())


def test_the_site_is_strict_and_takes_nothing_from_elsewhere():
    assert CONFIG["strict"] is True and CONFIG["theme"]["font"] is False and CONFIG["plugins"] == ["search"]
    assert not [path.name for path in DOCS.rglob("*.svg") if re.search(r"(href|src)=|<script", path.read_text())]
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    assert {"mkdocs", "mkdocs-material"} <= {re.split(r"[<>=]", line)[0] for line in dev}


def test_the_settings_page_has_every_setting_with_its_help_and_its_default():
    page = GENERATED["reference/settings.md"]()
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)`[^|]*\| (.*) \|$", page, re.MULTILINE))
    assert list(rows) == sorted(rows, key=list(rows).index) and set(rows) == {key for key, _ in fields()}
    assert rows["runtime.threads"] == "`0` | CPU threads of one process; 0 takes all cores."
    assert "| `runtime.threads`<br>≥ 0, ≤ 256 |" in page and "<br>threads, processes, dask, ray |" in page
    assert [name for name in preset_names() if f"- `{name}`: " not in page] == []
    headings = re.findall(r"^## (.*)", page, re.MULTILINE)
    assert len(headings) == len(set(headings))


def test_the_commands_page_has_every_command_and_every_argument():
    parts = re.split(r"^## ", GENERATED["reference/commands.md"](), flags=re.MULTILINE)[1:]
    assert [part.partition("\n")[0] for part in parts] == [command.name for command in COMMANDS]
    for command, part in zip(COMMANDS, parts, strict=True):
        assert [a.names for a in command.arguments if f"| `{a.names[0]}`" not in part] == []
    assert "--keep" in parts[-2] and "final artifacts that stay (default: 3)" in parts[-2]


def test_the_python_page_has_every_public_name_and_its_members():
    page = GENERATED["reference/python.md"]()
    headings = set(re.findall(r"^#{3,4} ([\w.]+)", page, re.MULTILINE))
    assert set(tinywave.__all__) - {"__version__"} <= headings
    assert {"Model.generate", "Store.newest", "Artifact.path", "Continuation.audio"} <= headings
    assert "root: str | Path = 'store'" in page and "-> SpeechTokenizer" in page


def test_a_page_beside_the_code_keeps_its_words_and_no_link_into_the_repository():
    page = GENERATED["reference/http.md"]()
    assert page.startswith("# HTTP and WebSocket\n") and "/v1/realtime" in page
    assert "decision 45 (`infra/decisions/0045-what-a-model-was-trained-on.md`)" in page
    assert not re.search(r"\]\((?!https?:|#)", page)
    assert beside("tinywave_core/GLOSSARY.md")().splitlines()[0] == "# Glossary"


def said_by_the_code() -> str:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_every_message_in_troubleshooting_is_one_of_the_code():
    messages = re.findall(r"^### `(.*)`", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    code = said_by_the_code().replace("{what}", "written")
    assert len(messages) >= 12
    assert [message for message in messages if message not in code] == []


def test_figures_of_the_site_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("**", "")
    figures = (DOCS / "figures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+ min) \| ([\d., ]+) \|", figures, re.MULTILINE)
    assert len(rows) == 5
    assert [row for row in rows if f"| {row[0]} | {row[1]} |" not in readme] == []
    demo = re.search(r"teacher, student, control, counts \| NLL, nats per token \| ([\d., ]+) \|", figures)
    assert demo and f"| MFCC units | 31.2 | {demo.group(1)} |" in readme


@pytest.mark.parametrize("name", sorted(path.name for path in (DOCS / "pictures").glob("*.svg")))
def test_every_picture_is_shown_and_has_words_for_who_cannot_see_it(name: str):
    shown = [path.name for path in DOCS.rglob("*.md") if f"pictures/{name})" in path.read_text(encoding="utf-8")]
    assert shown and "aria-label='" in (DOCS / "pictures" / name).read_text()
