"""The pages of `tinywave ui` as an ASGI application: GET alone, for pages of this server alone, under a strict content policy.

In: an opened store. Out: HTML whose text is escaped by the templates, FLAC and WAV by ranges, spectrograms as PNG. A damaged or missing
artifact is a page that says so.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import cache, lru_cache, partial
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from tinywave_core import plots
from tinywave_core.audio.utterances import decode_flac
from tinywave_core.browsing import axis, links
from tinywave_core.browsing.answers import ranged
from tinywave_core.browsing.holdings import Reader
from tinywave_core.browsing.lineage_picture import LEFT, picture
from tinywave_core.browsing.readable import flattened, in_words, readable, settings_of, settings_of_run, shown
from tinywave_core.browsing.search import MOST, SHORTEST, search
from tinywave_core.browsing.tables import ROWS, opened, table_page
from tinywave_core.browsing.two_runs import figures_that_differ, headline_figures, settings_that_differ, shared
from tinywave_core.browsing.utterance import flac, found
from tinywave_core.counts import count
from tinywave_core.errors import DamagedArtifactError, MissingInputError, TinyWaveError
from tinywave_core.run.promotion import LOG
from tinywave_core.run.record import RunRecord
from tinywave_core.serving import guard
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.store import Artifact, Store
from tinywave_core.wording import size

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {**guard.HEADERS, "content-security-policy": CONTENT_POLICY, "permissions-policy": "microphone=()"}
REPORT_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""The report's own (`reporting/report.html.jinja`): it brings its pictures, sounds and style along."""
SOUNDS = {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg"}
TEXTS = (".json", ".txt", ".md", ".toml", ".jsonl", ".yaml", ".csv")
MOST_TEXT_BYTES = 1 << 20
FILES_A_PAGE, MOST_LINKS = 40, 12
STATUS = {MissingInputError: 404, DamagedArtifactError: 410}


class Browser:
    """A store and the pages about it."""

    def __init__(self, store: Store) -> None:
        self.store, self.reader = store, Reader(store)
        # A page asks three times for the sound of its utterance: for its outline, its spectrogram and its player.
        self._flac = lru_cache(4)(partial(flac, self.reader))

    def app(self) -> Starlette:
        """The ASGI application."""
        at = "/{stage}/{digest}"
        return Starlette(
            routes=[
                Route("/", self.home),
                Route("/search", self.search),
                Route("/artifacts", self.artifacts),
                Route(f"/artifact{at}", self.artifact),
                Route(f"/table{at}/{{name:path}}", self.table),
                Route(f"/text{at}/{{name:path}}", self.text),
                Route(f"/sound{at}/{{name:path}}", self.sound),
                Route(f"/utterance{at}/{{utterance}}", self.utterance),
                Route(f"/flac{at}/{{utterance}}", self.flac),
                Route(f"/spectrogram{at}/{{utterance}}", self.spectrogram),
                Route("/run/{number}", self.run),
                Route("/report/{number}", self.report),
                Route("/runs", self.two_runs),
                Route("/static/{name}", static),
            ],
            middleware=[Middleware(guard.Guard, headers=HEADERS)],
            exception_handlers={TinyWaveError: self.refused, HTTPException: self.not_found},
        )

    # The store --------------------------------------------------------------------------------------------------

    def home(self, _: Request) -> Response:
        """Runs and parts."""
        runs, holdings = self.reader.runs(), self.reader.holdings()
        published = self._published()
        return self._page("home", "Store", runs=runs, holdings=holdings, published=published)

    def _published(self) -> str:
        """Id of the export that is published; none where the log says none, or cannot be read."""
        try:
            latest = self.store.log(LOG).latest()
        except DamagedArtifactError:
            return ""
        return str((latest or {}).get("model", ""))

    def search(self, request: Request) -> Response:
        """What has some characters in its name."""
        query = request.query_params.get("q", "")[:200]
        result = search(self.reader, self.reader.holdings(), query)
        if len(result.artifacts) == 1 and not result.utterances and not result.files:
            return self._artifact_page(result.artifacts[0].id, 0)
        return self._page("search", f"Search: {query}", query=query, result=result, most=MOST, shortest=SHORTEST)

    def artifacts(self, request: Request) -> Response:
        """Artifacts of a stage, or of one part of it."""
        stage, part = request.query_params.get("stage", ""), request.query_params.get("part", "")
        entries = self.reader.holdings().of(stage, part)
        first = _number(request, "from", len(entries))
        title = "/".join(filter(None, (stage, part))) or "All artifacts"
        return self._page(
            "artifacts", title, entries=entries[first : first + ROWS], first=first, total=len(entries), stage=stage, part=part
        )  # fmt: skip

    # An artifact ------------------------------------------------------------------------------------------------

    def artifact(self, request: Request) -> Response:
        """Its manifest, lineage and files."""
        return self._artifact_page(_id(request), _number(request, "files", 1 << 40))

    def _artifact_page(self, artifact_id: str, first: int) -> Response:
        artifact, holdings = self.reader.artifact(artifact_id), self.reader.holdings()
        manifest = artifact.manifest
        assert manifest is not None
        users = holdings.users.get(artifact_id, ())
        groups: dict[str, list[str]] = {}
        for user in users:
            groups.setdefault(holdings.entries[user].part, []).append(user)
        first = min(first, max(0, len(manifest.files) - 1)) // FILES_A_PAGE * FILES_A_PAGE
        return self._page(
            "artifact",
            f"{manifest.stage}/{manifest.part}",
            artifact=artifact,
            manifest=manifest,
            entries=holdings.entries,
            users=groups,
            lineage=picture(holdings, artifact_id),
            dots=LEFT,
            summary=readable(manifest.summary),
            settings=settings_of(manifest.stage, manifest.config),
            params=[(in_words(name), shown(value)) for name, value in manifest.params.items()],
            files=manifest.files[first : first + FILES_A_PAGE],
            first_file=first,
            files_a_page=FILES_A_PAGE,
            kind=_kind,
            most_links=MOST_LINKS,
        )

    def table(self, request: Request) -> Response:
        """A page of a table."""
        artifact, name = self.reader.artifact(_id(request)), request.path_params["name"]
        if not name.endswith(".parquet"):
            raise MissingInputError(f"{artifact.id} has no table {name!r}")
        everything = "all" in request.query_params
        with opened(artifact, name) as file:
            page = table_page(file, _number(request, "from", 1 << 40), everything=everything)
        return self._page("table", name, artifact=artifact, name=name, page=page, everything=everything, rows=ROWS)

    def text(self, request: Request) -> Response:
        """A small text file as it is."""
        artifact, name = self.reader.artifact(_id(request)), request.path_params["name"]
        if _kind(name, artifact.size(name) if name in artifact.files else 0) != "text":
            raise MissingInputError(f"{artifact.id} has no text {name!r} that can be shown")
        text = artifact.path(name).read_text(encoding="utf-8", errors="replace")
        return self._page("text", name, artifact=artifact, name=name, text=text)

    def sound(self, request: Request) -> Response:
        """A sound file, by ranges."""
        artifact, name = self.reader.artifact(_id(request)), request.path_params["name"]
        if name not in artifact.files or _kind(name, 0) != "sound":
            raise MissingInputError(f"{artifact.id} has no sound {name!r}")
        return ranged(artifact.path(name).read_bytes(), SOUNDS[_ending(name)], request.headers.get("range"))

    # An utterance -----------------------------------------------------------------------------------------------

    def utterance(self, request: Request) -> Response:
        """Sound, pictures and codes on one time axis."""
        near, tokens = _id(request), request.query_params.get("tokens", "")
        shown_one = found(self.reader, self.reader.holdings(), near, request.path_params["utterance"], tokens)
        seconds, codes = shown_one.seconds, shown_one.codes
        samples = decode_flac(self._flac(shown_one.place.shard, shown_one.id))
        outline, columns = axis.outline(samples, seconds)
        lanes = codes.lanes(seconds) if codes else {}
        return self._page(
            "utterance",
            f"Utterance {shown_one.id[:8]} of {shown_one.row['path']}",
            found=shown_one,
            near=near,
            tokens=tokens,
            seconds=seconds,
            rates=codes.rates_hz if codes else {},
            lanes=lanes,
            words=[
                (word, axis.place(word.start_s, seconds), axis.place(word.end_s - word.start_s, seconds))
                for word in shown_one.words
            ],
            marks=axis.marks(seconds),
            outline=outline,
            columns=columns,
            measures=[(in_words(name), shown(value)) for name, value in flattened(shown_one.measures)],
            start_s=shown_one.row["start_samples"] / SAMPLE_RATE,
        )

    def flac(self, request: Request) -> Response:
        """The sound of an utterance, by ranges."""
        data = self._flac(_id(request), request.path_params["utterance"])
        return ranged(data, "audio/flac", request.headers.get("range"))

    def spectrogram(self, request: Request) -> Response:
        """Its mel spectrogram."""
        samples = decode_flac(self._flac(_id(request), request.path_params["utterance"]))
        return Response(plots.spectrogram_png(np.asarray(samples), SAMPLE_RATE), media_type="image/png")

    # Runs -------------------------------------------------------------------------------------------------------

    def run(self, request: Request) -> Response:
        """What a run did."""
        record = self.reader.run(_run_number(request.path_params["number"]))
        return self._page("run", f"Run {record.number}", record=record, beside=settings_of_run(record.config))

    def report(self, request: Request) -> Response:
        """The report of a run, as it was written."""
        record = self.reader.run(_run_number(request.path_params["number"]))
        name = f"reports/{record.report.rsplit('/', 1)[-1]}"
        try:
            data = self.store.read(name)
        except FileNotFoundError as error:
            raise MissingInputError(f"the report of run {record.number} is not in the store any more") from error
        if hashlib.sha256(data).hexdigest() != record.report_sha256:
            raise DamagedArtifactError(f"{name} is not what run {record.number} wrote")
        return HTMLResponse(data, headers={"content-security-policy": REPORT_POLICY})

    def two_runs(self, request: Request) -> Response:
        """Two runs side by side."""
        first, second = (
            self.reader.run(_run_number(request.query_params.get(name, ""))) for name in ("first", "second")
        )
        summaries = [self._summaries(record) for record in (first, second)]
        parts = [part for part in first.outputs if first.outputs[part] != second.outputs.get(part)]
        figures = {
            part: figures_that_differ(summaries[0][part], summaries[1][part])
            for part in parts
            if part in summaries[0] and part in summaries[1]
        }
        return self._page(
            "two_runs",
            f"Runs {first.number} and {second.number}",
            first=first,
            second=second,
            settings=settings_that_differ(first, second),
            headline=headline_figures(summaries[0].get("scores", {}), summaries[1].get("scores", {})),
            figures={part: rows for part, rows in figures.items() if rows},
            shared=shared(first, second),
        )

    def _summaries(self, record: RunRecord) -> Mapping[str, Mapping[str, Any]]:
        """By part; what is not in the store any more is left out."""
        artifacts = {part: self._whole(artifact_id) for part, artifact_id in record.outputs.items()}
        return {part: artifact.summary for part, artifact in artifacts.items() if artifact is not None}

    def _whole(self, artifact_id: str) -> Artifact | None:
        try:
            return self.reader.artifact(artifact_id)
        except TinyWaveError:
            return None

    # Answers ----------------------------------------------------------------------------------------------------

    def _page(self, template: str, title: str, status: int = 200, **parts: Any) -> Response:
        html = _templates().get_template(f"{template}.html.jinja").render(title=title, root=self.store.url, **parts)
        return HTMLResponse(html, status)

    def refused(self, _: Request, error: Exception) -> Response:
        """What is wrong with what was asked for."""
        status = next((number for kind, number in STATUS.items() if isinstance(error, kind)), 400)
        return self._page("error", "Not to be shown" if status != 404 else "Not found", status, message=str(error))

    def not_found(self, request: Request, error: Exception) -> Response:
        """There is no such page, or not by this method."""
        assert isinstance(error, HTTPException)
        message = f"there is no page {request.url.path!r}"
        if error.status_code == 405:
            message = "pages here are read by GET, and nothing is written"
        return self._page("error", "Not found", error.status_code, message=message)


_STATIC = {"style.css": "text/css", "browse.js": "text/javascript", "icon.svg": "image/svg+xml"}


def static(request: Request) -> Response:
    """Style, script and icon; the style begins with the report's."""
    name = request.path_params["name"]
    if name not in _STATIC:
        raise HTTPException(404)
    text = _file("browsing/pages", name)
    return Response(_file("reporting", "style.css") + text if name == "style.css" else text, media_type=_STATIC[name])


def _file(folder: str, name: str) -> str:
    return files("tinywave_core").joinpath(folder, name).read_text(encoding="utf-8")


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("tinywave_core.browsing", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"links": links, "size": size, "count": count}
    environment.filters |= {"when": _when, "words": in_words, "marked": _marked}
    return environment


def _when(created_at: str) -> str:
    """A time as people read it."""
    return created_at.replace("T", " ").removesuffix("Z")[:16]


def _marked(text: str) -> Markup:
    """A sentence whose commands stand between backticks, as HTML."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _id(request: Request) -> str:
    return f"{request.path_params['stage']}/{request.path_params['digest']}"


def _number(request: Request, name: str, total: int) -> int:
    """A count from the address, at most `total`; 0 where it is none."""
    text = request.query_params.get(name, "0")
    return min(int(text), max(0, total - 1)) if text.isascii() and text.isdecimal() and len(text) < 12 else 0


def _run_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 7):
        raise MissingInputError(f"{text!r} is no number of a run")
    return int(text)


def _ending(name: str) -> str:
    return f".{name.rsplit('.', 1)[-1].lower()}"


def _kind(name: str, bytes_: int) -> str:
    """How a file is shown: as a table, a sound, a text, or not at all."""
    if _ending(name) == ".parquet":
        return "table"
    if _ending(name) in SOUNDS:
        return "sound"
    return "text" if _ending(name) in TEXTS and bytes_ <= MOST_TEXT_BYTES else ""
