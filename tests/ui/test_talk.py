"""The page of `tinywave talk` as a person uses it: speak, hear the answer while it is made, type, open a file, stop."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.conftest import Finished
from tests.fixtures.serving import PATIENCE_S, Serving, load, reads_text, serve, talkative, with_room
from tests.fixtures.tiny import CLIPS
from tests.ui.conftest import FLAGS, shot
from tinywave_core.audio.waveform import read_waveform
from tinywave_core.serving.limits import Limits

MARKED = '<img src="http://canary.example/seen.png" onerror="alert(1)">'
"""What names and texts may be."""


@pytest.fixture(scope="module")
def recording(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser's microphone hears, again and again."""
    path = tmp_path_factory.mktemp("microphone") / "said.wav"
    soundfile.write(path, read_waveform(tiny_source / CLIPS[4]), 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def chromium(chromium_path: str, recording: Path) -> Iterator[Browser]:
    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags = [*FLAGS, *microphone, f"--use-file-for-fake-audio-capture={recording}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def serving(finished: Finished, chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    given = os.environ.get("TINYWAVE_TALK_MODEL")
    folder = tmp_path_factory.mktemp("talk")
    model = finished.outputs["model"].path("model")
    place = Path(given) if given else with_room(reads_text(model, folder / "reads"), folder / "model")
    generator = talkative(load(place))
    with serve({"student": generator, MARKED: generator}, Limits(prompt_s=20)) as running:
        yield running


@pytest.fixture(params=[(1280, 860, "light"), (390, 800, "dark")], ids=["desktop-light", "phone-dark"])
def page(request: pytest.FixtureRequest, chromium: Browser, serving: Serving) -> Iterator[Page]:
    """The page, at two widths; in the end it has nothing to complain about."""
    width, height, scheme = request.param
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(60_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            complaints.append(asked.url) if serving.url not in asked.url and asked.url.startswith("http") else None
        ),
    )
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(serving.url)
    page.wait_for_selector("body[data-ready]")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("img, [onerror], [href^=javascript]").count() == 0
    context.close()
    assert not complaints


def come(page: Page, expression: str) -> None:
    """Wait until it is true; the page forbids Playwright's own way, which evaluates strings inside of it."""
    deadline = time.monotonic() + PATIENCE_S
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never: {expression}"
        page.wait_for_timeout(30)


def be(page: Page, state: str) -> None:
    page.wait_for_selector(f"body[data-state={state}]")


def test_what_is_said_goes_on_and_is_heard(page: Page):
    shot(page, "empty")
    page.get_by_role("button", name="Speak").click()
    # Two seconds of the recording have arrived.
    come(page, "turn && turn.you.sound && turn.you.sound.seconds > 2")
    shot(page, "listening")
    page.get_by_role("button", name="Stop and hear the answer").click()
    come(page, "Number(document.body.dataset.played) > 0.3")  # time passes in what is played
    shot(page, "speaking")
    be(page, "idle")
    assert int(page.evaluate("document.body.dataset.pieces")) > 1
    answer = page.locator(".answer")
    expect(answer.locator(".stats")).to_contain_text("to first audio")
    expect(answer.locator(".stats")).to_contain_text("tokens/s")
    expect(answer.get_by_role("img")).to_be_visible()
    played, made = page.evaluate("[Number(document.body.dataset.played), turn.it.sound.seconds]")
    assert played == pytest.approx(made, abs=0.06)
    page.mouse.move(0, 0)
    shot(page, "answered")


def test_what_is_typed_goes_on_as_speech_and_plays_again(page: Page):
    page.get_by_label("Text to continue").fill(f"Once {MARKED} [upon](javascript:alert(2)) a time")
    page.keyboard.press("Enter")
    come(page, "Number(document.body.dataset.played) > 0.1")
    be(page, "idle")
    expect(page.locator(".prompt .words")).to_have_text(f"Once {MARKED} [upon](javascript:alert(2)) a time")
    page.get_by_role("button", name="Play again").click()
    be(page, "speaking")
    page.get_by_role("button", name="Stop").click()
    be(page, "idle")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as wav").click()
    assert soundfile.info(saved.value.path()).duration > 0.1


def test_a_recording_is_opened_and_answered_in_writing(page: Page, recording: Path):
    """The name of the model and that of the file are markup: both stand there as text."""
    page.get_by_label("Model").select_option(MARKED)
    page.locator("label", has_text="Text").first.click()
    named = {"name": f"{MARKED}.wav", "mimeType": "audio/wav", "buffer": recording.read_bytes()}
    page.locator("#file").set_input_files(named)
    page.wait_for_selector(".answer[data-status=completed]")
    be(page, "idle")
    expect(page.locator(".answer .who")).to_have_text(MARKED)
    expect(page.locator(".prompt .note")).to_contain_text(f"{MARKED}.wav, ")
    assert page.locator(".answer .words").inner_text() or page.get_by_text("has nothing to add").is_visible()
    shot(page, "written")


def test_an_answer_is_stopped(page: Page, serving: Serving, recording: Path):
    page.locator("#file").set_input_files(recording)
    be(page, "speaking")
    page.get_by_role("button", name="Stop").click()
    be(page, "idle")
    expect(page.locator(".answer .note")).to_have_text("stopped")
    page.get_by_label("Text to continue").fill("and then")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn:nth-of-type(2) .answer[data-status=completed]")


def test_what_cannot_be_done_is_said(page: Page, tmp_path: Path):
    import numpy as np

    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    page.locator("#file").set_input_files(tmp_path / "silence.wav")
    expect(page.get_by_role("alert").filter(has_text="it is silent")).to_be_visible()
    be(page, "idle")
    page.locator("#file").set_input_files({"name": MARKED, "mimeType": "audio/wav", "buffer": b"this is no audio"})
    expect(page.get_by_role("alert").filter(has_text=f"{MARKED} is no recording")).to_be_visible()
    be(page, "idle")
    shot(page, "refused")
