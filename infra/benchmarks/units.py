"""What units of an encoder's layers are worth beside those of MFCC: PNMI on transcribed recordings, for `make bench-units`.

    make bench-units BENCH_ARGS="--source DIR --encoder ~/whisper-tiny.en --layers 1 2 3 4"

One store, one alignment each, the same recordings for all: figures of one call can be compared, those of two cannot. The goal is
a best layer of at least 1.2 times MFCC's PNMI on at least 100 transcribed recordings.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from flows import environment

environment.prepare(quiet=True)

from flows.units import config_of, measure  # noqa: E402
from tinywave_core.stages.evaluation.summary import UnitsSummary  # noqa: E402
from tinywave_core.stages.evaluation.unit_words import unit_columns, units_text  # noqa: E402
from tinywave_core.storage.store import Store  # noqa: E402

GOAL, RECORDINGS = 1.2, 100


def main() -> None:
    arguments = _arguments()
    shared = {
        "source": arguments.source,
        "root": arguments.root,
        "tokenization.tokens": "base",
        "evaluation.units.items": str(arguments.items),
        "runtime.threads": str(arguments.threads),
        "runtime.workers": "1",
    }
    variants = {f"MFCC, {k} clusters": {"tokenization.units.clusters": str(k)} for k in arguments.clusters}
    for layer in arguments.layers if arguments.encoder else ():
        for k in arguments.clusters:
            variants[f"layer {layer}, {k} clusters"] = {
                "tokenization.units.kind": "encoder",
                "tokenization.units.encoder": arguments.encoder,
                "tokenization.units.layer": str(layer),
                "tokenization.units.clusters": str(k),
            }
    measured: dict[str, UnitsSummary] = {}
    for name, variant in variants.items():
        started, config = time.monotonic(), config_of("demo", shared, variant)
        measured[name] = measure(config, Store(config.root), alone=False)
        print(f"{name} ({time.monotonic() - started:.0f} s)", flush=True)
        for figure, value in unit_columns(measured[name]).items():
            print(f"    {figure:34} {value}", flush=True)
    print(units_text(next(iter(measured.values()))))
    _compare(measured)
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({k: m.model_dump(mode="json") for k, m in measured.items()}, indent=1)
        )


def _compare(measured: dict[str, UnitsSummary]) -> None:
    """The best layer over the best MFCC, and whether that is the goal."""
    found = {name: m.figures.phones for name, m in measured.items() if m.figures and m.figures.phones}
    mfcc = {name: phones for name, phones in found.items() if name.startswith("MFCC")}
    layers = {name: phones for name, phones in found.items() if name not in mfcc}
    if not mfcc or not layers:
        print("no encoder beside MFCC: pass --encoder DIR (a transformers directory), and speech with transcripts")
        return
    # With as many clusters each: more clusters alone give more.
    ratios = {
        name: phones.pnmi.value / mfcc[f"MFCC, {name.partition(', ')[2]}"].pnmi.value for name, phones in layers.items()
    }
    best = max(ratios, key=lambda name: ratios[name])
    heard = layers[best].utterances
    reached = "reached" if ratios[best] >= GOAL and heard >= RECORDINGS else "not reached"
    print(
        f"best: {best}, {ratios[best]:.2f} times the PNMI of MFCC over {heard} transcribed utterances "
        f"(goal: {GOAL} over {RECORDINGS}): {reached}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="examples/speech", help="recordings with transcripts")
    parser.add_argument("--root", default="store/bench-units", help="the store, which a second call goes on with")
    parser.add_argument("--encoder", help="a transformers directory of an encoder; none: MFCC alone")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--clusters", type=int, nargs="+", default=[100])
    parser.add_argument("--items", type=int, default=400, help="most utterances")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="where all figures go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
