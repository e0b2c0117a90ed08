"""Training: exact resume from any step, no damaged checkpoint used, nothing trained on a loss that is not finite."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.fixtures.training import (
    CONFIG,
    RUNTIME,
    BreaksOn,
    Stop,
    distilled,
    fresh,
    gradients,
    run,
    sequences,
    stop_at,
)
from tinywave_core.config.base import TrainingConfig
from tinywave_core.errors import PausedError, TrainingError
from tinywave_core.progress import GOES_ON
from tinywave_core.storage.store import sha256_of
from tinywave_core.training import trainer
from tinywave_core.training.checkpoint import load_checkpoint
from tinywave_core.training.module import is_recomputed, trained_module
from tinywave_core.training.trainer import LossTerms, batch_number, learning_rate, make_dataset


@pytest.mark.parametrize("step", [1, 2, 5, 8])
def test_a_run_that_was_stopped_goes_on_to_bit_equal_losses_and_weights(tmp_path, step):
    curve, weights = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", on_step=stop_at(step))
    resumed_curve, resumed = run(tmp_path / "cut")
    assert resumed_curve == curve
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    curve, _ = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", on_step=stop_at(7))
    newest = sorted(tmp_path.glob("cut/step-*"))[-1] / "model.safetensors"
    raw = bytearray(newest.read_bytes())
    raw[-3] ^= 1
    newest.write_bytes(raw)
    assert run(tmp_path / "cut")[0] == curve


def test_a_checkpoint_whose_state_says_another_step_is_passed_over(tmp_path):
    curve, _ = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", on_step=stop_at(7))
    newest = sorted(tmp_path.glob("cut/step-*"))[-1] / "state.json"
    newest.write_text(newest.read_text().replace('"step": 6', '"step": 7'))
    assert run(tmp_path / "cut")[0] == curve


def test_at_most_two_checkpoints_are_kept(tmp_path):
    run(tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-00000006", "step-00000008"]


def test_the_loss_falls(tmp_path):
    curve, _ = run(tmp_path)
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]


def test_gradient_accumulation_changes_rounding_only(tmp_path):
    whole, _ = run(tmp_path / "a")
    parts, _ = run(tmp_path / "b", runtime=RUNTIME.model_copy(update={"micro_batch_rows": 1}))
    assert [p["loss"] for p in parts] == pytest.approx([w["loss"] for w in whole], rel=1e-4)


def test_weights_that_are_not_finite_stop_the_run_after_three_returns_and_say_what_to_lower(tmp_path):
    model = fresh()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.inf
    with pytest.raises(
        TrainingError, match="at step 1 the loss is.*after 3 other batches.*Lower training.learning_rate"
    ):
        run(tmp_path, model=model)


def test_a_batch_that_breaks_the_loss_is_left_out_as_if_it_had_never_been_there(tmp_path, monkeypatch):
    curve, weights = run(tmp_path / "broken", objective=BreaksOn(4))
    dataset = make_dataset(sequences(), CONFIG)
    monkeypatch.setattr("tests.fixtures.training.make_dataset", lambda *_, **__: dataset)
    every = dataset.batch
    dataset.batch = lambda step, share: every(step + (step >= 4), share)
    expected_curve, expected = run(tmp_path / "without")
    assert [{k: v for k, v in r.items() if k != "batches_left_out"} for r in curve] == expected_curve
    assert [r["batches_left_out"] for r in curve] == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def infinite_gradient(total: torch.Tensor) -> torch.Tensor:
    """A finite loss whose gradient is not finite."""
    total.register_hook(lambda gradient: gradient * math.inf)
    return total


def infinite_loss(total: torch.Tensor) -> torch.Tensor:
    """A loss that is no number, and the gradient of one that is."""
    return total + math.nan


@pytest.mark.parametrize("breaks", [infinite_gradient, infinite_loss])
def test_a_batch_is_left_out_when_its_loss_alone_or_its_gradient_alone_is_not_finite(tmp_path, breaks):
    curve, weights = run(tmp_path / "one", objective=BreaksOn(4, breaks=breaks))
    expected_curve, expected = run(tmp_path / "both", objective=BreaksOn(4))
    assert curve == expected_curve and curve[-1]["batches_left_out"] == 1
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def no_gradient(model, batch, step) -> LossTerms:
    return LossTerms(0.0 * sum(p.sum() for p in model.parameters()), {})


def test_weight_decay_shrinks_matrices_and_leaves_vectors(tmp_path):
    model = fresh()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _, after = run(tmp_path, CONFIG.model_copy(update={"weight_decay": 0.1}), model=model, objective=no_gradient)
    left = math.prod(1 - learning_rate(step, CONFIG) * 0.1 for step in range(CONFIG.steps))
    assert left < 0.999 and {p.ndim for p in before.values()} == {1, 2}
    for name, weights in before.items():
        torch.testing.assert_close(after[name], weights * (left if weights.ndim == 2 else 1))


def test_training_returns_to_the_last_checkpoint_when_a_batch_breaks_the_loss(tmp_path):
    done: list[int] = []
    run(tmp_path, objective=BreaksOn(3), on_step=done.append)
    assert done == [1, 2, 3, 3, 4, 5, 6, 7, 8, 9]  # checkpoint at step 2


@pytest.mark.parametrize("step", [1, 3, 4, 5, 6, 8])
def test_a_resumed_run_leaves_out_the_same_batches(tmp_path, step):
    curve, weights = run(tmp_path / "whole", objective=BreaksOn(0, 3, 6))
    with pytest.raises(Stop):
        run(tmp_path / "cut", objective=BreaksOn(0, 3, 6), on_step=stop_at(step))
    resumed_curve, resumed = run(tmp_path / "cut", objective=BreaksOn(0, 3, 6))
    assert resumed_curve == curve and curve[-1]["batches_left_out"] == 3
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_batches_after_those_left_out_move_up():
    assert [batch_number(step, [4, 1, 2]) for step in range(4)] == [0, 3, 5, 6]


def test_training_stops_with_the_step_that_reaches_the_tokens(tmp_path):
    config = CONFIG.model_copy(update={"stop_after_tokens": 300})  # 128 in a step
    assert run(tmp_path / "short", config)[0] == run(tmp_path / "whole")[0][:3]
    assert CONFIG.model_copy(update={"stop_after_tokens": 10_000}).planned_steps == CONFIG.steps


def test_a_run_that_paused_after_its_hours_goes_on_to_bit_equal_weights(tmp_path):
    hasty = RUNTIME.model_copy(update={"stop_after_hours": 1e-9, "checkpoint_every": 100})
    curve, weights = run(tmp_path / "whole")
    for step in range(1, CONFIG.steps):
        with pytest.raises(PausedError, match=f"after step {step} of 9.*run the same command again"):
            run(tmp_path / "cut", runtime=hasty)
    resumed_curve, resumed = run(tmp_path / "cut", runtime=hasty)
    assert resumed_curve == curve
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_recomputing_activations_leaves_every_gradient_bit_equal(monkeypatch):
    expected = gradients()
    blocks_run = count_blocks(monkeypatch)
    found = gradients(RUNTIME.model_copy(update={"activation_checkpointing": 1.0}))
    assert blocks_run.count("student") == 4, "two blocks, each run again in the backward pass"
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("share", "recomputed"), [(0.0, []), (0.3, [3, 6, 9]), (0.5, [1, 3, 5, 7, 9]), (0.04, []), (1.0, list(range(10)))]
)
def test_a_share_of_the_blocks_is_recomputed_evenly_spaced(share, recomputed):
    assert [block for block in range(10) if is_recomputed(block, 10, share)] == recomputed


def test_half_of_two_blocks_runs_once_more_and_leaves_every_gradient_bit_equal(monkeypatch):
    expected = gradients()
    blocks_run = count_blocks(monkeypatch)
    found = gradients(RUNTIME.model_copy(update={"activation_checkpointing": 0.5}))
    assert blocks_run.count("student") == 3
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_blocks_are_compiled_once_whatever_rows_heads_and_documents_a_step_has(monkeypatch):
    """Traced as for a GPU: attention by blocks, two student blocks that share what is compiled, and a tap in every step."""
    compiled: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]):
        compiled.append(graph.code)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    student, objective = distilled()
    runtime = RUNTIME.model_copy(update={"compile": True, "attention": "block_sparse"})
    module, dataset = (
        trained_module(student, objective, runtime, torch.device("cpu")),
        make_dataset(sequences(), CONFIG),
    )
    first = 0
    for step in range(3):
        module(dataset.batch(step), step)[0].backward()
        first = first or len(compiled)
    assert 0 < first == len(compiled)
    assert sum("flex_attention" in code for code in compiled) == 1


def test_on_a_gpu_products_are_in_bfloat16_and_weights_gradients_and_moments_in_float32(tmp_path, monkeypatch):
    """By autocast of the CPU, which takes the place of CUDA's here."""
    exact, _ = run(tmp_path / "float32")
    monkeypatch.setattr(trainer, "mixed_precision", lambda _: torch.autocast("cpu", torch.bfloat16))
    types: set[torch.dtype] = set()
    model = fresh()
    for projection in (model.lm_head, *(block.mlp.up_proj for block in model.model.layers)):
        projection.register_forward_hook(lambda *seen: types.add(seen[2].dtype))
    curve, weights = run(tmp_path / "mixed", model=model)
    assert types == {torch.bfloat16} and {weight.dtype for weight in weights.values()} == {torch.float32}
    kept = load_file(tmp_path / "mixed" / "step-00000008" / "optimizer.safetensors")
    assert {moment.dtype for moment in kept.values()} == {torch.float32}
    losses, exact_losses = ([r["loss"] for r in records] for records in (curve, exact))
    assert losses == pytest.approx(exact_losses, rel=2e-2) and losses != exact_losses


