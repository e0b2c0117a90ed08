"""What a training step of real shapes costs on this machine, beside what `tinywave plan` says: `make bench-gpu`.

Models have random weights, by default in the shapes of 7B and 2B, which a GPU of 80 GB holds. Per regime (cached, aligned, live logits):
tokens per second, MFU (planned operations over the GPU's dense bfloat16 peak), peak memory of a process, and what a step counted,
operations of matrix products and bytes of trained state, as a share of the plan's. With --processes it runs under torchrun. On a CPU only
the counts mean something: `BENCH_ARGS="--small --processes 2"`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import distillation as shapes  # noqa: E402

if TYPE_CHECKING:
    from tinywave_core.config.distillation import DistillationConfig

REGIMES = ("cached", "aligned", "live")
SMALL = shapes.Shape(256, 8, 688, 16, 5, 2048, 256, 2048, micro_batch_rows=2)
STATE = 16  # bytes per trained parameter in a step: float32 weights, gradients and two moments (costs/budget.py)


def main() -> None:
    """Start the processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="models of a few million parameters, for a CPU")
    parser.add_argument("--processes", type=int, default=1, help="of torchrun, one per GPU (default 1)")
    parser.add_argument("--steps", type=int, default=5, help="that are measured, after two others (default 5)")
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=REGIMES)
    parser.add_argument("--runtime", type=json.loads, default={}, help='settings of runtime, as {"compile": true}')
    parser.add_argument("--peak-tflops", type=float, help="the GPU's bfloat16 peak, where its name is not known here")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _measure(options)
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.processes}"]
    sys.exit(subprocess.run([*command, __file__, *sys.argv[1:], "--child"], env=os.environ, check=False).returncode)


def _measure(options: argparse.Namespace) -> None:
    import torch
    import torch.distributed as dist

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.small:
        sys.exit("torch sees no GPU here, and models of 7B and 2B need one: pass --small to check the counts on a CPU")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    shape = replace(SMALL if options.small else shapes.RELEASED, device=device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    for regime in options.regimes:
        with tempfile.TemporaryDirectory() as folder:
            line = _regime(regime, shape, options, Path(folder), name)
        if dist.get_rank() == 0:
            print(line, flush=True)
    dist.destroy_process_group()


def _regime(regime: str, shape: "shapes.Shape", options: argparse.Namespace, folder: Path, name: str) -> str:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tinywave_core.config.base import RuntimeConfig
    from tinywave_core.training import trainer
    from tinywave_core.training.module import trained_module

    device = torch.device(shape.device)
    config = shapes._regime(regime, shape)
    sequences = shapes._random_sequences(4 * shape.batch_tokens // shape.length, shape)
    student = shapes._fresh(shape, shape.student_layers, torch.float32)
    objective = shapes._distillation(config, shape, sequences, student, folder)
    runtime = RuntimeConfig.model_validate(
        {"device": shape.device, "threads": 1, "micro_batch_rows": shape.micro_batch_rows} | options.runtime
    )
    torch.set_num_threads(runtime.threads)
    module = trained_module(student, objective, runtime, device)
    del student
    parameters = module.trainable()
    optimizer = trainer._optimizer(parameters, config.training, device)
    dataset = trainer.make_dataset(sequences, config.training)
    counter = FlopCounterMode(display=False)
    steps, seconds = [0], []

    def step() -> None:
        trainer._gradient(module, dataset.batch(steps[0]), parameters, config.training, runtime, steps[0], device)
        optimizer.step()
        steps[0] += 1

    with counter:
        step()
    held = _bytes(parameters, optimizer)
    optimizer.zero_grad(set_to_none=True)
    for _ in range(1 + options.steps):
        started = time.monotonic()
        step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)
    per_token, state = _planned(config, shape)
    operations, bytes_held = _summed(float(counter.get_total_flops()), float(held))
    speed = shape.batch_tokens / sorted(seconds[1:])[options.steps // 2]
    peak = options.peak_tflops * 1e12 if options.peak_tflops else shapes._peak_flops(name)
    mfu = f", MFU {per_token * speed / peak / options.processes:.0%}" if peak else ""
    memory = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB a process" if device.type == "cuda" else ""
    return (
        f"{regime}: {speed:,.0f} tokens/s on {options.processes} x {name}{mfu}{memory}; counted of the plan: "
        f"operations {operations / (per_token * shape.batch_tokens):.0%}, "
        f"trained state {bytes_held / state:.0%}"
    )


def _planned(config: "DistillationConfig", shape: "shapes.Shape") -> tuple[float, int]:
    """As costs/budget.py counts: operations per token, and bytes of trained state."""
    from tinywave_core.config.adaptation import FreshTeacherConfig
    from tinywave_core.costs.estimates import llama_parameters

    sizes = FreshTeacherConfig(
        layers=shape.teacher_layers, width=shape.width, heads=shape.heads, intermediate=shape.intermediate
    )
    teacher, student = (llama_parameters(sizes, n, shape.rows) for n in (shape.teacher_layers, shape.student_layers))
    live = len(config.live_steps) / config.training.planned_steps
    return 6 * student + 2 * live * teacher, STATE * student


def _bytes(parameters: dict, optimizer: object) -> int:
    """Weights, gradients and moments that this process holds."""
    held = 0
    for parameter in parameters.values():
        moments = [m for m in optimizer.state[parameter].values() if m.ndim]
        for tensor in (parameter, parameter.grad, *moments):
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            held += local.numel() * local.element_size()
    return held


def _summed(*values: float) -> list[float]:
    import torch
    import torch.distributed as dist

    numbers = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(numbers)
    return numbers.tolist()


if __name__ == "__main__":
    main()
