"""Settings of promotion: when a new student takes the place of the published one."""

from typing import Literal

from pydantic import Field

from tinywave_core.config.base import Config


class PromotionConfig(Config):
    """Which student is published at the end of a run. Chooses among artifacts, identifies none."""

    policy: Literal["not_worse", "always", "never"] = "not_worse"
    """`not_worse`: a new student is published if it is shown to be no worse than the published one on today's held-out
    speech; `always`: every new one; `never`: none, `tinywave publish` does it by hand."""
    floor: Literal["counts", "none"] = "counts"
    """Of `not_worse`: what a student must be better than beyond noise on held-out speech, the first one too. `counts`: the best
    table of counts of one to four tokens of its training speech, which needs no model; `none`: nothing."""
    margin: float = Field(0.01, ge=0, le=1)
    """Of `not_worse`: the loss in nats per token that the 95 % interval of the paired difference must stay below."""
