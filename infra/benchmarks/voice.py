"""How the voice made of recordings sounds beside the recordings, on held-out speech: `make bench-voice`.

Ingests and tokenizes a source, makes its voice as the stage export does, and resynthesises held-out utterances from their tokens.
Judges: DNSMOS P.835 and words by a recogniser (--recogniser DIR) as evaluation has them, and DistillMOS where its package can be
imported. Words are compared with the transcript where there is one, and with what the recogniser
heard in the recording. All three belong together: a smooth voice that says other words has good opinions alone.

In brackets: 95 % intervals, utterances resampled. CPU seconds are of one thread.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tinywave_core.audio.utterances import recordings  # noqa: E402
from tinywave_core.config.load import load_config  # noqa: E402
from tinywave_core.evals.dnsmos import installed_dnsmos, load_dnsmos  # noqa: E402
from tinywave_core.evals.intervals import bootstrap_interval  # noqa: E402
from tinywave_core.evals.word_errors import word_errors  # noqa: E402
from tinywave_core.run.pipeline import run_pipeline  # noqa: E402
from tinywave_core.stages.export import vocoder  # noqa: E402
from tinywave_core.stages.export.summary import VocoderSummary  # noqa: E402
from tinywave_core.stages.export.words import voice_text  # noqa: E402
from tinywave_core.steps.base import Step, compute  # noqa: E402
from tinywave_core.steps.inputs import audio_of, held_out_rows, held_out_shards  # noqa: E402
from tinywave_core.storage.schemas import SAMPLE_RATE  # noqa: E402
from tinywave_core.storage.store import Artifact, Store  # noqa: E402
from tinywave_core.synthesis.voice import Voice  # noqa: E402
from tinywave_core.tokenizers.speech import Streams, merge  # noqa: E402

Samples = npt.NDArray[np.float32]
Judge = Callable[[Samples], float]


def main() -> None:
    """Make the voice, speak, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=str(ROOT / "examples" / "speech"), help="folder of recordings")
    parser.add_argument("--root", help="store that is used again (default: a new one, thrown away)")
    parser.add_argument("--clips", type=int, default=16, help="held-out utterances, from the longest of 14 s down")
    parser.add_argument("--recogniser", type=Path, help="directory of a Whisper or Wav2Vec2ForCTC")
    parser.add_argument("--keep", type=Path, help="folder for what was spoken, as wav files")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting, as in --set generation.vocoder.minutes=5",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = dict(each.split("=", 1) for each in options.set)
        fixed = {"source": options.source, "root": options.root or folder, "adaptation.teacher": "fresh"}
        config = load_config("demo", fixed | settings)
        tokens = run_pipeline(config, Store(config.root), until="tokenization")["tokens"]
        built: list[float] = []
        made = vocoder.build(config, tokens, lambda steps: [_timed(step, built) for step in steps])["vocoder"]
        report(tokens, made, sum(built), options)


def _timed(step: Step, built: list[float]) -> Artifact:
    started = time.process_time()
    artifact = compute(step)
    built.append(time.process_time() - started)
    return artifact


def report(tokens: Artifact, made: Artifact, built_s: float, options: argparse.Namespace) -> None:
    """Everything that is measured, as lines."""
    summary = VocoderSummary.of(made)
    print(f"voice: {voice_text(summary)}; built in {built_s:.0f} CPU s with its quality figures", flush=True)
    for name, means in summary.quality.vocoders.items():
        print(f"  {name}: likeness {means.likeness:.3f}, cepstral distance {means.cepstral_distance_db:.2f} dB")
    voice, rows = Voice.load(made.path()), chosen_rows(tokens, options.clips)
    heard = recordings(audio_of(held_out_shards(tokens)), {row["utterance_id"] for row in rows})
    originals = [heard[row["utterance_id"]] for row in rows]
    spoken, cost = speak(voice, rows)
    print(
        f"{len(rows)} clips, {sum(map(len, originals)) / SAMPLE_RATE:.0f} s; {cost:.3f} CPU s per s of speech",
        flush=True,
    )
    if options.keep:
        keep(options.keep, rows, originals, spoken)
    for name, judge in judges():
        for kind, clips in (("recordings", originals), ("voice", spoken)):
            print(f"{name}, {kind}: {mean([judge(clip) for clip in clips])}", flush=True)
    if options.recogniser:
        words(options.recogniser, rows, originals, spoken)


