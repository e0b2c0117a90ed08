"""What the bookkeeping of a large corpus costs, in seconds and peak memory by number of recordings: `make bench-catalog`.

A store is made whose shards have tables and no sound, with the catalog of one first run that took all of it. Each part is then
measured in a process of its own, whose peak of resident memory includes Python and the libraries:

- listing: a folder of real files of a few bytes, at most `--listed` of them.
- scan: the source holds what it held. Nothing is hashed.
- scan, 1 % new: one in a hundred files is new; its digest is given, not computed.
- plan: ingestion's part of `tinywave plan`: the scan, the catalog and the step of the corpus.
- corpus: the tables of all shards become the corpus table and its summary.
- rejects: the page's table of files that gave no speech.
- labels in a table: one TSV with path, speaker and transcript of every recording.
- labels by ids: the same with ids in place of paths, which are looked for by their last part.
- labels in lists: a `.trans.txt` for each twenty recordings, as LibriSpeech has them.
- labels beside: a text beside every recording.

Scan, plan and labels take a listing that is made in memory, labels their texts too, so that a million files need not lie on the disk.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tinywave_core.audio.catalog import Catalog, stat_row  # noqa: E402
from tinywave_core.audio.sidecars import Labels, read_labels  # noqa: E402
from tinywave_core.audio.source import Listing, Source, SourceFile  # noqa: E402
from tinywave_core.audio.utterances import FILES_FILE, UTTERANCES, UTTERANCES_FILE  # noqa: E402
from tinywave_core.config.ingestion import IngestionConfig  # noqa: E402
from tinywave_core.config.pipeline import PipelineConfig  # noqa: E402
from tinywave_core.stages.ingestion import corpus, stage, words  # noqa: E402
from tinywave_core.stages.ingestion.counts import count_files  # noqa: E402
from tinywave_core.stages.ingestion.summary import AudioShardSummary  # noqa: E402
from tinywave_core.steps.base import Output, Step, compute, compute_all, find_steps  # noqa: E402
from tinywave_core.steps.inputs import corpus_key  # noqa: E402
from tinywave_core.storage.schemas import FILES, SAMPLE_RATE  # noqa: E402
from tinywave_core.storage.shards import write_table  # noqa: E402
from tinywave_core.storage.store import Store  # noqa: E402

PER_SHARD = 1000  # recordings
UTTERANCES_EACH = 2


def main() -> None:
    """Parse the command line and measure, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="recordings")
    parser.add_argument("--listed", type=int, default=100_000, help="most real files in the part `listing`")
    parser.add_argument("--folder", type=Path, default=ROOT / "store" / "catalog", help="stores and files; made anew")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--keep", action="store_true", help="measure on the stores that lie in the folder already")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(measured(PARTS[options.parts[0]], options.folder, options.child)))
        return
    if not options.keep:
        shutil.rmtree(options.folder, ignore_errors=True)
    figures = []
    for size in options.sizes:
        has_store = (options.folder / f"store-{size}").exists()
        if not has_store and not all(part.startswith("labels") for part in options.parts):
            say(f"making a store of {size:,} recordings …")
            make_store(options.folder, size)
        for part in options.parts:
            count = min(size, options.listed) if part == "listing" else size
            figures.append({"part": part, "files": count} | in_child(part, options.folder, count))
            say("{part:>17} {files:>10,} files {seconds:>8.1f} s {peak_mib:>8,.0f} MiB".format(**figures[-1]))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def in_child(part: str, folder: Path, size: int) -> dict[str, float]:
    """Seconds and peak memory of one part, in a process of its own."""
    if part == "listing":
        make_files(folder / f"files-{size}", size)
    command = [sys.executable, __file__, "--folder", str(folder), "--parts", part, "--child", str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(part: Callable[[Path, int], Any], folder: Path, size: int) -> dict[str, float]:
    """Run one part in this process."""
    started = time.monotonic()
    part(folder, size)
    seconds = time.monotonic() - started
    # Not `ru_maxrss`, which a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return {"seconds": seconds, "peak_mib": int(status.partition("VmHWM:")[2].split()[0]) / 1024}


# What is made ---------------------------------------------------------------------------------------------------------


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def source_file(number: int) -> SourceFile:
    """File `number` of the source."""
    path = f"speaker{number // 200:05d}/book{number // 20:06d}/recording-{number:07d}.flac"
    return SourceFile(path, f"/speech/{path}", 300_000, f"0123abcd.{10**18 + number}.{10**18 + number}")


def make_files(folder: Path, size: int) -> None:
    if folder.exists():
        return
    for number in range(size):
        path = folder / source_file(number).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"RIFF")


