"""What speaking costs on this machine: exports of real shapes with random weights in llama.cpp, and the same shapes in transformers
(--forms float32,bfloat16): `make bench-generation`.

Per shape (the 2B student, the preset `small`, the demo's) the GGUF files are written by the code of the stage export, in a child
process whose peak memory counts, and kept in --folder. Then, per file and in a child of its own, with the read bandwidth of the
memory measured before and after: tokens per second and the share of that bandwidth they make, time to the first token of a prompt of
150 with and without prefill while listening, memory. Beside these: what banning the text costs per token, and the vocoder.

Random weights say nothing about quality; their speed is that of trained ones. Tokens per second are given by the clock and per
second of CPU time: other work on the machine lowers the first and hardly the second.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

GIB = 1 << 30
PROMPT, LISTENED = 150, 140  # tokens; half a second of speech is left when the speaker stops


@dataclass(frozen=True)
class Shape:
    """A student with random weights, and what is asked of it."""

    preset: str
    layers: int
    width: int
    heads: int
    intermediate: int
    speech_only: bool
    goals: dict[str, float]


SHAPES = {
    "2b": Shape(
        "base-2b", 10, 4096, 32, 11008, False, {"q8_0_gb": 2.45, "q4_0_gb": 1.37, "rss_gib": 2.6, "export_gib": 8}
    ),
    "small": Shape(
        "small", 4, 4096, 32, 11008, True, {"tokens_per_s": 30, "rss_gib": 2.6, "export_gib": 8, "prefilled_s": 0.7}
    ),
    "demo": Shape("demo", 2, 128, 4, 352, True, {}),
}
SHARES = {"q8_0": 0.60, "q4_0": 0.50}
PRECISIONS = {"float32": 4, "bfloat16": 2}  # of transformers, with bytes of a weight


def main() -> None:
    """Parse the command line; children are this file again with --child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="2b,small,demo", help="of 2b, small and demo (default: all)")
    parser.add_argument(
        "--forms",
        default="q8_0,q4_0",
        help="of q8_0, q4_0, bf16 and f16 in llama.cpp, float32 and bfloat16 in transformers (default: q8_0,q4_0)",
    )
    parser.add_argument("--tokens", type=int, default=48, help="generated per file (default: 48)")
    parser.add_argument("--threads", type=int, default=0, help="default: all cores")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tinywave-generation",
        help="where the files are kept (7 GB)",
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--child", choices=("export", "run", "bans", "vocoder"), help=argparse.SUPPRESS)
    parser.add_argument("--shape", default="demo", help=argparse.SUPPRESS)
    parser.add_argument("--form", default="q8_0", help=argparse.SUPPRESS)
    options = parser.parse_args()
    from tinywave_core.threads import cores

    options.threads = options.threads or cores()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options)))
        return
    figures = measure(options)
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


# The parent ----------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    from tinywave_core.costs.ondevice import machine

    figures: dict[str, Any] = {"machine": machine(), "threads": options.threads, "shapes": {}}
    for name in options.shapes.split(","):
        say(f"{name}: writing the files …")
        found = {"export": child(options, "export", name)} if gguf_forms(options) else {}
        for form in options.forms.split(","):
            say(f"{name}: {form} …")
            before = bandwidth(options.threads)
            run = child(options, "run", name, form)
            run["bandwidth"] = [before, bandwidth(options.threads)]
            run["load_average"] = os.getloadavg()[0]
            found[form] = run
        figures["shapes"][name] = found
    say("bans and vocoder …")
    figures["bans_ms"] = child(options, "bans", "demo")["ms_per_token"]
    figures["vocoder_cpu_s_per_s"] = child(options, "vocoder", "demo")["cpu_s_per_s"]
    return figures


def bandwidth(threads: int) -> dict[str, float]:
    """Of the memory, now: by the clock with all threads, and per second of CPU time of one."""
    from tinywave_core.costs.ondevice import read_bandwidth

    all_threads, one = read_bandwidth(threads), read_bandwidth(1)
    return {"gb_per_s": all_threads.bytes_per_s / 1e9, "gb_per_core_s": one.bytes_per_core_s / 1e9}


def child(options: argparse.Namespace, what: str, shape: str, form: str = "q8_0") -> dict[str, Any]:
    """One measurement in a process of its own."""
    arguments = ["--child", what, "--shape", shape, "--form", form, "--forms", options.forms]
    arguments += ["--tokens", str(options.tokens), "--threads", str(options.threads), "--folder", str(options.folder)]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: the child {what} of {shape} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


# The children --------------------------------------------------------------------------------------------------------


