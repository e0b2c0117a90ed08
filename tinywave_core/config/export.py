"""Settings of export: the student as a directory that plain transformers loads."""

from typing import Literal

from pydantic import Field

from tinywave_core.config.base import Config


class ExportConfig(Config):
    """Form of the exported model."""

    name: str = Field("tinywave-student", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")
    """Name in the model card."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the exported weights."""
    vocabulary: Literal["full", "speech"] = "full"
    """`full`: all that the teacher knows. `speech`: only markers and units, for a model that neither reads nor writes text;
    its ids are renumbered (the directory's tokenizer and speech.json have the new ones), its speech is the same."""
