"""The page of `tinywave talk` as a person uses it: speak, hear the answer while it is made, type, open a file, stop, save it all."""

import base64
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.conftest import Finished
from tests.fixtures.serving import PATIENCE_S, Serving, load, reads_text, serve, talkative, until, with_room
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


LAYOUTS = {"desktop-light": (1280, 860, "light"), "phone-dark": (390, 800, "dark")}
PHONE = pytest.mark.parametrize("page", [LAYOUTS["phone-dark"]], indirect=True, ids=["phone-dark"])
DESKTOP = pytest.mark.parametrize("page", [LAYOUTS["desktop-light"]], indirect=True, ids=["desktop-light"])

FAINT = """() => {  // visible words whose contrast is below 4.5 to 1 (WCAG 2, AA)
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => parts(colour).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4).reduce((sum, x, n) => sum + x * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = node => { const own = getComputedStyle(node).backgroundColor; return (parts(own)[3] ?? 1) === 1 ? own : ground(node.parentElement); };
  const words = [...document.querySelectorAll("body *")].filter(node => node.checkVisibility() && !node.closest(":disabled, option, script")
    && (node.matches("select, textarea") || [...node.childNodes].some(each => each.nodeType === 3 && each.data.trim())));
  if (words.length < 8) throw new Error("hardly a word is there");
  return words.map(node => {
    const [dark, bright] = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => a - b);
    return [(bright + 0.05) / (dark + 0.05), node.textContent];
  }).filter(([ratio]) => ratio < 4.5);
}"""
SMALL = """() => [...document.querySelectorAll("button, select, textarea, summary, fieldset label, input[type=range]")].filter(node => node.checkVisibility())
  .map(node => [node.textContent, node.getBoundingClientRect()]).filter(([, box]) => box.width < 44 || box.height < 44).map(([name]) => name)"""
"""What is hard to hit with a finger."""


@contextmanager
def opened(chromium: Browser, url: str, layout: tuple[int, int, str], *expected: str) -> Iterator[Page]:
    """The page in a browser of its own, which it loads nothing else into; it complains of what is expected at most."""
    width, height, scheme = layout
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
        lambda asked: complaints.append(asked.url) if url not in asked.url and asked.url.startswith("http") else None,
    )
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(url)
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert [complaint for complaint in complaints if not any(each in complaint for each in expected)] == []


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def page(request: pytest.FixtureRequest, chromium: Browser, serving: Serving) -> Iterator[Page]:
    """The page, at two widths; in the end it has nothing to complain about, can be read, and on a phone be hit."""
    with opened(chromium, serving.url, request.param) as page:
        yield page
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("img, [onerror], [href^=javascript]").count() == 0
        assert page.evaluate(FAINT) == []
        if request.param[0] < 700:
            assert page.evaluate(SMALL) == []


def come(page: Page, expression: str) -> None:
    """Wait until it is true; the page forbids Playwright's own way, which evaluates strings inside of it."""
    deadline = time.monotonic() + PATIENCE_S
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never: {expression}"
        page.wait_for_timeout(30)


def alert(page: Page, words: str) -> Locator:
    return page.get_by_role("alert").filter(has_text=words)


def printed(text: str | None) -> str:
    """Without what a file of HTML may write otherwise: line ends and control characters, of which a tiny model makes many."""
    return "".join(filter(str.isprintable, text or ""))


def be(page: Page, state: str) -> None:
    page.wait_for_selector(f"body[data-state={state}]")


def test_what_is_said_goes_on_and_is_heard(page: Page):
    shot(page, "empty")
    page.get_by_role("button", name="Speak").click()
    # Two seconds of the recording have arrived.
    come(page, "turn && turn.you.sound && turn.you.sound.seconds > 2")
    shot(page, "listening")
    page.get_by_role("button", name="Stop and answer").click()
    come(page, "Number(document.body.dataset.played) > 0.3")  # time passes in what is played
    shot(page, "speaking")
    be(page, "idle")
    assert int(page.evaluate("document.body.dataset.pieces")) > 1
    said = page.locator(".prompt .stats")
    expect(said).to_contain_text(f"{page.evaluate('turn.you.sound.seconds'):.1f} s of speech")
    expect(said).to_contain_text("tokens heard")
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
    page.get_by_role("button", name="Play").click()
    be(page, "speaking")
    page.get_by_role("button", name="Stop").click()
    be(page, "idle")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save", exact=True).click()
    assert soundfile.info(saved.value.path()).duration > 0.1


