"""Make the base that comes with TinyWave again: `make base`, or `make base BASE_SOURCES="examples/speech DIR …"`.

Folders of speech in; tinywave_core/base/release out: codebooks, teacher, student, what they heard, card. The pipeline itself trains
them, with the preset `base`, in a store of its own, so that a run that was stopped goes on where it was.

Each folder says under which licence its recordings are: `manifest.csv` with columns path, speaker, licence and attribution, or
`licences.csv` with columns folder, licence and attribution (the longest folder that a path begins with counts). Only CC0, the public
domain and CC BY are taken; what else lies there is left out and counted.
"""

import argparse
import csv
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from tinywave_core.audio.source import Source  # noqa: E402
from tinywave_core.audio.utterances import FILES_FILE, read_utterances  # noqa: E402
from tinywave_core.base import opening  # noqa: E402
from tinywave_core.config.load import load_config  # noqa: E402
from tinywave_core.config.pipeline import PipelineConfig  # noqa: E402
from tinywave_core.counts import count  # noqa: E402
from tinywave_core.run.pipeline import run_pipeline  # noqa: E402
from tinywave_core.stages.adaptation.summary import TeacherSummary  # noqa: E402
from tinywave_core.stages.distillation.summary import StudentSummary  # noqa: E402
from tinywave_core.stages.evaluation.summary import ScoresSummary  # noqa: E402
from tinywave_core.stages.ingestion.summary import CorpusSummary  # noqa: E402
from tinywave_core.stages.tokenization.summary import TokensSummary  # noqa: E402
from tinywave_core.steps.base import Outputs  # noqa: E402
from tinywave_core.steps.inputs import audio_of, training_shards  # noqa: E402
from tinywave_core.storage.shards import rows_of, where  # noqa: E402
from tinywave_core.storage.store import MANIFEST, Store, describe_files  # noqa: E402
from tinywave_core.tokenizers import mfcc  # noqa: E402
from tinywave_core.tokenizers.codebooks import Codebooks  # noqa: E402
from tinywave_core.unit_runs import STARTS_SAMPLES, all_runs  # noqa: E402
from tinywave_core.wording import MODELS  # noqa: E402

ALLOWED = re.compile(r"cc0([- ]1\.0)?|public domain|cc[- ]by([- ][1-4]\.0)?", re.IGNORECASE)
MANIFEST_CSV, LICENCES_CSV = "manifest.csv", "licences.csv"
MOST_BYTES = 15_000_000


@dataclass(frozen=True)
class Given:
    """One recording of a folder."""

    path: str  # relative to the folder
    speaker: str
    licence: str
    attribution: str

    @property
    def allowed(self) -> bool:
        return ALLOWED.fullmatch(self.licence.strip()) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="folders of speech")
    parser.add_argument("--work", type=Path, default=ROOT / "store" / "base", help="store and source of the run")
    parser.add_argument(
        "--out", type=Path, default=opening.RELEASE, help="where the release goes, in place of the one there"
    )
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="another setting")
    parser.add_argument(
        "--copies",
        type=Path,
        help="folder with other encodings of the same recordings, known by their file names: listed for the leak check, not trained on",
    )
    asked = parser.parse_args()
    base = make_base(asked.sources, asked.out, asked.work, dict(asked.set), copies=asked.copies)
    size = sum(path.stat().st_size for path in asked.out.rglob("*") if path.is_file())
    print(
        f"{asked.out}: {count(base.recordings, 'recording')}, {base.hours:.2f} h, {size / 1e6:.1f} MB, base {base.digest[:12]}"
    )
    if size > MOST_BYTES:
        sys.exit(f"the release takes {size:,} bytes, more than the {MOST_BYTES:,} that the repository may hold")


def make_base(
    sources: Iterable[Path],
    out: Path,
    work: Path,
    settings: Mapping[str, str] | None = None,
    *,
    to_pass_on: bool = True,
    copies: Path | None = None,
) -> opening.Base:
    """The release in `out`, in place of one that is there, made of these folders with its source and its store below `work`.

    With `to_pass_on` only recordings whose licence allows it are taken; a benchmark's own base takes all of them.
    """
    given = gather(sources, work / "source", to_pass_on=to_pass_on)
    config = load_config("base", {"source": str(work / "source"), "root": str(work / "store"), **(settings or {})})
    outputs = run_pipeline(config, Store(config.root), until="export")
    made = out.with_name(f"{out.name}.new")
    others = copied(copies, work / "copies-store", outputs, given) if copies else None
    write_release(config, outputs, given, made, others)
    shutil.rmtree(out, ignore_errors=True)
    made.rename(out)
    return opening.open_base(out)


# Sources -----------------------------------------------------------------------------------------------------------


