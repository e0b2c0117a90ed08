"""The report in a real browser: its first screen, its length, its glossary, its players, and the page on paper."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.fixtures.small_run import small_run
from tests.ui.conftest import shot
from tinywave_core.reporting.page import render_report

LONGEST = 4000  # pixels of the page as it opens: five screens of a laptop


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    place: Path = folder / "report.html"
    place.write_text(render_report(*small_run(folder / "store")), encoding="utf-8")
    return place.as_uri()


@pytest.fixture
def page(browser: BrowserContext, report: str) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(report)
    yield page
    page.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_verdict_is_on_the_first_screen_and_the_page_is_short(page: Page, width: int, height: int, scheme: str):
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    shot(page, f"report-{scheme}")
    box = page.locator(".verdict").bounding_box()
    assert box is not None and box["y"] + box["height"] <= height
    assert page.evaluate("document.documentElement.scrollHeight") < LONGEST
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_term_leads_to_its_meaning_by_the_keyboard(page: Page):
    page.locator(".verdict a.term", has_text="table of counts").focus()
    page.keyboard.press("Enter")
    meaning = page.get_by_text("interpolated n-gram models")
    meaning.wait_for(state="visible")
    box = meaning.bounding_box()
    assert box is not None and 0 <= box["y"] < 1000


def test_a_fold_opens_by_the_keyboard(page: Page):
    table = page.locator("#probes table")
    assert not table.is_visible()
    page.locator("#probes summary").focus()
    page.keyboard.press("Enter")
    table.wait_for(state="visible")


def test_players_show_their_length_before_they_are_asked(page: Page):
    unknown = "[...document.querySelectorAll('audio')].filter(player => !(player.duration > 0)).length"
    page.wait_for_function(f"{unknown} == 0")
    assert page.locator("audio").count() == 10


def test_on_paper_everything_is_unfolded(page: Page):
    page.emulate_media(media="print")
    hidden = "[...document.querySelectorAll('table, dl, h3')].filter(part => !part.checkVisibility({contentVisibilityAuto: true})).length"
    assert page.evaluate(hidden) == 0
    page.emulate_media(media="screen")
    assert page.evaluate(hidden) > 10
