"""What the reading side of training costs at 100, 1,000 and 10,000 hours, drawn as curves up to 50,000: `make bench-scale`.

Stores are made whose token shards hold random units: 50 hours a shard, 241 utterances of 60 to 450 tokens an hour, as base tokens of
read speech have. The logit shards of a store are one file under many names, each with the index of its own sequences: what is read is as
much as it would be, and takes the room of one. Each part is measured in a process of its own, whose peak of resident memory
includes Python and the libraries (`imports`):

- index: sequences of all shards for the first time, which keeps their indices.
- start: from the kept indices to the first batch with cached targets of 64 rows of 2,048 tokens.
- resume: to a batch in the third epoch, whose rows nobody has packed before; `resume again` finds them kept.
- reading: tokens with cached targets per second and core, in training order, after each page was touched once; and while they are
  touched, one after the other.
- order: tokens with cached targets per second and core in the first 20 s of a first epoch, when pages are touched for the first time:
  in training order, which is drawn over the whole corpus, and by pages, drawn page by page with all sequences of a page together.
- held out: sequences of held-out speech as evaluation reads them.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tinywave_core.config.validation import ValidationConfig  # noqa: E402
from tinywave_core.plots import COLOURS, Line, line_svg  # noqa: E402
from tinywave_core.sequences.dataset import PackedDataset  # noqa: E402
from tinywave_core.sequences.index import load_sequences  # noqa: E402
from tinywave_core.sequences.table import SequenceTable  # noqa: E402
from tinywave_core.sequences.validation import split_validation  # noqa: E402
from tinywave_core.storage.indices import index_folder, read_arrays, write_arrays  # noqa: E402
from tinywave_core.storage.schemas import SAMPLE_RATE, TOKENS, TOKENS_FILE  # noqa: E402
from tinywave_core.storage.shards import write_table  # noqa: E402
from tinywave_core.storage.store import STORE_VERSION, Artifact, Manifest, Store, describe_files  # noqa: E402
from tinywave_core.teacher.logit_cache import (  # noqa: E402
    FORMAT,
    INDEX,
    LOGITS_FILE,
    Captured,
    LogitCache,
    SequenceTargets,
    index_of,
    write_shard,
)

HOURS_OF_SHARD, UTTERANCES_OF_HOUR = 50, 241
ENTRIES, ROW_LENGTH, ROWS = 12, 2048, 64
PAGE, OF_BATCH = 64, 512  # sequences
PAPER_HOURS = 50_000


def main() -> None:
    """Parse the command line and measure, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--folder", type=Path, default=ROOT / "store" / "scale", help="stores; made anew")
    parser.add_argument("--keep", action="store_true", help="measure on the stores that lie in the folder already")
    parser.add_argument("--page", type=Path, help="write the curves here, as HTML")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--child", nargs=2, metavar=("PART", "HOURS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        part, hours = options.child
        print(json.dumps(measured(PARTS[part], options.folder, int(hours))))
        return
    if not options.keep:
        shutil.rmtree(options.folder, ignore_errors=True)
    figures = []
    for hours in options.hours:
        if not store_folder(options.folder, hours).exists():
            say(f"making a store of {hours:,} hours …")
            make_store(options.folder, hours)
        for part in PARTS:
            figures.append({"part": part, "hours": hours} | in_child(part, options.folder, hours))
            say(told(figures[-1]))
            if part == "index":
                plant_logit_indices(options.folder, hours)
    for line in extended(figures):
        say(told(line) + "  (extended)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if options.page:
        options.page.write_text(page(figures), encoding="utf-8")


def told(figure: dict[str, Any]) -> str:
    line = "{part:>13} {hours:>7,} h {seconds:>8.1f} s {peak_mib:>8,.0f} MiB at the peak {resident_mib:>8,.0f} MiB then".format(
        **figure
    )
    if "million_tokens_per_s_drawn" in figure:
        drawn, by_page = figure["million_tokens_per_s_drawn"], figure["million_tokens_per_s_by_page"]
        return f"{line} {drawn:6.1f} M tokens/s in drawn order, {by_page:.1f} by pages"
    if "million_tokens_per_s" not in figure:
        return line
    first = figure["million_tokens_per_s_at_first"]
    return f"{line} {figure['million_tokens_per_s']:6.1f} M tokens/s, {first:.1f} where pages are touched first"


def extended(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds and memory at the paper's hours, along the straight line through the two largest stores."""
    lines = []
    for part in dict.fromkeys(figure["part"] for figure in figures):
        own = sorted((f for f in figures if f["part"] == part), key=lambda f: int(f["hours"]))[-2:]
        if part not in ("imports", "reading", "order") and len(own) == 2:
            share = (PAPER_HOURS - own[0]["hours"]) / (own[1]["hours"] - own[0]["hours"])
            at = {
                name: own[0][name] + share * (own[1][name] - own[0][name])
                for name in ("seconds", "peak_mib", "resident_mib")
            }
            lines.append({"part": part, "hours": PAPER_HOURS} | at)
    return lines


def page(figures: list[dict[str, Any]]) -> str:
    """The curves of memory and seconds, with what they lead to."""
    plots = []
    for name, label in (("resident_mib", "MiB resident"), ("peak_mib", "MiB at the peak"), ("seconds", "seconds")):
        lines = []
        for number, part in enumerate(PARTS):
            own = sorted(
                (f for f in [*figures, *extended(figures)] if f["part"] == part), key=lambda f: int(f["hours"])
            )
            hours, values = (np.array([float(f[key]) for f in own]) for key in ("hours", name))
            lines.append(Line(part, hours, values, noisy=False, colour=list(COLOURS)[number % len(COLOURS)]))
        plots.append(line_svg(lines, title=f"{label} by hours of speech", x_label="hours", y_label=label))
    style = (
        f":root{{{';'.join(f'--{name}:{colour}' for name, colour in COLOURS.items())}}} text{{font:12px sans-serif}}"
    )
    return f"<!doctype html><meta charset=utf-8><title>Scale</title><style>{style}</style>" + "".join(plots)


def in_child(part: str, folder: Path, hours: int) -> dict[str, float]:
    """Seconds and peak memory of one part, in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--child", part, str(hours)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(part: Callable[[Path, int], Any], folder: Path, hours: int) -> dict[str, float]:
    """Run one part in this process, and hold what it gives: figures, or what training would hold."""
    started = time.monotonic()
    held = part(folder, hours)
    found = held if isinstance(held, dict) else {}
    seconds = time.monotonic() - started
    # Not `ru_maxrss`, which a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak, resident = (int(status.partition(name)[2].split()[0]) / 1024 for name in ("VmHWM:", "VmRSS:"))
    return {"seconds": seconds, "peak_mib": peak, "resident_mib": resident, **found}


def say(text: str) -> None:
    print(text, flush=True)


# What is made ---------------------------------------------------------------------------------------------------------


def store_folder(folder: Path, hours: int) -> Path:
    return folder / f"store-{hours}"


def make_store(folder: Path, hours: int) -> None:
    store = Store(str(store_folder(folder, hours)))
    shards = max(1, hours // HOURS_OF_SHARD)
    for number in range(shards):
        work = folder / "work"
        write_table(token_table(number, min(hours, HOURS_OF_SHARD) * UTTERANCES_OF_HOUR), work / TOKENS_FILE)
        store.commit(manifest("tokenization", number, work), work)


def lengths_of(count: int) -> np.ndarray:
    """The same in every shard, so that one file of logits fits all."""
    return np.random.default_rng(0).integers(60, 451, count)


def token_table(number: int, count: int) -> pa.Table:
    rng = np.random.default_rng(number + 1)
    lengths = lengths_of(count)
    ids = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        pa.array(rng.integers(259, 759, int(lengths.sum()), dtype=np.uint16)),
    )
    none = pa.ListArray.from_arrays(pa.array(np.zeros(count + 1, np.int32)), pa.array([], pa.uint16()))
    first = number * count
    columns = {
        "utterance_id": pa.array([f"{first + n:032x}" for n in range(count)]),
        "recording_id": pa.array([f"{(first + n) // 10:032x}" for n in range(count)]),
        "speaker": pa.array([f"speaker {(first + n) // 1000}" for n in range(count)]),
        "transcript": pa.nulls(count, pa.string()),
        "split": pa.array(["held_out" if (first + n) // 1000 % 50 == 0 else "train" for n in range(count)]),
        "num_samples": pa.array(lengths * SAMPLE_RATE // 17),
        "units": none,
        "pitch": none,
        "style": none,
        "unvoiced_chunks": pa.array(np.zeros(count, np.int32)),
        "ids": ids,
    }
    return pa.table([columns[name] for name in TOKENS.names], schema=TOKENS)


def manifest(stage: str, number: int, work: Path) -> Manifest:
    return Manifest(
        store_version=STORE_VERSION,
        stage=stage,
        part="shard",
        version=1,
        fingerprint=hashlib.sha256(f"{stage}/{number}".encode()).hexdigest()[:32],
        config={},
        params={},
        inputs={},
        summary={},
        files=describe_files(work),
        seconds=1.0,
        created_at="2026-01-01T00:00:00Z",
        code_version="1",
    )


def plant_logit_indices(folder: Path, hours: int) -> None:
    """One file of targets under the name of every shard, and to each the index of its own sequences."""
    store = Store(str(store_folder(folder, hours)))
    if store.artifact_ids("logit_caching"):  # kept from before
        return
    shards = token_shards(store)
    arrays = [read_arrays(next(index_folder(shard).glob("*train*.npz"))) for shard in shards]
    held = [each for each in arrays if each is not None]
    # Shards differ in what is held out: the file has the lengths of the one with most, and others use its first rows of each length.
    most = max(held, key=lambda each: len(each["seq_id"]))
    work = folder / "logits"
    shutil.rmtree(work, ignore_errors=True)
    write_shard(
        targets(most["n_tokens"]), {"format": FORMAT, "entries": ENTRIES, "temperature": 1.0}, work / LOGITS_FILE
    )
    body = index_of(work / LOGITS_FILE)
    entries = describe_files(work)
    places: dict[int, list[int]] = {}
    for place in np.argsort(body["n_tokens"], kind="stable").tolist():
        places.setdefault(int(body["n_tokens"][place]), []).append(place)
    for number, each in enumerate(held):
        made = manifest("logit_caching", number, work).model_copy(update={"files": entries})
        target = Path(store.root, made.stage, made.fingerprint)
        target.mkdir(parents=True, exist_ok=True)
        os.link(work / LOGITS_FILE, target / LOGITS_FILE)
        store.create_record(f"{made.stage}/{made.fingerprint}/manifest.json", made)
        own = body["seq_id"].copy()
        left = {length: iter(rows) for length, rows in places.items()}
        for name, length in zip(each["seq_id"], each["n_tokens"].tolist(), strict=True):
            own[next(left[length])] = name
        shard = store.find(f"{made.stage}/{made.fingerprint}")
        write_arrays(index_folder(shard) / f"{INDEX}.npz", {**body, "seq_id": own})


def targets(lengths: np.ndarray) -> list[Captured]:
    rng = np.random.default_rng(5)
    made = []
    for number, length in enumerate(lengths.tolist()):
        ids = rng.integers(259, 759, (length, ENTRIES))
        weights = -np.sort(-rng.dirichlet(np.ones(ENTRIES), length), axis=1)
        tokens = np.zeros(length, np.uint16)
        made.append(Captured(f"{2**127 + number:032x}", tokens, ids, weights, np.zeros(length), np.ones(length)))
    return made


def token_shards(store: Store) -> list[Artifact]:
    return store.find_all(store.artifact_ids("tokenization"))


# What is measured -----------------------------------------------------------------------------------------------------


def imports(*_: Any) -> None:
    """Nothing but the libraries."""
    import torch  # noqa: F401
    import transformers  # noqa: F401


def sequences(folder: Path, hours: int) -> SequenceTable:
    found = load_sequences(token_shards(Store(str(store_folder(folder, hours)))), "train", ROW_LENGTH)
    return split_validation(found, ValidationConfig(), "speaker")[0]


def index(folder: Path, hours: int) -> SequenceTable:
    imports()
    return sequences(folder, hours)


def opened(folder: Path, hours: int) -> PackedDataset:
    imports()
    train = sequences(folder, hours)
    dataset = PackedDataset(train, ROW_LENGTH, ROWS, seed=0, keep=folder / f"rows-{hours}")
    store = Store(str(store_folder(folder, hours)))
    dataset.reader = LogitCache.of_shards(store.find_all(store.artifact_ids("logit_caching")), {}).of(train)
    return dataset


def start(folder: Path, hours: int) -> PackedDataset:
    dataset = opened(folder, hours)
    dataset.batch(0)
    return dataset


def resume(folder: Path, hours: int) -> PackedDataset:
    dataset = opened(folder, hours)
    dataset.batch(int(2.5 * dataset.steps_of(1)))
    return dataset


def reading(folder: Path, hours: int) -> dict[str, float]:
    dataset = opened(folder, hours)
    assert isinstance(dataset.reader, SequenceTargets)
    began = time.process_time()
    for some in np.array_split(np.arange(len(dataset.sequences)), len(dataset.sequences) // 2000):
        dataset.reader.cache.read(
            dataset.reader.places[some]
        )  # a page is compared with its checksum when it is first touched
    first = int(dataset.sequences.lengths.sum()) / (time.process_time() - began) / 1e6
    dataset.batch(0)
    began, count, step = time.process_time(), 0, 1
    while time.process_time() - began < 20:
        count += dataset.batch(step).step_targets
        step += 1
    return {"million_tokens_per_s": count / (time.process_time() - began) / 1e6, "million_tokens_per_s_at_first": first}


def order(folder: Path, hours: int) -> dict[str, float]:
    rates = {}
    for name in ("drawn", "by_page"):
        reader = opened(folder, hours).reader  # a new one each: it has touched no page
        assert isinstance(reader, SequenceTargets)
        rng = np.random.default_rng(0)
        if name == "drawn":
            numbers = rng.permutation(len(reader.places))
        else:
            pages = np.split(np.argsort(reader.places), np.arange(PAGE, len(reader.places), PAGE))
            numbers = np.concatenate([pages[page] for page in rng.permutation(len(pages))])
        began, count, at = time.process_time(), 0, 0
        while time.process_time() - began < 20 and at < len(numbers):
            places = reader.places[numbers[at : at + OF_BATCH]]
            reader.cache.read(places)
            count += reader.cache.tokens(places)
            at += OF_BATCH
        rates[f"million_tokens_per_s_{name}"] = count / (time.process_time() - began) / 1e6
    return rates


def held_out(folder: Path, hours: int) -> Any:
    imports()
    shards = token_shards(Store(str(store_folder(folder, hours))))
    return list(load_sequences(shards, "held_out", ROW_LENGTH))


PARTS: dict[str, Callable[[Path, int], Any]] = {
    "imports": imports,
    "index": index,
    "start": start,
    "resume": resume,
    "resume again": resume,
    "reading": reading,
    "order": order,
    "held out": held_out,
}

if __name__ == "__main__":
    main()
