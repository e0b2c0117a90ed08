"""What logit caching reports, of a shard and of all."""

from tinywave_core.steps.base import Summary


class KindTargets(Summary):
    """Means over the tokens of one kind, by the token that is to be predicted."""

    tokens: int
    teacher_nll: float
    """Nats per token at temperature 1."""
    entropy: float
    """Of the teacher's distribution at the capture temperature, nats."""
    mass_beyond_k: float
    """Probability beyond the K likeliest tokens: what a plain top-K would lose."""


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
