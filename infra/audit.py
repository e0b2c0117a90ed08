"""Known faults (PyPI's advisories) of the packages in a lock, by pip-audit, which uv runs in an environment of its own.

Exit status 0: every package was looked up and has none. 1: some have. 2: not every package could be looked up.

    make audit
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TOOL = "pip-audit@2.10.1"


def verdict(dependencies: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Exit status and lines. pip-audit itself counts a package that it could not look up as one without faults."""
    asked = [each for each in dependencies if "skip_reason" not in each]
    faults = [
        f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'no version yet'}"
        for each in asked
        for fault in each["vulns"]
    ]
    unknown = len(dependencies) - len(asked)
    if unknown or not dependencies:
        faults.append(f"{unknown} of {len(dependencies)} packages could not be looked up: run it where PyPI is reached")
    else:
        faults.append(f"{len(asked)} packages looked up, {len(faults)} known faults")
    return (2 if unknown or not dependencies else int(any(each["vulns"] for each in asked))), faults


def main(uv: str, lock: str = "requirements.lock") -> int:
    command = [uv, "tool", "run", "--quiet", TOOL, "--requirement", lock, "--disable-pip", "--progress-spinner", "off"]
    done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False)
    try:
        status, lines = verdict(json.loads(done.stdout)["dependencies"])
    except json.JSONDecodeError:
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        status, lines = 2, [f"pip-audit gave no answer ({why[:200]}): run it where PyPI is reached"]
    print(*lines, sep="\n")
    return status


if __name__ == "__main__":
    if not Path(sys.argv[1]).is_file():
        sys.exit(f"no uv at {sys.argv[1]}: run make audit")
    sys.exit(main(*sys.argv[1:]))
