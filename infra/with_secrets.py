#!/usr/bin/env python3
"""Start a program with its passwords: `<name>` in a variable of the environment becomes what /run/secrets/name holds.

So `docker inspect` and docker-compose.yml show no password. Programs that read a file themselves do not need this.
"""

import os
import re
import sys
from pathlib import Path

FOLDER = Path("/run/secrets")


def filled(value: str, folder: Path = FOLDER) -> str:
    """A file that is missing ends the program: nothing starts with a password that is a placeholder."""
    return re.sub(r"<([a-z0-9_]+)>", lambda found: (folder / found[1]).read_text(encoding="utf-8").strip(), value)


if __name__ == "__main__":
    try:
        os.environ.update({name: filled(value) for name, value in os.environ.items()})
    except OSError as error:
        sys.exit(
            f"the password {error.filename} cannot be read: run infra/make_secrets.sh, and name it under `secrets:`"
        )
    os.execvp(sys.argv[1], sys.argv[1:])
