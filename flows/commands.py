"""The commands of `tinywave` as a table: name, help, arguments and handler. Adding one is adding a row and a handler."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from flows import handlers
from tinywave_core.config.base import Device
from tinywave_core.config.pipeline import STAGES
from tinywave_core.extras import Extra


@dataclass(frozen=True)
class Argument:
    """One argument of a command: what `argparse` takes."""

    names: tuple[str, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Command:
    """One command."""

    name: str
    help: str
    """Its line in `tinywave --help`."""
    handler: Callable[[Namespace], int]
    arguments: tuple[Argument, ...]
    description: str = ""
    """What `tinywave COMMAND --help` says; empty: the line."""
    has_settings: bool = False
    """Takes --preset and every setting of the config as a flag; its handler gets `config`, `preset` and `settings`."""
    resumes: bool = False
    """What it made before it was stopped is kept, and the same command goes on from there."""
    needs_machine: bool = False
    """Works with audio or models in this process: threads, caches and libsndfile are seen to before it begins."""
    extra: Extra | None = None
    """The extra of the installation that it needs: without it, a line says so before anything begins."""


def _argument(*names: str, **options: Any) -> Argument:
    return Argument(names, options)


def _prompt(kind: str) -> Argument:
    """One of the prompt's parts: all kinds go into one list, which keeps their order."""
    return _argument(
        f"--prompt-{kind}",
        dest="prompts",
        action="append",
        type=lambda value: (kind, value),
        help=f"{'audio file' if kind == 'audio' else 'text'} in the prompt; may be repeated",
    )


