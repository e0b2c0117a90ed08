"""Text of others (file names, speakers, transcripts, licences, error messages) in what we write: one function per language, used everywhere.

Terminal and logs: `visible`. Markdown: `markdown`, `code` and `table`. YAML: `yaml_text`. HTML is escaped by the report's template (Jinja's
`autoescape`), and by `html.escape` in its SVG pictures.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# ESC and the other C0 codes but tab and line feed, DEL and C1; what turns the direction of text around; line and paragraph
# separators; halves of surrogate pairs, which stand for bytes that are no UTF-8.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# A backslash makes each of them a plain character, wherever it stands in a line (CommonMark 6.1). An underscore is markup at the edge of
# a word only, and names are full of others.
_MARKUP = re.compile(r"[\\`*\[\]|~!]|(?<!\w)_|_(?!\w)")
# What opens a heading or a list where it stands first in a line; the number of a list has its backslash behind it.
_BLOCK = re.compile(r"^(\d*)(?=(?:#{1,6}|[+-]|(?<=\d)[.)])(?:\s|$)|>)")
_BEYOND_CODE = re.compile(r"[`|\\]")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""Text in which characters that move the cursor, change the terminal or turn the direction of writing are seen as `\u001b`,
    which JSON reads as the same character. Tabs and line ends stay."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def markdown(text: str) -> Markdown:
    """Plain text inside a line of Markdown or a cell of a table: it ends neither, and opens no tag, link, picture or emphasis."""
    if isinstance(text, Markdown):
        return text
    line = " ".join(visible(text).split("\n")).strip()
    escaped = _MARKUP.sub(r"\\\g<0>", line.replace("&", "&amp;").replace("<", "&lt;"))
    return Markdown(_BLOCK.sub(r"\1\\", escaped))


def code(text: str) -> Markdown:
    """A code span, as it is copied; plain text where something in it would end the span or the cell that it stands in."""
    line = " ".join(visible(text).split("\n")).strip()
    return markdown(text) if _BEYOND_CODE.search(line) or not line.strip() else Markdown(f"`{line}`")


def table(rows: Sequence[Mapping[str, Any]]) -> Markdown:
    """A GitHub-flavoured table of plain text; the columns are the keys of the first row."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return Markdown(
        "\n".join(
            "| " + " | ".join(markdown(value if isinstance(value, str) else str(value)) for value in line) + " |"
            for line in lines
        )
    )


def yaml_text(values: Mapping[str, Any]) -> str:
    """YAML that reads back as the same values, each on one line, in which no character is unseen."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Text of several lines in one, so that none of them looks like the end of a front matter."""

    def represent(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, '"' if "\n" in text else None)

    Dumper.add_representer(str, represent)

    def dump(*, readable: bool) -> str:
        return str(yaml.dump(dict(values), Dumper=Dumper, sort_keys=False, allow_unicode=readable, width=math.inf))

    text = dump(readable=True)
    return text if visible(text) == text else dump(readable=False)
