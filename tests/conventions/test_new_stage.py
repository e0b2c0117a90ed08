"""Adding a stage is copying a row: with the files of CONTRIBUTING's list, and no others, everything knows a made-up stage.

The edited files lie in a folder of their own that is looked into before the repository, in a child process.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOUN = "rehearsal"

CONFIG = '''"""Settings of a made-up stage."""

from tinywave_core.config.base import Config


class RehearsalConfig(Config):
    """A made-up stage."""

    takes: int = 1
    """How often."""
'''
STAGE = '''"""A made-up stage."""

from tinywave_core.costs.estimates import Estimate
from tinywave_core.steps.base import Step, Summary
from tinywave_core.steps.stage import Stage

VERSION = 1


class RehearsalSummary(Summary):
    """How often."""

    takes: int


def run_rehearsal(step, output):
    (output.folder / "takes").write_text("take " * step.config.takes)
    return RehearsalSummary(takes=step.config.takes)


def build(config, store, done, execute):
    (takes,) = execute([Step(store, "rehearsal", "takes", VERSION, run_rehearsal, config.rehearsal)])
    return {"takes": takes}


def describe(outputs):
    return "nothing", f"{RehearsalSummary.of(outputs['takes']).takes} takes"


def facts(outputs):
    return []


def cost(config, hours, device):
    return Estimate(config.rehearsal.takes * 7.0, 0)


STAGE = Stage("rehearsal", "Say it first.", build, describe, facts, cost)
'''


def edited(file: str, *changes: tuple[str, str]) -> str:
    """A file of the repository with a line or more of a neighbour copied."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, f"{file} no longer has {old!r} once: say here how a stage is added to it now"
        text = text.replace(old, new)
    return text


EDITS = {
    "tinywave_core/config/<noun>.py": lambda: CONFIG,
    "tinywave_core/config/pipeline.py": lambda: edited(
        "tinywave_core/config/pipeline.py",
        ("\nRefreshPolicy =", "\nfrom tinywave_core.config.rehearsal import RehearsalConfig\n\nRefreshPolicy ="),
        ('    "ingestion",\n', '    "rehearsal",\n    "ingestion",\n'),
        (
            "    ingestion: Ingestion",
            '    rehearsal: RehearsalConfig = RehearsalConfig()\n    """Made up."""\n    ingestion: Ingestion',
        ),
    ),
    "tinywave_core/stages/<noun>/stage.py": lambda: STAGE,
    "tinywave_core/run/stages.py": lambda: edited(
        "tinywave_core/run/stages.py",
        ("\n_ROWS =", "from tinywave_core.stages.rehearsal.stage import STAGE as REHEARSAL\n\n_ROWS ="),
        ("(INGESTION,", "(REHEARSAL, INGESTION,"),
    ),
    "flows/stages.py": lambda: edited(
        "flows/stages.py",
        ("\ningestion = _flow_of(", '\nrehearsal = _flow_of("rehearsal")\ningestion = _flow_of('),
        ("STAGE_FLOWS = (ingestion,", "STAGE_FLOWS = (rehearsal, ingestion,"),
    ),
}
"""What a stage is added by: file of CONTRIBUTING's list -> its text with the made-up stage."""

PROGRAM = """
import importlib, os, sys
from pathlib import Path

folder, store_root, *files = sys.argv[1:]
FOLDERS = ("flows", "tinywave_core.config", "tinywave_core.run", "tinywave_core.stages")


def start_anew():
    for name in [name for name in sys.modules if name.partition(".")[0] in ("flows", "tasks", "tinywave_core")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    for name in FOLDERS:
        importlib.import_module(name).__path__.insert(0, f"{folder}/{name.replace('.', '/')}")


def the_core_knows_it():
    from tinywave_core.config.pipeline import STAGES, PipelineConfig
    from tinywave_core.run.pipeline import outputs_before, run_pipeline
    from tinywave_core.run.record import stage_row
    from tinywave_core.run.stages import estimate
    from tinywave_core.storage.store import Store

    config = PipelineConfig.model_validate({"root": store_root, "rehearsal": {"takes": 3}})
    outputs = run_pipeline(config, Store(store_root), until="rehearsal")
    assert outputs["takes"].complete and list(outputs_before("ingestion", config, Store(store_root))) == ["takes"]
    assert estimate(config, 1.0, "cpu")["rehearsal"].seconds == 21
    assert "nothing → 3 takes" in stage_row("rehearsal", outputs, [], 0.0).line()


def flows_know_it():
    from flows.deployments import queue_of
    from flows.stages import STAGE_FLOWS
    from tasks.stages import TASKS
    from tinywave_core.config.pipeline import STAGES

    assert tuple(flow.name for flow in STAGE_FLOWS) == tuple(TASKS) == STAGES
    assert queue_of("rehearsal") == "cpu"


def the_command_line_knows_it():
    from flows.cli import build_parser, settings_of

    words = ["run", "rehearsal", "--rehearsal.takes", "3"]
    options, rest = build_parser(words).parse_known_args(words)
    assert settings_of(options, rest) == {"rehearsal.takes": "3"}


def is_known(*questions):
    try:
        start_anew()
        for question in questions:
            question()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


for file in files:
    os.rename(f"{folder}/{file}", f"{folder}/{file}.away")
    of_flows = file.startswith("flows/")
    print(file, "needed" if is_known(flows_know_it if of_flows else the_core_knows_it) else "NOT NEEDED")
    os.rename(f"{folder}/{file}.away", f"{folder}/{file}")
print("all of them:", is_known(the_core_knows_it, flows_know_it, the_command_line_knows_it) or "known")
"""


def test_the_list_names_the_files_that_a_stage_is_added_by():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = guide.partition("## Add a stage\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\d+\. `([^`]+)`", section, re.MULTILINE) == list(EDITS)


@pytest.mark.timeout(120)
def test_a_stage_needs_these_files_and_no_others(tmp_path: Path):
    """Left out one by one, each is missed; with all of them the DAG, the plan, people, the command line and Prefect know it."""
    files = [file.replace("<noun>", NOUN) for file in EDITS]
    for file, text in zip(files, EDITS.values(), strict=True):
        path = tmp_path / "edited" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(), encoding="utf-8")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "edited"), str(tmp_path / "store"), *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == [*(f"{file} needed" for file in files), "all of them: known"], done.stderr