def test_a_recording_is_opened_answered_in_writing_and_saved(page: Page, recording: Path, tmp_path: Path):
    """The name of the model and that of the file are markup: both stand there as text."""
    page.get_by_label("Model").select_option(MARKED)
    if page.locator("summary").is_visible():  # on a phone
        page.locator("summary").click()
    page.locator("fieldset label", has_text="Text").click()
    named = {"name": f"{MARKED}.wav", "mimeType": "audio/wav", "buffer": recording.read_bytes()}
    page.locator("#file").set_input_files(named)
    page.wait_for_selector(".answer[data-status=completed]")
    be(page, "idle")
    expect(page.locator(".answer .who")).to_have_text(MARKED)
    expect(page.locator(".prompt .note")).to_have_text(f"{MARKED}.wav")
    assert page.locator(".answer .words").inner_text() or page.get_by_text("has nothing to add").is_visible()
    shot(page, "written")
    written = page.locator(".answer .words").text_content()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save conversation").click()
    assert saved.value.suggested_filename.endswith(".html")
    file, asked = page.context.new_page(), []
    file.on("request", lambda request: asked.append(request.url[:5]))
    file.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    saved.value.save_as(tmp_path / "saved.html")
    file.goto((tmp_path / "saved.html").as_uri())
    shot(file, "saved")
    assert file.locator("h2").all_text_contents() == ["You", MARKED]
    text = file.locator("body").text_content()
    assert f"{MARKED}.wav" in (text or "") and printed(written or "has nothing to add") in printed(text)
    data = file.locator("audio").get_attribute("src") or ""
    (tmp_path / "saved.wav").write_bytes(base64.b64decode(data.removeprefix("data:audio/wav;base64,")))
    assert np.abs(read_waveform(tmp_path / "saved.wav") - read_waveform(recording)).max() < 2 / 32768
    assert file.locator("[onerror], script").count() == 0 and set(asked) <= {"file:", "data:"}


def test_an_answer_is_stopped(page: Page, serving: Serving, recording: Path):
    page.locator("#file").set_input_files(recording)
    be(page, "speaking")
    page.get_by_role("button", name="Stop").click()
    be(page, "idle")
    expect(page.locator(".answer .note")).to_have_text("stopped")
    page.get_by_label("Text to continue").fill("and then")
    page.keyboard.press("Enter")
    # An error that the first turn caused and that comes late is not said of the second one.
    page.evaluate("hear({type: 'error', error: {event_id: 'turn-1', code: 'prompt_empty', message: 'too late'}})")
    page.wait_for_selector(".turn:nth-of-type(2) .answer[data-status=completed]")
    expect(alert(page, "Too late")).to_have_count(0)


