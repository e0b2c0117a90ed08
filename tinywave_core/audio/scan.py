"""What a source holds, seen from the corpus: which files are new, known, copies, forgotten or lost, and the shards to make of them.

Files are listed, those that the catalog does not know by path, size and stamp are hashed, and new content is grouped into shards.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from tinywave_core.audio.audio_tables import stretch_of
from tinywave_core.audio.catalog import Catalog, Row, place_of, stat_row
from tinywave_core.audio.labels.report import NO_LABELS, LabelReport
from tinywave_core.audio.left_out import LeftOut
from tinywave_core.audio.sidecars import Label, read_labels
from tinywave_core.audio.source import Listing, Source, SourceFile
from tinywave_core.errors import SourceError


@dataclass(frozen=True)
class NewFile:
    """Content that is not in the corpus yet, with every path under which it lies in the source."""

    file: SourceFile
    sha256: str
    label: Label
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """What a source holds today, seen from the corpus: found = new + known + copies + forgotten + unreadable.

    Every entry below the source is one of `found`, `texts` or `left_out`.
    """

    source: str | None
    found: int = 0
    new: int = 0  # files with content that the corpus does not have
    known: int = 0  # files with content that it has
    copies: int = 0  # further files with the content of a new one
    forgotten: int = 0  # files with content that `tinywave forget` removed: never taken again
    absent: int = 0  # contents of the corpus that the source does not hold today
    hashed: int = 0  # files that were read, because their name, size or time was not known
    unreadable: tuple[str, ...] = ()  # files that failed while they were read: bad disks, rights that changed
    texts: int = 0  # sidecars and other documents
    left_out: LeftOut = field(default_factory=LeftOut)
    replaced: tuple[str, ...] = ()  # paths of the corpus under which other content lies today
    orphan_transcripts: tuple[str, ...] = ()
    labels: LabelReport = NO_LABELS
    labels_of_known: Mapping[str, Label] = field(
        default_factory=dict, repr=False
    )  # by digest: what lies beside known content today
    late_parts: int = 0  # known recordings whose parts are named by labels that came later
    groups: tuple[tuple[NewFile, ...], ...] = field(default=(), repr=False)  # one per shard to make
    seen: tuple[Row, ...] = field(default=(), repr=False)  # stat records that the catalog does not have


def scan_source(url: str | None, catalog: Catalog, shard_bytes: float, again: Set[str] = frozenset()) -> Scan:
    """Compare the source at `url` with the catalog; without a source only the corpus is looked at. Content in `again` is new."""
    known, lost = catalog.known_and_lost()
    known -= again
    if url is None:
        if catalog.is_empty:
            raise nothing_to_take()
        _check_lost(lost, set(), catalog)
        return Scan(None, absent=len(known))
    source = Source(url)
    listing = source.listing()
    digests, read = _digests(source, listing, catalog)
    gone = catalog.forgotten
    # A forgotten file is not noted either, so it is read again in each look: the price of keeping only its digest.
    readable = [(f, digest) for f in listing.audio if (digest := digests[f.path]) is not None and digest not in gone]
    by_content: dict[str, list[SourceFile]] = {}
    for file, digest in readable:
        by_content.setdefault(digest, []).append(file)
    fresh = {digest: files for digest, files in by_content.items() if digest not in known}
    labels = read_labels(source, listing, [file.path for file in listing.audio if digests[file.path] not in gone])
    new = {
        digest: NewFile(files[0], digest, _label(files, labels.by_path), tuple(file.path for file in files[1:]))
        for digest, files in fresh.items()
    }
    _check_lost(lost, set(by_content), catalog)
    before = catalog.current()
    rows = [stat_row(file, digest) for file, digest in readable]
    there = by_content.keys() | gone
    return Scan(
        source=url,
        found=len(listing.audio),
        new=len(new),
        known=sum(len(files) for digest, files in by_content.items() if digest in known),
        copies=sum(len(files) - 1 for files in fresh.values()),
        forgotten=sum(digest in gone for digest in digests.values()),
        absent=len(known - by_content.keys()),
        hashed=len(read),
        unreadable=tuple(path for path in read if digests[path] is None),
        texts=len(listing.sidecars),
        left_out=listing.left_out,
        replaced=tuple(row["path"] for row in rows if before.get(place_of(row), row["sha256"]) not in there),
        orphan_transcripts=labels.orphans,
        labels=labels.report,
        labels_of_known={
            digest: label
            for digest, files in by_content.items()
            if digest in known and (label := _label(files, labels.by_path)) != Label()
        },
        groups=group_by_size(new, lost, shard_bytes),
        # Also what is known by its stamp but came back to a name that had other content meanwhile.
        seen=tuple(row for row in rows if row["path"] in read or before.get(place_of(row)) != row["sha256"]),
    )


def nothing_to_take() -> SourceError:
    """The error of a run without a source whose corpus is empty."""
    return SourceError("no --source was given and the corpus is empty; expected a folder or s3:// URL with audio")


def _digests(source: Source, listing: Listing, catalog: Catalog) -> tuple[dict[str, str | None], dict[str, None]]:
    """Digest of every file by path, None where it cannot be read; and the paths that were read for it, in order."""
    stats = catalog.digests()
    digests: dict[str, str | None] = {f.path: stats.get((f.path, f.bytes, f.stamp)) for f in listing.audio}
    unknown = [file for file in listing.audio if digests[file.path] is None]
    digests |= zip((file.path for file in unknown), source.hashes(unknown), strict=True)
    return digests, dict.fromkeys(file.path for file in unknown)


def _label(files: Sequence[SourceFile], labels: Mapping[str, Label]) -> Label:
    """Of one content under all its paths: speaker and transcript of the first path that has one."""
    known = [labels.get(file.path, Label()) for file in files]
    return Label(
        next((label.speaker for label in known if label.speaker), None),
        next((label.transcript for label in known if label.transcript), None),
        next((label.segments for label in known if label.segments), ()),
        next((label.channels for label in known if label.channels), ()),
    )


def group_by_size(
    new: Mapping[str, NewFile], lost: Iterable[Sequence[str]], shard_bytes: float
) -> tuple[tuple[NewFile, ...], ...]:
    """New files by shard: lost shards as they were, the rest in the order of content, about `shard_bytes` each."""
    # A lost shard is made again of the same files, so that it gets the same id and nothing after it is computed again.
    again = [tuple(new[digest] for digest in sorted(digests)) for digests in lost]
    taken = {file.sha256 for group in again for file in group}
    # A row group is read as a whole, so its rows stay together; within a shard all are in the order of content.
    order = sorted(new, key=lambda digest: (stretch_of(new[digest].file.location), digest))
    rest = [new[digest] for digest in order if digest not in taken]
    count = max(1, round(sum(file.file.bytes for file in rest) / shard_bytes))
    groups: list[list[NewFile]] = [[] for _ in range(count)]
    share = max(1, sum(file.file.bytes for file in rest)) / count
    before = 0
    for file in rest:
        groups[min(count - 1, int(before / share))].append(file)
        before += file.file.bytes
    return (*again, *(tuple(sorted(group, key=lambda file: file.sha256)) for group in groups if group))


def _check_lost(lost: Sequence[Sequence[str]], present: set[str], catalog: Catalog) -> None:
    """A shard that is lost from the store is made again, which needs all of its files."""
    for digests in lost:
        gone = [digest for digest in digests if digest not in present]
        if gone:
            raise SourceError(
                f"the store {catalog.store.url} has lost a shard of the corpus, and {len(gone)} of its {len(digests)} "
                "source files are not in the source: pass the --source that has them, or start another corpus with "
                "--ingestion.corpus"
            )
