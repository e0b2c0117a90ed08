"""How much one client may ask for: every buffer, wait and piece of work has an end."""

from dataclasses import dataclass

BYTES_PER_SECOND = 48_000 * 2 * 4
"""The most that a second of an uploaded wav has: 48 kHz, two channels, 32 bits."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a server."""

    prompt_s: float = 60.0
    """Longest audio of a prompt in seconds, all of its parts together."""
    prompt_characters: int = 4000
    """Longest text of a prompt, likewise."""
    new_tokens: int = 2000
    """Longest continuation in tokens."""
    wall_s: float = 60.0
    """Longest work on one answer in seconds; then it ends where it is."""
    waiting: int = 4
    """Answers of one model that may wait for their turn; the next client is told to come back."""
    sessions: int = 16
    """WebSockets at a time."""
    message_bytes: int = 1 << 20
    """Longest message of a WebSocket: 16 s of PCM in base64."""
    body_s: float = 30.0
    """Longest time for the body of a request to arrive in seconds."""
    idle_s: float = 300.0
    """A WebSocket that says nothing for so many seconds, while nothing is made for it, is closed."""
    faults: int = 20
    """Errors in a row after which a WebSocket is closed: it does not listen."""

    @property
    def body_bytes(self) -> int:
        """Longest body of a request."""
        return int(self.prompt_s * BYTES_PER_SECOND) * 4 // 3 + (1 << 16)
