"""The `tinywave` command: help at once, one clear error for bad input, and everything a person asks of a store."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from flows.cli import main
from flows.completion import script
from tests.conftest import Finished
from tests.fixtures.tiny import CLIPS, copy_store, digests, tiny_config
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.steps.base import compute
from tinywave_core.storage.records import seal
from tinywave_core.storage.store import Store

HEAVY = ("torch", "prefect", "transformers", "pyarrow", "numpy", "faiss", "onnxruntime", "fsspec")


def flags(config: PipelineConfig) -> list[str]:
    """The config as command-line flags on top of the demo preset."""
    found = []
    for group, values in config.model_dump(mode="json").items():
        found += _flags(group, values)
    return found


def _flags(key: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [flag for name, inner in value.items() for flag in _flags(f"{key}.{name}", inner)]
    if isinstance(value, list):
        value = ",".join(value) or "none"
    return [] if value is None or key.endswith(".kind") else [f"--{key}", str(value)]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints, if it succeeds."""
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one error that a command stops with: a single message on stderr, exit status 2."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    return error[error.index("error: ") :]


# Help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["--help", "--version", "run --preset small --help", "inspect --help"])
def test_help_needs_nothing_heavy(arguments: str):
    program = f"""
import sys
from flows.cli import main
from flows.completion import script
try:
    main({arguments.split()!r})
except SystemExit as end:
    assert end.code == 0
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("usage: tinywave", "tinywave "))


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"tinywave {version('tinywave')}\n")


def helped(capsys: pytest.CaptureFixture[str], words: str, setting: str) -> str:
    """What `--help` says of a setting, in one line."""
    with pytest.raises(SystemExit):
        main([*words.split(), "--help"])
    text = " ".join(capsys.readouterr().out.split())
    return text[text.index(f"--{setting} ") :].partition(" --")[0]


def test_help_tells_the_values_of_the_preset_and_of_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "own.toml").write_text("distillation.layers = 7\nroot = 'there'")
    assert helped(capsys, "run --preset base-2b", "distillation.layers").endswith("Default: 10.")
    assert helped(capsys, "run", "distillation.layers").endswith("Default: 2.")
    own = f"plan --preset base-2b --config {tmp_path}/own.toml"
    assert helped(capsys, own, "distillation.layers").endswith("Default: 7.")
    assert helped(capsys, own, "distillation.training.steps").endswith("Default: 6000.")


def test_a_file_goes_before_the_preset_and_a_flag_before_the_file(
    capsys: pytest.CaptureFixture[str], tiny_source: Path, tmp_path: Path
):
    """Of three settings of the file, one is a flag too; the plan's models are those of the result."""
    file = tmp_path / "own.toml"
    file.write_text(f'root = "{tmp_path / "store"}"\nsource = "nowhere"\n[distillation]\nlayers = 1\n')
    settings = ["--config", str(file), "--source", str(tiny_source), "--adaptation.teacher", "fresh"]
    assert main(["plan", *settings]) == 0
    out, error = capsys.readouterr()
    assert error == f"settings: preset demo, then 3 settings of {file}; flags overrule source\n"
    assert "12 files, 12 new" in out
    assert out != said(capsys, "plan", *settings, "--distillation.layers", "2")
    assert "distillation.layers is 99" in refused(capsys, "plan", *settings, "--distillation.layers", "99")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("distillation.laiers = 3", "there is no setting distillation.laiers; did you mean distillation.layers?"),
        ("distillation.layers = 0", "distillation.layers is 0, input should be greater than or equal to 1"),
        ("distillation = 3", "distillation is 3, expected a group of settings: [distillation]"),
        ("layers = ", "is not valid TOML"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_with_a_fault_is_named_with_the_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None, expected: str
):
    if text:
        (tmp_path / "own.toml").write_text(text)
    error = refused(capsys, "plan", "--config", str(tmp_path / "own.toml"))
    assert expected in error and str(tmp_path / "own.toml") in error and "--distillation" not in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tinywave lin", "lineage"),
        ("tinywave run log", "logit_caching"),
        ("tinywave run --preset dem", "demo demo-interleaved"),
        (
            "tinywave plan --distillation.we",
            " ".join(f"--distillation.weights.{n}" for n in ("language_model", "logits", "hidden", "attention")),
        ),
        ("tinywave deploy --runtime.device m", "mps"),
        ("tinywave gc --k", "--keep"),
    ],
)
def test_bash_completes_what_the_command_line_has(words: str, expected: str, completion: str):
    program = f'{completion}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _tinywave; echo "${{COMPREPLY[@]}}"'
    assert (
        subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True).stdout.strip() == expected
    )


@pytest.fixture(scope="module")
def completion() -> str:
    return script("bash")


