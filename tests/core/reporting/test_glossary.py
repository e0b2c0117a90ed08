"""The glossary of a page: all of the file, and links from the first mention of a term."""

import re
from pathlib import Path

import tinywave_core
from tinywave_core.reporting.glossary import LINKED, Linker, entries

FILE = Path(tinywave_core.__file__).parent / "GLOSSARY.md"


def linked(text: str) -> str:
    return str(Linker()(text))


def test_every_row_of_the_file_is_an_entry_with_a_place_of_its_own():
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [line for line in lines if not line.startswith("| term |")]
    assert [", ".join(entry.names) for entry in entries()] == [line.split("|")[1].strip() for line in rows]
    assert len({entry.anchor for entry in entries()}) == len(rows)


def test_definitions_hold_no_link_and_no_markdown():
    about = {entry.names[0]: str(entry.about) for entry in entries()}
    assert not [name for name, text in about.items() if re.search(r"\]\(|href|`|\*", text)]
    assert "(<code>ingestion.corpus</code>)" in about["corpus"] and "<em>marker</em>" in about["modality"]


def test_every_name_that_is_linked_is_in_the_glossary():
    assert [name for name in LINKED if linked(name).count("<a ") != 1] == []


def test_a_term_is_linked_where_it_stands_first_in_a_section():
    terms = Linker()
    assert terms("NLL and NLL") == '<a class="term" href="#term-nll-perplexity">NLL</a> and NLL'
    assert terms("NLL") == "NLL"
    assert terms.section() == "" and "<a " in terms("NLL")


def test_the_longest_name_wins_and_plurals_are_the_same_term():
    assert ">undistilled control</a>" in linked("its undistilled control") and linked("control").count("<a") == 1
    assert linked("Probes") == '<a class="term" href="#term-probe">Probes</a>'


def test_settings_paths_and_parts_of_words_are_no_mention():
    for text in ("--evaluation.probes.genders", "probe_scores", "blockade", "a.probe", "probe.x"):
        assert "<a " not in linked(text)
    assert "<a " in linked("the last probe.")


def test_text_around_a_link_is_escaped():
    assert linked("<b> & probe <i>").startswith("&lt;b&gt; &amp; <a ") and linked("probe <i>").endswith(
        "</a> &lt;i&gt;"
    )
