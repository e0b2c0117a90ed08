"""What each command does with its parsed arguments; `flows/commands.py` names one handler per command.

Every import of a handler's own work stands inside the handler: one command must not wait for the libraries of another.
"""

from argparse import Namespace
from typing import TYPE_CHECKING

from flows import surroundings
from tasks import terminal
from tinywave_core.errors import ConfigError

if TYPE_CHECKING:
    from flows.generate import Loading
    from flows.schedules import When

MOST_THREADS = 256


def run(options: Namespace) -> int:
    """`tinywave run`."""
    surroundings.find_prefect_home(lasting=False)
    surroundings.prefect_server()
    from flows.run import run_flow

    return run_flow(options.what, options.config)


def plan(options: Namespace) -> int:
    """`tinywave plan`."""
    from flows.show import show_plan

    return show_plan(options.what, options.config, explained=options.explain)


def serve(options: Namespace) -> int:
    """`tinywave serve`."""
    surroundings.check_machine()
    from flows import deployments

    deployments.serve(options.preset, options.settings, _when(options))
    return 0


def deploy(options: Namespace) -> int:
    """`tinywave deploy`."""
    from flows import deployments

    deployments.deploy(options.preset, options.settings, options.pool, options.image, _when(options))
    return 0


def _when(options: Namespace) -> "When":
    from flows.schedules import When

    return When(options.cron, options.every, options.timezone, options.watch)


def tokens(options: Namespace) -> int:
    """`tinywave tokens`."""
    from flows.tokens import show_tokens

    return show_tokens(
        options.file,
        options.model,
        options.spiritlm_dir,
        options.hubert,
        options.quantizer,
        options.device,
        options.tokenizer,
    )


def generate(options: Namespace) -> int:
    """`tinywave generate`."""
    from tinywave_core.config.generation import GenerationConfig
    from tinywave_core.config.load import check

    if not options.prompts:
        raise ConfigError("there is nothing to continue: pass --prompt-audio FILE or --prompt-text TEXT")
    names = ("max_new_tokens", "min_new_tokens", "temperature", "top_p", "seed")
    settings = {name: getattr(options, name) for name in names}
    check(GenerationConfig, settings)
    if options.min_new_tokens > options.max_new_tokens:
        raise ConfigError(
            f"--min-new-tokens is {options.min_new_tokens}, more than --max-new-tokens, {options.max_new_tokens}: swap them"
        )
    if options.stream and options.output != "text" and not options.wav:
        raise ConfigError(
            f"--stream writes speech as it comes, and --output {options.output} has speech: say where it goes with --wav FILE or --wav - "
            "(raw PCM to stdout), or pass --output text"
        )
    loading = _loading(options, options.model)
    from flows.generate import generate
    from tinywave_core.runtimes.base import Sampling

    return generate(
        loading,
        options.prompts,
        options.example,
        "arbitrary" if options.output == "mixed" else options.output,
        Sampling(**settings),
        options.voice,
        options.wav,
        stream=options.stream,
        bandwidth=options.bandwidth,
    )


def ui(options: Namespace) -> int:
    """`tinywave ui`."""
    from flows.ui import show_store

    return show_store(options.root, options.port)


def talk(options: Namespace) -> int:
    """`tinywave talk`."""
    from flows.talk import talk

    return talk(
        [_loading(options, model) for model in options.model],
        options.host,
        options.port,
        options.allow_host,
        max_prompt_s=options.max_prompt,
        max_wall_s=options.max_wall,
        queue=options.queue,
    )


def _loading(options: Namespace, model: str) -> "Loading":
    _check_threads(options.threads)
    from flows.generate import Loading

    return Loading(
        model,
        options.spiritlm_dir,
        options.device,
        options.runtime,
        options.quantization,
        options.threads,
        options.drafter,
        options.dtype,
    )


def _check_threads(threads: int) -> None:
    if not 0 <= threads <= MOST_THREADS:
        raise ConfigError(f"--threads is {threads}; expected 1 to {MOST_THREADS}, or 0 for all cores")


def evaluate(options: Namespace) -> int:
    """`tinywave evaluate`."""
    from flows.evaluate import evaluate
    from flows.evaluate_stsp import evaluate_stsp, files_of_stsp
    from tinywave_core.evals.pair_scores import Definition

    references, suites = files_of_stsp(options.suite)
    if references:
        evaluate_stsp(options, references)
    if not suites:
        return 0
    return evaluate(
        options.model,
        suites,
        Definition(options.reduction, options.over, options.streams, options.vocabulary),
        options.spiritlm_dir,
        options.device,
        options.out,
        options.against,
        submission=options.submission,
    )


def track(options: Namespace) -> int:
    """`tinywave track`."""
    from flows.track import track

    return track(options.root, options.run, options.mlflow, options.wandb)


def push(options: Namespace) -> int:
    """`tinywave push`."""
    from flows.hub import push

    return push(options.export, options.repository, private=options.private)


def pull(options: Namespace) -> int:
    """`tinywave pull`."""
    from flows.hub import pull

    return pull(options.repository, options.folder, options.revision)


def export_dataset(options: Namespace) -> int:
    """`tinywave export-dataset`."""
    from flows.export_dataset import export_dataset as run

    return run(options.root, options.folder, options.form, options.corpus)


def units(options: Namespace) -> int:
    """`tinywave units`."""
    from flows.units import show_units

    return show_units(options.preset, options.settings, options.vary, options.json_to, options.plot_to)


def quality(options: Namespace) -> int:
    """`tinywave quality`."""
    from flows.quality import show_quality

    return show_quality(options.preset, options.settings, options.json_to, options.page_to)


def slamkit(options: Namespace) -> int:
    """`tinywave slamkit`."""
    from flows.slamkit import write_slamkit

    return write_slamkit(options.root, options.artifact, options.folder)


def completion(options: Namespace) -> int:
    """`tinywave completion`."""
    from flows.completion import script

    terminal.say(script(options.shell), end="")
    return 0


def bench_device(options: Namespace) -> int:
    """`tinywave bench-device`."""
    _check_threads(options.threads)
    from flows.bench_device import bench_device

    return bench_device(options.threads, as_json=options.as_json)


def inspect(options: Namespace) -> int:
    """`tinywave inspect`."""
    from flows.show import show_artifact

    return show_artifact(options.root, options.artifact)


def lineage(options: Namespace) -> int:
    """`tinywave lineage`."""
    from flows.show import show_lineage

    return show_lineage(options.root, options.artifact)


def publish(options: Namespace) -> int:
    """`tinywave publish`."""
    from flows.publish import publish_model

    return publish_model(options.root, options.artifact)


def verify(options: Namespace) -> int:
    """`tinywave verify`."""
    from flows.care import verify_store

    return verify_store(options.root)


def repair(options: Namespace) -> int:
    """`tinywave repair`."""
    from flows.care import repair_store

    return repair_store(options.root)


def gc(options: Namespace) -> int:
    """`tinywave gc`."""
    from flows.care import collect_garbage

    return collect_garbage(options.root, options.keep, options.older_than, options.yes)


def forget(options: Namespace) -> int:
    """`tinywave forget`."""
    from flows.care import forget_recording

    return forget_recording(options.root, options.file, options.yes)