def export_child(options: argparse.Namespace) -> dict[str, Any]:
    """Write a student with random weights, then export it as the stage does; sizes, seconds and peak memory."""
    import torch
    from transformers import LlamaConfig

    from tinywave_core.exporters.gguf import write_gguf
    from tinywave_core.exporters.perplexity import GgufTensors, perplexity
    from tinywave_core.exporters.weights import copy_weights

    name, shape = options.shape, SHAPES[options.shape]
    folder, forms = options.folder / name, gguf_forms(options)
    files = {form: folder / f"{name}-{form.upper()}.gguf" for form in forms}
    kept = folder / "export.json"
    if kept.is_file() and all(path.is_file() for path in files.values()):
        return json.loads(kept.read_text(encoding="utf-8"))
    vocabulary = vocabulary_of(shape)
    config = write_random(folder / "student", shape)
    base, started, found = peak_gib(), time.monotonic(), {}
    model = folder / "model"
    model.mkdir(exist_ok=True)
    config.save_pretrained(model)
    (folder / "student" / "tokenizer.model").rename(model / "tokenizer.model")
    copy_weights(folder / "student", model, torch.bfloat16)
    for form, path in files.items():
        began = time.monotonic()
        write_gguf(model, vocabulary, path, form, name)
        found[form] = {"gb": path.stat().st_size / 1e9, "seconds": time.monotonic() - began}
    began = time.monotonic()
    ids = torch.arange(vocabulary.text, vocabulary.text + 65).numpy()
    perplexity(GgufTensors(files[forms[-1]], LlamaConfig.from_pretrained(model)), config, [ids], torch.device("cpu"))
    figures = {
        "files": found,
        "seconds": time.monotonic() - started,
        "perplexity_s": time.monotonic() - began,
        "peak_gib": peak_gib(),
        "peak_before_gib": base,
    }
    for path in [*(folder / "student").iterdir(), *model.iterdir()]:
        path.unlink()
    kept.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def vocabulary_of(shape: Shape) -> Any:
    """SpiritLM's of units, whole or without text."""
    from tinywave_core.tokenizers.vocabulary import SPIRITLM_BASE

    return SPIRITLM_BASE.speech_only() if shape.speech_only else SPIRITLM_BASE


