"""Another machine that trains along: `python -m tinywave_core.training.join --rendezvous node-0:29400 --nodes 2 --node 1 --processes 8`.

It runs beside a stage on the first machine that has the same `runtime.rendezvous`, `training_nodes` and `training_processes`, and takes
part in one training after the other (teacher, student, control) until it is stopped. What to train, and every checkpoint, comes from the
first machine through torch.distributed; inputs come from the store, which must have the same name on both. When a machine dies, the
others end their training; the stage's command begins again from its last checkpoint, and this one waits for it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.training.launch import start, torchrun


def main() -> None:
    """Join trainings until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rendezvous", required=True, help="as runtime.rendezvous of the first machine")
    parser.add_argument("--nodes", type=int, required=True, help="machines in all, as runtime.training_nodes")
    parser.add_argument("--node", type=int, required=True, help="number of this one, from 1; the first machine is 0")
    parser.add_argument("--processes", type=int, required=True, help="one per GPU, as runtime.training_processes")
    parser.add_argument("--device", default="auto", help="as runtime.device (default auto)")
    options = parser.parse_args()
    runtime = RuntimeConfig(
        device=options.device,
        training_processes=options.processes,
        training_nodes=options.nodes,
        rendezvous=options.rendezvous,
    )
    if not 1 <= options.node < options.nodes:
        parser.error(f"--node is {options.node}: machines that join are numbered from 1 to {options.nodes - 1}")
    while True:
        status = join(runtime, options.node)
        print(f"a training ended with status {status}; waiting for the next one", file=sys.stderr, flush=True)


def join(runtime: RuntimeConfig, node: int) -> int:
    """Take part in one training as machine `node`: torchrun's exit status."""
    with tempfile.TemporaryDirectory(prefix="tinywave-join-") as name:
        folder = Path(name)
        # Only where to compute: the rest is told by the first process.
        (folder / "step.json").write_text(json.dumps({"runtime": {"device": runtime.device}}), encoding="utf-8")
        processes = start(torchrun(runtime, node), folder, sys.stderr.buffer)
        try:
            assert processes.stdout is not None
            for _ in processes.stdout:  # not `communicate`, which closes their standard input, and then they end
                pass
            return processes.wait()
        finally:
            _end(processes)


def _end(processes: "subprocess.Popen[bytes]") -> None:
    if processes.poll() is None:
        processes.terminate()
        processes.wait()


if __name__ == "__main__":
    main()
