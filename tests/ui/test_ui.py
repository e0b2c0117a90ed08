"""The demo pipeline by hand: a person opens the UI, fills in the form, waits for the run, reads its pages, listens."""

import json
import re
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Frame, Locator, Page, expect

from tests.fixtures.markup import MARKUP, RUN
from tests.fixtures.strangers import password
from tests.ui.conftest import ELSEWHERE, PATIENCE_S, Served, shot
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.escaping import code, markdown, table

pytestmark = pytest.mark.timeout(900)  # minutes, on a machine that does much beside
NAME = "pipeline-speech-demo"
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
    headers |= password(served.login)
    with urllib.request.urlopen(
        urllib.request.Request(f"{served.url}/api/{path}", data, headers), timeout=30
    ) as answer:
        return json.load(answer)


def artifact_ids(served: Served) -> dict[str, str]:
    """Ids of the artifacts by key."""
    return {found["key"]: found["id"] for found in ask(served, "artifacts/filter", {"limit": 200})}


def open_form(page: Page, served: Served) -> None:
    """From the start page to the form, as a person goes."""
    page.goto(served.page)
    page.get_by_role("link", name="Deployments").click()
    page.get_by_placeholder("Search deployments").wait_for()
    page.get_by_role("link", name=NAME, exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_text("All other settings, one group per stage.").wait_for()
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

    # What people change comes first, and none of it is called optional. Of the rest, groups that nothing was given for are folded.
    written = page.locator("label").all_inner_texts()
    labels = [text.removesuffix(" (Optional)") for text in written]
    assert written[: labels.index("advanced") + 1] == labels[: labels.index("advanced") + 1]
    assert labels[labels.index("source") :][:7] == ["source", "root", "preset", "layers", "steps", "device", "advanced"]
    for name, field in PipelineConfig.model_fields.items():
        assert name in labels, name
        about = " ".join((field.description or "").split())
        assert page.get_by_text(re.compile(f"^{re.escape(about)}")).count(), name
    assert page.get_by_label("growth_fraction").count() == 0
    assert (
        "distillation" in page.url and "logit_signal" not in page.url
    )  # the address has what was given, and no defaults
    regime = group(page, "When the teacher runs beside the student.").get_by_label("regime")
    regime.click()
    assert page.get_by_role("option").all_inner_texts() == ["cached", "aligned", "aligned-warmup", "on_policy"]
    page.keyboard.press("Escape")

    steps = group(page, "The setting `distillation.training.steps`.").get_by_role("spinbutton")
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
    (run,) = ask(served, "flow_runs/filter", {"deployments": {"name": {"any_": [NAME]}}})
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
    assert run["parameters"]["steps"] == int(STEPS)
    assert not run["parameters"]["advanced"].get("refresh")  # what was left as the preset has it
    (record,) = (served.store / "runs").glob("*.json")
    assert f"{STEPS} steps" in record.read_text()


def test_what_only_the_server_knows_to_be_out_of_bounds_is_refused_too(run_id: str, served: Served, page: Page):
    before = ask(served, "flow_runs/count", {})
    open_form(page, served)
    group(page, "Pinning policies.").get_by_role("tab", name="set", exact=True).click()
    growth = page.get_by_label("growth_fraction (Optional)")
    fill(growth, "0")  # the bound is above 0, which a browser's number field cannot say
    with page.expect_response(re.compile("/create_flow_run$")) as answer:
        press_submit(page)
    assert answer.value.status == 409
    assert "Validation failed for field 'advanced.refresh.growth_fraction'" in answer.value.json()["detail"]
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
        page.get_by_role("cell", name="input", exact=True).wait_for()
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


def test_markup_of_recordings_is_text_on_prefects_pages(served: Served, page: Page):
    """Each way to markup in a heading, a cell, a list, a code span and a description; what would run or be fetched shows itself."""
    heard: list[str] = []  # what is asked for, and what only the policy of the page held back
    page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: heard.append(request.url) if "canary" in request.url else None)
    page.on("console", lambda message: heard.append(message.text) if "canary" in message.text else None)
    rows = [{"file": text, "in code": code(text), "status": "rejected"} for text in MARKUP]
    lines = (f"- {markdown(text)}\n- {code(text)}" for text in MARKUP)
    texts = "\n\n".join((f"# {markdown(' '.join(MARKUP))}", table(rows), *lines, *map(markdown, MARKUP)))
    plain = [{"file": text, "status": "rejected"} for text in MARKUP]
    page.goto(served.page)
    page.get_by_role("link", name="Deployments").wait_for()  # signed in
    for kind, data in {"markdown": texts, "table": json.dumps(plain)}.items():
        about = markdown(" ".join(MARKUP))
        made = ask(served, "artifacts/", {"key": f"markup-{kind}", "type": kind, "data": data, "description": about})
        page.goto(f"{served.url}/v2/artifacts/artifact/{made['id']}")
        page.get_by_role("cell", name=MARKUP[0], exact=True).first.wait_for()
        shot(page, f"markup-{kind}")
        cells = [" ".join(text.split()) for text in page.get_by_role("cell").all_inner_texts()]
        assert [text for text in MARKUP if cells.count(text) != (2 if kind == "markdown" else 1)] == [], kind
        assert page.locator(RUN).count() == 0, kind
    assert heard == []


