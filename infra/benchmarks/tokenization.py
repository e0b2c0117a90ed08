"""How fast SpiritLM's speech tokenizer is here, beside the straightforward way, on real speech: `make bench-tokenization`.

The straightforward way is what the reference does: every file alone through transformers' HubertModel and
Wav2Vec2ForSequenceClassification as they are and through torchfcpe's own package, with malloc's default settings. Both ways run
as processes of their own with one thread, turn by turn, so that what else the machine does falls on both. Then: one process
with two threads against two processes with one.

CPU time is of the whole process around the model calls alone, without loading. Units are compared between both ways.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

STREAMS = ("hubert", "f0", "vqvae", "style")
RATE = 16_000


def main() -> None:
    """Parse the command line; children are this file again with --child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--spiritlm-dir", type=Path, help="a release; without it, random weights of its formats and sizes"
    )
    parser.add_argument("--audio", type=Path, default=ROOT / "examples" / "speech", help="folder of audio")
    parser.add_argument("--minutes", type=float, default=4.0, help="of audio that is used")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    parser.add_argument("--child", choices=("ours", "straight"), help=argparse.SUPPRESS)
    parser.add_argument("--part", default="0/1", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(options)))
        return
    if options.spiritlm_dir is not None:
        _report(options)
        return
    from tests.fixtures import release

    with tempfile.TemporaryDirectory() as folder:
        options.spiritlm_dir = release.write_speech_tokenizer(Path(folder))
        _report(options)


# The parent ----------------------------------------------------------------------------------------------------------


def _report(options: argparse.Namespace) -> None:
    rounds = []
    for number in range(options.rounds):
        order = ("ours", "straight") if number % 2 else ("straight", "ours")
        rounds.append({way: _run(options, way) for way in order})
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    seconds = rounds[0]["ours"]["audio_s"]
    print(
        f"{seconds / 60:.1f} minutes in {rounds[0]['ours']['files']} files, one thread, CPU s per audio s (median of rounds)"
    )
    print(f"{'stream':<12}{'straight':>10}{'here':>10}{'ratio':>8}   smallest to largest")
    for name in (*STREAMS, "base", "expressive"):
        straight = [_cost(r["straight"], name) for r in rounds]
        ours = [_cost(r["ours"], name) for r in rounds]
        ratios = [a / b for a, b in zip(straight, ours, strict=True)]
        print(
            f"{name:<12}{statistics.median(straight):>10.4f}{statistics.median(ours):>10.4f}"
            f"{statistics.median(ratios):>8.2f}   {min(ratios):.2f} to {max(ratios):.2f}"
        )
    for name in ("base", "expressive"):
        cost = statistics.median(_cost(r["ours"], name) for r in rounds)
        print(f"audio-hours per core-hour, {name}: {1 / cost:.1f}")
    _compare_units(rounds[0])
    _scaling(options)


def _cost(run: dict[str, Any], name: str) -> float:
    parts = {"base": ("hubert",), "expressive": STREAMS}.get(name, (name,))
    return sum(run["cpu_s"][part] for part in parts) / run["audio_s"]


def _compare_units(runs: dict[str, Any]) -> None:
    for name in ("hubert", "pitch", "style"):
        a, b = (np.concatenate([np.asarray(x, int) for x in runs[way]["units"][name]]) for way in ("straight", "ours"))
        print(f"{name} codes that differ between the two ways: {int((a != b).sum())} of {len(a)}")


def _scaling(options: argparse.Namespace) -> None:
    walls: dict[str, list[float]] = {"1 x 1": [], "1 x 2": [], "2 x 1": []}
    cpus: dict[str, list[float]] = {name: [] for name in walls}
    for _ in range(options.rounds):
        for name, wall in walls.items():
            processes, threads = int(name[0]), int(name[-1])
            children = [_start(options, "ours", f"{i}/{processes}", threads) for i in range(processes)]
            done = [_result(child) for child in children]
            wall.append(max(run["wall_s"] for run in done))
            cpus[name].append(sum(sum(run["cpu_s"].values()) for run in done))
    print("processes x threads, expressive: wall s, CPU s, speed beside 1 x 1 (median of rounds)")
    for name, wall in walls.items():
        speed = [a / b for a, b in zip(walls["1 x 1"], wall, strict=True)]
        print(
            f"  {name}: {statistics.median(wall):.1f}, {statistics.median(cpus[name]):.1f}, "
            f"{statistics.median(speed):.2f} ({min(speed):.2f} to {max(speed):.2f})"
        )