def llama_of(shape: Shape) -> Any:
    """The config of a student."""
    from transformers import LlamaConfig

    vocabulary = vocabulary_of(shape)
    return LlamaConfig(
        vocab_size=vocabulary.rows,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=4096,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def write_random(folder: Path, shape: Shape) -> Any:
    """A directory of random bfloat16 weights, a tensor at a time, and a sentencepiece model of made-up text; its config."""
    import torch
    from safetensors.torch import save_file
    from sentencepiece import sentencepiece_model_pb2
    from transformers import LlamaForCausalLM

    vocabulary, config = vocabulary_of(shape), llama_of(shape)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in LlamaForCausalLM(config).named_parameters()}
    index, generator = {}, torch.Generator().manual_seed(0)
    for number, (name, size) in enumerate(shapes.items()):
        tensor = torch.empty(size).normal_(0, 0.02, generator=generator) if len(size) > 1 else torch.ones(size)
        index[name] = f"{number:04d}.safetensors"
        save_file({name: tensor.bfloat16()}, folder / index[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = 2
    proto.trainer_spec.byte_fallback = True
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [f"▁w{i}" for i in range(vocabulary.text - len(names))] if not shape.speech_only else []
    for i, name in enumerate(names):
        proto.pieces.add(piece=name, score=-float(i), type=2 if i == 0 else 3 if i < 3 else 6 if i < 259 else 1)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    return config


def run_child(options: argparse.Namespace) -> dict[str, Any]:
    """One file in llama.cpp, or one precision in transformers: speed, first tokens, memory."""
    import random

    from tinywave_core.runtimes.base import Sampling

    shape = SHAPES[options.shape]
    vocabulary = vocabulary_of(shape)
    started = time.monotonic()
    runtime = opened(options, options.threads)
    load_s = time.monotonic() - started
    units = [random.Random(0).choice(vocabulary.speech_ids()) for _ in range(2 * PROMPT)]
    prompt = [*vocabulary.prompt_ids(vocabulary.speech_marker), *units][:PROMPT]
    sampling = Sampling(max_new_tokens=options.tokens, min_new_tokens=options.tokens)
    first_s, seconds, _ = timed(runtime, prompt, sampling)
    other = [*vocabulary.prompt_ids(vocabulary.speech_marker), *units[PROMPT:]][:PROMPT]
    runtime.prefill(other[:LISTENED])
    prefilled_s, *_ = timed(runtime, other, Sampling(max_new_tokens=2, min_new_tokens=2))
    rss_gib = peak_gib()
    runtime.close()
    # Threads that wait for one another burn CPU time when others want the cores, so work per CPU second is that of one.
    _, _, cpu_s = timed(opened(options, 1), prompt[:8], sampling)
    return {
        "load_s": load_s,
        "first_token_s": first_s,
        "prefilled_s": prefilled_s,
        "tokens_per_s": (options.tokens - 1) / seconds,
        "tokens_per_cpu_s": (options.tokens - 1) / cpu_s,
        "rss_gib": rss_gib,
        "file_gb": file_of(options).stat().st_size / 1e9 if options.form not in PRECISIONS else None,
        "bytes_per_token": bytes_per_token(shape, options.form),
    }


def gguf_forms(options: argparse.Namespace) -> list[str]:
    """Those that are asked for."""
    return [form for form in options.forms.split(",") if form not in PRECISIONS]


def file_of(options: argparse.Namespace) -> Path:
    """The GGUF file of a shape and form."""
    return Path(options.folder, options.shape, f"{options.shape}-{options.form.upper()}.gguf")


def opened(options: argparse.Namespace, threads: int) -> Any:
    """The runtime of a form."""
    vocabulary = vocabulary_of(SHAPES[options.shape])
    if options.form not in PRECISIONS:
        from tinywave_core.runtimes.llama_cpp import LlamaCppRuntime

        return LlamaCppRuntime(file_of(options), vocabulary, threads)
    import torch
    from transformers import LlamaForCausalLM

    from tinywave_core.config.base import RuntimeConfig
    from tinywave_core.runtimes.transformers_runtime import TransformersRuntime

    torch.set_default_dtype(getattr(torch, options.form))
    try:
        model = LlamaForCausalLM(llama_of(SHAPES[options.shape]))
    finally:
        torch.set_default_dtype(torch.float32)
    return TransformersRuntime(model, vocabulary, RuntimeConfig(device="cpu", threads=threads))


def timed(runtime: Any, prompt: list[int], sampling: Any) -> tuple[float, float, float]:
    """Seconds to the first token, and from it to the last by the clock and of CPU time."""
    started = time.monotonic()
    stream = runtime.stream(prompt, sampling, "speech")
    next(stream)
    first, cpu = time.monotonic(), time.process_time()
    for _ in stream:
        pass
    return first - started, time.monotonic() - first, time.process_time() - cpu


def bytes_per_token(shape: Shape, form: str) -> float:
    """Of weights that a token reads."""
    if form in PRECISIONS:
        return bytes_per_token(shape, "bf16") / 2 * PRECISIONS[form]
    from tinywave_core.config.adaptation import FreshTeacherConfig
    from tinywave_core.costs.estimates import llama_parameters
    from tinywave_core.costs.ondevice import Student

    rows = vocabulary_of(shape).tokens
    like = FreshTeacherConfig(width=shape.width, heads=shape.heads, intermediate=shape.intermediate)
    parameters = llama_parameters(like, shape.layers, rows)
    return Student("", "base", parameters, parameters - rows * shape.width, rows * shape.width).bytes_per_token(form)


def bans_child(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds per token where SpiritLM's 32,002 other ids are banned, and where they were cut off, on a body too small to hide
    it; 2 million weights of the head are in the difference.
    """
    from tinywave_core.exporters.gguf import write_gguf
    from tinywave_core.runtimes.base import Sampling
    from tinywave_core.runtimes.llama_cpp import LlamaCppRuntime

    sampling = Sampling(max_new_tokens=400, min_new_tokens=400)

    def ms(speech_only: bool) -> float:
        shape = Shape("", 1, 64, 4, 128, speech_only, {})
        vocabulary = vocabulary_of(shape)
        folder = options.folder / f"bans-{speech_only}"
        write_random(folder, shape).save_pretrained(folder)
        write_gguf(folder, vocabulary, folder / "bans.gguf", "f16", "bans")
        runtime = LlamaCppRuntime(folder / "bans.gguf", vocabulary, 1)
        prompt = vocabulary.prompt_ids(vocabulary.speech_marker)
        found = []
        for _ in range(4):
            started = time.process_time()
            for _ in runtime.stream(prompt, sampling, "speech"):
                pass
            found.append((time.process_time() - started) / sampling.max_new_tokens * 1000)
        return min(found)

    return {"ms_per_token": {"banned": ms(False), "not there": ms(True)}}


def vocoder_child(_: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds per second of speech on one thread, in chunks of 0.4 s: a voice made of a few examples."""
    import torch

    from tinywave_core.audio.waveform import read_waveform
    from tinywave_core.config.tokenization import TokenizationConfig
    from tinywave_core.synthesis.recordings import Recordings, UnitSounds
    from tinywave_core.synthesis.selection import Selection
    from tinywave_core.synthesis.speaking import VoiceSpeaker
    from tinywave_core.synthesis.voice import Part, Voice
    from tinywave_core.tokenizers.codebooks import Codebooks
    from tinywave_core.tokenizers.speech import encode_utterance

    @dataclass(frozen=True)
    class Spoken:
        utterance_id: str
        samples: Any

    torch.set_num_threads(1)
    paths = sorted((ROOT / "examples" / "speech").rglob("*.opus"))[:12]
    spoken = [Spoken(path.stem, read_waveform(str(path))) for path in paths]
    codebooks = Codebooks.fit(TokenizationConfig(), spoken)
    vocabulary = codebooks.vocabulary
    streams = [codebooks.tokenize(each.samples) for each in spoken]
    sounds = UnitSounds(vocabulary.hubert)
    for each, codes in zip(spoken, streams, strict=True):
        sounds.add(each.samples, codes.units, vocabulary.rates)
    pairs = [(each.samples, codes, 0) for each, codes in zip(spoken, streams, strict=True)]
    selection = Selection(Recordings.of(pairs[1:], vocabulary.rates), sounds.centres())
    speaker = VoiceSpeaker(Voice(vocabulary, (Part("examples", (), (), selection),)), vocabulary)
    ids = encode_utterance(streams[0], vocabulary)
    for _ in range(2):  # the first time tables are made
        started = time.process_time()
        seconds = sum(len(chunk) for chunk in speaker.stream(ids.tolist())) / 16_000
    return {"cpu_s_per_s": {"voice": (time.process_time() - started) / seconds}}


CHILDREN = {"export": export_child, "run": run_child, "bans": bans_child, "vocoder": vocoder_child}


def peak_gib() -> float:
    """Most memory that this process had at once, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GIB


# The table -----------------------------------------------------------------------------------------------------------


def table(figures: dict[str, Any]) -> str:
    """What was measured, what is asked, and whether it is met."""
    rows: list[tuple[str, str, str, str]] = []
    for name, found in figures["shapes"].items():
        goals, export = SHAPES[name].goals, found.get("export")
        if export:
            peak = row(f"{name}: export, peak memory", export["peak_gib"], "GiB", goals.get("export_gib"), least=False)
            rows += [peak, (f"{name}: export, {export['seconds']:.0f} s", "", "", "")]
        for form in (key for key in found if key != "export"):
            rows += _of_file(name, form, found[form], goals)
    bans = figures["bans_ms"]
    rows.append(row("text banned, ms per token", bans["banned"] - bans["not there"], "ms", 1.0, least=False))
    for name, cost in figures["vocoder_cpu_s_per_s"].items():
        rows.append(row(f"vocoder {name}, one thread", cost, "CPU s per s", 0.25, least=False))
    widths = [max(len(each[i]) for each in rows) for i in range(4)]
    about = ", ".join(f"{key} {value}" for key, value in figures["machine"].items())
    lines = ["  ".join(text.ljust(width) for text, width in zip(each, widths, strict=True)).rstrip() for each in rows]
    return "\n".join([about, *lines])


def _of_file(name: str, form: str, run: dict[str, Any], goals: dict[str, float]) -> list[tuple[str, str, str, str]]:
    beside = sum(b["gb_per_s"] for b in run["bandwidth"]) / len(run["bandwidth"])
    per_core = sum(b["gb_per_core_s"] for b in run["bandwidth"]) / len(run["bandwidth"])
    used, used_per_core = (run[key] * run["bytes_per_token"] / 1e9 for key in ("tokens_per_s", "tokens_per_cpu_s"))
    head, large = f"{name} {form}", name != "demo"
    return [
        *([row(f"{head}: file", run["file_gb"], "GB", goals.get(f"{form}_gb"), least=False)] if run["file_gb"] else []),
        row(
            f"{head}: tokens per s (load {run['load_average']:.1f})", run["tokens_per_s"], "", goals.get("tokens_per_s")
        ),
        row(f"{head}: tokens per CPU s, one thread", run["tokens_per_cpu_s"], "", None),
        row(f"{head}: share of {beside:.1f} GB/s, clock", used / beside, "", None),
        row(
            f"{head}: share of {per_core:.1f} GB/s per core",
            used_per_core / per_core,
            "",
            SHARES.get(form) if large else None,
        ),
        row(f"{head}: first token of {PROMPT}", run["first_token_s"], "s", goals.get("first_token_s"), least=False),
        row(
            f"{head}: the same, {LISTENED} read before", run["prefilled_s"], "s", goals.get("prefilled_s"), least=False
        ),
        row(f"{head}: memory", run["rss_gib"], "GiB", goals.get("rss_gib"), least=False),
    ]


def row(what: str, value: float, unit: str, goal: float | None, *, least: bool = True) -> tuple[str, str, str, str]:
    """One line; `least` says that the goal is the least value, not the largest."""
    if goal is None:
        return what, f"{value:,.2f} {unit}", "", ""
    met = value >= goal if least else value <= goal
    return what, f"{value:,.2f} {unit}", f"{'≥' if least else '≤'} {goal:g}", "PASS" if met else "MISS"


if __name__ == "__main__":
    main()
