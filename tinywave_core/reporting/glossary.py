"""The glossary inside a page: entries from `GLOSSARY.md`, and text in which their names are links to them.

In: the tables of `tinywave_core/GLOSSARY.md`, the only place where terms are defined. Out: HTML without links that lead out of the page.
"""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from markupsafe import Markup, escape

_ROW = re.compile(r"^\| (?!term \||---)(?P<names>[^|]+) \| (?P<about>[^|]+) \|$", re.MULTILINE)
_LINK, _CODE, _EMPHASIS = re.compile(r"\[([^\]]*)\]\([^)]*\)"), re.compile(r"`([^`]*)`"), re.compile(r"\*([^*]+)\*")
# Names that are linked where they stand in a text. Others of the glossary are words of everyday English too: base, part, step, row.
LINKED = (
    "undistilled control",
    "control",
    "student",
    "teacher",
    "held-out speech",
    "table of counts",
    "counts",
    "guessing",
    "floor",
    "beyond noise",
    "within noise",
    "gap",
    "cloze",
    "lead over chance",
    "probe",
    "perplexity",
    "generative perplexity",
    "NLL",
    "nats",
    "bits per second",
    "interval",
    "KL",
    "cosine",
    "hidden states",
    "attention",
    "block",
    "entropy",
    "top K",
    "McNemar's test",
    "auto-BLEU-2",
    "PNMI",
    "purity",
    "DNSMOS",
    "vocoder",
    "log-mel correlation",
    "mel-cepstral distance",
    "mel spectrum",
    "near-duplicate",
    "codebook",
    "artifact",
    "lineage",
    "stream",
    "unit",
    "token",
    "utterance",
    "targets",
    "logits",
)


@dataclass(frozen=True)
class Entry:
    """A row of the glossary."""

    names: tuple[str, ...]
    about: Markup

    @property
    def anchor(self) -> str:
        """Id of its place in the page."""
        return "term-" + re.sub(r"[^a-z0-9]+", "-", "-".join(self.names).lower()).strip("-")


@cache
def entries() -> list[Entry]:
    """All of them, in the order of the file."""
    text = files("tinywave_core").joinpath("GLOSSARY.md").read_text(encoding="utf-8")
    return [
        Entry(tuple(name.strip() for name in row["names"].split(",")), _html(row["about"]))
        for row in _ROW.finditer(text)
    ]


class Linker:
    """Links the names of terms in a text to the glossary, each where it stands first in a section; everything else is escaped."""

    def __init__(self) -> None:
        self._seen = set[str]()

    def section(self) -> str:
        """Begin one: its first mention of a term is linked again."""
        self._seen.clear()
        return ""

    def __call__(self, text: str) -> Markup:
        out, end = Markup(), 0
        for found in _names().finditer(text):
            anchor = _anchors()[_singular(found[0])]
            if anchor not in self._seen:
                self._seen.add(anchor)
                link = Markup('<a class="term" href="#{}">{}</a>').format(anchor, found[0])
                out, end = out + escape(text[end : found.start()]) + link, found.end()
        return out + escape(text[end:])


@cache
def _anchors() -> dict[str, str]:
    """Anchor by name in small letters; a name of two entries leads to the first."""
    anchors: dict[str, str] = {}
    for entry in entries():
        for name in entry.names:
            anchors.setdefault(name.lower(), entry.anchor)
    return {name.lower(): anchors[name.lower()] for name in LINKED}


@cache
def _names() -> re.Pattern[str]:
    """The longest name first, and its plural; not inside the name of a setting or a path."""
    names = "|".join(re.escape(name) for name in sorted(LINKED, key=len, reverse=True))
    return re.compile(rf"(?<![\w.-])(?:{names})s?(?![\w-]|\.\w)", re.IGNORECASE)


def _singular(name: str) -> str:
    name = name.lower()
    return name if name in _anchors() else name.removesuffix("s")


def _html(about: str) -> Markup:
    """A definition: links as their text, code and emphasis as HTML."""
    text = str(escape(_LINK.sub(r"\1", about)))
    return Markup(_EMPHASIS.sub(r"<em>\1</em>", _CODE.sub(r"<code>\1</code>", text)))