def test_what_cannot_be_done_is_said(page: Page, tmp_path: Path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    page.locator("#file").set_input_files(tmp_path / "silence.wav")
    expect(alert(page, "it is silent")).to_be_visible()
    be(page, "idle")
    page.locator("#file").set_input_files({"name": MARKED, "mimeType": "audio/wav", "buffer": b"this is no audio"})
    expect(alert(page, f"“{MARKED}” is no recording")).to_be_visible()
    be(page, "idle")
    soundfile.write(tmp_path / "long.wav", np.full(21 * 8_000, 0.1), 8_000)
    page.locator("#file").set_input_files(tmp_path / "long.wav")
    too_long = "“long.wav” has 21.0 s, and this server takes 20 s at most"
    expect(alert(page, too_long)).to_be_visible()
    page.get_by_label("Text to continue").fill("é" * 4001)
    expect(alert(page, "The text has 4001 characters")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.get_by_label("Text to continue").fill("é" * 4000)
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    page.get_by_label("Text to continue").fill("a [Hu3] in it")  # a token's name, which the server refuses
    page.keyboard.press("Enter")
    expect(alert(page, "The text spells the token [Hu3]")).to_be_visible()
    expect(page.get_by_label("Text to continue")).to_have_value("a [Hu3] in it")  # to be mended
    shot(page, "refused")


SLOW = """() => {  // a connection that is there once something was said
  const now = connect;
  connect = async () => { while (!(turn.you.sound && turn.you.sound.seconds > 0.4)) await new Promise(requestAnimationFrame); return now(); };
}"""


@DESKTOP
def test_everything_is_done_by_keys(page: Page):
    page.keyboard.press("Space")
    be(page, "listening")
    come(page, "Number(document.getElementById('meter').getAttribute('aria-valuenow')) > 20")
    page.keyboard.press("Escape")  # thrown away
    be(page, "idle")
    assert page.locator(".turn").count() == 0
    page.evaluate(SLOW)
    page.keyboard.press("Space")
    come(page, "recorder && turn.you.sound && turn.you.sound.seconds > 1")
    page.keyboard.press("Space")
    said = f"{page.evaluate('turn.you.sound.seconds'):.1f} s of speech"
    be(page, "speaking")
    expect(page.locator(".prompt .stats")).to_contain_text(said)  # nothing was lost
    page.keyboard.press("Escape")
    be(page, "idle")
    expect(page.locator(".answer .note")).to_have_text("stopped")
    page.get_by_label("Model").focus()
    reached = []
    while "Microphone" not in reached:
        reached.append(
            page.evaluate(
                "(document.activeElement.labels?.[0] ?? document.activeElement).innerText.split('\\n')[0].trim()"
            )
        )
        page.keyboard.press("Tab")
        assert len(reached) < 20
    steps = ["Model", "Save conversation", "Play", "Save", "Speak", "Open a recording", "Speech", "Temperature"]
    assert [each for each in reached if each in steps][-4:] == steps[-4:] and set(steps) <= set(reached)
    page.get_by_label("Text to continue").click()
    page.keyboard.type("a b")  # where text is written, a space is one
    expect(page.get_by_label("Text to continue")).to_have_value("a b")
    be(page, "idle")


HEARS = """gain => navigator.mediaDevices.getUserMedia = async () => {  // a microphone that hears a tone of so much
  const made = new AudioContext(), tone = made.createOscillator(), level = made.createGain(), out = made.createMediaStreamDestination();
  level.gain.value = gain; tone.connect(level).connect(out); tone.start();
  return out.stream;
}"""
FAILS = "name => navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', name); }"


@PHONE
def test_what_is_wrong_with_the_microphone_is_said(page: Page):
    for name, words in (("NotAllowedError", "may not use the microphone"), ("NotFoundError", "There is no microphone")):
        page.evaluate(FAILS, name)
        page.get_by_role("button", name="Speak").click()
        expect(alert(page, words)).to_be_visible()
        be(page, "idle")
    for gain, words in ((0, "No sound arrives"), (0.001, "This is very quiet")):  # the second one is at -63 dB
        page.evaluate(HEARS, gain)
        page.get_by_role("button", name="Speak").click()
        expect(alert(page, words)).to_be_visible()
        assert page.evaluate(SMALL) == [] == page.evaluate(FAINT)
        page.get_by_role("button", name="Discard").click()
        be(page, "idle")
    expect(alert(page, "very quiet")).to_have_count(0)


@DESKTOP
def test_a_microphone_is_chosen_by_its_name(page: Page):
    """Chromium's own devices for tests are several."""
    page.locator("#microphone").select_option(label="Fake Audio Input 2")
    page.get_by_role("button", name="Speak").click()
    come(page, "recorder !== null")
    assert page.evaluate("recorder.stream.getAudioTracks()[0].label") == "Fake Audio Input 2"
    page.get_by_role("button", name="Discard").click()


@contextmanager
def working(server: Serving) -> Iterator[None]:
    """The first model's thread has other work all the while."""
    done = threading.Event()
    server.host._model.submit(done.wait)
    try:
        yield
    finally:
        done.set()


def test_a_busy_model_and_a_server_that_is_gone_are_waited_for(
    finished: Finished, chromium: Browser, serving: Serving, tmp_path: Path
):
    """And a model of speech alone offers no box for text."""
    limits, models = (
        Limits(waiting=0),
        {"reads": serving.host.generator, "mute": load(finished.outputs["model"].path("model"))},
    )
    expected = ("ERR_CONNECTION_REFUSED", "WebSocket connection to")
    with ExitStack() as stack:
        with serve(models, limits) as server:
            page = stack.enter_context(opened(chromium, server.url, LAYOUTS["desktop-light"], *expected))
            offered = page.get_by_label("Model").locator("option")
            expect(offered).to_have_text(["reads (speech and text)", "mute (speech only)"])
            page.get_by_label("Model").select_option("mute")
            expect(page.locator("#about")).to_contain_text("Trained on speech alone")
            expect(page.get_by_label("Text to continue")).to_be_hidden()
            page.get_by_label("Model").select_option("reads")
            with server.talk() as other, working(server):
                other.say("conversation.item.create", item={"content": [{"type": "input_text", "text": "and then"}]})
                other.say("response.create", response={"max_output_tokens": 20})
                until(lambda: not server.idle())
                page.get_by_label("Text to continue").fill("Once upon a time")
                page.get_by_role("button", name="Send").click()
                expect(alert(page, "This model is busy with others")).to_be_visible()
                shot(page, "busy")
            until(server.idle)
            page.get_by_role("button", name="Try again").click()
            page.wait_for_selector(".turn:nth-of-type(2) .answer[data-status=completed]")
            expect(page.locator(".turn:nth-of-type(2) .prompt .words")).to_have_text("Once upon a time")
            be(page, "idle")
        page.get_by_label("Text to continue").fill("and then")
        page.keyboard.press("Enter")
        expect(alert(page, "The server does not answer, and got nothing of this")).to_be_visible()
        expect(page.get_by_role("button", name="Speak")).to_be_disabled()
        assert page.evaluate(FAINT) == []
        shot(page, "gone")
        with serve(models, limits, port=urlsplit(server.url).port or 0):
            page.get_by_role("button", name="Connect now").click()
            expect(page.locator("#gone")).to_be_hidden()
            page.get_by_role("button", name="Try again").click()
            page.wait_for_selector(".turn:nth-of-type(4) .answer[data-status=completed]")
            be(page, "idle")
