"""What logit caching reports, of a shard and of all."""

from typing import Any

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


class TaughtSummary(Summary):
    """A token shard in which the teacher goes on with some utterances."""

    vocabulary: dict[str, Any]
    utterances: int
    """Of training speech."""
    taught: int
    """In how many of them the teacher goes on."""
    too_short: int
    """Drawn, but no longer than a prompt, and so left as they were."""
    taught_tokens: int
    """That the teacher said, `</s>` included."""
    ended: int
    """How many of its continuations it ended itself."""