def gather(sources: Iterable[Path], folder: Path, *, to_pass_on: bool = True) -> dict[str, Given]:
    """Copy what may be taken to one source with a manifest; licence and attribution by path in it."""
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier call took and this one does not
    taken: dict[str, Given] = {}
    for number, source in enumerate(sources):
        rows = list(recordings_of(source))
        for row in rows:
            if row.allowed or not to_pass_on:
                path = f"{number:02d}-{source.name}/{row.path}"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source / row.path, folder / path)
                taken[path] = row
        refused = Counter(row.licence or "no licence" for row in rows if to_pass_on and not row.allowed)
        print(f"{source}: {count(len(rows) - refused.total(), 'recording')} taken, left out: {dict(refused) or 'none'}")
    with (folder / MANIFEST_CSV).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "speaker"))
        writer.writerows((path, row.speaker) for path, row in taken.items() if row.speaker)
    return taken


def recordings_of(source: Path) -> Iterator[Given]:
    """Every recording below a folder, with its licence: none where the folder's table does not name it."""
    paths = [file.path for file in Source(str(source)).listing().audio]
    if (source / MANIFEST_CSV).is_file():
        rows = {row["path"]: row for row in _table(source / MANIFEST_CSV)}
        for path in paths:
            row = rows.get(path, {})
            yield Given(path, row.get("speaker", ""), row.get("licence", ""), row.get("attribution", ""))
    elif (source / LICENCES_CSV).is_file():
        folders = sorted(_table(source / LICENCES_CSV), key=lambda row: len(row["folder"]), reverse=True)
        for path in paths:
            row = next((row for row in folders if path.startswith(row["folder"] + "/")), {})
            yield Given(path, "", row.get("licence", ""), row.get("attribution", ""))
    else:
        sys.exit(
            f"{source} does not say under which licence its recordings are: expected {MANIFEST_CSV} or {LICENCES_CSV}"
        )


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# Release -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copies:
    """Other encodings of what the base heard."""

    paths: dict[str, Given]
    """By recording id."""
    speech: list[np.ndarray]
    """Samples of their utterances."""


def copied(folder: Path, root: Path, outputs: Outputs, given: dict[str, Given]) -> Copies:
    """The recordings of a folder that are called like one that the base heard."""
    config = load_config("base", {"source": str(folder), "root": str(root)})
    corpus = run_pipeline(config, Store(config.root), until="ingestion")["corpus"]
    trained = recordings_heard(outputs, given)
    heard, known = {Path(row["path"]).stem: row for row in trained}, {row["recording_id"] for row in trained}
    rows = rows_of(corpus.path(FILES_FILE), ["recording_id", "path", "status"], where("status", "accepted"))
    paths = {
        row["recording_id"]: Given(row["path"], "", like["licence"], like["attribution"])
        for row in rows
        if row["recording_id"] not in known and (like := heard.get(Path(row["path"]).stem))
    }
    shards = corpus.store.find_all(CorpusSummary.of(corpus).shards, "shard")
    speech = [u.samples for shard in shards for u in read_utterances(shard) if u.recording_id in paths]
    return Copies(paths, speech)


def write_release(
    config: PipelineConfig, outputs: Outputs, given: dict[str, Given], out: Path, copies: Copies | None = None
) -> None:
    """All files of the release, in place of those that are there."""
    shutil.rmtree(out, ignore_errors=True)
    tokenizer = TokensSummary.of(outputs["tokens"]).tokenizer_artifact(outputs["tokens"])
    shutil.copytree(tokenizer.path(), out / opening.CODEBOOKS, ignore=shutil.ignore_patterns(MANIFEST))
    shutil.copytree(outputs["teacher"].path("teacher"), out / opening.TEACHER)
    shutil.copytree(outputs["model"].path("model"), out / opening.STUDENT)
    heard = recordings_heard(outputs, given)
    copies = copies or Copies({}, [])
    listed = [
        {"recording_id": i, "path": g.path, "licence": g.licence, "attribution": g.attribution}
        for i, g in sorted(copies.paths.items())
    ]
    _write_json(out / opening.RECORDINGS, heard + listed)
    units = units_heard(outputs, out / opening.CODEBOOKS, copies.speech)
    np.save(out / opening.NGRAMS, all_runs(units), allow_pickle=False)
    about = describe(config, outputs, heard)
    attribution = [line for line in about["attribution"] if line]
    licences = licences_text(about["licences"], attribution)
    for path in (out / opening.LICENCES, out / opening.STUDENT / "LICENSE"):  # the student may be passed on alone
        path.write_text(licences, encoding="utf-8")
    (out / opening.CARD).write_text(card(about), encoding="utf-8")
    about["files"] = {entry.name: entry.sha256 for entry in describe_files(out)}
    _write_json(out / opening.DESCRIPTION, about)