def test_the_fused_optimiser_of_a_gpu_takes_up_a_checkpoint_with_its_count_beside_the_weights(tmp_path):
    """A meta device stands for the GPU: it only knows what lies where."""
    run(tmp_path)
    parameters = {name: torch.nn.Parameter(p.to("meta")) for name, p in fresh().named_parameters()}
    for fused, place in ((True, "meta"), (None, "cpu")):
        optimizer = torch.optim.AdamW(list(parameters.values()))
        optimizer.param_groups[0]["fused"] = fused
        assert load_checkpoint(tmp_path, parameters, optimizer)
        states = [optimizer.state[p] for p in parameters.values()]
        assert {state["step"].device.type for state in states} == {place}
        assert {state["exp_avg"].device.type for state in states} == {"meta"}


def test_one_kernel_updates_all_weights_on_a_gpu_alone(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.optim, "AdamW", lambda *_, **options: chosen.append(options["fused"]))
    for kind in ("cuda", "cpu", "mps"):
        trainer._optimizer(dict(fresh().named_parameters()), CONFIG, torch.device(kind))
    assert chosen == [True, None, None]


def count_blocks(monkeypatch) -> list[str]:
    from transformers.models.llama.modeling_llama import LlamaAttention

    run_once, seen = LlamaAttention.forward, []

    def counted(self, *args, **kwargs):
        seen.append("student" if self.q_proj.weight.requires_grad else "teacher")
        return run_once(self, *args, **kwargs)

    monkeypatch.setattr(LlamaAttention, "forward", counted)
    return seen