def config_of(folder: Path, size: int) -> PipelineConfig:
    return PipelineConfig(source=str(folder), root=str(folder / f"store-{size}"))


def make_store(folder: Path, size: int) -> None:
    """Shards of tables and the catalog that has them."""
    config = config_of(folder, size)
    store, made = Store(config.root), []
    for start in range(0, size, PER_SHARD):
        numbers = range(start, min(size, start + PER_SHARD))
        artifact = compute(
            Step(store, "ingestion", "shard", 1, tables, IngestionConfig(), {}, {"numbers": [start, numbers.stop]})
        )
        made.append((artifact.id, [(source_file(n), digest(n)) for n in numbers]))
    seen = [stat_row(file, of) for _, files in made for file, of in files]
    Catalog(store, corpus_key(config)).remember(seen, made)


def tables(step: Step[IngestionConfig, AudioShardSummary], output: Output) -> AudioShardSummary:
    """The tables of a shard: one in fifty files is rejected, the others have two utterances."""
    files, utterances = [], []
    for number in range(*step.params["numbers"]):
        rejected, of = number % 50 == 0, digest(number)
        recording, speaker = of[32:], f"speaker{number // 200:05d}"
        split = "held_out" if number // 200 % 20 == 0 else "train"
        found = {"path": source_file(number).path, "sha256": of, "bytes": 300_000, "decoder": "libsndfile 1.2.2"}
        if rejected:
            files.append(found | {"status": "rejected", "reason": "no_speech", "detail": "0.1 s of speech"})
            continue
        known = {"recording_id": recording, "speaker": speaker, "split": split}
        samples = 10 * SAMPLE_RATE
        files.append(
            found
            | known
            | {"status": "accepted", "utterances": UTTERANCES_EACH, "speech_samples": samples * UTTERANCES_EACH}
        )
        utterances += [
            known
            | {
                "utterance_id": digest(-1 - UTTERANCES_EACH * number - place)[:32],
                "path": source_file(number).path,
                "start_samples": place * samples,
                "num_samples": samples,
                "transcript": f"this is sentence {place} of recording {number}",
            }
            for place in range(UTTERANCES_EACH)
        ]
    write_table(pa.Table.from_pylist(files, schema=FILES), output.folder / FILES_FILE)
    write_table(pa.Table.from_pylist(utterances, schema=UTTERANCES), output.folder / UTTERANCES_FILE)
    return AudioShardSummary(files=count_files(files), reasons={}, utterances=len(utterances), hours=1.0)


# What is measured -----------------------------------------------------------------------------------------------------


def listing(folder: Path, size: int) -> None:
    """List real files."""
    assert len(Source(str(folder / f"files-{size}")).listing().audio) == size


def with_listing(folder: Path, size: int, new: int, work: Callable[[PipelineConfig, Store], Any]) -> Any:
    """Work on a source that holds what the store has, and `new` files more."""
    files = sorted((source_file(number) for number in range(size + new)), key=lambda file: file.path)
    config = config_of(folder, size)

    def hashes(_: Source, files: list[SourceFile]) -> list[str | None]:
        return [digest(int(file.path[-12:-5])) for file in files]

    found = Listing(tuple(files), ())
    del files
    with patch.object(Source, "listing", lambda _: found), patch.object(Source, "hashes", hashes):
        return work(config, Store(config.root))


def scan(folder: Path, size: int) -> None:
    """Nothing is new."""
    today = with_listing(folder, size, 0, corpus.scan)
    assert (today.found, today.new, today.known) == (size, 0, size)


