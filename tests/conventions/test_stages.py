"""A stage has the same noun everywhere, and every public name says what it is."""

import ast
import re
from pathlib import Path

import pytest

from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.run.stages import STAGE

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for layer in ("flows", "tasks", "tinywave_core") for path in (ROOT / layer).rglob("*.py"))


def test_config_and_stages_have_one_module_or_folder_per_stage():
    folders = {path.parent.name for path in (ROOT / "tinywave_core" / "stages").glob("*/stage.py")}
    assert folders == set(STAGES)
    assert set(STAGES) <= {path.stem for path in (ROOT / "tinywave_core" / "config").glob("*.py")}


def test_config_has_one_group_per_stage():
    others = {"source", "spiritlm_dir", "root", "validation", "promotion", "refresh", "runtime"}
    groups = set(PipelineConfig.model_fields) - others
    assert groups == set(STAGES)


def test_flows_and_tasks_are_those_of_the_stages_in_order():
    from flows.stages import STAGE_FLOWS
    from tasks.stages import TASKS

    assert tuple(stage_flow.name for stage_flow in STAGE_FLOWS) == tuple(TASKS) == tuple(STAGE) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_folder_of_a_stage_has_a_version_and_steps(stage: str):
    sources = [path.read_text() for path in (ROOT / "tinywave_core" / "stages" / stage).glob("*.py")]
    assert any(re.search(r"^VERSION = ", source, re.MULTILINE) for source in sources)
    assert any(re.search(r"^def build\(", source, re.MULTILINE) for source in sources)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_and_its_public_names_are_documented(path: Path):
    tree = ast.parse(path.read_text())
    if tree.body:
        assert ast.get_docstring(tree), "the module has no docstring"
    assert not _undocumented(tree)


def _undocumented(tree: ast.Module) -> list[str]:
    """Public functions and classes of the module without a docstring."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    return [f"{node.name} (line {node.lineno})" for node in public if not ast.get_docstring(node)]


def test_every_setting_has_help():
    from tinywave_core.config.load import fields

    assert not [key for key, field in fields() if not field.description]