def recordings_heard(outputs: Outputs, given: dict[str, Given]) -> list[dict[str, str]]:
    """The recordings of training and validation, by id; of copies, the one that was taken."""
    columns = ["recording_id", "path", "status", "split"]
    rows = rows_of(outputs["corpus"].path(FILES_FILE), columns, where("status", "accepted"))
    heard = [row for row in rows if row["split"] == "train"]
    return [
        {
            "recording_id": row["recording_id"],
            "path": given[row["path"]].path,
            "licence": given[row["path"]].licence.replace("-", " "),  # CC-BY-4.0 is CC BY 4.0
            "attribution": given[row["path"]].attribution,
        }
        for row in sorted(heard, key=lambda row: row["recording_id"])
    ]


def units_heard(outputs: Outputs, codebooks: Path, copies: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The units of everything that the base heard, from each of the beginnings that the leak check knows."""
    encoder = Codebooks.load(codebooks).units
    for shard in audio_of(training_shards(outputs["tokens"])):
        for utterance in read_utterances(shard):
            if utterance.split == "train":
                yield from (encoder.encode(mfcc.mfcc(utterance.samples[start:])) for start in STARTS_SAMPLES)
    for samples in copies:
        yield from (encoder.encode(mfcc.mfcc(samples[start:])) for start in STARTS_SAMPLES)


def describe(config: PipelineConfig, outputs: Outputs, heard: list[dict[str, str]]) -> dict[str, Any]:
    """BASE.json without the digests."""
    tokens = TokensSummary.of(outputs["tokens"])
    teacher, student = TeacherSummary.of(outputs["teacher"]), StudentSummary.of(outputs["student"])
    scores = ScoresSummary.of(outputs["scores"]).models
    return {
        "version": opening.FORMAT_VERSION,
        "tinywave": version("tinywave"),
        "tokenization": config.tokenization.model_dump(mode="json", include=set(opening.COMPARED)),
        "shape": config.adaptation.fresh.model_dump(mode="json"),
        "hours": round(CorpusSummary.of(outputs["corpus"]).hours_train, 4),
        "recordings": len(heard),
        "codebooks": tokens.tokenizer_artifact(outputs["tokens"]).summary,
        "training": {
            "teacher_parameters": teacher.parameters,
            "teacher_steps": teacher.steps,
            "student_parameters": student.parameters,
            "student_steps": student.steps,
            "train_tokens": teacher.train_tokens,
            "held_out_hours": round(tokens.held_out_seconds / 3600, 4),
            "held_out_nll": {name: round(model.nll, 4) for name, model in sorted(scores.items())},
        },
        "licences": dict(sorted(Counter(row["licence"] for row in heard).items())),
        "attribution": sorted({row["attribution"] for row in heard}),
    }


def card(about: dict[str, Any]) -> str:
    """README.md of the release."""
    figures = about["training"]
    nll = "\n".join(f"| {label} | {figures['held_out_nll'][name]:.3f} |" for name, label in MODELS.items())
    return f"""---
license: cc-by-4.0
library_name: transformers
tags: [speech, audio]
---

# TinyWave's base

A small teacher of speech tokens that runs with little speech start from, its codebooks, and a student of it with a voice
(`student/`, a model that `tinywave generate` opens). Made by `make base` with TinyWave {about["tinywave"]}; `BASE.json` has the
SHA-256 of every file.

- Heard: {about["recordings"]} recordings, {about["hours"]:.2f} hours of read English ({figures["train_tokens"]:,} tokens), all listed in
  `recordings.json` with licence and attribution. `ngrams.npy` has hashes of runs of their units, for the leak check.
- Teacher: {figures["teacher_parameters"]:,} parameters, {figures["teacher_steps"]} steps from random weights. Student:
  {figures["student_parameters"]:,} parameters, {figures["student_steps"]} steps.

| on {figures["held_out_hours"] * 60:.1f} minutes of other speakers | NLL, nats per token |
|---|---|
{nll}

## Limits

It knows read English of these readers and microphones. It is a start for adaptation: it says nothing that anybody should believe.

## Licence

The files are under [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), the strictest of those of the recordings, which
are {", ".join(f"{licence} ({number})" for licence, number in about["licences"].items())}. Whom to name: [LICENSES](LICENSES).
"""


def licences_text(licences: dict[str, int], attribution: list[str]) -> str:
    """LICENSES of the release, which travels with every student of it."""
    counts = "\n".join(f"- {licence}: {number}" for licence, number in licences.items())
    names = "\n".join(f"- {line}" for line in attribution)
    return f"""This model was made from TinyWave's base, which was trained on recordings under these licences (number of recordings):

{counts}

It is passed on under the Creative Commons Attribution 4.0 International licence
(https://creativecommons.org/licenses/by/4.0/legalcode). Whoever passes it on names those who made the recordings:

{names}

Changes: the recordings were cut into utterances and turned into discrete tokens, on which the model was trained.
"""


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
