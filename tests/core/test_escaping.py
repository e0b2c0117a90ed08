"""Text of others in Markdown and YAML is read back as it was by somebody else's parsers, and in a terminal nothing of it acts."""

import json
import unicodedata

import pytest
import yaml
from markdown_it import MarkdownIt

from tests.fixtures.markup import MARKUP
from tinywave_core.escaping import code, markdown, table, visible, yaml_text

NASTY = [
    *MARKUP,
    "- no list",
    "> no quote",
    "    no code",
    "```\nno fence",
    "a\n\n# b",
    "a | b",
    "|---|",
    "===",
    "***",
    "a\\",
    "\x1b]0;t\x07",
]


def parsed(text: str) -> list:
    return MarkdownIt("gfm-like", {"linkify": False}).parse(text)


@pytest.mark.parametrize("text", NASTY)
def test_plain_text_stays_plain_in_markdown(text: str):
    """CommonMark, by markdown-it: one paragraph of plain text, which says what was written on one line."""
    opened, inline, closed = parsed(markdown(text))
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children) == visible(text).replace("\n", " ").strip()


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("write", [str, code], ids=["text", "code"])
def test_a_cell_ends_neither_its_row_nor_its_table(text: str, write):
    rows = [token for token in parsed(table([{"a": write(text), "b": "x"}]) + "\n\nafter") if token.type == "inline"]
    assert [row.content for row in rows[:2]] == ["a", "b"]
    told, beside, after = rows[2:]
    assert (beside.content, after.content) == ("x", "after")
    assert "".join(child.content for child in told.children) == visible(text).replace("\n", " ").strip()
    assert {child.type for child in told.children} <= {"text", "text_special", "code_inline"}


def test_a_name_is_code_where_a_code_span_can_hold_it():
    assert code("speech/a_b.wav") == "`speech/a_b.wav`"
    assert code("a`b") == "a\\`b"


def test_markdown_is_escaped_once():
    assert markdown(markdown("a*b")) == "a\\*b"


@pytest.mark.parametrize("text", [*NASTY, "a\n---\nb: c", "---", "\u202egnp.exe", "x\u2028y\x85z", "ü: 世"])
def test_yaml_reads_back_in_plain_sight_and_never_ends_its_front_matter(text: str):
    written = yaml_text({"name": text, "list": [{"deep": text}]})
    assert yaml.safe_load(written) == {"name": text, "list": [{"deep": text}]}
    assert "---" not in [line.strip() for line in written.splitlines()]
    assert visible(written) == written


def test_umlauts_stay_readable_in_yaml():
    assert yaml_text({"name": "Grüße"}) == "name: Grüße\n"


def test_no_character_that_steers_a_terminal_or_turns_text_around_is_left():
    """By Unicode's own tables: control codes, classes of the bidirectional algorithm, line separators, surrogates."""
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    marks = {"\u200e", "\u200f", "\u061c"}  # LRM, RLM, ALM: plain letters of their direction to the algorithm
    for number in range(0x110000):
        char = chr(number)
        acts = (
            unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
            or unicodedata.bidirectional(char) in turning
            or char in marks
        )
        assert (visible(char) != char) == (acts and char not in "\t\n"), hex(number)


def test_what_is_seen_is_json_of_the_same_text():
    text = "a\u202eb\x9bc\x7f"
    assert visible("\x1b[2Ja\rb") == "\\u001b[2Ja\\u000db"
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text
