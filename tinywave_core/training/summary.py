"""What a training run reports of itself, whichever model it trained."""

from pydantic import BaseModel, ConfigDict

from tinywave_core.counts import count
from tinywave_core.wording import duration


class TrainingSummary(BaseModel):
    """How long, how regularised, and which weights were kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    planned_steps: int
    """That the settings and the amount of speech allow."""
    passes: float
    """Over the training speech, in the steps that were taken."""
    dropout: float
    validation_sequences: int
    """None of them was trained on."""
    validation_hours: float
    validation_nll: float | None
    """Nats per token, of the weights that were kept; None where nothing validated."""
    best_step: int | None
    """After which the weights were kept; 0: they are those of the start. None: the last ones were kept."""
    stopped_early: bool
    """Whether planned steps were not taken, since validation no longer improved."""

    @property
    def sentence(self) -> str:
        """For people: which weights were kept, and what said so."""
        if self.best_step is None or self.validation_nll is None:
            return "the last weights were kept: no check on validation speech was possible"
        kept = f"the weights of step {self.best_step}" if self.best_step else "the weights of the start"
        early = f", and stopped early (of {count(self.planned_steps, 'step')})" if self.stopped_early else ""
        heard = f"{count(self.validation_sequences, 'sequence')} ({duration(self.validation_hours)}) that it was not trained on"
        return f"kept {kept}: {self.validation_nll:.3f} nats per token on {heard}{early}"

    def phrase(self, steps: int) -> str:
        """How long it was trained, and how regularised."""
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        return f"{count(steps, 'step')}, {self.passes:.1f} passes{dropout}"
