"""What another kind of CPU changes in tokens and training, counted: `make bench-machines` (half an hour; results are no timings).

Each kind of machine is this one with fewer instructions (tests/fixtures/machines.py), as a process of its own, with one and with two
threads. All make tokens of the same recordings with the same models: SpiritLM's release of full size (random weights unless
--spiritlm-dir), and the embedded tokenizer with codebooks that the first process fitted. Then a teacher of the preset demo is
trained for some steps on the embedded tokens.

A code that differs is explained by its margin: how far the winner was ahead of the second in the first process, in standard deviations
of all candidates' scores. Beside it stands the share of all codes that have a margin as small.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.fixtures import machines  # noqa: E402

STREAMS = ("hubert", "pitch", "style", "mfcc units", "mfcc pitch", "mfcc style")
FIRST = ("this", 1)


def main() -> None:
    """Parse the command line; children are this file again with --child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spiritlm-dir", type=Path, help="a release; without it, random weights of its sizes")
    parser.add_argument("--audio", type=Path, default=ROOT / "examples" / "speech", help="folder of audio")
    parser.add_argument("--minutes", type=float, default=10.0, help="of audio that is used")
    parser.add_argument("--steps", type=int, default=20, help="of training")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        np.savez(options.child, **_child(options))
        return
    with tempfile.TemporaryDirectory() as folder:
        options.work = Path(folder)
        if options.spiritlm_dir is None:
            from tests.fixtures import release

            options.spiritlm_dir = release.write_speech_tokenizer(options.work / "release")
        _report(options)


# The parent ----------------------------------------------------------------------------------------------------------


def _report(options: argparse.Namespace) -> None:
    others = list(machines.kinds())[:-1]  # the last one has all that this machine has
    cases = [(kind, threads) for kind in ("this", *others) for threads in (1, 2)]
    first = _run(options, *FIRST)
    codes = ", ".join(f"{len(first[f'{name} codes']):,} {name}" for name in STREAMS)
    print(f"{float(first['seconds']) / 60:.1f} minutes in {int(first['files'])} files: {codes} codes")
    print(
        f"{'machine':<10}{'threads':>8}  {'codes that differ from this machine with one thread':<60}codebooks  losses within  weights within"
    )
    for case in cases:
        made = first if case == FIRST else _run(options, *case)
        differing = {name: _differing(first, made, name) for name in STREAMS}
        told = ", ".join(f"{name} {len(each)}" for name, each in differing.items() if len(each)) or "none"
        same = "same bytes" if str(first["codebooks"]) == str(made["codebooks"]) else "differ"
        apart = [float(np.abs(first[name] - made[name]).max()) for name in ("losses", "weights")]
        print(f"{case[0]:<10}{case[1]:>8}  {told:<60}{same:<11}{apart[0]:<15.2g}{apart[1]:.2g}", flush=True)
        for name, places in differing.items():
            if len(places):
                _explain(first, name, places)


def _differing(first: dict[str, Any], made: dict[str, Any], name: str) -> Any:
    return np.flatnonzero(first[f"{name} codes"] != made[f"{name} codes"])


def _explain(first: dict[str, Any], name: str, places: Any) -> None:
    margins = first.get(f"{name} margins")
    if margins is None or len(margins) != len(first[f"{name} codes"]):
        return
    largest = float(margins[places].max())
    print(
        f"{'':<20}{name}: margins up to {largest:.2g} standard deviations; {np.mean(margins <= largest):.2%} of all codes have one as small, the median is {np.median(margins):.2g}"
    )


def _run(options: argparse.Namespace, kind: str, threads: int) -> dict[str, Any]:
    made = options.work / f"{kind}-{threads}.npz"
    command = [
        sys.executable,
        __file__,
        "--child",
        str(made),
        "--work",
        str(options.work),
        "--steps",
        str(options.steps),
    ]
    command += [
        "--spiritlm-dir",
        str(options.spiritlm_dir),
        "--audio",
        str(options.audio),
        "--minutes",
        str(options.minutes),
    ]
    done = subprocess.run(command, env=machines.environment(kind, threads), check=False)
    if done.returncode:
        sys.exit(f"the process for {kind} with {threads} threads failed with status {done.returncode}")
    with np.load(made, allow_pickle=False) as arrays:
        return dict(arrays)


# A child -------------------------------------------------------------------------------------------------------------