# A page of somebody else's, in the browser that is signed in ---------------------------------------------------------

ATTACK = """async ([server, deployment, command]) => {
  const api = server + "/api", socket = api.replace("http", "ws");
  const change = JSON.stringify({pull_steps: [{"prefect.deployments.steps.run_shell_script": {script: command}}]});
  const got = [];
  const ask = async (path, options) => {
    try { const answer = await fetch(api + path, options); got.push(`${path} ${answer.type} ${answer.status}`); }
    catch (error) { got.push("refused"); }
  };
  const headers = {"Content-Type": "application/json"};
  await ask(`/deployments/${deployment}`, {method: "PATCH", headers, body: change});
  await ask(`/deployments/${deployment}/create_flow_run`, {method: "POST", headers, body: "{}"});
  // Without a type Prefect takes the body for JSON, and the browser asks for no leave.
  for (const body of [new Blob(["{}"]), "{}", new URLSearchParams({a: "b"})])
    await ask(`/deployments/${deployment}/create_flow_run`, {method: "POST", mode: "no-cors", body});
  await ask("/admin/settings", {});
  const form = document.createElement("form");
  Object.assign(form, {method: "post", action: `${api}/deployments/${deployment}/create_flow_run`, target: "frame"});
  const frame = Object.assign(document.createElement("iframe"), {name: "frame"});
  document.body.append(frame, form);
  const loaded = new Promise(done => frame.onload = done);
  form.submit();
  await loaded;
  for (const path of ["/events/in", "/events/out", "/logs/out"])
    got.push(await new Promise(done => {
      const one = new WebSocket(socket + path);
      one.onopen = () => done(path + " open");
      one.onclose = () => done("refused");
    }));
  for (const tag of ["img", "script"])
    got.push(await new Promise(done => {
      const one = document.createElement(tag);
      one.onload = () => done(tag + " loaded");
      one.onerror = () => done("refused");
      one.src = server + (tag == "img" ? "/completed.svg" : "/ui-settings");
      document.body.append(one);
    }));
  return got;
}"""
"""What a page can try; no-cors requests end "opaque" whether they were answered or refused, so the server is asked for them."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of another site with a page, on another port."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "index.html").write_text("<!doctype html><title>elsewhere</title><body></body>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as site:
        thread = Thread(target=site.serve_forever)
        thread.start()
        yield f"127.0.0.1:{site.server_port}"
        site.shutdown()
        thread.join()


@pytest.mark.parametrize("where", ["another port", "another name", "sandboxed"])
def test_a_page_of_another_site_changes_and_reads_nothing(
    served: Served, page: Page, elsewhere: str, where: str, tmp_path: Path
):
    deployment = ask(served, f"deployments/name/pipeline/{NAME}")
    runs = ask(served, "flow_runs/count", {})
    page.goto(served.page)  # whoever opens the other page is signed in here
    page.get_by_role("link", name="Deployments").wait_for()
    page.goto(f"http://{elsewhere if where != 'another name' else elsewhere.replace('127.0.0.1', ELSEWHERE)}")
    frame: Page | Frame = page
    if where == "sandboxed":  # its Origin is "null"
        page.evaluate(
            'document.body.innerHTML = \'<iframe sandbox="allow-scripts allow-forms" srcdoc="<body>"></iframe>\''
        )
        frame = page.frames[1]
        frame.wait_for_load_state()
    got = frame.evaluate(ATTACK, [served.url, deployment["id"], f"touch {tmp_path / 'was_run'}"])
    opaque = f"/deployments/{deployment['id']}/create_flow_run opaque 0"
    assert got == ["refused"] * 2 + [opaque] * 3 + ["refused"] * 6
    assert not ask(served, f"deployments/name/pipeline/{NAME}")["pull_steps"]
    assert ask(served, "flow_runs/count", {}) == runs  # so there is nothing for which a runner would run the command


def test_a_foreign_name_for_this_machine_leads_nowhere(served: Served, page: Page):
    port = served.url.rpartition(":")[2]
    for path in ("/", "/sign-in", "/api/health"):
        answer = page.goto(f"http://{ELSEWHERE}:{port}{path}")
        assert answer and answer.status == 403


def test_a_link_on_another_page_leads_to_the_deployments(served: Served, page: Page, elsewhere: str):
    page.goto(f"http://{elsewhere}")
    page.evaluate(f"document.body.innerHTML = '<a href=\"{served.page}\">there</a>'")
    page.get_by_role("link", name="there").click()
    page.get_by_role("link", name="Deployments").click()
    page.get_by_role("link", name=NAME, exact=True).wait_for()
    assert served.login not in page.url


def test_a_wrong_password_in_the_address_is_not_kept(served: Served, browser: BrowserContext):
    assert browser.browser
    with browser.browser.new_context() as fresh:
        page = fresh.new_page()
        page.goto(f"{served.url}/sign-in#tinywave:guess")
        page.wait_for_url(re.compile("/login"))
        assert page.evaluate("localStorage.getItem('prefect-password')") is None
