"""How fast the events of one client are handled: so many at once, and so many per second in the long run."""

from dataclasses import dataclass


@dataclass
class Pace:
    """A leaky bucket, kept as the time at which the next event is due (the generic cell rate algorithm)."""

    per_s: float
    at_once: int
    _due: float = float("-inf")

    def wait_s(self, now: float) -> float:
        """Seconds to wait after an event that came at `now`."""
        self._due = max(self._due, now) + 1 / self.per_s
        return max(0.0, self._due - now - self.at_once / self.per_s)
