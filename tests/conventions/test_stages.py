"""A stage is the same files under the same noun in every layer, and every public name says what it is."""

import ast
from pathlib import Path

import pytest

from tinywave_core.config.pipeline import STAGES, PipelineConfig

ROOT = Path(__file__).parents[2]
# What each layer has beside one module per stage.
SHARED = {
    "tinywave_core/stages": {"base", "gap", "generated", "interleaving", "pins", "probes", "vocoder"},
    "tinywave_core/config": {"base", "interleaving", "load", "pipeline", "promotion", "vocoder"},
    "tasks": {"artifacts", "base", "progress", "runners", "stopping", "terminal"},
    "flows": {
        "base",
        "bench_device",
        "care",
        "cli",
        "console",
        "deployments",
        "environment",
        "evaluate",
        "generate",
        "hooks",
        "pipeline",
        "publish",
        "run",
        "schedules",
        "server",
        "show",
        "slamkit",
        "surroundings",
        "talk",
        "tokens",
        "watch",
    },
}
MODULES = sorted(path for layer in ("flows", "tasks", "tinywave_core") for path in (ROOT / layer).rglob("*.py"))


@pytest.mark.parametrize("layer", SHARED)
def test_layer_has_one_module_per_stage_and_only_these(layer: str):
    names = {path.stem for path in (ROOT / layer).glob("*.py")} - {"__init__"}
    assert names - SHARED[layer] == set(STAGES), f"a new shared module of {layer} belongs in SHARED of this test"


def test_config_has_one_group_per_stage():
    groups = set(PipelineConfig.model_fields) - {"source", "spiritlm_dir", "root", "promotion", "refresh", "runtime"}
    assert groups == set(STAGES)


def test_pipeline_flow_runs_the_stages_in_order():
    tree = ast.parse((ROOT / "flows" / "pipeline.py").read_text())
    (flows,) = [n.value for n in tree.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "STAGE_FLOWS"]
    assert isinstance(flows, ast.Tuple)
    assert tuple(map(ast.unparse, flows.elts)) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_stage_module_has_a_version_and_a_build_function(stage: str):
    tree = ast.parse((ROOT / "tinywave_core" / "stages" / f"{stage}.py").read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assigned = {ast.unparse(target) for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
    assert "build" in names
    assert "VERSION" in assigned


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
