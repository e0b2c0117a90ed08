"""The pages of `tinywave ui` in a real browser: an utterance on its time axis, by mouse and by keys, on a desktop and on a phone."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import BrowserContext, expect

from flows.listening import listen
from tests.fixtures.markup import RUN
from tests.fixtures.spoken import IDS, SECONDS, spoken
from tests.ui.conftest import shot
from tinywave_core.browsing.app import Browser
from tinywave_core.browsing.holdings import open_store
from tinywave_core.serving.connections import TalkConfig
from tinywave_core.serving.limits import Limits
from tinywave_core.storage.store import Store


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    spoken(Store(str(tmp_path / "store")), tmp_path / "work")
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(TalkConfig(Browser(open_store(str(tmp_path / "store"))).app(), Limits()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


def test_an_utterance_is_seen_and_heard_on_one_time_axis(browser: BrowserContext, url: str):
    page = browser.new_page()
    complaints: list[str] = []
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith((url, "data:")) else None)
    page.goto(f"{url}/search?q=dir")
    page.locator("a.id").nth(1).click()
    expect(page.locator("#player")).to_have_js_property("duration", SECONDS)
    # The second run of units begins at 0.4 s of 2: there it stands on the axis, and there the player goes.
    said, units = page.locator("#said"), page.locator("svg.blocks").first
    stack, box = page.locator("#stack").bounding_box(), units.locator("rect").nth(1).bounding_box()
    assert stack and box and box["x"] - stack["x"] == pytest.approx(0.2 * stack["width"], abs=1)
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    expect(said).to_have_text("unit 3, 0.40 to 1.00 s, 15 frames")
    page.mouse.click(box["x"] + 3, box["y"] + 3)
    assert page.evaluate("document.getElementById('player').currentTime") == pytest.approx(0.4)
    page.keyboard.press("ArrowRight")
    expect(said).to_have_text("unit 7, 1.00 to 2.00 s, 25 frames")
    page.get_by_label("Zoom in").click()
    wider = page.locator("#stack").bounding_box()
    assert wider and wider["width"] == pytest.approx(2 * stack["width"], abs=1)
    shot(page, "utterance")
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.keyboard.press("n")
    page.wait_for_url(f"**/{IDS[2]}*")
    expect(page.locator("img.picture")).to_have_js_property("complete", value=True)
    assert page.locator("img.picture").evaluate("picture => picture.naturalWidth") > 0
    for address in ("/", page.url.removeprefix(url)):
        page.goto(url + address)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator(RUN).count() == 0
        shot(page, f"store-{len(address)}")
    assert complaints == []
    page.close()
