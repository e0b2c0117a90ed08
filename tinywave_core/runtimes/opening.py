"""Open a model of any runtime."""

from pathlib import Path

from tinywave_core.config.base import Device, RuntimeConfig
from tinywave_core.config.export import Quantization
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.runtimes.base import DRAFTER, DTYPES, OWN, RUNTIMES, Dtype, Runtime
from tinywave_core.runtimes.llama_cpp import LlamaCppRuntime


def open_runtime(
    folder: str | Path,
    name: str = "transformers",
    quantization: Quantization | None = None,
    device: Device = "auto",
    threads: int = 0,
    context: int | None = None,
    drafter: str | Path | None = None,
    dtype: Dtype = "auto",
) -> Runtime:
    """The model in `folder`, the model/ directory of an export, in the runtime `name`.

    `quantization` chooses among its GGUF files (llama.cpp; none: the first that speech.json lists), `device` where transformers runs
    (llama.cpp here runs on the CPU), `threads` 0 takes all cores; a smaller `context` saves llama.cpp memory. `drafter` is the model/
    directory of a smaller export with the same vocabulary, or `own` for the one that the export has: what is drawn has the model's
    distribution all the same. `dtype` is the precision in which transformers computes (`TransformersRuntime.open`).
    """
    folder = Path(folder)
    drafter = _drafter(folder, drafter) if drafter is not None else None
    if name not in RUNTIMES:
        raise ConfigError(f"there is no runtime {name!r}; expected one of {', '.join(RUNTIMES)}")
    if dtype not in DTYPES:
        raise ConfigError(f"there is no dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    if name == "transformers" and quantization is not None:
        raise ConfigError(
            f"transformers runs the weights as they are; {quantization} files are for the runtime llama.cpp"
        )
    if name == "llama.cpp" and dtype != "auto":
        raise ConfigError(
            f"llama.cpp computes in the form of its file, and {dtype} is for transformers: leave dtype out, or take quantization"
        )
    for each in (folder, drafter):
        if each and not (each / "config.json").is_file():
            raise CheckpointError(
                f"{each} has no config.json; expected the model/ directory of an export (`tinywave inspect` lists them)"
            )
    if name == "llama.cpp":
        return LlamaCppRuntime.open(folder, quantization, threads, context, drafter)
    from tinywave_core.runtimes.transformers_runtime import TransformersRuntime

    return TransformersRuntime.open(folder, RuntimeConfig(device=device, threads=threads), drafter, dtype)


def _drafter(folder: Path, asked: str | Path) -> Path:
    """Where the drafter lies; CheckpointError for an export that has none of its own."""
    if str(asked) != OWN:
        return Path(asked)
    if not (folder / DRAFTER).is_dir():
        raise CheckpointError(
            f"{folder} has no drafter of its own: run with --distillation.drafter_layers 1, or name the model/ directory of a smaller export"
        )
    return folder / DRAFTER
