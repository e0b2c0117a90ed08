"""Speakers and transcripts that lie beside the audio, in the layouts that speech corpora come in (`labels/layouts.py`).

Every label file is read into claims ("the recording of this name has this speaker and this transcript"); each claim is given to the
recordings that its name means (`labels/matching.py`). Where files disagree, the layout that stands first in the registry is followed,
then the file that lies nearer to the audio, then the first by name. What found no recording, what disagrees and what cannot be read
is counted and named, and never stops anything; a manifest without a column `path` alone does.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import pyarrow as pa

from tinywave_core.audio.labels.channels import in_name, numbers
from tinywave_core.audio.labels.claims import Claim, LabelFile, Layout
from tinywave_core.audio.labels.layouts import BESIDE, LAYOUTS, RANKS, ROWS, may_be_labels, speaker_in_path
from tinywave_core.audio.labels.matching import Recordings, stem_of
from tinywave_core.audio.labels.report import NO_LABELS, LabelReport, origins, problems, some
from tinywave_core.audio.labels.tables import STARTS, labels_of
from tinywave_core.audio.labels.text import clean
from tinywave_core.audio.source import Listing, Source, SourceFile, row_path
from tinywave_core.errors import SourceError

_LONGEST_NAME = 200  # characters that are told of it
_BATCH_FILES, _BATCH_BYTES = 256, 1 << 26  # of label files in memory, and in one go from a bucket
LARGEST_BYTES = 1 << 31  # of a table: Common Voice's largest has half of it


Segment = tuple[float, float, str]
"""Beginning and end in seconds, and what is said there; empty where it is only known that somebody speaks."""


@dataclass(frozen=True, slots=True)
class Label:
    """Speaker and transcript of one recording; or its parts with their transcripts, which are then cut out as they are given."""

    speaker: str | None = None
    transcript: str | None = None
    segments: tuple[Segment, ...] = ()

    channels: "tuple[tuple[int, Label], ...]" = ()
    """What is said of each of two channels, by its number, 1 or 2."""

    @property
    def is_transcribed(self) -> bool:
        """Whether it has words, of the whole or of a channel."""
        return self.has_words or self.is_of_channels

    @property
    def has_words(self) -> bool:
        """Whether it has words of the whole."""
        return self.transcript is not None or any(text for _, _, text in self.segments)

    @property
    def is_of_channels(self) -> bool:
        """Whether all of its words are of one channel each."""
        return not self.has_words and any(label.has_words for _, label in self.channels)


@dataclass(frozen=True)
class Labels:
    """Labels by path, claims whose recording is not there as "file: name", and the whole in numbers."""

    by_path: dict[str, Label]
    orphans: tuple[str, ...]
    report: LabelReport = field(default=NO_LABELS, compare=False)


def read_labels(source: Source, listing: Listing, audio_paths: Iterable[str]) -> Labels:
    """Labels for these recordings; nothing that is told names another one, and no file beside another one is read."""
    reading = _Reading(source, listing, set(audio_paths))
    for batch in _batches(file for file in listing.sidecars if reading.is_wanted(file)):
        reading.read(batch)
    for table in listing.tables:
        reading.read_rows(table)
    return reading.result()


def _batches(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """Files in groups of a size that memory allows."""
    batch, size = list[SourceFile](), 0
    for file in files:
        if batch and (size + file.bytes > _BATCH_BYTES or len(batch) == _BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.bytes
    if batch:
        yield batch


@dataclass(frozen=True, order=True, slots=True)
class _Voice:
    """A file, and how it names recordings; the smaller of two is followed."""

    rank: int  # of its layout
    is_like: bool  # whether the name is only like the recording's
    height: int  # minus the folders above it: the nearer file first
    path: str
    layout: str


class _Reading:
    """Label files of a source, read one after the other into what they say of each recording."""

    def __init__(self, source: Source, listing: Listing, wanted: set[str]) -> None:
        self._source = source
        self._wanted = wanted
        self._recordings = Recordings((file.path for file in listing.audio), source.root)
        self._sidecars = {file.path: file for file in listing.sidecars}
        self._said: dict[str, list[tuple[_Voice, Label]]] = defaultdict(list)
        self._orphans: list[str] = []
        self._problems: list[tuple[str, str]] = []  # kind, where
        self._unread: list[str] = []

    def is_wanted(self, file: SourceFile) -> bool:
        """Whether a file lies beside a wanted recording, or may be about any: then it is read."""
        if beside := self._beside(file.path):
            return not self._wanted.isdisjoint(beside)
        path = PurePosixPath(file.path)
        if not may_be_labels(path):
            return self._is_kaldi(path)
        if path.suffix.lower() == ".parquet" and path.stem not in ("manifest", "metadata"):
            self._unread.append(file.path)  # it may hold gigabytes of anything
            return False
        if file.bytes > LARGEST_BYTES:
            self._problems.append(("too large", file.path))
            return False
        return True

    def _is_kaldi(self, path: PurePosixPath) -> bool:
        """A `wav.scp`, or a `text` without one: with one it is read from there."""
        has_scp = str(path.with_name("wav.scp")) in self._sidecars
        return path.name == "wav.scp" or (path.name == "text" and not has_scp)

    def read(self, files: Sequence[SourceFile]) -> None:
        """Take in what these files say."""
        texts = self._source.texts(files)
        for path in (file.path for file in files):
            if path not in texts:
                self._problems.append(("unreadable", path))
                continue
            try:
                self._read(LabelFile(path, texts[path], self._other))
            except SourceError:
                raise
            except UnicodeError:
                self._problems.append(("not UTF-8", path))
            except ValueError:
                # What lies beside the audio as JSON need not be about labels at all.
                self._problems += [] if self._beside(path) else [("malformed", path)]

    def read_rows(self, table: SourceFile) -> None:
        """Take in what the rows of a table with sound say: of themselves, or of files that they name."""
        file, claims = LabelFile(table.path, b"", self._other), list[Claim]()
        voice = _voice(ROWS, file)
        try:
            for row in self._source.sound_rows(table, labels=True):
                path = row_path(table, row)
                claim = Claim(row.path, *labels_of(row.labels))
                if row.place is not None and path in self._wanted:
                    self._said[path].append((voice, _label([claim])))
                elif row.place is None and row.path:
                    claims.append(claim)
                elif row.place is None:
                    self._problems.append(("no sound", f"{table.path}: row {row.number}"))
        except pa.ArrowException:
            self._problems.append(("malformed", table.path))
        self._take(ROWS, file, _Found(self._recordings, file.folder, claims))

    def _other(self, path: str) -> bytes | None:
        return self._source.texts([self._sidecars[path]]).get(path) if path in self._sidecars else None

    def _read(self, file: LabelFile) -> None:
        if beside := self._beside(file.path):
            layout = next(layout for layout in BESIDE if layout.fits(file))
            claims = list(layout.read(file))
            self._problems += [(claim.problem, file.path) for claim in claims if claim.problem]
            for path in beside:
                self._said[path].append((_voice(layout, file), _label([c for c in claims if not c.problem])))
            return
        if of_channel := self._beside_with_channel(file.path):
            beside, channel = of_channel
            layout = next(layout for layout in BESIDE if layout.fits(file))
            claims = [claim for claim in layout.read(file) if not claim.problem]
            for path in beside:
                self._said[path].append((_voice(layout, file), Label(channels=((channel, _label(claims)),))))
            return
        for layout in LAYOUTS:
            if layout.fits(file):
                found = _Found(self._recordings, layout.folder(file), layout.read(file))
                # A text with a bar or tab in each line may be a poem: it is a list of labels where it names a recording.
                if found.claims or not file.path.lower().endswith(".txt"):
                    self._take(layout, file, found)
                    return
        if file.path.lower().endswith(".txt"):
            self._orphans.append(file.path)
        else:
            self._unread.append(file.path)

    def _take(self, layout: Layout, file: LabelFile, found: "_Found") -> None:
        self._orphans += [_place(file, name) for name in found.orphans]
        self._problems += [(kind, _place(file, name)) for kind, name in found.problems]
        in_parts = layout is not ROWS and file.table is not None and not set(STARTS).isdisjoint(file.table.columns)
        voices = [_voice(layout, file, is_like=is_like) for is_like in (False, True)]
        for path, claims in found.claims.items():
            if path not in self._wanted:
                continue
            problem = _disagreement(claims, in_parts=in_parts)
            self._problems += [(problem, _place(file, claims[0].name))] if problem else []
            self._said[path].append((voices[path not in found.exact], _label(claims)))

    def _beside(self, path: str) -> tuple[str, ...]:
        """The recordings that a text or JSON file lies beside."""
        if not path.lower().endswith((".txt", ".json")):
            return ()
        stem = stem_of(path)
        return self._recordings.beside(stem) or self._recordings.beside(stem.removesuffix(".normalized"))

    def _beside_with_channel(self, path: str) -> tuple[tuple[str, ...], int] | None:
        """The recordings that a text lies beside but for the name of a channel at its end, and the channel."""
        found = in_name(stem_of(path)) if path.lower().endswith(".txt") else None
        beside = self._recordings.beside(found[0]) if found else ()
        if not found or not beside:
            return None
        name, stem = found[1], stem_of(path)
        # Of numbers the other one tells where they begin: call-0.txt, or call-2.txt.
        others = [n for n in "012" if name.isdigit() and stem[:-1] + n + path[len(stem) :] in self._sidecars]
        channel = numbers([name, *others]).get(name)
        return (beside, channel) if channel else None

    def result(self) -> Labels:
        """What was said, decided."""
        taken = list[tuple[str, str, str]]()
        by_path = {path: self._decide(path, taken) for path in sorted(self._wanted)}
        report = LabelReport(
            recordings=len(self._wanted),
            transcripts=sum(label.is_transcribed for label in by_path.values()),
            speakers=sum(label.speaker is not None for label in by_path.values()),
            origins=origins(taken),
            unmatched=some("unmatched", self._orphans),
            problems=problems(self._problems),
            unread=some("unread", self._unread),
            details=(
                *(("unmatched", name) for name in self._orphans),
                *self._problems,
                *(("unread", name) for name in self._unread),
            ),
        )
        return Labels(by_path, tuple(self._orphans), report)

    def _decide(self, path: str, taken: list[tuple[str, str, str]]) -> Label:
        said = sorted(self._said.get(path, ()), key=lambda said: said[0])
        decided = dict[str, str | None]()
        for what in ("speaker", "transcript"):
            found = [(voice, value) for voice, label in said if (value := getattr(label, what))]
            decided[what] = found[0][1] if found else None
            taken += [(what, voice.layout, voice.path) for voice, _ in found[:1]]
            others = [voice.path for voice, value in found if value != decided[what]]
            self._problems += [("files disagree", f"{other}: {path}") for other in others]
        if decided["speaker"] is None and (named := speaker_in_path(path)):
            decided["speaker"] = named[0]
            taken.append(("speaker", named[1], ""))
        in_parts = [(voice, label.segments) for voice, label in said if label.segments]
        if in_parts and decided["transcript"] is None and in_parts[0][1][0][2]:
            taken.append(("transcript", in_parts[0][0].layout, in_parts[0][0].path))
        channels = dict[int, Label]()
        for voice, label in said:
            for number, of_channel in label.channels:
                if number not in channels and label.is_of_channels:
                    taken += [("transcript", voice.layout, voice.path)] if not channels else []
                channels.setdefault(number, of_channel)
        segments = in_parts[0][1] if in_parts else ()
        return Label(decided["speaker"], decided["transcript"], segments, tuple(sorted(channels.items())))


@dataclass
class _Found:
    """The claims of a file by the recordings that they mean."""

    recordings: Recordings
    folder: str
    said: Iterable[Claim]
    claims: dict[str, list[Claim]] = field(default_factory=lambda: defaultdict(list))
    exact: set[str] = field(default_factory=set)
    orphans: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        like: dict[str, list[Claim]] = defaultdict(list)
        for claim in self.said:
            if claim.problem and claim.problem != "segment":
                self.problems.append((claim.problem, claim.name))
                continue
            match = self.recordings.find(claim.name, self.folder)
            if match.ambiguous:
                self.problems.append(("ambiguous", claim.name))
            self.orphans += [] if match.paths or match.ambiguous else [claim.name]
            for path in match.paths:
                (self.claims if match.exact else like)[path].append(claim)
            self.exact.update(match.paths if match.exact else ())
        for path, claims in like.items():
            # Two names that are both like a recording's may be those of two recordings.
            if path in self.claims or len({claim.name for claim in claims}) > 1:
                self.orphans += [claim.name for claim in claims]
            else:
                self.claims[path] = claims


def _voice(layout: Layout, file: LabelFile, *, is_like: bool = False) -> _Voice:
    return _Voice(RANKS[layout.name], is_like, -file.path.count("/"), file.path, layout.name)


def _place(file: LabelFile, name: str) -> str:
    """Where something stands, for people: a name may be anything, and of any length."""
    shown = clean(name) or "(no name)"
    return f"{file.path}: {shown if len(shown) <= _LONGEST_NAME else shown[:_LONGEST_NAME] + '…'}"


def _label(claims: Sequence[Claim]) -> Label:
    """What a file says of a recording; nothing where it says two things. What it says of two channels is of neither the whole."""
    named = sorted({claim.channel for claim in claims if claim.channel})
    if named:
        channels = tuple(
            (number, _label([replace(c, channel=None) for c in claims if c.channel == number])) for number in named
        )
        # Many tables say of a recording of one channel that it has the first.
        of_whole = [replace(c, channel=None) for c in claims if not c.channel or len(named) == 1]
        speakers = _values(claims, "speaker")
        return replace(_label(of_whole), channels=channels, speaker=speakers.pop() if len(speakers) == 1 else None)
    speakers, transcripts = (_values(claims, what) for what in ("speaker", "transcript"))
    whole = not any(claim.problem for claim in claims)
    return Label(
        speakers.pop() if len(speakers) == 1 else None,
        transcripts.pop() if whole and len(transcripts) == 1 else None,
        _segments(claims),
    )


def _segments(claims: Sequence[Claim]) -> tuple[Segment, ...]:
    """The parts that claims about a recording are of, where they are of parts and say where each begins and ends; else its speech."""
    speech = {(*claim.span, "") for claim in claims if claim.is_speech and claim.span}
    if speech:
        return tuple(sorted(speech))
    said = {(claim.span, text) for claim in claims if (text := clean(claim.transcript))}
    if not any(claim.problem == "segment" for claim in claims) or any(span is None for span, _ in said):
        return ()
    return tuple(sorted((*span, text) for span, text in said if span))


def _disagreement(claims: Sequence[Claim], *, in_parts: bool) -> str:
    """What is wrong with the claims of a file about a recording; `in_parts`: its rows may be of parts of recordings."""
    if len(claims) == 1 and not claims[0].problem:
        return ""
    named = {claim.channel for claim in claims}
    if len(named - {None}) > 1:
        each = ([replace(c, channel=None) for c in claims if c.channel == channel] for channel in named)
        return next(filter(None, (_disagreement(own, in_parts=in_parts) for own in each)), "")
    if _segments(claims):
        return "several speakers" if len(_values(claims, "speaker")) > 1 else ""
    if any(claim.problem for claim in claims) or (in_parts and len(_values(claims, "transcript")) > 1):
        return "segment"
    several = any(len(_values(claims, what)) > 1 for what in ("speaker", "transcript"))
    return "rows disagree" if several else ""


def _values(claims: Sequence[Claim], what: str) -> set[str]:
    return {value for claim in claims if (value := clean(getattr(claim, what)))}
