"""`tinywave run | plan | serve | deploy | generate | talk | evaluate | tokens | slamkit | bench-device | inspect | lineage | verify | repair | gc | forget`. Only pydantic is imported until a command has real work to do."""

import argparse
import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from flows import surroundings
from tasks import stopping, terminal
from tinywave_core.config.base import Device
from tinywave_core.config.load import fields, load_config, preset_names
from tinywave_core.config.pipeline import STAGES
from tinywave_core.errors import TinyWaveError

if TYPE_CHECKING:
    from flows.generate import Loading
    from flows.schedules import When

_interrupted, _stopped = threading.Event(), threading.Event()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (a fault of ours), 2 (something the user can mend) or 130 (Ctrl-C)."""
    # A worker that is told to stop must leave its work as Ctrl-C does: resumable.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    if arguments is None:  # this process is ours alone
        atexit.register(_ignore_signals)
        sys.excepthook = terminal.say_uncaught
        surroundings.speak_utf8()
        surroundings.find_home()
    parser = _parser()
    words = _spelled(sys.argv[1:] if arguments is None else arguments)
    try:
        _check_flags(words)
        options, rest = parser.parse_known_args(words)
        return int(options.command(options, rest) or 0)
    except TinyWaveError as error:
        terminal.say(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has seen enough (`tinywave tokens … | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _say_stopped()
        return 130


def _spelled(words: Sequence[str]) -> list[str]:
    """Flags of settings as `_flag` spells them: - and _ are the same to people."""
    known = {key for key, _ in fields()}
    return [
        _flag(key) + equals + value if word.startswith("--") and (key := name[2:].replace("-", "_")) in known else word
        for word in words
        for name, equals, value in [word.partition("=")]
    ]


def _flag(key: str) -> str:
    return f"--{key}" if "." in key else f"--{key.replace('_', '-')}"


def _check_flags(words: list[str]) -> None:
    """Let the config say what comes closest to an unknown flag; argparse would complain about its value instead."""
    if not words or words[0] not in ("run", "plan", "serve", "deploy"):
        return
    own = {"--preset", "--help", "--pool", "--image", "--cron", "--every", "--timezone", "--watch", "--explain"}
    known = {_flag(key) for key, _ in fields()} | own
    for word in words[1:]:
        flag = word.partition("=")[0]
        if word.startswith("--") and flag not in known:
            load_config("demo", {flag.removeprefix("--"): ""})


def _interrupt(*_: object) -> None:
    """The first time: stop in order. The second time: at once, with everything that we started."""
    stopping.requested.set()
    if not _interrupted.is_set():
        _interrupted.set()
        raise KeyboardInterrupt
    _say_stopped()
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(130)


def _ignore_signals() -> None:
    """At the very end, when Python would give them back to the system, which changes our exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _say_stopped() -> None:
    """Once, and past Python's buffers, which the interrupt may have found in use."""
    if not _stopped.is_set():
        _stopped.set()
        os.write(2, b"\nstopped: finished work is kept, and the same command goes on from there\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tinywave",
        description="Turn raw speech audio into a small speech language model by distillation.",
        epilog="tinywave COMMAND --help tells more; `tinywave run --help` lists every setting.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _configured(commands, "run", "run the pipeline, or one stage of it", _run)
    run.add_argument("what", nargs="?", default="pipeline", choices=("pipeline", *STAGES), metavar="pipeline|STAGE")
    plan = _configured(commands, "plan", "what would run, what is cached and why, with time and bytes", _plan)
    plan.add_argument("what", nargs="?", default="pipeline", choices=("pipeline", *STAGES), metavar="pipeline|STAGE")
    plan.add_argument("--explain", action="store_true", help="say of every step why it is cached or has to run")
    serve = _configured(
        commands, "serve", "a local Prefect server with the deployments, and the address of its UI", _serve
    )
    deploy = _configured(commands, "deploy", "register the deployments in a work pool, for workers to run", _deploy)
    for parsers in (serve, deploy):
        parsers.add_argument("--cron", help='when the pipeline runs by itself, as in "0 3 * * *" (default: never)')
        parsers.add_argument("--every", type=float, metavar="MINUTES", help="minutes between two runs of the pipeline")
        parsers.add_argument("--timezone", default="UTC", help="IANA time zone of --cron (default: UTC)")
        parsers.add_argument(
            "--watch",
            type=float,
            metavar="MINUTES",
            help="minutes between two looks for new audio, which starts the pipeline",
        )
    deploy.add_argument("--pool", default="tinywave", help="the work pool; made if absent (default: tinywave)")
    deploy.add_argument("--image", help="image with TinyWave, for a pool that starts containers (default: none)")

    tokens = commands.add_parser(
        "tokens",
        help="what SpiritLM's speech tokenizer makes of audio files, one JSON line each",
        description="Print one JSON line per file: path, hubert, pitch and style (raw units, as SpiritLM writes them; pitch and "
        "style are null for base), string (merged tokens) and ids (the prompt [Speech] + string for the language model: <s> first, "
        "no </s>). A file that cannot be used gives a line with path and error, and the exit status 2.",
    )
    tokens.add_argument("file", nargs="+", help="audio file: wav, flac, ogg/opus or mp3, mono or stereo, any rate")
    tokens.add_argument("--model", choices=("base", "expressive"), default="expressive", help="default: expressive")
    tokens.add_argument(
        "--spiritlm-dir",
        help="folder or s3:// prefix with SpiritLM's release (default: the environment variable SPIRITLM_CHECKPOINTS_DIR)",
    )
    tokens.add_argument("--hubert", help="a transformers HubertModel directory in place of the release's HuBERT")
    tokens.add_argument("--quantizer", help="a quantizer's file in place of the release's")
    tokens.add_argument("--device", choices=get_args(Device), default="auto", help="default: auto")
    tokens.set_defaults(command=_tokens)

    _generate_parser(commands)
    _talk_parser(commands)
    _evaluate_parser(commands)

    slamkit = commands.add_parser(
        "slamkit", help="write the tokens of a store as slamkit's features.jsonl and tokens.jsonl"
    )
    slamkit.add_argument("artifact", help="id of a `tokens` artifact, or the first characters of one")
    slamkit.add_argument("folder", help="where the two files go")
    slamkit.add_argument("--root", default="store", help="the store (default: store)")
    slamkit.set_defaults(command=_slamkit)

    inspect = commands.add_parser("inspect", help="what an artifact is, holds and came from; without one: all of them")
    inspect.add_argument("artifact", nargs="?", help="id, or the first characters of one (distillation/3fa9)")
    inspect.add_argument("--root", default="store", help="the store (default: store)")
    inspect.set_defaults(command=_inspect)
    lineage = commands.add_parser("lineage", help="from an artifact back to its audio files, or from a file forward")
    lineage.add_argument("artifact", help="artifact id or its beginning, or an audio file (its path or its SHA-256)")
    lineage.add_argument("--root", default="store", help="the store (default: store)")
    lineage.set_defaults(command=_lineage)
    _bench_device_parser(commands)
    publish = commands.add_parser("publish", help="which student is published; with an export: publish that one")
    publish.add_argument("artifact", nargs="?", help="id of an export, or the first characters of one")
    publish.add_argument("--root", default="store", help="the store (default: store)")
    publish.set_defaults(command=_publish)
    _care_parsers(commands)
    return parser


def _bench_device_parser(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    text = "how fast this machine reads its memory, and which presets' students would speak in real time on it"
    bench = commands.add_parser("bench-device", help=text, description=f"Measure {text}. Downloads and loads nothing.")
    bench.add_argument("--threads", type=int, default=0, metavar="N", help="most threads (default: all cores)")
    bench.add_argument("--json", action="store_true", dest="as_json", help="print JSON")
    bench.set_defaults(command=_bench_device)


def _care_parsers(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    """The commands that check and clean a store."""

    def add(name: str, text: str, command: object) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        parser.add_argument("--root", default="store", help="the store (default: store)")
        parser.set_defaults(command=command)
        return parser

    add("verify", "check every file and record of a store against its digest; exit status 2 if one is wrong", _verify)
    add(
        "repair",
        "move what is damaged out of the way, so that the next run computes it again; sweep leftovers",
        _repair,
    )
    gc = add("gc", "what no pin, no corpus and none of the newest results needs; with --yes it is removed", _gc)
    gc.add_argument("--keep", type=int, default=3, metavar="N", help="final artifacts that stay (default: 3)")
    gc.add_argument("--older-than", type=float, default=1.0, metavar="HOURS", help="leave what is younger (default: 1)")
    forget = add("forget", "what heard a recording; with --yes all of it is removed, the recording for ever", _forget)
    forget.add_argument("file", help="a source recording: its path, file name or SHA-256")
    for parser in (gc, forget):
        parser.add_argument("--yes", action="store_true", help="do it; otherwise only say what would be done")


def _generate_parser(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    generate = commands.add_parser(
        "generate",
        help="continue audio or text with an exported model",
        description="Continue a prompt of audio and text, in the order given, and print JSON: prompt and output as token strings, "
        "text, what it took, and the length of the speech, which goes to --wav.",
    )
    generate.add_argument("model", help="the model/ directory of an export")
    for kind, text in (("audio", "audio file that the prompt holds"), ("text", "text that the prompt holds")):
        generate.add_argument(
            f"--prompt-{kind}",
            dest="prompts",
            action="append",
            type=lambda value, kind=kind: (kind, value),  # type: ignore[misc]
            help=f"{text}; may be repeated",
        )
    generate.add_argument("--output", choices=("text", "speech", "mixed"), default="speech", help="default: speech")
    generate.add_argument(
        "--example",
        nargs=2,
        action="append",
        default=[],
        metavar=("AUDIO", "TEXT"),
        help="a few-shot pair before the prompt: audio then text for an audio prompt (writing down), else text then audio",
    )
    generate.add_argument("--wav", help="where the speech of the continuation goes; - is raw 16-bit 16 kHz to stdout")
    generate.add_argument(
        "--stream", action="store_true", help="print text and write speech as they are made, in place of the JSON"
    )
    generate.add_argument(
        "--bandwidth", action="store_true", help="measure which share of the memory's bandwidth the tokens took (CPU)"
    )
    generate.add_argument("--voice", help="a voice of the vocoder (default: its own)")
    generate.add_argument("--max-new-tokens", type=int, default=200, help="default: 200")
    generate.add_argument("--min-new-tokens", type=int, default=0, help="it does not end before; default: 0")
    generate.add_argument("--temperature", type=float, default=0.8, help="default: 0.8")
    generate.add_argument("--top-p", type=float, default=0.95, help="default: 0.95")
    generate.add_argument("--seed", type=int, default=0, help="default: 0")
    _loading_arguments(generate)
    generate.set_defaults(command=_generate)


def _talk_parser(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    talk = commands.add_parser(
        "talk",
        help="speak with exported models in a browser, or over HTTP and WebSocket",
        description="A local server with a page to speak, type or drop a file, and to hear the answer while it is made; "
        "POST /v1/audio/generate and WS /v1/realtime for programs. Ctrl-C ends it.",
    )
    talk.add_argument("model", nargs="+", help="model/ directory of an export; several can be chosen from")
    talk.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    talk.add_argument("--port", type=int, default=7860, help="0 takes a free one (default: 7860)")
    talk.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name besides localhost by which browsers may reach the server; may be repeated",
    )
    talk.add_argument("--max-prompt", type=float, default=60, metavar="SECONDS", help="longest prompt (default: 60)")
    talk.add_argument(
        "--max-wall", type=float, default=60, metavar="SECONDS", help="longest work on an answer (default: 60)"
    )
    talk.add_argument("--queue", type=int, default=4, metavar="N", help="answers of a model that may wait (default: 4)")
    _loading_arguments(talk)
    talk.set_defaults(command=_talk)


def _loading_arguments(parser: argparse.ArgumentParser) -> None:
    """How a model runs."""
    parser.add_argument(
        "--runtime", choices=("transformers", "llama.cpp"), default="transformers", help="default: transformers"
    )
    parser.add_argument("--quantization", help="which GGUF file llama.cpp takes (default: the first in speech.json)")
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="threads of the runtime (default: all cores; llama.cpp with more of them than idle cores is many times slower)",
    )
    parser.add_argument(
        "--spiritlm-dir", help="SpiritLM's release, for models of its tokens (default: the environment)"
    )
    parser.add_argument("--device", choices=get_args(Device), default="auto", help="default: auto")


def _evaluate_parser(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    evaluate = commands.add_parser(
        "evaluate",
        help="an exported or released model on public benchmarks, or on pairs of your own",
        description="Which of two versions does a model give the higher score, and is it the right one? Print accuracies with 95 % "
        "intervals per suite; chance is 50 %. Suites are read as they are distributed: sSC and tSC (spoken StoryCloze, slamkit's "
        "layouts), salmon, swuggy and sblimp (ZeroSpeech 2021 with gold.csv, or slamkit's names), pairs (pairs.jsonl with id, pos, "
        "neg and, if wanted, prompt, group, voice, text, subset).",
    )
    evaluate.add_argument("model", help="model/ directory of an export, or a Llama directory with SpiritLM's tokenizer")
    evaluate.add_argument(
        "--suite",
        action="append",
        required=True,
        metavar="KIND=DIR",
        help="a benchmark's kind and folder; KIND= can be left out where the folder tells; may be repeated",
    )
    evaluate.add_argument("--reduction", choices=("mean", "sum"), default="mean", help="over tokens (default: mean)")
    evaluate.add_argument(
        "--over", choices=("all", "continuation"), default="all", help="whether a prompt's tokens count (default: all)"
    )
    evaluate.add_argument(
        "--streams", choices=("all", "hubert"), default="all", help="whether pitch and style count (default: all)"
    )
    evaluate.add_argument(
        "--vocabulary",
        choices=("all", "own"),
        default="all",
        help="whether a token competes with all others, or with those of its own modality (default: all)",
    )
    evaluate.add_argument("--against", metavar="MODEL", help="another model, for paired differences on the same pairs")
    evaluate.add_argument("--out", metavar="FOLDER", help="where scores (Parquet) and evaluation.json go")
    evaluate.add_argument(
        "--submission", action="store_true", help="write score files of swuggy and sblimp too; needs no gold.csv"
    )
    evaluate.add_argument(
        "--spiritlm-dir", help="SpiritLM's release, for models of its tokens (default: the environment)"
    )
    evaluate.add_argument("--device", choices=get_args(Device), default="auto", help="default: auto")
    evaluate.set_defaults(command=_evaluate)


def _configured(commands: argparse._SubParsersAction, name: str, text: str, command: object) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    """A command that takes --preset and every field of the config as a flag."""
    parser = commands.add_parser(name, help=text, description=text, formatter_class=_Help, allow_abbrev=False)
    parser.set_defaults(command=command)
    parser.add_argument(
        "--preset", default="demo", help=f"{', '.join(preset_names())}, or a .toml file (default: demo)"
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for key, field in fields():
        group = key.rpartition(".")[0] or "input and output"
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        default = "" if field.is_required() or field.default is None else f" Default: {field.default}."
        help_text = f"{' '.join((field.description or '').split())}{default}".replace("%", "%%")
        groups[group].add_argument(
            _flag(key), dest=key, help=help_text, metavar=_metavar(field.annotation), default=argparse.SUPPRESS
        )
    return parser


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=12, width=min(120, int(os.environ.get("COLUMNS", "100"))))


def _metavar(annotation: object) -> str:
    choices = getattr(annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return {int: "INT", float: "NUMBER", str: "TEXT"}.get(annotation, "TEXT")  # type: ignore[call-overload, no-any-return]


def _settings(options: argparse.Namespace, rest: list[str]) -> dict[str, str]:
    known = {key for key, _ in fields()}
    settings = {key: value for key, value in vars(options).items() if key in known}
    if rest:  # a flag that argparse does not know: let the config say what comes closest
        flag = rest[0].removeprefix("--").partition("=")[0]
        settings[flag] = "" if rest[0].startswith("--") else rest[0]
    return settings


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    config = load_config(options.preset, _settings(options, rest))
    _prepare()
    surroundings.find_prefect_home(lasting=False)
    surroundings.prefect_server()
    from flows.run import run_flow

    return run_flow(options.what, config)


def _prepare() -> None:
    from flows import environment

    environment.prepare(quiet=True)
    surroundings.check_machine()


def _plan(options: argparse.Namespace, rest: list[str]) -> int:
    config = load_config(options.preset, _settings(options, rest))
    from flows.show import show_plan

    return show_plan(options.what, config, explained=options.explain)


def _serve(options: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(options, rest)
    load_config(options.preset, settings)  # a wrong flag is said before a server starts
    surroundings.check_machine()
    from flows.deployments import serve

    serve(options.preset, settings, _when(options))
    return 0


def _deploy(options: argparse.Namespace, rest: list[str]) -> int:
    settings = _settings(options, rest)
    load_config(options.preset, settings)
    from flows.deployments import deploy

    deploy(options.preset, settings, options.pool, options.image, _when(options))
    return 0


def _when(options: argparse.Namespace) -> "When":
    from flows.schedules import When

    return When(options.cron, options.every, options.timezone, options.watch)


def _tokens(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    _prepare()
    from flows.tokens import show_tokens

    return show_tokens(
        options.file, options.model, options.spiritlm_dir, options.hubert, options.quantizer, options.device
    )


def _generate(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    from tinywave_core.config.generation import GenerationConfig
    from tinywave_core.config.load import check
    from tinywave_core.errors import ConfigError

    if not options.prompts:
        raise ConfigError("there is nothing to continue: pass --prompt-audio FILE or --prompt-text TEXT")
    names = ("max_new_tokens", "min_new_tokens", "temperature", "top_p", "seed")
    settings = {name: getattr(options, name) for name in names}
    check(GenerationConfig, settings)
    _prepare()
    from flows.generate import generate
    from tinywave_core.runtimes.base import Sampling
    from tinywave_core.tokenizers.prompts import OutputModality

    output: OutputModality = "arbitrary" if options.output == "mixed" else options.output
    return generate(
        _loading(options, options.model),
        options.prompts,
        options.example,
        output,
        Sampling(**settings),
        options.voice,
        options.wav,
        stream=options.stream,
        bandwidth=options.bandwidth,
    )


def _talk(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    _prepare()
    from flows.talk import talk

    models = [_loading(options, model) for model in options.model]
    return talk(
        models,
        options.host,
        options.port,
        options.allow_host,
        max_prompt_s=options.max_prompt,
        max_wall_s=options.max_wall,
        queue=options.queue,
    )


def _loading(options: argparse.Namespace, model: str) -> "Loading":
    from flows.generate import Loading

    _check_threads(options.threads)
    return Loading(model, options.spiritlm_dir, options.device, options.runtime, options.quantization, options.threads)


def _check_threads(threads: int) -> None:
    from tinywave_core.errors import ConfigError

    if not 0 <= threads <= 256:
        raise ConfigError(f"--threads is {threads}; expected 1 to 256, or 0 for all cores")


def _evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    _prepare()
    from flows.evaluate import evaluate
    from tinywave_core.evals.pair_scores import Definition

    return evaluate(
        options.model,
        options.suite,
        Definition(options.reduction, options.over, options.streams, options.vocabulary),
        options.spiritlm_dir,
        options.device,
        options.out,
        options.against,
        submission=options.submission,
    )


def _publish(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    from flows.publish import publish_model

    return publish_model(options.root, options.artifact)


def _bench_device(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    _check_threads(options.threads)
    from flows.bench_device import bench_device

    return bench_device(options.threads, as_json=options.as_json)


def _slamkit(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    from flows.slamkit import write_slamkit

    return write_slamkit(options.root, options.artifact, options.folder)


def _inspect(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    from flows.show import show_artifact

    return show_artifact(options.root, options.artifact)


def _lineage(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    from flows.show import show_lineage

    return show_lineage(options.root, options.artifact)


def _verify(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    from flows.care import verify_store

    return verify_store(options.root)


def _repair(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    from flows.care import repair_store

    return repair_store(options.root)


def _gc(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    from flows.care import collect_garbage

    return collect_garbage(options.root, options.keep, options.older_than, options.yes)


def _forget(options: argparse.Namespace, rest: list[str]) -> int:
    _no_more(rest)
    from flows.care import forget_recording

    return forget_recording(options.root, options.file, options.yes)


def _no_more(rest: list[str]) -> None:
    if rest:
        from tinywave_core.errors import ConfigError

        raise ConfigError(f"unknown argument {rest[0]!r}; see --help")


if __name__ == "__main__":
    sys.exit(main())
