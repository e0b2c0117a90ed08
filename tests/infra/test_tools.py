"""What continuous integration does before the tests where a browser is missing and cannot be installed."""

import shutil
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "infra" / "native" / "install_test_tools.sh"
PROGRAMS = ("bash", "id", "env", "grep", "tail")
PASS_ON = 'shift\nexec "$@"\n'
OFFLINE = 'echo "$DEBIAN_FRONTEND $*" >> {log}\necho "E: Failed to fetch"\nexit 100\n'


def install(folder: Path, scripts: dict[str, str]) -> list[str]:
    """What it says on a machine with only these programs."""
    for program in PROGRAMS:
        (folder / program).symlink_to(shutil.which(program))
    # No wheel of Redis for this machine, so there is more than one thing to install.
    for name, text in {"uname": "echo Darwin arm64", **scripts}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    done = subprocess.run([SCRIPT], env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr
    return [line for line in done.stdout.splitlines() if "Chromium" in line]


def test_without_a_network_it_asks_for_the_package_lists_once_and_goes_on(tmp_path: Path):
    log = tmp_path / "log"
    scripts = {"apt-get": OFFLINE.format(log=log), "sudo": PASS_ON, "timeout": PASS_ON}
    assert install(tmp_path, scripts) == ["not installed: Chromium (chromium fonts-liberation): E: Failed to fetch"]
    calls = log.read_text().splitlines()
    assert sum(" update" in call for call in calls) == 1
    assert all(call.startswith("noninteractive --quiet --yes ") for call in calls)


def test_without_apt_get_it_says_so_and_goes_on(tmp_path: Path):
    assert install(tmp_path, {}) == ["not installed: Chromium (chromium fonts-liberation): this machine has no apt-get"]


def test_with_a_browser_it_installs_none(tmp_path: Path):
    assert install(tmp_path, {"google-chrome": "", "apt-get": "exit 100"}) == []
