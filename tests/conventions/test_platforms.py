"""TinyWave installs from wheels, with no compiler, on each platform and Python that the README promises, and runs there.

The lock has hashes but no names of files: those stand in infra/wheels.txt, which `make lock` writes with it.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

ROOT = Path(__file__).parents[2]
GLIBC_MINOR = 28  # Debian 10, Ubuntu 20.04, RHEL 8 and newer
MACOS = (14, 0)


def manylinux(machine: str) -> list[str]:
    """Platform tags of a machine with glibc 2.28: it runs what was built for an older one (PEP 600)."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 16, -1)]
    return [*tags, *(f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux"))]


# Values of sys_platform and platform_machine, and the tags of wheels that such a machine takes.
PLATFORMS = {
    "Linux x86-64": ("linux", "x86_64", manylinux("x86_64")),
    "Linux aarch64": ("linux", "aarch64", manylinux("aarch64")),
    "macOS arm64": ("darwin", "arm64", list(mac_platforms(MACOS, "arm64"))),
}
HAVE_FAIRSEQ2 = {"Linux x86-64"}
PYTHONS = ((3, 11), (3, 12))


def locked(platform: str, python: tuple[int, int]) -> dict[str, Version]:
    """Packages that the lock installs there, with their versions."""
    system, machine, _ = PLATFORMS[platform]
    full = "{}.{}.9".format(*python)
    environment = {
        "sys_platform": system,
        "platform_machine": machine,
        "platform_system": system.capitalize(),
        "os_name": "posix",
        "python_version": "{}.{}".format(*python),
        "python_full_version": full,
        "implementation_name": "cpython",
        "implementation_version": full,
        "platform_python_implementation": "CPython",
    }
    lines = re.findall(r"^([\w.-]+)==(\S+)(?: ; (.+?))? \\$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return {
        canonicalize_name(name): Version(version)
        for name, version, marker in lines
        if not marker or Marker(marker).evaluate(environment)
    }


@cache
def wheels() -> dict[tuple[str, Version], set[Tag]]:
    """Tags of all wheels of a package."""
    found: dict[tuple[str, Version], set[Tag]] = {}
    for line in (ROOT / "infra/wheels.txt").read_text().splitlines():
        name, version, _, tags = parse_wheel_filename(line)
        found.setdefault((name, version), set()).update(tags)
    return found


CASES = [(platform, python) for platform in PLATFORMS for python in PYTHONS]


@pytest.mark.parametrize(("platform", "python"), CASES)
def test_every_locked_package_has_a_wheel_for(platform: str, python: tuple[int, int]):
    platforms = PLATFORMS[platform][2]
    taken = {
        *cpython_tags(python, platforms=platforms),
        *compatible_tags(python, "cp{}{}".format(*python), platforms),
    }
    packages = locked(platform, python)
    without = sorted(name for name, version in packages.items() if not taken & wheels().get((name, version), set()))
    assert len(packages) > 200
    assert not without, f"no wheel for {platform}, Python {python}, in infra/wheels.txt: {without}"


@pytest.mark.parametrize(("platform", "python"), CASES)
def test_fairseq2_is_locked_only_where_its_native_half_works(platform: str, python: tuple[int, int]):
    packages = locked(platform, python)
    assert ("fairseq2" in packages) == ("fairseq2n" in packages) == (platform in HAVE_FAIRSEQ2)
    assert {"torch", "torchaudio", "transformers", "prefect", "pyarrow", "faiss-cpu", "xllamacpp"} <= packages.keys()


# Names of Python and libc that macOS does not have, or that fail there (`make check` finds those that mypy knows).
LINUX_ONLY = {
    "sched_getaffinity",
    "sched_setaffinity",
    "prctl",
    "RLIMIT_AS",
    "pidfd_open",
    "posix_fadvise",
    "memfd_create",
}
SOURCES = [
    path for folder in ("flows", "tasks", "tinywave", "tinywave_core") for path in sorted((ROOT / folder).rglob("*.py"))
]


def used(tree: ast.AST) -> set[str]:
    """Those of the names that are used where the system may be another than Linux."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "sys.platform == 'linux'":
        return set().union(*map(used, tree.orelse))
    own = {tree.attr} & LINUX_ONLY if isinstance(tree, ast.Attribute) else set()
    return own.union(*map(used, ast.iter_child_nodes(tree)))


def test_what_only_linux_has_is_used_under_a_check_for_linux():
    found = {str(path.relative_to(ROOT)): used(ast.parse(path.read_text("utf-8"))) for path in SOURCES}
    assert not {path: names for path, names in found.items() if names}


def test_fairseq2_is_imported_only_where_there_is_another_way_and_only_when_it_is_taken():
    lines = [(path.name, line) for path in SOURCES for line in path.read_text("utf-8").splitlines()]
    imports = [(name, line) for name, line in lines if re.match(r"\s*(from|import) fairseq2", line)]
    assert {name for name, _ in imports} == {"hubert.py"}
    assert all(line.startswith("    ") for _, line in imports), (
        "at the top it is needed wherever the module is imported"
    )
