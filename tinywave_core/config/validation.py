"""Settings of validation: how training knows when to stop."""

from pydantic import Field

from tinywave_core.config.base import Config


class ValidationConfig(Config):
    """Speech that teacher, student and undistilled control are checked on while they train: none of them trains on it, and
    evaluation holds out other speech."""

    fraction: float = Field(0.1, ge=0, lt=0.9)
    """Expected share of the training speakers (or recordings, as ingestion.split_by says) that validates, by a hash of the id:
    stable however the corpus grows. 0: nothing does, all steps are taken and the last weights kept."""
    most_hours: float = Field(1.0, gt=0)
    """Hours of speech at which no further speaker is taken: a large corpus needs no tenth of it to validate."""
    checks: int = Field(20, ge=1, le=1000)
    """How often in a training run, at equal distances and at its end, the model is checked. The best of these weights are kept."""
    patience: int = Field(5, ge=1)
    """Training stops after so many checks in a row that were no better than the best one."""
