"""The socket that a local server of pages listens on."""

import socket

from tinywave_core.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, of a free port where `port` is 0; ConfigError where there cannot be one."""
    if not 0 <= port <= 65_535:
        raise ConfigError(f"--port is {port}; expected 0 to 65535, 0 for a free one")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"{host}:{port} cannot be listened on ({error}): pass another --port, or 0 for a free one"
        ) from error