_ROOT = _argument("--root", default="store", help="the store (default: store)")
_DEVICE = _argument("--device", choices=get_args(Device), default="auto", help="default: auto")
_RELEASE = _argument("--spiritlm-dir", help="SpiritLM's release, for models of its tokens (default: the environment)")
_YES = _argument("--yes", action="store_true", help="do it; otherwise only say what would be done")
_WHAT = _argument(
    "what",
    nargs="?",
    default="pipeline",
    choices=("pipeline", *STAGES),
    metavar="pipeline|STAGE",
    help="all stages, or one on what the store has (default: pipeline)",
)
_SCHEDULE = (
    _argument("--cron", help='when the pipeline runs by itself, as in "0 3 * * *" (default: never)'),
    _argument("--every", type=float, metavar="MINUTES", help="minutes between two runs of the pipeline"),
    _argument("--timezone", default="UTC", help="IANA time zone of --cron (default: UTC)"),
    _argument(
        "--watch",
        type=float,
        metavar="MINUTES",
        help="minutes between two looks for new audio, which starts the pipeline",
    ),
)
_POOL = (
    _argument("--pool", default="tinywave", help="the work pool; made if absent (default: tinywave)"),
    _argument("--image", help="image with TinyWave, for a pool that starts containers (default: none)"),
)
_TOKENS = (
    _argument("file", nargs="+", help="audio file: wav, flac, ogg/opus or mp3, mono or stereo, any rate"),
    _argument("--model", choices=("base", "expressive"), default="expressive", help="default: expressive"),
    _argument(
        "--spiritlm-dir",
        help="folder or s3:// prefix with SpiritLM's release (default: the environment variable SPIRITLM_CHECKPOINTS_DIR)",
    ),
    _argument(
        "--tokenizer",
        help="the model/ directory of an export, or a folder with codebooks: its tokens in place of SpiritLM's; the environment "
        "variable TINYWAVE_ENCODER says where their encoder lies, if they have one",
    ),
    _argument("--hubert", help="a transformers HubertModel directory in place of the release's HuBERT"),
    _argument("--quantizer", help="a quantizer's file in place of the release's"),
    _DEVICE,
)
_LOADING = (
    _argument("--runtime", choices=("transformers", "llama.cpp"), default="transformers", help="default: transformers"),
    _argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="what transformers computes in: bfloat16 halves memory, and is faster on a CPU with instructions for it and slower on another "
        "(default: float32 on a CPU, as stored on a GPU)",
    ),
    _argument("--quantization", help="which GGUF file llama.cpp takes (default: the first in speech.json)"),
    _argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="threads of the runtime (default: all cores; llama.cpp with more of them than idle cores is many times slower)",
    ),
    _argument(
        "--drafter",
        metavar="DIR",
        help="the model/ directory of a smaller export of the same tokens, which proposes tokens, or `own` for the one that the model "
        "has (--distillation.drafter_layers): the same distribution, and faster "
        "where reading the weights takes longest; decision 55 says where that is (default: none)",
    ),
    _RELEASE,
    _DEVICE,
)
_GENERATE = (
    _argument("model", help="the model/ directory of an export"),
    _prompt("audio"),
    _prompt("text"),
    _argument("--output", choices=("text", "speech", "mixed"), default="speech", help="default: speech"),
    _argument(
        "--example",
        nargs=2,
        action="append",
        default=[],
        metavar=("AUDIO", "TEXT"),
        help="a few-shot pair before the prompt: audio then text if the prompt ends with audio (to transcribe it), else text "
        "then audio",
    ),
    _argument("--wav", help="where the speech of the continuation goes; - is raw 16-bit 16 kHz to stdout"),
    _argument("--stream", action="store_true", help="print text and write speech as it is made, in place of the JSON"),
    _argument(
        "--bandwidth", action="store_true", help="measure which share of the memory's bandwidth the tokens took (CPU)"
    ),
    _argument("--voice", help="a voice of the vocoder (default: its own)"),
    _argument("--max-new-tokens", type=int, default=200, help="longest continuation; default: 200"),
    _argument("--min-new-tokens", type=int, default=0, help="shortest continuation; default: 0"),
    _argument("--temperature", type=float, default=0.8, help="default: 0.8"),
    _argument("--top-p", type=float, default=0.95, help="default: 0.95"),
    _argument("--seed", type=int, default=0, help="default: 0"),
    *_LOADING,
)
_TALK = (
    _argument("model", nargs="+", help="model/ directory of an export; the page offers a choice of several"),
    _argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"),
    _argument("--port", type=int, default=7860, help="0 takes a free one (default: 7860)"),
    _argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name besides localhost by which browsers may reach the server; may be repeated",
    ),
    _argument("--max-prompt", type=float, default=60, metavar="SECONDS", help="longest prompt (default: 60)"),
    _argument("--max-wall", type=float, default=60, metavar="SECONDS", help="longest work on an answer (default: 60)"),
    _argument("--queue", type=int, default=4, metavar="N", help="answers of a model that may wait (default: 4)"),
    *_LOADING,
)
_EVALUATE = (
    _argument("model", help="model/ directory of an export, or a Llama directory with SpiritLM's tokenizer"),
    _argument(
        "--suite",
        action="append",
        required=True,
        metavar="KIND=DIR",
        help="a benchmark's kind and folder; KIND= can be left out where the folder shows it; may be repeated",
    ),
    _argument("--reduction", choices=("mean", "sum"), default="mean", help="over tokens (default: mean)"),
    _argument(
        "--over", choices=("all", "continuation"), default="all", help="whether a prompt's tokens count (default: all)"
    ),
    _argument(
        "--streams", choices=("all", "hubert"), default="all", help="whether pitch and style count (default: all)"
    ),
    _argument(
        "--vocabulary",
        choices=("all", "own"),
        default="all",
        help="whether a token competes with all others, or with those of its own modality (default: all)",
    ),
    _argument(
        "--speech-classifier", metavar="DIR", help="stsp: a transformers model of sentiments or emotions in speech"
    ),
    _argument("--text-classifier", metavar="DIR", help="stsp: a transformers model of sentiments in text"),
    _argument(
        "--sentiment-of",
        action="append",
        default=[],
        metavar="LABEL=SENTIMENT",
        help="stsp: what a label stands for (positive, neutral or negative), where its name does not say; may be repeated",
    ),
    _argument("--against", metavar="MODEL", help="another model, for paired differences on the same pairs"),
    _argument("--out", metavar="FOLDER", help="where scores (Parquet) and evaluation.json go"),
    _argument(
        "--submission", action="store_true", help="write score files of swuggy and sblimp too; needs no gold.csv"
    ),
    _RELEASE,
    _DEVICE,
)
_UNITS = (
    _argument(
        "--vary",
        action="append",
        default=[],
        metavar="SETTING=VALUE,VALUE",
        help="a setting of tokenization and its values, such as tokenization.units.clusters=100,500; may be repeated: every "
        "combination is measured",
    ),
    _argument("--json", dest="json_to", metavar="FILE", help="where all figures go as JSON"),
    _argument(
        "--plot", dest="plot_to", metavar="FILE", help="where a picture (PNG) of PNMI over what is varied first goes"
    ),
)
_QUALITY = (
    _argument("--json", dest="json_to", metavar="FILE", help="where all figures go as JSON"),
    _argument("--page", dest="page_to", metavar="FILE", help="where a page with histograms and players goes (HTML)"),
)
_SLAMKIT = (
    _argument("artifact", help="id of a `tokens` artifact, or the first characters of one"),
    _argument("folder", help="where the two files go"),
    _ROOT,
)
_BENCH = "how fast this machine reads its memory, and which presets' students would speak in real time on it"

