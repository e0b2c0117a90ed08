"""Precision and recall of every threshold of ingestion.keep on mixtures whose faults are known, for `make bench-filters`.

    make bench-filters BENCH_ARGS="--source DIR --clips 200 --dnsmos --json FILE"

Each recording of at least 25 dB, so that what is mixed in is what there is, is taken as it is, and with one fault at a time: noise (white, pink, the babble of six others) and tones of music at a drawn
ratio of 0 to 30 dB, cut flat at 0.2 to 0.7 of its peak, low-passed to 3 to 4.5 kHz, made quiet, with long pauses, with half or twice the words of
its transcript, and with another speaker over it. A filter is right where it leaves out what has its fault and nothing else. What is drawn
follows from the number of the recording. Intervals: 95 %, Wilson. Overlap has no filter: who finds it is told at the end.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from flows import environment

environment.prepare(quiet=True)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from tinywave_core.audio.keeping import LIMITS, MEASURES, reasons, words_per_s  # noqa: E402
from tinywave_core.audio.measures import SPEECH, measure, window_power  # noqa: E402
from tinywave_core.audio.utterances import read_utterances  # noqa: E402
from tinywave_core.audio.vad import speech_probabilities  # noqa: E402
from tinywave_core.config.pipeline import PipelineConfig  # noqa: E402
from tinywave_core.evals.dnsmos import installed_dnsmos, load_dnsmos  # noqa: E402
from tinywave_core.evals.intervals import wilson_interval  # noqa: E402
from tinywave_core.stages.ingestion import corpus as ingestion  # noqa: E402
from tinywave_core.stages.ingestion.summary import CorpusSummary  # noqa: E402
from tinywave_core.steps.base import compute_all  # noqa: E402
from tinywave_core.storage.schemas import SAMPLE_RATE  # noqa: E402
from tinywave_core.storage.store import Store  # noqa: E402

Samples = npt.NDArray[np.float64]
LONGEST_S, FEWEST_SAMPLES, OWN_SNR_DB = 12, SAMPLE_RATE, 25.0
NOISES = ("white", "pink", "babble", "music")
# What the filters are tried at; DNSMOS with --dnsmos only.
THRESHOLDS = {
    "min_snr_db": 15.0,
    "min_bandwidth_hz": 5500.0,
    "max_clipped_share": 2.5e-4,
    "min_level_db": -45.0,
    "min_speech_share": 0.4,
    "min_words_per_s": 1.8,
    "max_words_per_s": 4.5,
}


@dataclass(frozen=True)
class Clip:
    """A recording, and the words of its transcript where it has one."""

    samples: Samples
    transcript: str | None


@dataclass(frozen=True)
class Mixture:
    """A recording with at most one fault."""

    kind: str
    samples: Samples
    transcript: str | None
    faults: frozenset[str] = frozenset()
    """Reasons for which it is to be left out."""
    snr_db: float | None = None
    """Of what was mixed in."""


def main() -> None:
    arguments = _arguments()
    clips = read_clips(arguments.source, arguments.clips)
    print(f"{len(clips)} recordings, {sum(len(c.samples) for c in clips) / SAMPLE_RATE / 60:.1f} min")
    thresholds = THRESHOLDS | ({"min_dnsmos": arguments.min_dnsmos} if arguments.dnsmos else {})
    judge = installed_dnsmos() if arguments.dnsmos else None
    rate = load_dnsmos(judge) if judge else None
    started, mixed, rows = time.process_time(), [], []
    for number in range(len(clips)):
        for mixture in mixtures(number, clips):
            found = measure(_as_16_bit(mixture.samples))
            seconds = len(mixture.samples) / SAMPLE_RATE
            rows.append(
                asdict(found)
                | {"words_per_s": words_per_s(mixture.transcript, found.speech_share, seconds)}
                | {"dnsmos": rate(mixture.samples.astype(np.float32)).ovrl if rate else None}
            )
            mixed.append(mixture)
    hours = sum(len(m.samples) for m in mixed) / SAMPLE_RATE / 3600
    cost = (time.process_time() - started) / hours
    print(f"{len(mixed)} mixtures, {hours:.2f} h; made and measured in {cost:.0f} s of a core per hour of speech\n")
    columns = {n: np.array([np.nan if r[n] is None else r[n] for r in rows], np.float64) for n in MEASURES}
    figures = [figure for setting, bound in thresholds.items() for figure in judged(setting, bound, columns, mixed)]
    for figure in figures:
        print(
            f"{figure['filter']:28} {figure['of']:34} precision {_share(figure['precision'])}   recall {_share(figure['recall'])}"
        )
    errors = snr_errors(columns["snr_db"], mixed)
    print("\nmeasured minus mixed signal-to-noise ratio, dB: median (10 % to 90 %)")
    for error in errors:
        print(
            f"    {error['noise']:8} {error['mixed']:10} {error['median']:5.1f} ({error['low']:5.1f} to {error['high']:5.1f})"
        )
    overlaps = found_among("overlap", columns, mixed, thresholds)
    clean = found_among("as it is", columns, mixed, thresholds)
    print(
        f"\ntwo speakers at once: left out by any of these filters {_share(overlaps)}; recordings as they are {_share(clean)}"
    )
    if arguments.json:
        told = {"figures": figures, "snr": errors, "overlap": overlaps, "clean": clean, "s_per_h": cost}
        Path(arguments.json).write_text(json.dumps(told, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="examples/speech", help="folder of recordings (default: examples/speech)")
    parser.add_argument("--clips", type=int, default=120, help="recordings at most (default: 120)")
    parser.add_argument(
        "--dnsmos", action="store_true", help="also rate everything by DNSMOS: hours for 120 recordings"
    )
    parser.add_argument("--min-dnsmos", type=float, default=2.5, help="threshold of DNSMOS (default: 2.5)")
    parser.add_argument("--json", help="where the figures go")
    return parser.parse_args()


# Recordings ----------------------------------------------------------------------------------------------------------


def read_clips(source: str, most: int) -> list[Clip]:
    """Utterances of a second or more as ingestion cuts them, the quiet ones, those with a transcript first; long ones end after 12 s."""
    with tempfile.TemporaryDirectory() as folder:
        config = PipelineConfig(source=source, root=folder)
        corpus = ingestion.build(config, Store(folder), compute_all)
        shards = corpus.store.find_all(CorpusSummary.of(corpus).shards)
        spoken = [u for shard in shards for u in read_utterances(shard) if len(u.samples) >= FEWEST_SAMPLES]
    spoken.sort(key=lambda u: (u.transcript is None, u.utterance_id))
    clips: list[Clip] = []
    for utterance in spoken:
        samples = utterance.samples[: LONGEST_S * SAMPLE_RATE].astype(np.float64)
        if len(clips) < most and (measure(_as_16_bit(samples)).snr_db or 0.0) >= OWN_SNR_DB:
            clips.append(Clip(samples, utterance.transcript if len(samples) == len(utterance.samples) else None))
    return clips


# Mixtures ------------------------------------------------------------------------------------------------------------


def mixtures(number: int, clips: Sequence[Clip]) -> Iterator[Mixture]:
    """The recording as it is, and with each fault."""
    clip, random = clips[number], np.random.default_rng(number)
    x, text = clip.samples, clip.transcript
    yield Mixture("as it is", x, text)
    speech = _speech_power(x)
    for kind in NOISES:
        snr = float(random.uniform(0, 30))
        noise = _noise(kind, len(x), number, clips, random) * np.sqrt(speech) * 10 ** (-snr / 20)
        faults = frozenset({"noisy"} if snr < THRESHOLDS["min_snr_db"] else ())
        yield Mixture(kind, _in_range(x + noise), text, faults, snr)
    top = float(np.abs(x).max()) * random.uniform(0.2, 0.7)
    yield Mixture("cut flat", np.clip(x, -top, top), text, frozenset({"clipped"}))
    yield Mixture("low-passed", low_passed(x, float(random.uniform(3000, 4500))), text, frozenset({"narrow_band"}))
    level = float(random.uniform(-60, -48))
    yield Mixture("quiet", x / np.sqrt(speech) * 10 ** (level / 20), text, frozenset({"quiet"}))
    pause = np.tile(_room(x), 2 * len(x) // 512)[: 2 * len(x)]
    yield Mixture(
        "long pauses", np.concatenate([pause[: len(x)], x, pause[len(x) :]]), text, frozenset({"little_speech"})
    )
    other = np.resize(clips[(number + len(clips) // 2) % len(clips)].samples, len(x))
    yield Mixture(
        "overlap", _in_range(x + other * np.sqrt(speech / _speech_power(other))), text, frozenset({"overlap"})
    )
    if text:
        words = text.split()
        yield Mixture("half the words", x, " ".join(words[: len(words) // 2]), frozenset({"few_words"}))
        yield Mixture("twice the words", x, f"{text} {text}", frozenset({"many_words"}))


def _noise(kind: str, size: int, number: int, clips: Sequence[Clip], random: np.random.Generator) -> Samples:
    """Noise of power 1."""
    if kind == "babble":
        others = [clips[(number + 7 * n) % len(clips)].samples for n in range(1, 7)]
        noise = sum(np.roll(np.resize(o / np.sqrt(_speech_power(o)), size), random.integers(size)) for o in others)
    elif kind == "music":
        noise = _tones(size, random)
    else:
        spectrum = np.fft.rfft(random.normal(size=size))
        k = np.arange(len(spectrum))
        spectrum = np.where(k > 4, spectrum / np.sqrt(np.maximum(k, 1)), 0) if kind == "pink" else spectrum
        noise = np.fft.irfft(spectrum, size)
    return np.asarray(noise / np.std(noise))


def _tones(size: int, random: np.random.Generator) -> Samples:
    """A chord each half second, struck and fading, with three overtones a note."""
    tones, beat = np.zeros(size), SAMPLE_RATE // 2
    for start in range(0, size, beat):
        t = np.arange(min(beat, size - start)) / SAMPLE_RATE
        root = 220 * 2 ** (random.integers(12) / 12)
        for note in (1, 1.25, 1.5):
            for overtone in (1, 2, 3):
                tones[start : start + len(t)] += (
                    np.exp(-2 * t) * np.sin(2 * np.pi * root * note * overtone * t) / overtone
                )
    return tones


def low_passed(samples: Samples, edge_hz: float) -> Samples:
    """With nothing above the edge but a slope of 300 Hz."""
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum * np.clip((edge_hz + 300 - hz) / 300, 0, 1), len(samples))


def _room(samples: Samples) -> Samples:
    """The quietest 32 ms: what the recording's pauses sound like."""
    windows = samples[: len(samples) // 512 * 512].reshape(-1, 512)
    return windows[int(np.argmin(windows.var(axis=1)))]


def _speech_power(samples: Samples) -> float:
    pcm = _as_16_bit(samples)
    power_W = window_power(pcm)
    speech_W = power_W[speech_probabilities(pcm)[: len(power_W)] >= SPEECH]
    return float(speech_W.mean() if len(speech_W) else power_W.mean()) or 1e-9


def _in_range(samples: Samples) -> Samples:
    """Turned down where it would be cut: only what is to be cut is."""
    return samples / max(1.0, float(np.abs(samples).max()) / 0.95)


def _as_16_bit(samples: Samples) -> npt.NDArray[np.int16]:
    return np.clip(np.round(samples * 32_768), -32_768, 32_767).astype(np.int16)


# Figures -------------------------------------------------------------------------------------------------------------

Share = dict[str, float]


def judged(
    setting: str, bound: float, columns: Mapping[str, npt.NDArray[np.float64]], mixed: Sequence[Mixture]
) -> Iterator[dict[str, object]]:
    """Precision and recall of one filter over all mixtures but those of two speakers; the noisy ones by kind of noise as well."""
    limit = next(limit for limit in LIMITS if limit.setting == setting)
    out = reasons(columns, {setting: bound}) >= 0
    known = np.isfinite(columns[limit.measure])
    asked = np.array([m.kind != "overlap" for m in mixed]) & known
    # Opinions have no label of their own: whatever is wrong with a recording may lower them.
    faulty = np.array([limit.reason in m.faults or (setting == "min_dnsmos" and bool(m.faults)) for m in mixed])
    kinds: list[tuple[str, npt.NDArray[np.bool_]]] = [("all mixtures", asked)]
    if setting == "min_snr_db":
        kinds += [(kind, asked & np.array([m.kind == kind for m in mixed])) for kind in NOISES]
    for kind, among in kinds:
        hits, found, wanted = ((among & mask).sum() for mask in (out & faulty, out, faulty))
        yield {
            "filter": f"{setting} {bound:g}",
            "of": f"{kind}, {wanted} of {among.sum()}",
            "precision": _counted(hits, found),
            "recall": _counted(hits, wanted),
        }


def _counted(hits: int, trials: int) -> Share | None:
    if not trials:
        return None
    low, high = wilson_interval(int(hits), int(trials))
    return {"value": int(hits) / int(trials), "low": low, "high": high}


def _share(share: Share | None) -> str:
    return "      –" if share is None else f"{share['value']:6.1%} ({share['low']:.1%} to {share['high']:.1%})"


def snr_errors(measured: npt.NDArray[np.float64], mixed: Sequence[Mixture]) -> list[dict[str, object]]:
    """Of what was mixed in, by kind and by how loud it is; above 20 dB the recording's own noise counts."""
    errors: list[dict[str, object]] = []
    for kind in NOISES:
        for low, high in ((0, 10), (10, 20), (20, 30)):
            own = [
                float(value) - m.snr_db
                for value, m in zip(measured, mixed, strict=True)
                if m.kind == kind and m.snr_db is not None and low <= m.snr_db < high and np.isfinite(value)
            ]
            if own:
                ends = np.percentile(own, [50, 10, 90])
                errors.append(
                    {
                        "noise": kind,
                        "mixed": f"{low}–{high} dB",
                        **dict(zip(("median", "low", "high"), ends.tolist(), strict=True)),
                    }
                )
    return errors


def found_among(
    kind: str, columns: Mapping[str, npt.NDArray[np.float64]], mixed: Sequence[Mixture], thresholds: Mapping[str, float]
) -> Share | None:
    """How many of one kind any filter leaves out."""
    of_kind = np.array([m.kind == kind for m in mixed])
    return _counted(int((of_kind & (reasons(columns, thresholds) >= 0)).sum()), int(of_kind.sum()))


if __name__ == "__main__":
    main()
