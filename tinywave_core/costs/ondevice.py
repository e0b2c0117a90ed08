"""Will a student speak in real time on this machine? Bandwidth of its memory over bytes of weights that each token reads.

Decoding one token reads every weight but the input embedding once, and computes little: so tokens per second are read bandwidth,
times the share of it that a runtime reaches, over those bytes. Speech is 21 tokens a second (units alone) or 31 (with pitch and
style); half as much again is comfortable, since units, vocoder and prompt want the same cores.
"""

import os
import platform
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import GGUF_BYTES, exported_rows, student_shape, vocabulary_rows
from tinywave_core.threads import cores

REAL_TIME = {"base": (21.0, 30.0), "expressive": (31.0, 45.0)}
"""Tokens per second that speech has, and comfortably (infra/LAB_LOG.md)."""
BYTES = {"float32": 4.0, **GGUF_BYTES}
FORMS = ("float32", "bf16", "q8_0", "q4_0")
SHARES = {"float32": 0.8, "bf16": 0.6, "f16": 0.6, "q8_0": 0.6, "q4_0": 0.5}
"""Of the read bandwidth beside it, what a runtime reaches at least: transformers for float32, llama.cpp for the others."""
TOKEN_OVERHEAD_S = 0.0005  # of tiny models: calls and sampling, whatever the weights
_PROBE_BYTES = 256 << 20  # beyond every cache


@dataclass(frozen=True)
class Student:
    """What decoding one token of a preset's student reads."""

    preset: str
    tokens: str
    """`base` or `expressive`."""
    parameters: int
    read: int
    """Parameters that are read per token: all but the input embedding."""
    head: int
    """Of those, the output projection's, which stays at 8 bits in a q4_0 file."""

    def bytes_per_token(self, form: str) -> float:
        """Bytes of weights that one token reads in this form."""
        head = "q8_0" if form == "q4_0" else form
        return (self.read - self.head) * BYTES[form] + self.head * BYTES[head]

    def tokens_per_s(self, form: str, bytes_per_s: float) -> float:
        """What to expect at this read bandwidth."""
        return 1 / (self.bytes_per_token(form) / (SHARES[form] * bytes_per_s) + TOKEN_OVERHEAD_S)

    def verdict(self, tokens_per_s: float) -> str:
        """`comfortable`, `real time` or `too slow`."""
        enough, comfortable = REAL_TIME[self.tokens]
        if tokens_per_s >= comfortable:
            return "comfortable"
        return "real time" if tokens_per_s >= enough else "too slow"


def student_of(preset: str, config: PipelineConfig) -> Student:
    """The student that a preset trains and exports."""
    shape, layers = student_shape(config), config.distillation.layers
    rows = exported_rows(config) if config.distillation.vocabulary == "speech" else vocabulary_rows(config)
    rows = exported_rows(config) if config.export.vocabulary == "speech" else rows
    parameters = shape.parameters(layers, rows)
    # A tied embedding is read as the head.
    read = parameters - (0 if shape.is_tied else rows * shape.width)
    return Student(preset, config.tokenization.tokens, parameters, read, rows * shape.width)


def expected(students: Sequence[Student], bytes_per_s: float) -> list[dict[str, Any]]:
    """One row per student and form."""
    rows = []
    for student in students:
        for form in FORMS:
            speed = student.tokens_per_s(form, bytes_per_s)
            rows.append(
                {
                    "preset": student.preset,
                    "tokens": student.tokens,
                    "read_parameters": student.read,
                    "form": form,
                    "bytes_per_token": round(student.bytes_per_token(form)),
                    "tokens_per_s": round(speed, 1),
                    "verdict": student.verdict(speed),
                }
            )
    return rows


@dataclass(frozen=True)
class Bandwidth:
    """How fast memory was read."""

    threads: int
    bytes_per_s: float
    """By the clock, all threads together, in the best of the rounds: other work on the machine lowers it."""
    bytes_per_core_s: float
    """Per second of CPU time of one thread: hardly changed by other work."""


def read_bandwidth(threads: int, rounds: int = 5) -> Bandwidth:
    """Read arrays of random numbers, one per thread. Never constant ones: a virtual machine may keep equal pages once, and then
    the cache answers (360 GB/s were seen on two cores).
    """
    import numpy as np

    count = _PROBE_BYTES // 8 // threads
    arrays = [np.random.default_rng(t).integers(0, 2**63, count, dtype=np.int64) for t in range(threads)]
    read = sum(array.nbytes for array in arrays)
    best, per_core = 0.0, 0.0
    for _ in range(rounds):
        cpu = [0.0] * threads

        def work(index: int, cpu: list[float] = cpu) -> None:
            started = time.thread_time()
            arrays[index].max()
            cpu[index] = time.thread_time() - started

        workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, read / (time.perf_counter() - started))
        per_core = max(per_core, read / sum(cpu))
    return Bandwidth(threads, best, per_core)


def machine() -> dict[str, Any]:
    """Processor, cores, instructions that matter here, memory and load; what the system does not tell is left out."""
    about: dict[str, Any] = {
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    lines = _lines("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm")
    total = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), None)
    about |= {"processor": names[0]} if names else {}
    about |= {"instructions": [flag for flag in wanted if flag in flags]} if flags else {}
    about |= {"memory_gib": round(total / 2**20, 1)} if total else {}
    return about | {"load_average": round(os.getloadavg()[0], 1)}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