COMMANDS = (
    Command(
        "run",
        "run the pipeline, or one stage of it",
        handlers.run,
        (_WHAT,),
        has_settings=True,
        resumes=True,
        needs_machine=True,
        extra="pipeline",
    ),
    Command(
        "plan",
        "what would run, what is cached and why, with time and bytes",
        handlers.plan,
        (_WHAT, _argument("--explain", action="store_true", help="say for each step why it is cached or has to run")),
        has_settings=True,
        extra="pipeline",
    ),
    Command(
        "serve",
        "a local Prefect server with the deployments, and the address of its UI",
        handlers.serve,
        _SCHEDULE,
        has_settings=True,
        extra="pipeline",
    ),
    Command(
        "deploy",
        "register the deployments in a work pool, for workers to run",
        handlers.deploy,
        (*_SCHEDULE, *_POOL),
        has_settings=True,
        extra="pipeline",
    ),
    Command(
        "tokens",
        "the tokens of SpiritLM's speech tokenizer for audio files, one JSON line each",
        handlers.tokens,
        _TOKENS,
        "Print one JSON line per file: path, hubert, pitch and style (raw units, as SpiritLM writes them; pitch and style are "
        "null for base), string (merged tokens) and ids (the prompt [Speech] + string for the language model: <s> first, no "
        "</s>). A file that cannot be used gives a line with path and error, and the exit status 2.",
        needs_machine=True,
    ),
    Command(
        "generate",
        "continue audio or text with an exported model",
        handlers.generate,
        _GENERATE,
        "Continue a prompt of audio and text, in the order given, and print JSON: prompt and output as token strings, text, "
        "timings, and the length of the speech, which goes to --wav.",
        needs_machine=True,
    ),
    Command(
        "talk",
        "speak with exported models in a browser, or over HTTP and WebSocket",
        handlers.talk,
        _TALK,
        "A local server with a page where you speak, type or drop a file, and hear the answer while it is made; POST "
        "/v1/audio/generate and WS /v1/realtime for programs. Ctrl-C ends it.",
        needs_machine=True,
    ),
    Command(
        "evaluate",
        "an exported or released model on public benchmarks, or on pairs of your own",
        handlers.evaluate,
        _EVALUATE,
        "Which of two versions does a model give the higher score, and is it the right one? Print accuracies with 95 % intervals "
        "per suite; chance is 50 %. Suites are read as they are distributed: sSC and tSC (spoken StoryCloze, slamkit's layouts), "
        "salmon, swuggy and sblimp (ZeroSpeech 2021 with gold.csv, or slamkit's names), pairs (pairs.jsonl with id, pos, neg "
        "and, if wanted, prompt, group, voice, text, subset). stsp=FILE.jsonl is STSP: continuations are sampled, and classifiers that "
        "are given say how often they have the sentiment of their prompt.",
        needs_machine=True,
    ),
    Command(
        "track",
        "hand a finished run of a store over to MLflow or Weights & Biases",
        handlers.track,
        (
            _argument("--run", type=int, metavar="N", help="number of the run (default: the last one)"),
            _argument("--mlflow", metavar="PLACE", help="a folder, or an address that MLflow knows"),
            _argument("--wandb", metavar="FOLDER", help="where Weights & Biases keeps it, to be synced later"),
            _ROOT,
        ),
        "Settings, figures of evaluation, training curves, the report, the model card and the ids of all artifacts. Runs that are there "
        "stay as they are. `tinywave run` does the same at its end with --runtime.mlflow_to and --runtime.wandb_to.",
    ),
    Command(
        "push",
        "put an exported model on a hub of models",
        handlers.push,
        (
            _argument("export", help="the model/ directory of an export"),
            _argument("repository", metavar="OWNER/NAME", help="where it goes; made where there is none"),
            _argument("--private", action="store_true", help="make the repository for you alone, where it is made"),
        ),
        "One commit that makes the repository hold this export and nothing else, with SHA256SUMS of all files. The environment has the "
        "token (HF_TOKEN) and, for another hub than huggingface.co, its address (HF_ENDPOINT). A voice made of recordings goes along.",
    ),
    Command(
        "pull",
        "fetch an exported model from a hub of models",
        handlers.pull,
        (
            _argument("repository", metavar="OWNER/NAME", help="what `tinywave push` made"),
            _argument("folder", nargs="?", help="a new folder (default: NAME, here)"),
            _argument("--revision", help="a branch, tag or commit (default: main)"),
        ),
        "Every file is compared with the repository's SHA256SUMS and speech.json; the folder is there when all of it is.",
    ),
    Command(
        "export-dataset",
        "write the utterances of a corpus as a dataset that other tools read",
        handlers.export_dataset,
        (
            _argument("folder", help="a new folder"),
            _argument(
                "--as",
                dest="form",
                choices=("audiofolder", "parquet", "webdataset", "lhotse"),
                default="audiofolder",
                help="audiofolder and parquet are for Hugging Face `datasets` (default: audiofolder)",
            ),
            _argument("--corpus", help="id of a corpus, or its first characters (default: that of the last run)"),
            _ROOT,
        ),
        "Copies every utterance as FLAC, 16 kHz, with transcript, speaker, recording and split (train; test is what is held out). "
        "Nothing is decoded.",
    ),
    Command(
        "units",
        "what phonetic units are worth: of a store's tokens, or over settings that are varied",
        handlers.units,
        _UNITS,
        "Measure the newest tokens of a store (--root), or tokens that are made of --source for each combination of --vary: PNMI and "
        "purities against phones, words told apart, speakers told by their units, units and bits a second, each with a 95 %% "
        "interval over utterances. Phones come from transcripts with pocketsphinx (English, the extra alignment), or from TextGrids "
        "(--tokenization.alignment.kind given --tokenization.alignment.path DIR). All is kept in the store: the same command goes on.",
        has_settings=True,
        resumes=True,
        needs_machine=True,
        extra="pipeline",
    ),
    Command(
        "quality",
        "how good the utterances of a store are, and what thresholds would leave out",
        handlers.quality,
        _QUALITY,
        "Measure the newest corpus of a store (--root), or that of --source: signal-to-noise ratio, bandwidth, clipping, level, share of "
        "speech and words per second, and what thresholds of ingestion.keep would leave out. --page writes histograms and players, to set "
        "a threshold by ear. Measures are kept in the store; nothing is trained, and nothing is left out by this command.",
        has_settings=True,
        resumes=True,
        needs_machine=True,
        extra="pipeline",
    ),
    Command(
        "slamkit",
        "write the tokens of a store as slamkit's features.jsonl and tokens.jsonl",
        handlers.slamkit,
        _SLAMKIT,
    ),
    Command(
        "inspect",
        "what an artifact is, holds and came from; without one: all of them",
        handlers.inspect,
        (
            _argument("artifact", nargs="?", help="id, or the first characters of one (distillation/3fa9)"),
            _ROOT,
        ),
    ),
    Command(
        "lineage",
        "from an artifact back to its audio files, or from a file forward",
        handlers.lineage,
        (
            _argument(
                "artifact",
                help="artifact id or its beginning, a stage that has one result (export), or an audio file (its path or its SHA-256)",
            ),
            _ROOT,
        ),
    ),
    Command(
        "ui",
        "look at a store in a browser: runs, artifacts, tables, and each utterance with its units",
        handlers.ui,
        (_ROOT, _argument("--port", type=int, default=7861, help="0 takes a free one (default: 7861)")),
        "A local server with pages about a store: runs and two of them side by side, artifacts with lineage and tables, and each utterance "
        "with player, waveform, spectrogram and units on one time axis. It only reads, and listens on this machine alone. Ctrl-C ends it.",
        needs_machine=True,
    ),
    Command(
        "bench-device",
        _BENCH,
        handlers.bench_device,
        (
            _argument("--threads", type=int, default=0, metavar="N", help="most threads (default: all cores)"),
            _argument("--json", action="store_true", dest="as_json", help="print JSON"),
        ),
        f"Measure {_BENCH}. Downloads and loads nothing.",
    ),
    Command(
        "completion",
        "a script for bash, zsh or fish that completes commands, flags and choices",
        handlers.completion,
        (_argument("shell", choices=("bash", "zsh", "fish"), help="whose script is printed"),),
        'Print a script that completes commands, flags and choices. For bash, eval "$(tinywave completion bash)" in ~/.bashrc; the '
        "script's first line says where it goes for each shell.",
    ),
    Command(
        "publish",
        "which student is published; with an export: publish that one",
        handlers.publish,
        (_argument("artifact", nargs="?", help="id of an export, or the first characters of one"), _ROOT),
    ),
    Command(
        "verify",
        "check every file and record of a store against its digest; exit status 2 if one is wrong",
        handlers.verify,
        (_ROOT,),
    ),
    Command(
        "repair",
        "set damaged files aside, so that the next run computes them again; remove leftovers",
        handlers.repair,
        (_ROOT,),
    ),
    Command(
        "gc",
        "list what no pin, no corpus and none of the newest results needs; with --yes remove it",
        handlers.gc,
        (
            _ROOT,
            _argument("--keep", type=int, default=3, metavar="N", help="final artifacts that stay (default: 3)"),
            _argument(
                "--older-than", type=float, default=1.0, metavar="HOURS", help="leave what is younger (default: 1)"
            ),
            _YES,
        ),
    ),
    Command(
        "forget",
        "list what was made from a recording; with --yes remove all of it and never take the recording in again",
        handlers.forget,
        (_ROOT, _argument("file", help="a source recording: its path, file name or SHA-256"), _YES),
    ),
)