def _run(options: argparse.Namespace, way: str) -> dict[str, Any]:
    return _result(_start(options, way, "0/1", 1))


def _start(options: argparse.Namespace, way: str, part: str, threads: int) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "--child", way, "--part", part, "--threads", str(threads)]
    command += [
        "--spiritlm-dir",
        str(options.spiritlm_dir),
        "--audio",
        str(options.audio),
        "--minutes",
        str(options.minutes),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _result(child: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = child.communicate()
    if child.returncode:
        sys.exit(f"a run failed with status {child.returncode}")
    return json.loads(out.splitlines()[-1])  # type: ignore[no-any-return]


# A child -------------------------------------------------------------------------------------------------------------


def _child(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    number, count = map(int, options.part.split("/"))
    waves = _share(list(_waves(options)), number, count)
    models = _ours(options.spiritlm_dir) if options.child == "ours" else _straight(options.spiritlm_dir)
    cpu_s = dict.fromkeys(STREAMS, 0.0)
    units: dict[str, list[list[int]]] = {"hubert": [], "pitch": [], "style": []}

    def timed(stream: str, model: Callable[..., Any], *inputs: Any) -> Any:
        started = time.process_time()
        result = model(*inputs)
        cpu_s[stream] += time.process_time() - started
        return result

    with torch.inference_mode():
        for name in STREAMS[:2]:  # first calls set up libraries
            models[name](waves[0])
        models["style"](waves[0])
        started = time.monotonic()
        for wave in waves:
            units["hubert"].append(timed("hubert", models["hubert"], wave).tolist())
            track = timed("f0", models["f0"], wave)
            units["pitch"].append(timed("vqvae", models["vqvae"], *track).tolist())
            units["style"].append(timed("style", models["style"], wave).tolist())
    return {
        "files": len(waves),
        "audio_s": sum(map(len, waves)) / RATE,
        "cpu_s": cpu_s,
        "wall_s": time.monotonic() - started,
        "units": units,
    }


def _waves(options: argparse.Namespace) -> "Iterator[np.ndarray[Any, np.dtype[np.float32]]]":
    from tinywave_core.audio.waveform import read_waveform

    kinds = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
    files = sorted(path for path in options.audio.rglob("*") if path.suffix in kinds)
    total = 0
    for path in files[:: max(1, len(files) // 80)]:  # of all speakers and layouts
        wave = read_waveform(path)
        total += len(wave)
        yield wave
        if total >= options.minutes * 60 * RATE:
            return


def _share(waves: list[Any], number: int, count: int) -> list[Any]:
    """One of `count` parts of about the same length: each file goes, longest first, to the part that has least."""
    parts: list[list[Any]] = [[] for _ in range(count)]
    for wave in sorted(waves, key=len, reverse=True):
        min(parts, key=lambda part: sum(map(len, part))).append(wave)
    return parts[number]


def _ours(root: Path) -> dict[str, Callable[..., Any]]:
    from tinywave_core.threads import keep_large_blocks
    from tinywave_core.tokenizers.spiritlm import SpiritLMTokenizer

    keep_large_blocks()
    t = SpiritLMTokenizer.load(root)
    fcpe, codes, style = t.fcpe, t.pitch_codes, t.style
    assert fcpe is not None
    assert codes is not None
    assert style is not None

    def track(wave: Any) -> Any:
        found = fcpe.f0_hz(wave)
        return found.f0_hz, found.voiced

    return {
        "hubert": lambda wave: t.quantizer(t.encoder([torch.from_numpy(wave)])[0]),
        "f0": track,
        "vqvae": codes.encode,
        "style": lambda wave: style([torch.from_numpy(wave)])[0],
    }


def _straight(root: Path) -> dict[str, Callable[..., Any]]:
    import torchfcpe
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    from tinywave_core.tokenizers.quantizers import load_quantizer
    from tinywave_core.tokenizers.vqvae import PitchCodes

    tokenizer = root / "speech_tokenizer"
    hubert = _plain_hubert(tokenizer / "hubert_25hz" / "mhubert_base_25hz.pt")
    quantizer = load_quantizer(tokenizer / "hubert_25hz" / "L11_quantizer_500.pt", 768)
    codes = PitchCodes.load(tokenizer / "vqvae_f0_quantizer")
    style = Wav2Vec2ForSequenceClassification.from_pretrained(tokenizer / "style_encoder_w2v2").eval()
    extractor = Wav2Vec2FeatureExtractor()
    fcpe = torchfcpe.spawn_bundled_infer_model("cpu")

    def track(wave: Any) -> Any:
        try:
            f0, voiced = fcpe.infer(
                torch.from_numpy(wave)[None, :, None],
                sr=RATE,
                decoder_mode="local_argmax",
                threshold=0.05,
                f0_min=50,
                f0_max=1100,
                interp_uv=True,
                output_interp_target_length=len(wave) // 80 + 1,
                retur_uv=True,
            )
        except IndexError:  # no voiced frame: the package has no result
            silence = np.zeros(len(wave) // 80 + 1, np.float32)
            return silence, silence > 0
        return f0[0, :, 0].numpy(), voiced[0, :, 0].numpy() < 0.5

    def styles(wave: Any) -> Any:
        inputs = extractor(wave, sampling_rate=RATE, return_tensors="pt").input_values
        hidden = style.projector(style.wav2vec2(inputs).last_hidden_state[0])
        return style.classifier(torch.stack([part.mean(0) for part in hidden.split(50)])).argmax(-1).numpy()

    return {
        "hubert": lambda wave: quantizer(hubert(torch.from_numpy(wave)[None]).last_hidden_state[0]),
        "f0": track,
        "vqvae": codes.encode,
        "style": styles,
    }


def _plain_hubert(path: Path) -> Any:
    """transformers' HubertModel, as it is, with a release's weights."""
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        conv_dim=(512,) * 8,
        conv_kernel=(10, 3, 3, 3, 3, 2, 2, 2),
        conv_stride=(5, *(2,) * 7),
        num_hidden_layers=11,
        conv_pos_batch_norm=True,
    )
    names = (
        ("feature_extractor.conv_layers.0.2.", "feature_extractor.conv_layers.0.layer_norm."),
        ("post_extract_proj.", "feature_projection.projection."),
        ("encoder.pos_conv.0.", "encoder.pos_conv_embed.batch_norm."),
        ("encoder.pos_conv.1.", "encoder.pos_conv_embed.conv."),
        (".self_attn_layer_norm.", ".layer_norm."),
        (".self_attn.", ".attention."),
        (".fc1.", ".feed_forward.intermediate_dense."),
        (".fc2.", ".feed_forward.output_dense."),
    )
    weights = {}
    for key, value in torch.load(path, weights_only=True)["model_weight"].items():
        if key.startswith(("encoder.layers.11.", "final_proj.", "label_embs_concat")):
            continue
        name = key.replace("mask_emb", "masked_spec_embed")
        if name.startswith("layer_norm."):
            name = f"feature_projection.{name}"
        for old, new in names:
            name = name.replace(old, new)
        if name.startswith("feature_extractor.") and name.endswith(".0.weight"):
            name = name.replace(".0.weight", ".conv.weight")
        weights[name] = value
    model = HubertModel(config).eval()
    model.load_state_dict(weights, strict=True)
    return model


if __name__ == "__main__":
    main()
