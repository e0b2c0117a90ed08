"""The teacher's targets in words and tables."""

from tinywave_core.stages.logit_caching.summary import LogitsSummary
from tinywave_core.wording import STREAMS


def target_rows(logits: LogitsSummary) -> list[dict[str, str]]:
    """The teacher's targets per kind of token, a dict per kind."""
    return [
        {
            "kind of token": STREAMS.get(kind, kind),
            "tokens": f"{figures.tokens:,}",
            "teacher's NLL, nats": f"{figures.teacher_nll:.3f}",
            "teacher's entropy, nats": f"{figures.entropy:.3f}",
            "probability outside the top K": f"{figures.mass_beyond_k:.1%}",
        }
        for kind, figures in logits.kinds.items()
    ]
