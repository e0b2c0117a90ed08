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
    connections: int = 64
    """Connections at a time; for a further one the server drops those that it has waited for longest."""
    patience_s: float = 1.0
    """A connection that sends nothing is not dropped for another one before so many seconds."""
    header_s: float = 10.0
    """Longest time for the head of a request to arrive in seconds, a WebSocket's too."""
    body_s: float = 30.0
    """Longest time for the body of a request to arrive in seconds."""
    write_s: float = 30.0
    """Longest time that a client may read nothing of its answer in seconds."""
    idle_s: float = 300.0
    """A WebSocket that says nothing for so many seconds, while nothing is made for it, is closed."""
    events_per_s: float = 500.0
    """Events of a WebSocket that are answered per second in the long run; a client that sends more is read more slowly."""
    events_at_once: int = 4000
    """Events that may come faster than that: a minute of speech in pieces of 20 ms."""
    faults: int = 20
    """Errors in a row after which a WebSocket is closed: it does not listen."""

    @property
    def body_bytes(self) -> int:
        """Longest body of a request."""
        return int(self.prompt_s * BYTES_PER_SECOND) * 4 // 3 + (1 << 16)

    @property
    def bodies_bytes(self) -> int:
        """Bodies of all requests that are in memory at a time."""
        return 4 * self.body_bytes
