"""Extras of the installation: which packages belong to which, and the line that says what to install where one is missing.

`pip install tinywave` brings what works with an exported model; everything else is named here and in pyproject.toml
(infra/decisions/0056-a-small-install.md).
"""

import importlib.util
import sys
from typing import Literal

from tinywave_core.errors import SurroundingError

Extra = Literal["pipeline", "s3", "spiritlm", "mlflow", "wandb"]

MODULES: dict[Extra, tuple[str, ...]] = {
    # Not fairseq2: it has no wheel for some machines, and nothing stops without it.
    "pipeline": (
        "prefect",
        "faiss",
        "fastapi",
        "sqlalchemy",
        "silero_vad",
        "onnxruntime",
        "peft",
        "tensorboard",
        "matplotlib",
        "jinja2",
    ),
    "s3": ("s3fs", "botocore", "aiohttp"),
    "spiritlm": ("torchfcpe",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
}
"""Modules by extra, under the names that Python imports."""


def require(extra: Extra, what: str) -> None:
    """SurroundingError that says what to install, unless all of an extra is there. `what` needs it, as in "`tinywave run`"."""
    missing = [name for name in MODULES[extra] if not _is_there(name)]
    if missing:
        raise lacking(extra, what, missing)


def _is_there(module: str) -> bool:
    """Without importing it; `sys.modules` may say that it is not to be had."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None


def extra_of(module: str | None) -> Extra | None:
    """The extra that brings a module; None for one of no extra."""
    top = (module or "").partition(".")[0]
    return next((extra for extra, modules in MODULES.items() if top in modules), None)


def lacking(extra: Extra, what: str, missing: list[str]) -> SurroundingError:
    """The error of something that needs an extra, with the packages that are not there."""
    return SurroundingError(
        f"{what} needs the extra {extra} ({', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed): "
        f"pip install 'tinywave[{extra}]'"
    )
