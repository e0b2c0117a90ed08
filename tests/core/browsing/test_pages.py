"""The pages of a store: what they show, whom they answer, and that they leave the store as it was."""

import asyncio
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.fixtures.markup import CANARY, MARKUP
from tests.fixtures.small_run import small_run
from tests.fixtures.spoken import IDS, SECONDS, samples, spoken
from tinywave_core.audio.utterances import decode_flac
from tinywave_core.browsing.app import Browser
from tinywave_core.browsing.holdings import open_store
from tinywave_core.errors import StoreError
from tinywave_core.steps.runs import record_run
from tinywave_core.storage.store import Artifact, Store

Made = tuple[Path, dict[str, Artifact]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A store with speech, and with two runs of artifacts made by hand."""
    folder = tmp_path_factory.mktemp("browsing")
    record, _ = small_run(folder / "store")
    store = Store(str(folder / "store"))
    for number in (1, 2):
        record_run(store, record.model_dump(mode="json") | {"number": number, "seconds": 60.0 * number})
    return folder / "store", spoken(store, folder / "work")


@dataclass(frozen=True)
class Client:
    """Asks the application, without a server; what it raises is raised here."""

    browser: Browser

    def get(self, address: str, **more: Any) -> httpx.Response:
        return self.ask("GET", address, **more)

    def ask(self, method: str, address: str, **more: Any) -> httpx.Response:
        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(self.browser.app())
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, address, **more)

        return asyncio.run(answer())


@pytest.fixture(scope="module")
def client(made: Made) -> Client:
    return ask(made[0])


def ask(root: Path | str) -> Client:
    return Client(Browser(open_store(str(root))))


def pages(made: dict[str, Artifact]) -> list[str]:
    """Every kind of page."""
    audio, tokens, model = (made[name].id for name in ("audio", "tokens", "model"))
    lists = [
        "/",
        "/artifacts?stage=tokenization",
        "/search?q=%3Cscript",
        f"/search?q={IDS[0]}",
        "/run/1",
        "/runs?first=1&second=2",
    ]
    own = [
        f"/artifact/{audio}",
        f"/artifact/{tokens}",
        f"/text/{model}/card.md",
        f"/table/{tokens}/tokens.parquet?all=1",
    ]
    return [
        *lists,
        *own,
        f"/table/{audio}/files.parquet",
        f"/utterance/{tokens}/{IDS[1]}",
        f"/artifact/{audio}%22onload",
    ]


def test_markup_in_names_is_text_on_every_page(client: Client, made: Made):
    """And nothing on a page is inline, so that nothing would run if it were not."""
    for page in pages(made[1]):
        answer = client.get(page)
        tags = re.findall(r"<[a-z][^>]*>", answer.text)
        assert not [
            tag
            for tag in tags
            if re.search(rf"{CANARY}|onerror=|onload=|javascript:|\sstyle=", re.sub(r'"[^"]*"', '""', tag))
        ]
        assert {tag for tag in tags if tag.startswith(("<script", "<i>", "<b>d"))} == {
            '<script src="/static/browse.js" defer>'
        }
        assert not re.search(r"(?:src|href)=\"(?![/#])", answer.text) and "<style" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "&lt;script&gt;alert(1)" in client.get("/search?q=%3Cscript").text


def test_the_first_page_has_runs_parts_and_what_is_published(client: Client):
    text = client.get("/").text
    assert "Run 1" in text and "Run 2" in text and text.index("Run 2") < text.index("Run 1<")
    row = re.search(r"ingestion/measures</a></td>\s*<td[^>]*>(\d+)</td>", text)
    assert row is not None and row[1] == "1"
    assert "2026-01-01 00:00" in text


def test_an_artifact_says_what_it_is_made_of_and_what_of_it(client: Client, made: Made):
    text = client.get(f"/artifact/{made[1]['tokens'].id}").text
    for part in ("audio", "model"):
        assert f'href="/artifact/{made[1][part].id}"' in text
    changed = re.search(r"fit_hours</td><td[^>]*><b>7</b></td><td[^>]*>5</td>", text)
    assert changed and "/table/" in text and "tokens.parquet" in text


def test_an_utterance_is_reached_from_any_table_that_was_made_from_its_sound(client: Client, made: Made):
    table = client.get(f"/table/{made[1]['words'].id}/words.parquet").text
    (link,) = set(re.findall(r'href="(/utterance/[^"]+)"', table))
    text = client.get(link).text
    says = re.findall(r'data-say="([^"]+)"', text)
    assert "unit 7, 0.00 to 0.40 s, 10 frames" in says and "unit 3, 0.40 to 1.00 s, 15 frames" in says
    assert "pitch 4, 0.80 to 2.00 s, 15 frames" in says and "style 2, 1.00 to 2.00 s, 1 frame" in says
    assert any(say.endswith(", 1.00 to 1.50 s") for say in says)
    assert "31.5" in text and f"{SECONDS:.2f} s" in text
    around = re.findall(r'rel="(prev|next)" href="([^"]+)"', text)
    assert [(rel, href.rsplit("/", 1)[1]) for rel, href in around] == [("prev", IDS[0]), ("next", IDS[2])]


def test_the_player_gets_the_sound_as_it_was_by_ranges(client: Client, made: Made):
    address = f"/flac/{made[1]['audio'].id}/{IDS[2]}"
    whole = client.get(address)
    half = len(whole.content) // 2
    parts = [client.get(address, headers={"range": f"bytes={r}"}) for r in (f"0-{half - 1}", f"{half}-")]
    assert [part.status_code for part in parts] == [206, 206]
    assert np.array_equal(decode_flac(b"".join(p.content for p in parts)) * 32768, samples(2))
    picture = client.get(address.replace("/flac/", "/spectrogram/"))
    assert picture.headers["content-type"] == "image/png" and picture.content[1:4] == b"PNG"


def test_search_finds_ids_recordings_speakers_and_files_without_speech(client: Client, made: Made):
    assert f"/utterance/{made[1]['audio'].id}/{IDS[0]}" in client.get(f"/search?q={IDS[0][:32]}").text
    assert client.get("/search?q=DIR").text.count('class="id" href="/utterance/') == 3
    assert client.get("/search", params={"q": MARKUP[1]}).text.count('class="id" href="/utterance/') == 3
    assert "rejected: no speech" in client.get("/search", params={"q": "no heading"}).text
    assert made[1]["model"].id in client.get(f"/search?q={made[1]['model'].id.split('/')[1]}").text
    assert "Nothing in this store" in client.get("/search?q=zzzz").text


def test_an_utterance_in_two_shards_is_found_once_and_names_both(tmp_path: Path):
    store = Store(str(tmp_path / "store"))
    older, newer = (spoken(store, tmp_path / name)["audio"].id for name in ("one", "two"))
    text = ask(tmp_path / "store").get(f"/search?q={IDS[0]}").text
    assert re.findall(r'href="/utterance/([^"]+)"', text) == [f"{shard}/{IDS[0]}" for shard in (newer, older)]
    assert "also in" in text


def test_the_first_page_says_a_warning_once_and_commands_without_backticks(tmp_path: Path):
    record, _ = small_run(tmp_path / "store")
    promotion = record.promotion.model_copy(update={"why": "see `tinywave publish` <b>", "warning": "is worse"})
    record_run(
        Store(str(tmp_path / "store")),
        record.model_copy(update={"promotion": promotion}).model_dump(mode="json") | {"number": 1},
    )
    text = ask(tmp_path / "store").get("/").text
    assert "see <code>tinywave publish</code> &lt;b&gt;" in text
    assert len(re.findall("warning", text, re.IGNORECASE)) == 1


def test_only_pages_of_this_server_are_answered_and_only_read(client: Client):
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 403
    assert client.get("/", headers={"origin": "http://elsewhere.example"}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}).status_code == 403
    assert client.ask("POST", "/").status_code == 405


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("/artifact/ingestion/ffff", "is not in the store"),
        ("/artifact/ingestion/..", "there is no page"),
        ("/artifact/runs/%2e%2e%2fstore", "there is no page"),
        ("/text/{model}/%2e%2e/%2e%2e/%2e%2e/store.json", "has no file"),
        ("/sound/{model}/card.md", "has no sound"),
        ("/table/{audio}/%2e%2e%2fstore.json", "has no table"),
        ("/table/{audio}/other.parquet", "has no file"),
        ("/utterance/{audio}/none", "has the utterance"),
        ("/flac/{tokens}/x", "has no sound"),
        ("/run/77", "there is no run 77"),
        ("/run/-1", "is no number of a run"),
        ("/runs", "is no number of a run"),
        ("/static/app.py", "there is no page"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_page_that_says_so(client: Client, made: Made, address: str, says: str):
    answer = client.get(address.format(**{name: each.id for name, each in made[1].items()}))
    assert answer.status_code == 404 and says in answer.text.replace("&#39;", "'")


def test_what_is_damaged_is_named_and_the_rest_is_shown(made: Made, tmp_path: Path):
    root = tmp_path / "store"
    shutil.copytree(made[0], root)
    (root / made[1]["words"].id / "words.parquet").unlink()
    tokens = root / made[1]["tokens"].id / "tokens.parquet"
    data = bytearray(tokens.read_bytes())
    data[120] ^= 1
    tokens.write_bytes(data)
    manifest = root / made[1]["model"].id / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"card.md", b"dard.md"))
    (root / "runs" / "000001.json").write_text("{}")
    client = ask(root)
    home = client.get("/").text
    assert "files are missing or cut" in home and "its contents have SHA-256" in home and "Run 2" in home
    assert "does not end with its digest" in home
    for page in (f"/artifact/{made[1]['words'].id}", f"/artifact/{made[1]['model'].id}", f"/table/{made[1]['tokens'].id}/tokens.parquet?all=1"):  # fmt: skip
        answer = client.get(page)
        assert (answer.status_code, "tinywave" in answer.text) == (410, True)
    assert client.get("/run/1").status_code == 410


def test_a_report_is_shown_only_as_it_was_written(made: Made, tmp_path: Path):
    root = tmp_path / "store"
    shutil.copytree(made[0], root)
    html = b"<!doctype html><p>report"
    store = Store(str(root))
    store.replace("reports/2025.html", html)
    record = store.read_record("runs/000002.json")
    digest = hashlib.sha256(html).hexdigest()
    record_run(store, record | {"report": f"{root}/reports/2025.html", "report_sha256": digest})
    client = ask(root)
    answer = client.get("/report/3")
    assert answer.content == html and "script-src" not in answer.headers["content-security-policy"]
    assert len(answer.headers.get_list("content-security-policy")) == 1
    store.replace("reports/2025.html", html + b"<script>")
    assert client.get("/report/3").status_code == 410
    (root / "reports" / "2025.html").unlink()
    assert client.get("/report/3").status_code == 404


def test_looking_leaves_a_store_as_it_was(made: Made, tmp_path: Path):
    root = tmp_path / "store"
    shutil.copytree(made[0], root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    client = ask(root)
    for page in pages(made[1]):
        client.get(page)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_folder_that_is_no_store_is_refused_and_an_empty_store_says_how_to_fill_it(tmp_path: Path):
    for root in (tmp_path / "new", tmp_path):
        with pytest.raises(StoreError, match="there is no store at"):
            open_store(str(root))
    assert list(tmp_path.iterdir()) == []
    Store(str(tmp_path / "empty"))
    client = ask(tmp_path / "empty")
    assert "tinywave run --source FOLDER" in client.get("/").text


def test_a_store_elsewhere_is_read_without_a_copy_of_its_tables(tmp_path: Path):
    store = Store("memory://browsing")
    artifacts = spoken(store, tmp_path / "work")
    client = ask("memory://browsing")
    for page in (
        f"/table/{artifacts['tokens'].id}/tokens.parquet",
        f"/utterance/{artifacts['tokens'].id}/{IDS[1]}",
        "/search?q=dir",
    ):
        assert client.get(page).status_code == 200
    assert client.get(f"/flac/{artifacts['audio'].id}/{IDS[0]}").status_code == 200
    assert not store.scratch("read").exists()


def test_what_came_meanwhile_is_shown_and_what_went_is_gone(made: Made, tmp_path: Path):
    root = tmp_path / "store"
    shutil.copytree(made[0], root)
    client = ask(root)
    assert "export/model" in client.get("/").text
    shutil.rmtree(root / made[1]["measures"].id)
    home = client.get("/").text
    assert "ingestion/measures" not in home
    assert json.loads((root / "store.json").read_text())["version"] == 2
