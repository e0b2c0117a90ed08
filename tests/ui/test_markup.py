"""Markup in names and transcripts is text in the report, in a real browser."""

from pathlib import Path

from playwright.sync_api import BrowserContext

from tests.fixtures.small_run import small_run
from tinywave_core.reporting.page import render_report


def test_nothing_in_the_report_runs_or_is_fetched(browser: BrowserContext, tmp_path: Path):
    """The small run has files named <script>, a source named <b> and a transcript with <i>."""
    (tmp_path / "report.html").write_text(render_report(*small_run(tmp_path / "store")), encoding="utf-8")
    page = browser.new_page()
    heard: list[str] = []
    page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: heard.append(message.text) if message.type == "error" else None)
    page.on(
        "request", lambda request: heard.append(request.url) if not request.url.startswith(("data:", "file:")) else None
    )
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("script").count() == 0
    assert "he said <i>so</i> & left" in (page.locator("body").text_content() or "")
    assert "<script>alert(0)</script>.wav" in (page.locator("body").text_content() or "")
    assert heard == []
    page.close()