def test_attention_rows_are_counted_once_when_activations_are_recomputed(tmp_path):
    model, objective = distilled()
    expected, _ = run(tmp_path / "kept", model=model, objective=objective)
    model, objective = distilled()
    runtime = RUNTIME.model_copy(update={"activation_checkpointing": 1.0})
    assert run(tmp_path / "again", runtime=runtime, model=model, objective=objective)[0] == expected


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch looks at it, and hides it from print only
def test_compiled_blocks_give_the_gradient_of_plain_ones_to_1e_5(monkeypatch):
    # Traced and differentiated by the compiler, without the minute that its code generation takes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    found, expected = gradients(RUNTIME.model_copy(update={"compile": True})), gradients()
    assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-5) for name in expected)


def test_tensorboard_shows_every_number_of_a_step_and_the_checkpoints_do_not_change(tmp_path):
    runtime = RUNTIME.model_copy(update={"tensorboard_dir": str(tmp_path / "logs")})
    curve, _ = run(tmp_path / "student" / "resume", runtime=runtime)
    run(tmp_path / "plain" / "resume")
    events = EventAccumulator(str(tmp_path / "logs" / "student")).Reload()
    names = {"loss", "language_model", "learning_rate", "gradient_norm", "tokens_per_second"}
    assert names < set(events.Tags()["scalars"])
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([r["loss"] for r in curve])
    assert digests(tmp_path / "student") == digests(tmp_path / "plain")


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def test_progress_tells_the_loss_and_the_speed(tmp_path):
    notes: list[str] = []
    run(tmp_path, progress=lambda done, total, note="": notes.append(note))
    assert len(notes) == 9 and all(note.startswith("loss ") and note.endswith(" tokens/s") for note in notes)


def test_no_training_speech_is_said_with_what_to_do():
    with pytest.raises(TrainingError, match="no training sequence.*split_by recording"):
        make_dataset([], CONFIG)


def test_the_learning_rate_warms_up_and_ends_at_its_final_share():
    config = TrainingConfig(steps=100, learning_rate=1.0, warmup_steps=10, final_learning_rate_ratio=0.1)
    assert learning_rate(0, config) == pytest.approx(0.1)
    assert learning_rate(9, config) == learning_rate(10, config) == 1.0
    assert learning_rate(99, config) == pytest.approx(0.1)


@pytest.mark.parametrize("step", [1, 3, 8])
def test_a_run_that_is_told_to_stop_loses_no_step(tmp_path, step):
    """Ctrl-C, a cancelled run, a worker that is shut down: each arrives with the call of `progress`."""

    def told_at(done: int, total: int, note: str = "") -> None:
        if done == step:
            raise KeyboardInterrupt

    curve, _ = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", progress=told_at)
    told: list[tuple[int, str]] = []
    assert run(tmp_path / "cut", progress=lambda done, total, note="": told.append((done, note)))[0] == curve
    assert [done for done, _ in told] == list(range(step + 1, 10))
    assert [note == GOES_ON for _, note in told] == [True, *[False] * (8 - step)]
