"""The teacher's targets in words and tables."""

from tinywave_core.stages.logit_caching.summary import LogitsSummary


def target_rows(logits: LogitsSummary) -> list[dict[str, str]]:
    """The teacher's targets per kind of token, a dict per kind."""
    return [
        {
            "kind": kind,
            "tokens": f"{figures.tokens:,}",
            "teacher NLL, nats": f"{figures.teacher_nll:.3f}",
            "entropy, nats": f"{figures.entropy:.3f}",
            "mass beyond K": f"{figures.mass_beyond_k:.1%}",
        }
        for kind, figures in logits.kinds.items()
    ]
