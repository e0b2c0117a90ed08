"""Markup in names and transcripts is text in the report and in a rendered model card, in a real browser."""

from dataclasses import replace
from pathlib import Path

from markdown_it import MarkdownIt
from playwright.sync_api import BrowserContext, Page

from tests.fixtures.markup import MARKUP, RUN
from tests.fixtures.small_run import SUMMARIES, small_run
from tests.ui.conftest import shot
from tinywave_core.exporters.licence import Licence
from tinywave_core.exporters.model_card import Card, Data, model_card
from tinywave_core.reporting.page import render_report
from tinywave_core.stages.evaluation.summary import ScoresSummary
from tinywave_core.tokenizers.trained_on import TrainedOn
from tinywave_core.tokenizers.vocabulary import SPIRITLM_EXPRESSIVE


def opened(browser: BrowserContext, path: Path) -> tuple[Page, list[str]]:
    """A page of a file, and what it did: asked for, said, complained of."""
    page = browser.new_page()
    heard: list[str] = []
    page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: heard.append(message.text) if message.type == "error" else None)
    page.on(
        "request", lambda request: heard.append(request.url) if not request.url.startswith(("data:", "file:")) else None
    )
    page.goto(path.as_uri())
    return page, heard


def test_nothing_in_the_report_runs_or_is_fetched(browser: BrowserContext, tmp_path: Path):
    """The small run has files named <script>, a source named <b> and a transcript with <i>; its reasons are all ways to markup."""
    run = small_run(tmp_path / "store", corpus={"reasons": dict.fromkeys(MARKUP, 1)})
    (tmp_path / "report.html").write_text(render_report(*run), encoding="utf-8")
    page, heard = opened(browser, tmp_path / "report.html")
    text = page.locator("body").text_content() or ""
    assert page.locator(f"script, {RUN}").count() == 0
    assert "he said <i>so</i> & left" in text and "<script>alert(0)</script>.wav" in text
    assert [reason for reason in MARKUP if reason not in text] == []
    assert heard == []
    page.close()


def test_nothing_in_a_model_card_runs_or_is_fetched(browser: BrowserContext, tmp_path: Path):
    """Rendered with all that Markdown allows, HTML as well: hubs take out what they know to be harmful, others may not."""
    names = " ".join(MARKUP)
    card = Card(
        name=names,
        student=SUMMARIES["student"],
        vocabulary=SPIRITLM_EXPRESSIVE,
        trained=TrainedOn(speech=2),
        scores=ScoresSummary.model_validate(SUMMARIES["scores"]),
        data=Data(hours=1, utterances=2, recordings=3),
        licence=Licence(f"It says {names}.", names, names, names),
        lineage={"student": "distillation/aa"},
    )
    pages = {
        "card": card,
        "fair": replace(card, licence=replace(card.licence, name="fair-noncommercial-research-license")),
    }
    for name, each in pages.items():
        body = model_card(each).split("\n---\n", 1)[1]
        place = tmp_path / f"{name}.html"
        place.write_text(MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(body), encoding="utf-8")
        page, heard = opened(browser, place)
        shot(page, name)
        assert page.locator(RUN).count() == 0 and page.locator("h1").text_content() == names
        assert f"It says {names}." in (page.locator("body").text_content() or "")
        assert heard == []
        page.close()
