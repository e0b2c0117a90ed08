"""What logit caching reports, of a shard and of all."""

from tinywave_core.steps.base import Summary
from tinywave_core.teacher.figures import KindTargets


class LogitShardSummary(Summary):
    """The targets of one token shard."""

    sequences: int
    tokens: int
    bytes: int
    bytes_per_token: float
    kinds: dict[str, KindTargets]


class LogitsSummary(Summary):
    """The targets of all token shards."""

    shards: list[str]
    """Ids of the logit shards."""
    sequences: int
    tokens: int
    bytes: int
    bytes_per_token: float
    kinds: dict[str, KindTargets]