def chosen_rows(tokens: Artifact, count: int) -> list[dict[str, Any]]:
    """Held-out utterances of 4 to 14 s: those with a transcript first."""
    columns = ["utterance_id", "transcript", "num_samples", "units", "pitch", "style"]
    rows = {row["utterance_id"]: row for row in held_out_rows(held_out_shards(tokens), columns) if row["num_samples"]}
    fit = [row for row in rows.values() if 4 * SAMPLE_RATE <= row["num_samples"] <= 14 * SAMPLE_RATE]
    return sorted(fit, key=lambda row: (not row["transcript"], row["utterance_id"]))[:count]


def speak(voice: Voice, rows: Sequence[dict[str, Any]]) -> tuple[list[Samples], float]:
    """What the voice makes of the tokens, and CPU seconds per second of it."""
    ids = [merge(Streams.of_row(row), voice.vocabulary) for row in rows]
    voice.synthesize(ids[0][:20], voice.vocabulary)  # tables are made at the first use
    started = time.process_time()
    spoken = [voice.synthesize(each, voice.vocabulary) for each in ids]
    return spoken, (time.process_time() - started) / (sum(map(len, spoken)) / SAMPLE_RATE)


def keep(folder: Path, rows: Sequence[dict[str, Any]], originals: Sequence[Samples], spoken: Sequence[Samples]) -> None:
    """Recording and voice, to listen to."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    for row, original, own in zip(rows, originals, spoken, strict=True):
        soundfile.write(folder / f"{row['utterance_id']}-recording.wav", original, SAMPLE_RATE)
        soundfile.write(folder / f"{row['utterance_id']}-voice.wav", own, SAMPLE_RATE)


# Judges -----------------------------------------------------------------------------------------------------------


def judges() -> list[tuple[str, Judge]]:
    """Those whose packages are here."""
    found: list[tuple[str, Judge]] = []
    if file := installed_dnsmos():
        rate = load_dnsmos(file)
        found.append(("DNSMOS overall", lambda clip: rate(clip).ovrl))
    if importlib.util.find_spec("distillmos"):
        found.append(("DistillMOS", distillmos()))
    return found


def distillmos() -> Judge:
    """The model of the package, whose file it opens with weights_only."""
    import torch
    from distillmos import ConvTransformerSQAModel

    model = ConvTransformerSQAModel().eval()

    def judge(clip: Samples) -> float:
        with torch.inference_mode():
            return float(model(torch.from_numpy(clip)[None])[0])

    return judge


def words(
    folder: Path, rows: Sequence[dict[str, Any]], originals: Sequence[Samples], spoken: Sequence[Samples]
) -> None:
    """Word errors against the transcripts, and against what is heard in the recordings."""
    from tinywave_core.evals.transcription import load_recogniser

    transcribe = load_recogniser(folder)
    heard = {"recordings": [transcribe(clip) for clip in originals], "voice": [transcribe(clip) for clip in spoken]}
    told = [n for n, row in enumerate(rows) if row["transcript"]]
    for kind, texts in heard.items():
        if told:
            print(
                f"WER, {kind}: {errors([(rows[n]['transcript'], texts[n]) for n in told])} over {len(told)} transcripts"
            )
    print(
        f"WER, voice against what is heard in the recordings: {errors([*zip(heard['recordings'], heard['voice'], strict=True)])}"
    )


def errors(pairs: Sequence[tuple[str, str]]) -> str:
    """Errors per word of the first texts."""
    found = word_errors(pairs, 0)
    return f"{found.rate:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]" if found else "no words"


def mean(values: Sequence[float]) -> str:
    """Mean with its interval."""
    low, high = bootstrap_interval(values, np.ones(len(values)), 0)
    return f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