def test_fish_and_zsh_have_the_same_commands_and_flags():
    fish = script("fish")
    assert "-a lineage -d 'from an artifact back to its audio files, or from a file forward'" in fish
    assert "from run' -l preset -x -a 'base base-2b demo" in fish and "-l distillation.training.steps\n" in fish
    assert script("zsh").partition("_tinywave()")[2] == script("bash").partition("_tinywave()")[2]
    assert "bashcompinit" in script("zsh")


def test_help_of_a_command_with_settings_begins_with_one_line_of_usage(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    usage, empty, *_ = capsys.readouterr().out.splitlines()
    assert (usage[:35], empty) == ("usage: tinywave run [pipeline|STAGE", "") and len(usage) < 120


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "dmeo"], "there is no preset 'dmeo'; did you mean demo?"),
        (["--distillation.layer", "3"], "did you mean --distillation.layers?"),
        (["--distillation.layers", "0"], "--distillation.layers is '0'"),
        (["--source", "/nowhere"], "/nowhere does not exist"),
    ],
    ids=["preset", "flag", "range", "source"],
)
def test_bad_input_is_one_error_without_a_traceback(arguments: list[str], expected: str, tmp_path: Path):
    """In a child process, as a person meets it."""
    command = [sys.executable, "-m", "flows.cli", "plan", "--root", str(tmp_path / "store"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("error:"), "Traceback" in done.stderr) == (2, 1, False), done.stderr
    assert expected in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("pln", "there is no command 'pln'; did you mean plan?"),
        ("xyzzy", "there is no command 'xyzzy'; see `tinywave --help`"),
        ("run tokenisation", "there is no stage 'tokenisation'; did you mean tokenization"),
    ],
)
def test_a_mistyped_name_gets_the_nearest_one(capsys: pytest.CaptureFixture[str], words: str, expected: str):
    assert expected in refused(capsys, *words.split())


@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_cannot_be_is_said_before_there_is_a_store(
    capsys: pytest.CaptureFixture[str], tiny_source: Path, tmp_path: Path, command: str
):
    known = ["--source", str(tiny_source), "--root", str(tmp_path / "store")]
    assert "distillation.layers is 99, the teacher has 6 blocks" in refused(
        capsys, command, *known, "--distillation.layers", "99"
    )
    assert "does not exist" in refused(capsys, command, "--source", str(tmp_path / "none"), *known[2:])
    assert not (tmp_path / "store").exists()