class Margins:
    """Notes of every decision between candidates (`argmax`, `argmin`) how far the winner was ahead."""

    def __init__(self) -> None:
        self.noted: list[Any] = []
        self._plain = {name: getattr(torch.Tensor, name) for name in ("argmax", "argmin")}

    def __enter__(self) -> "Margins":
        for name, plain in self._plain.items():
            setattr(torch.Tensor, name, self._noting(plain, 1 if name == "argmax" else -1))
        return self

    def __exit__(self, *_: object) -> None:
        for name, plain in self._plain.items():
            setattr(torch.Tensor, name, plain)

    def _noting(self, plain: Any, sign: int) -> Any:
        def decide(scores: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
            rows = (sign * scores).reshape(-1, scores.shape[-1]).float()
            best = rows.topk(2, dim=-1).values
            self.noted.append(((best[:, 0] - best[:, 1]) / rows.std(dim=-1)).numpy())
            return plain(scores, *args, **named)

        return decide


def _child(options: argparse.Namespace) -> dict[str, Any]:
    from flows import environment

    environment.prepare(quiet=True)
    waves = list(_waves(options))
    made: dict[str, Any] = {"files": len(waves), "seconds": sum(map(len, waves)) / 16_000}
    made |= _release_codes(options, waves)
    return made | _embedded(options, waves)


def _waves(options: argparse.Namespace) -> Iterator[Any]:
    from tinywave_core.audio.waveform import read_waveform

    left = options.minutes * 60
    files = (path for path in options.audio.rglob("*") if path.suffix in (".wav", ".flac", ".ogg", ".opus", ".mp3"))
    for path in sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest()):
        wave = read_waveform(path)
        left -= len(wave) / 16_000
        yield wave
        if left <= 0:
            return


def _release_codes(options: argparse.Namespace, waves: Sequence[Any]) -> dict[str, Any]:
    from tinywave_core.tokenizers.spiritlm import SpiritLMTokenizer

    tokenizer = SpiritLMTokenizer.load(options.spiritlm_dir, "expressive")
    codes: dict[str, list[Any]] = {"hubert": [], "pitch": [], "style": []}
    margins: dict[str, list[Any]] = {name: [] for name in codes}
    for wave in waves:
        with Margins() as decided:
            streams = tokenizer.streams([wave])[0]
        for name, stream in (("hubert", streams.units), ("pitch", streams.pitch), ("style", streams.style)):
            codes[name].append(stream)
            # One decision per stream and recording (of up to 100 s) has as many rows as the stream has codes.
            margins[name] += [each for each in decided.noted if len(each) == len(stream)][:1]
    return {f"{name} codes": np.concatenate(each) for name, each in codes.items()} | {
        f"{name} margins": np.concatenate(each) for name, each in margins.items()
    }


def _embedded(options: argparse.Namespace, waves: Sequence[Any]) -> dict[str, Any]:
    from tinywave_core.config.tokenization import TokenizationConfig
    from tinywave_core.tokenizers.codebooks import TENSORS, Codebooks
    from tinywave_core.tokenizers.speech import encode_utterance

    class Spoken:
        def __init__(self, utterance_id: str, samples: Any) -> None:
            self.utterance_id, self.samples = utterance_id, samples

    fitted = Codebooks.fit(TokenizationConfig(), [Spoken(f"{i:05d}", wave) for i, wave in enumerate(waves)])
    shared = options.work / "codebooks"
    if not shared.exists():  # the first process
        fitted.save(shared)
    own = options.work / "own"
    fitted.save(own)
    digest = hashlib.sha256((own / TENSORS).read_bytes()).hexdigest()
    given = Codebooks.load(shared)
    streams = [given.tokenize(wave) for wave in waves]
    ids = [encode_utterance(each, given.vocabulary) for each in streams]
    losses, weights = _trained(ids, given.vocabulary.rows, options.steps)
    return {
        "codebooks": digest,
        "mfcc units codes": np.concatenate([each.units for each in streams]),
        "mfcc pitch codes": np.concatenate([each.pitch for each in streams]),
        "mfcc style codes": np.concatenate([each.style for each in streams]),
        "losses": losses,
        "weights": weights,
    }


def _trained(sequences: Sequence[Any], rows: int, steps: int) -> tuple[Any, Any]:
    """Losses [steps] and weights of a fresh teacher of the preset demo, trained on rows of 512 tokens."""
    from tinywave_core.config.load import load_config
    from tinywave_core.models.llama import fresh_llama

    model = fresh_llama(load_config("demo", {}).adaptation.fresh, rows, 512, seed=0).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.from_numpy(np.concatenate(sequences).astype(np.int64))
    losses = []
    for step in range(steps):
        ids = tokens.roll(-1024 * step)[:1024].reshape(2, 512)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    return np.array(losses), torch.cat([p.detach().ravel() for p in model.parameters()]).numpy()


if __name__ == "__main__":
    main()
