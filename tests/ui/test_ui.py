"""The demo pipeline by hand: a person opens the UI, fills in the form, waits for the run, reads its pages, listens."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.ui.conftest import PATIENCE_S, Served
from tinywave_core.config.pipeline import STAGES, PipelineConfig

pytestmark = pytest.mark.timeout(900)  # minutes, on a machine that does much beside
STEPS = "9"  # of distillation: another number than in the form's defaults
PATIENCE_MS = PATIENCE_S * 1000
PLAY = """() => new Promise((done, fail) => {
  const player = document.querySelector("audio");
  player.ontimeupdate = () => player.currentTime > 0.1 && done(player.currentTime);
  player.play().catch(fail);
})"""
"""Plays the first player and gives its time as soon as it moves."""


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


def ask(served: Served, path: str, body: dict[str, Any] | None = None) -> Any:
    data, headers = None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{served.url}/api/{path}", data, headers), timeout=30
    ) as answer:
        return json.load(answer)


def artifact_ids(served: Served) -> dict[str, str]:
    """Ids of the artifacts by key."""
    return {found["key"]: found["id"] for found in ask(served, "artifacts/filter", {"limit": 200})}


def open_form(page: Page, served: Served) -> None:
    """From the start page to the form, as a person goes."""
    page.goto(served.url)
    page.get_by_role("link", name="Deployments").click()
    page.get_by_placeholder("Search deployments").wait_for()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="pipeline", exact=True))
    row.get_by_role("link", name="demo", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_text("All settings, one group per stage.").wait_for()
    page.wait_for_load_state("networkidle")  # until then the form may set its values anew


def group(page: Page, text: str) -> Locator:
    """The innermost part of the form with this help text."""
    return page.locator("div.group").filter(has_text=text).last


def fill(field: Locator, value: str) -> None:
    """Fill a field and leave it."""
    field.fill(value)
    field.blur()
    expect(field).to_have_value(value)


def press_submit(page: Page) -> None:
    """By the keyboard: a click can miss the button while the page scrolls back from a field that was refused."""
    button = page.get_by_role("button", name="Submit")
    button.focus()
    button.press("Enter")


@pytest.fixture(scope="module")
def run_id(browser: BrowserContext, served: Served) -> str:
    """A run that was started from the form and is over. On its way: what the form says and refuses."""
    page = browser.new_page()
    open_form(page, served)

    for name, field in PipelineConfig.model_fields.items():
        assert page.get_by_text(re.compile(rf"^{name}( \(Optional\))?$")).count(), name
        assert page.get_by_text(" ".join((field.description or "").split()), exact=True).count(), name
    regime = group(page, "When the teacher runs beside the student.").get_by_label("regime")
    regime.click()
    assert page.get_by_role("option").all_inner_texts() == ["cached", "aligned", "aligned-warmup"]
    page.keyboard.press("Escape")

    steps = group(page, "The training run; the undistilled control uses the same.").get_by_label("steps", exact=True)
    assert steps.input_value() == "6"
    fill(steps, "0")
    press_submit(page)
    expect(steps).to_be_focused()  # the browser takes the reader to the field, with a bubble below it
    assert steps.evaluate("field => field.validationMessage") == "Value must be greater than or equal to 1."
    assert ask(served, "flow_runs/count", {}) == 0

    fill(steps, STEPS)
    for _ in range(5):
        with page.expect_response(re.compile("/create_flow_run$")) as answer:
            press_submit(page)
        # Prefect on SQLite says so, and has done nothing, where another write came between its reading and its writing: its
        # clients ask again, and so does a person at its page.
        if answer.value.status != 503:
            break
    assert answer.value.status == 201
    (run,) = ask(served, "flow_runs/filter", {"deployments": {"name": {"any_": ["demo"]}}})
    page.goto(f"{served.url}/v2/runs/flow-run/{run['id']}")
    try:
        done = page.get_by_text(re.compile("^(Completed|Failed|Crashed|Cancelled)$")).first
        expect(done).to_have_text("Completed", timeout=PATIENCE_MS)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{served.log.read_text(errors='replace')[-4000:]}") from error
    page.close()
    return str(run["id"])


def test_a_run_from_the_form_completes_with_what_was_filled_in(run_id: str, served: Served):
    run = ask(served, f"flow_runs/{run_id}")
    assert run["parameters"]["config"]["distillation"]["training"]["steps"] == int(STEPS)
    (record,) = (served.store / "runs").glob("*.json")
    assert f"{STEPS} steps" in record.read_text()


def test_what_only_the_server_knows_to_be_out_of_bounds_is_refused_too(run_id: str, served: Served, page: Page):
    before = ask(served, "flow_runs/count", {})
    open_form(page, served)
    growth = group(page, "Pinning policies.").get_by_label("growth_fraction")
    fill(growth, "0")  # the bound is above 0, which a browser's number field cannot say
    with page.expect_response(re.compile("/create_flow_run$")) as answer:
        press_submit(page)
    assert answer.value.status == 409
    assert "Validation failed for field 'config.refresh.growth_fraction'" in answer.value.json()["detail"]
    page.get_by_text("0 is less than or equal to the minimum of 0", exact=True).wait_for()
    assert ask(served, "flow_runs/count", {}) == before


def test_the_run_leads_to_its_own_artifacts_and_its_stages(run_id: str, served: Served, page: Page):
    page.goto(f"{served.url}/v2/runs/flow-run/{run_id}")
    page.get_by_role("tab", name="Subflow Runs").click()
    for stage in STAGES:
        page.get_by_role("link", name=re.compile(f"^{stage} of default$")).first.wait_for()
    page.get_by_role("tab", name="Artifacts").click()
    shown = page.get_by_role("tabpanel")
    shown.get_by_text("Report: scores, players, curves").first.wait_for()
    shown.get_by_text("run", exact=True).click()
    page.wait_for_url(re.compile("/artifacts/"))
    page.goto(f"{served.url}/v2/artifacts/artifact/{artifact_ids(served)['run']}")
    page.get_by_role("heading", name=re.compile(r"Run 1: (\d+) of \1 steps computed")).wait_for()
    page.locator("svg[id^=mermaid], svg.flowchart").first.wait_for()  # the diagram was drawn
    page.get_by_text("Published: the first student of this store").wait_for()


def test_every_stage_has_a_page_that_says_what_came_in(run_id: str, served: Served, page: Page):
    found = artifact_ids(served)
    for stage in STAGES:
        page.goto(f"{served.url}/v2/artifacts/artifact/{found[stage.replace('_', '-')]}")
        page.get_by_role("heading", name=f"{stage.replace('_', ' ').capitalize()}: computed").wait_for()
        page.get_by_role("cell", name="came in").wait_for()
        page.get_by_role("cell", name="never computed in this store").first.wait_for()


def test_rejects_are_a_table_and_curves_a_picture(run_id: str, served: Served, page: Page):
    found = artifact_ids(served)
    page.goto(f"{served.url}/v2/artifacts/artifact/{found['ingestion-rejects']}")
    page.get_by_role("cell", name="notes.wav").wait_for()
    page.get_by_role("cell", name="not_audio").wait_for()
    page.goto(f"{served.url}/v2/artifacts/artifact/{found['distillation-losses']}")
    picture = page.locator("img[src^='data:image/png']")
    picture.wait_for()
    page.wait_for_function("document.querySelector(\"img[src^='data:image/png']\").naturalWidth > 300")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_the_report_fits_its_window_and_plays(run_id: str, served: Served, page: Page, scheme: str, width: int):
    (report,) = (served.store / "reports").glob("*.html")
    complaints = listen(page)
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(Path(report).as_uri())
    page.get_by_role("heading", name=re.compile("A student of .* parameters")).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator("audio").count() >= 6  # two samples: prompt, continuation, original
    assert page.evaluate(PLAY) > 0.1
    assert complaints == []


def listen(page: Page) -> list[str]:
    """Errors in the page's console from now on."""
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    return heard