def test_a_plan_of_a_new_root_makes_no_store(capsys: pytest.CaptureFixture[str], tiny_source: Path, tmp_path: Path):
    assert "12 files, 12 new" in said(capsys, "plan", "--source", str(tiny_source), "--root", str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_a_source_without_audio(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "source").mkdir()
    error = refused(capsys, "plan", "--source", str(tmp_path / "source"), "--root", str(tmp_path / "store"))
    assert "holds no audio" in error and "pass another --source" in error


@pytest.mark.parametrize(
    "words",
    ["--source one two", "--source one ingestion two", "--source one --source two", "--source=one --source two"],
)
def test_two_folders_say_how_to_take_both(capsys: pytest.CaptureFixture[str], words: str, tmp_path: Path):
    error = refused(capsys, "run", *words.split(), "--root", str(tmp_path / "store"))
    assert "--source takes one folder; found 2: one, two. Run once for each" in error
    assert not (tmp_path / "store").exists()


def test_a_source_is_looked_at_before_the_server_is_started(tmp_path: Path):
    """In a child process that could start one, whose Prefect's home stays as it was: an empty folder, none, and no corpus."""
    (tmp_path / "empty").mkdir()
    program = """
import json
from pathlib import Path
from flows.cli import main
from flows.completion import script
found = []
for stage in ("pipeline", "ingestion"):
    for source in (["--source", "empty"], ["--source", "none"], []):
        status = main(["run", stage, *source, "--root", "store"])
        found.append([status, len(list(Path("home").rglob("*.db")))])
print(json.dumps(found))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [[2, 0]] * 6, done.stderr
    assert (done.stderr.count("error:"), "Traceback" in done.stderr) == (6, False), done.stderr


def test_a_plan_leaves_out_the_store_in_the_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_source: Path, tmp_path: Path
):
    source = shutil.copytree(tiny_source, tmp_path / "recordings")
    monkeypatch.chdir(source)
    main(["plan", "--source", "."])
    Store("store")
    shutil.copytree(tiny_source, source / "store/generation/aa")
    plan = said(capsys, "plan", "--source", ".")
    assert plan.count("source .: 12 files, 12 new, 0 known") == 2
    assert "left out below the source: the store store\n" in plan


def test_a_store_of_a_newer_version(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "store.json").write_bytes(seal({"format": "tinywave-store", "version": 99}))
    assert "has version 99" in refused(capsys, "plan", "--root", str(tmp_path))
    assert "has version 99" in refused(capsys, "inspect", "--root", str(tmp_path))


def test_a_root_that_cannot_be_written(capsys: pytest.CaptureFixture[str]):
    assert "cannot be written" in refused(capsys, "units", "--root", "/proc/tinywave")


def test_an_artifact_that_is_not_there(capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path):
    assert "no artifact in" in refused(capsys, "inspect", "export/ffff", "--root", finished.config.root)
    assert "artifacts start with" in refused(capsys, "inspect", "distillation", "--root", finished.config.root)
    assert "holds no artifact" in refused(capsys, "inspect", "--root", str(tmp_path / "empty"))


@pytest.fixture
def alone(prefect_server: None) -> None:
    """`tinywave run` in this process goes to the tests' server."""


def test_a_source_with_nothing_but_rejects(alone: None, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "noise.wav").write_bytes(b"RIFF" + bytes(200))
    command = ("run", "ingestion", "--source", str(tmp_path), "--root", str(tmp_path / "store"))
    assert "of 1 file none gave speech" in refused(capsys, *command)


def test_a_run_says_what_it_leaves_out_of_the_source(
    alone: None, capsys: pytest.CaptureFixture[str], tiny_source: Path, tmp_path: Path
):
    source = shutil.copytree(tiny_source, tmp_path / "source")
    shutil.copy(source / CLIPS[0], source / ".hidden.wav")
    printed = said(capsys, "run", "ingestion", "--source", str(source), "--root", str(source / "out"))
    line = "left out below the source: the store out; 1 hidden file (.hidden.wav)"
    assert printed.index(line) < printed.index("12 files → ")


def test_a_busy_store(alone: None, capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path):
    config = copy_store(finished.config, tmp_path / "store")
    program = f"""
from tinywave_core.storage.store import Store
with Store({config.root!r}).lock("tinywave pipeline"):
    print("locked", flush=True)
    input()
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "locked\n"
        error = refused(capsys, "run", "tokenization", *flags(config))
        holder.stdin.write("\n")
    assert f"in use by tinywave pipeline (process {holder.pid}" in error


# Publishing -------------------------------------------------------------------------------------------------------


def test_publishing_by_hand_prints_the_directory_to_load(
    capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path
):
    root = copy_store(finished.config, tmp_path / "store").root
    assert "nothing is published" in said(capsys, "publish", "--root", root)
    printed = said(capsys, "publish", "export", "--root", root)
    assert "by hand" in printed
    assert printed.splitlines()[-1] == f"{root}/{finished.outputs['model'].id}/model"
    assert said(capsys, "publish", "--root", root) == printed


# Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], pytest.param([signal.SIGTERM, signal.SIGTERM], marks=pytest.mark.nightly)],
    ids=["ctrl-c", "SIGTERM twice"],
)
def test_a_stopped_run_says_how_to_go_on_and_the_next_run_does(
    alone: None, finished: Finished, tmp_path: Path, signals: list[signal.Signals]
):
    """A child process is stopped in the middle of training; the next run takes up its checkpoint. Neither is long enough to end."""
    from prefect.settings import PREFECT_API_URL

    root = copy_store(finished.config, tmp_path / "store").root
    config = tiny_config(finished.config.source, root, adaptation={"training": {"steps": 20_000}})
    command = [sys.executable, "-m", "flows.cli", "run", "adaptation", *flags(config)]
    server = {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    child = subprocess.Popen(
        command, env=os.environ | server, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while child.poll() is None and not list(Path(root, ".work").glob("adaptation-*/resume/step-*")):
        time.sleep(0.05)
    for each in signals:
        child.send_signal(each)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130, error
    assert "stopped: finished work is kept, and the same command goes on from there" in error
    assert "Traceback" not in error
    (checkpoint, *_) = sorted(Path(root, ".work").glob("adaptation-*/resume/step-*"), reverse=True)

    def end_after_a_step(done: int, *_: object) -> None:
        raise InterruptedError(done)

    next_step = int(checkpoint.name.removeprefix("step-")) + 1
    with pytest.raises(InterruptedError, match=f"^{next_step}$"):
        run_pipeline(
            config, Store(root), lambda steps: [compute(step, end_after_a_step) for step in steps], until="adaptation"
        )


# Looking ---------------------------------------------------------------------------------------------------------


def test_a_plan_of_a_fresh_store(capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path):
    config = finished.config.model_copy(update={"root": str(tmp_path / "store")})
    plan = said(capsys, "plan", *flags(config))
    assert "12 files, 12 new, 0 known" in plan
    assert "never computed in this store" in plan
    assert all(stage in plan for stage in STAGES)
    assert "in all 2 shards a stage and 20 task runs" in plan  # 14 steps that are no shards
    assert not Store(config.root).artifact_ids()


def test_a_plan_says_from_where_the_teacher_starts_and_why(
    capsys: pytest.CaptureFixture[str], finished: Finished, tmp_path: Path
):
    store = ("--source", str(finished.config.source), "--root", str(tmp_path / "store"))
    fresh = said(capsys, "plan", *store, "--adaptation.teacher", "fresh")
    assert "the teacher starts fresh: adaptation.teacher says so" in fresh
    auto = said(capsys, "plan", *store)
    assert "the teacher starts from the base: 0.5 min of training speech, below 2 h" in auto
    much = said(capsys, "plan", *store, "--adaptation.base_below_hours", "0.001")
    assert "the teacher starts fresh: 0.5 min of training speech, not below 0.001 h" in much
    assert not (tmp_path / "store" / "starts").exists()


def test_a_plan_explains_every_step(capsys: pytest.CaptureFixture[str], finished: Finished):
    plan = " ".join(said(capsys, "plan", "--explain", *flags(finished.config)).split())
    assert "every step" in plan
    assert "logit_caching/shard 2 yes same settings and inputs as before" in plan
    assert f"distillation/student 1 yes same settings and inputs as before {finished.outputs['student'].id}" in plan


def test_a_plan_of_a_finished_store_has_nothing_to_run(capsys: pytest.CaptureFixture[str], finished: Finished):
    plan = said(capsys, "plan", *flags(finished.config))
    rows = [line.split() for line in plan.splitlines() if line.split() and line.split()[0] in STAGES]
    assert [row[0] for row in rows] == list(STAGES)
    assert {row[2] for row in rows} == {"0"}
    assert "12 files, 0 new, 12 known" in plan and "pinned" in plan


def test_a_plan_says_that_a_teacher_worse_than_counts_will_stop_the_run(
    capsys: pytest.CaptureFixture[str], finished: Finished
):
    judged = finished.config.adaptation.model_copy(update={"floor": "counts"})
    plan = said(capsys, "plan", *flags(finished.config.model_copy(update={"adaptation": judged})))
    assert "no better than a table of counts" in " ".join(plan.replace("│", " ").split())
    rows = [line.split() for line in plan.splitlines() if line.split() and line.split()[0] in STAGES]
    assert [row[0] for row in rows] == list(STAGES) and rows[STAGES.index("adaptation")][2] == "0"


@pytest.mark.parametrize("preset", ["base-2b", "expressive-2b", "interleaved-2b", "small"])
def test_a_plan_of_the_papers_presets(
    capsys: pytest.CaptureFixture[str], tiny_source: Path, tmp_path: Path, preset: str
):
    plan = said(
        capsys,
        "plan",
        "--preset",
        preset,
        "--source",
        str(tiny_source),
        "--root",
        str(tmp_path),
        "--runtime.device",
        "cpu",
    )
    assert all(stage in plan for stage in STAGES)


def test_inspect_lists_all_and_shows_one(capsys: pytest.CaptureFixture[str], finished: Finished):
    table = said(capsys, "inspect", "--root", finished.config.root)
    assert all(artifact_id in table for artifact_id in finished.store.artifact_ids())
    student = finished.outputs["student"]
    shown = said(capsys, "inspect", student.id[:20], "--root", finished.config.root)
    assert student.id in shown and "model/model.safetensors" in shown and '"layers_copied"' in shown


def test_lineage_leads_from_the_samples_back_to_every_file(capsys: pytest.CaptureFixture[str], finished: Finished):
    shown = said(capsys, "lineage", finished.outputs["samples"].id, "--root", finished.config.root)
    assert "12 audio files went in" in shown
    assert all(clip in shown for clip in CLIPS)


@pytest.mark.parametrize("by", ["path", "digest"])
def test_lineage_leads_from_a_file_forward_to_the_student(
    capsys: pytest.CaptureFixture[str], finished: Finished, tiny_source: Path, by: str
):
    digest = hashlib.sha256((tiny_source / CLIPS[5]).read_bytes()).hexdigest()
    name = CLIPS[5] if by == "path" else digest[:12]
    shown = said(capsys, "lineage", name, "--root", finished.config.root)
    for part in ("corpus", "tokens", "teacher", "student", "model", "samples"):
        assert finished.outputs[part].id in shown


def test_looking_changes_nothing(capsys: pytest.CaptureFixture[str], finished: Finished):
    before = digests(finished.store)
    said(capsys, "inspect", "--root", finished.config.root)
    said(capsys, "plan", *flags(finished.config))
    assert digests(finished.store) == before