def scan_new(folder: Path, size: int) -> None:
    """One per cent is new."""
    today = with_listing(folder, size, size // 100, corpus.scan)
    assert (today.new, today.known) == (size // 100, size)


def plan(folder: Path, size: int) -> None:
    """Ingestion's part of a plan."""
    with_listing(folder, size, 0, lambda config, store: stage.build(config, store, {}, find_steps))


def make_corpus(folder: Path, size: int) -> None:
    """The corpus table, made anew."""

    def make(config: PipelineConfig, store: Store) -> None:
        shards = store.find_all(Catalog(store, corpus_key(config)).shard_ids(), "shard")
        step = Step(
            store,
            "ingestion",
            "corpus",
            corpus.VERSION,
            corpus.run_corpus,
            config.ingestion,
            {"shards": shards},
            {"try": time.time_ns()},
        )
        (made,) = compute_all([step])
        assert made.summary["files"]["found"] == size
        (folder / "latest").write_text(made.id, encoding="utf-8")

    config = config_of(folder, size)
    make(config, Store(config.root))


def rejects(folder: Path, size: int) -> None:
    """The page's table; the corpus is that of the part before."""
    made = Store(config_of(folder, size).root).find((folder / "latest").read_text(encoding="utf-8"))
    assert len(words.rejects(made)) == len(range(0, size, 50))


def labelled(size: int, texts: dict[str, Callable[[], str]], *, bytes_each: int = 100) -> Labels:
    """The labels of recordings whose label files are these, each made when it is read."""
    audio = tuple(sorted((source_file(number) for number in range(size)), key=lambda file: file.path))
    sidecars = tuple(SourceFile(path, path, bytes_each, "") for path in sorted(texts))

    def read(_: Source, files: list[SourceFile]) -> dict[str, bytes]:
        return {file.path: texts[file.path]().encode() for file in files}

    with patch.object(Source, "texts", read):
        found = read_labels(Source("/speech"), Listing(audio, sidecars), [file.path for file in audio])
    assert found.report.transcripts == size, found.report
    return found


def sentence(number: int) -> str:
    return f"this is what is said in recording {number}"


def table_of(size: int, name: Callable[[int], str]) -> str:
    rows = (f"{name(number)}\tspeaker{number // 200}\t{sentence(number)}\n" for number in range(size))
    return "path\tspeaker\ttranscript\n" + "".join(rows)


def labels_in_table(_: Path, size: int) -> None:
    """Paths."""
    labelled(size, {"all.tsv": lambda: table_of(size, lambda number: source_file(number).path)})


def labels_by_ids(_: Path, size: int) -> None:
    """Ids."""
    labelled(size, {"all.tsv": lambda: table_of(size, lambda number: f"recording-{number:07d}")})


def labels_in_lists(_: Path, size: int) -> None:
    """Twenty recordings each."""

    def lines(first: int) -> Callable[[], str]:
        numbers = range(first, min(first + 20, size))
        return lambda: "".join(f"recording-{number:07d} {sentence(number)}\n" for number in numbers)

    folders = {first: source_file(first).path.rpartition("/")[0] for first in range(0, size, 20)}
    labelled(size, {f"{folder}/book.trans.txt": lines(first) for first, folder in folders.items()})


def labels_beside(_: Path, size: int) -> None:
    """One text each."""

    def text(number: int) -> Callable[[], str]:
        return lambda: sentence(number)

    labelled(size, {source_file(number).path[:-5] + ".txt": text(number) for number in range(size)})


def say(line: str) -> None:
    print(line, flush=True)


PARTS: dict[str, Callable[[Path, int], Any]] = {
    "listing": listing,
    "scan": scan,
    "scan, 1 % new": scan_new,
    "plan": plan,
    "corpus": make_corpus,
    "rejects": rejects,
    "labels in a table": labels_in_table,
    "labels by ids": labels_by_ids,
    "labels in lists": labels_in_lists,
    "labels beside": labels_beside,
}


if __name__ == "__main__":
    main()
