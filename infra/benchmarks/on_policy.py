"""What a student gains by learning from its own speech, at equal cost: `make bench-on-policy`.

One store, one teacher. `--set distillation.share=0.05` gives the students a twentieth of the recordings that the teacher has heard.
An off-policy student learns from the teacher's whole distribution on training speech alone; an on-policy one has
the same loss there and, in a share of the rows, a divergence on its own continuations. Equal cost is equal CPU time: seconds a step of
all are measured first (of an arm that begins later, a mean over both parts), and on-policy students get fewer steps for the same time.
Same start, batches and checks; of each the weights that were best on validation speech are kept, and no run stops early.

Compared on held-out speakers: both continue the same prompts with the same random numbers.

- own KL: from the student to the teacher, nats per token of the student's own continuations. Forward KL: on the recordings.
- NLL: nats per token of the recordings.
- repetition: share of the runs of four tokens that were there before in the same continuation. auto-BLEU: the product's, of bigrams of
  token names as words. Both are read beside the recordings' (`recording`).

In brackets: 95 % intervals over utterances, paired where two students are compared; seeds are averaged first.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tinywave_core.config.base import RuntimeConfig, TrainingConfig  # noqa: E402
from tinywave_core.config.distillation import DistillationConfig, LossWeightsConfig, OnPolicyConfig  # noqa: E402
from tinywave_core.config.load import load_config  # noqa: E402
from tinywave_core.evals.generated import auto_bleu  # noqa: E402
from tinywave_core.evals.intervals import bootstrap_interval  # noqa: E402
from tinywave_core.run.pipeline import run_pipeline  # noqa: E402
from tinywave_core.steps.base import Outputs  # noqa: E402
from tinywave_core.storage.store import Store  # noqa: E402

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

Array = npt.NDArray[np.float64]

SETTINGS = {"adaptation.teacher": "fresh", "adaptation.fresh.layers": "8", "ingestion.held_out_fraction": "0.2"}
ON_LOGITS = LossWeightsConfig(hidden=0.0, attention=0.0)
OFF = "off-policy"
AT_ONCE = {"share": 0.5, "after_share": 0.0}
ARMS = {
    "forward, at the end": OnPolicyConfig(),
    "reverse, at the end": OnPolicyConfig(divergence="reverse"),
    "jensen-shannon, at the end": OnPolicyConfig(divergence="jensen_shannon"),
    "forward": OnPolicyConfig(divergence="forward", **AT_ONCE),
    "reverse": OnPolicyConfig(divergence="reverse", **AT_ONCE),
    "jensen-shannon": OnPolicyConfig(divergence="jensen_shannon", **AT_ONCE),
    "reverse, a quarter": OnPolicyConfig(divergence="reverse", after_share=0.0),
    "reverse, later": OnPolicyConfig(divergence="reverse", share=0.5, after_share=0.3),
    "sampled": OnPolicyConfig(divergence="reverse", form="sampled", drawn_every=1, **AT_ONCE),
}
MEASURES = ("own_kl", "kl", "nll", "repetition", "auto_bleu")
_RUN = 4  # tokens that were there before
_TIMED = 16  # steps by which the cost of one is measured: two times that the student speaks


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=str(ROOT / "examples" / "speech"), help="folder of audio")
    parser.add_argument("--root", default=str(ROOT / "store" / "on-policy"), help="store that is used again")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings on top of the preset demo")
    parser.add_argument(
        "--arms", nargs="*", default=[next(iter(ARMS))], choices=list(ARMS), help=f"default: {next(iter(ARMS))}"
    )
    parser.add_argument("--steps", type=int, default=300, help="of the off-policy student (default 300)")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts at most (default 64)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to FILE")
    options = parser.parse_args()
    settings = SETTINGS | dict(text.split("=", 1) for text in options.set)
    bench = Bench(settings | {"source": options.source, "root": options.root}, options.steps, options.prompts)
    arms = (OFF, *options.arms)
    seconds = {arm: bench.kept(f"seconds, {arm}", lambda arm=arm: bench.seconds_a_step(arm)) for arm in arms}
    for arm in options.arms:
        before = ARMS[arm].after_share
        seconds[arm] = before * seconds[OFF] + (1 - before) * seconds[arm]
    for arm in options.arms:
        print(f"a step of {arm} takes {seconds[arm] / seconds[OFF]:.2f} times the CPU time of one of {OFF}", flush=True)
    steps = {arm: round(options.steps * seconds[OFF] / seconds[arm]) for arm in arms}
    found: dict[str, list[Measured]] = {arm: [] for arm in steps}
    for seed in options.seeds:
        for arm, number in steps.items():
            found[arm].append(bench.student(arm, number, seed))
            print(f"seed {seed}, {arm}, {number} steps: {found[arm][-1].line()}", flush=True)
    lines, record = table(found, bench.recording())
    print("\n".join(["", *lines]))
    if options.json:
        options.json.write_text(json.dumps(record | {"steps": steps, "seconds": seconds}, indent=1), encoding="utf-8")


@dataclass(frozen=True)
class Measured:
    """Sums and counts of one model over each of U held-out utterances [U], by measure."""

    tops: dict[str, Array]
    bottoms: dict[str, Array]

    def as_lists(self) -> list[dict[str, list[float]]]:
        """For JSON."""
        return [{name: values.tolist() for name, values in side.items()} for side in (self.tops, self.bottoms)]

    def value(self, name: str) -> float:
        """The measure over all utterances."""
        return float(self.tops[name].sum() / self.bottoms[name].sum())

    def line(self) -> str:
        """All of them."""
        return ", ".join(f"{name} {self.value(name):.4f}" for name in self.tops)


class Bench:
    """One corpus and one teacher, students of some steps."""

    def __init__(self, settings: dict[str, str], steps: int, prompts: int) -> None:
        self.config = load_config("demo", settings)
        self.steps, self.prompts = steps, prompts

    @cached_property
    def shared(self) -> Outputs:
        """Tokens and teacher; computed if they are not there."""
        return run_pipeline(self.config, Store(self.config.root), until="adaptation")

    @cached_property
    def teacher(self) -> "LlamaForCausalLM":
        from tinywave_core.models.llama import load_llama

        return load_llama(self.shared["teacher"].path("teacher")).eval()

    @cached_property
    def allowed(self) -> list[int]:
        """Ids of speech."""
        from tinywave_core.tokenizers.allowed import allowed_ids
        from tinywave_core.tokenizers.directory import read_directory

        return allowed_ids(read_directory(self.shared["teacher"].path("teacher")), "speech")

    @cached_property
    def held_out(self) -> list[npt.NDArray[np.int64]]:
        """The first sequence of each held-out utterance that is longer than a prompt [L]."""
        from tinywave_core.sequences.index import load_sequences
        from tinywave_core.steps.inputs import held_out_shards

        length = self.config.distillation.training.sequence_length
        sequences = load_sequences(held_out_shards(self.shared["tokens"]), "held_out", length)
        first = {s.utterance_id: s.ids.astype(np.int64) for s in sorted(sequences, key=lambda s: s.id, reverse=True)}
        long = [ids for _, ids in sorted(first.items()) if len(ids) > OnPolicyConfig().prompt_tokens + 32]
        return long[: self.prompts]

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What an earlier run found under a name, or what is found now: a benchmark that was stopped goes on where it was."""
        path = Path(self.config.root, "benchmark", f"{name}.json")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = make()
            path.write_text(json.dumps(made), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def student(self, arm: str, steps: int, seed: int) -> Measured:
        """A student, trained and measured."""
        share = self.config.distillation.share
        name = f"{arm}, {share:g} of the speech, {steps} steps, seed {seed}, {self.prompts} prompts"
        found = self.kept(name, lambda: self.measured(self.trained(arm, steps, seed)).as_lists())
        return Measured(*({name: np.array(values) for name, values in side.items()} for side in found))

    def settings(self, arm: str, steps: int, seed: int, on_policy: OnPolicyConfig | None = None) -> DistillationConfig:
        """A student's: the same loss on training speech in all arms; `on_policy` in place of the arm's own."""
        training = self.config.distillation.training.model_copy(update={"steps": steps, "passes": None, "seed": seed})
        own = {"regime": "aligned"} if arm == OFF else {"regime": "on_policy", "on_policy": on_policy or ARMS[arm]}
        return DistillationConfig(
            layers=self.config.distillation.layers,
            share=self.config.distillation.share,
            weights=ON_LOGITS,
            logit_signal="live",
            training=training,
            **own,
        )

    def seconds_a_step(self, arm: str) -> float:
        """CPU seconds of one that learns from its own speech, without the first steps, which set up libraries."""
        times: list[float] = []
        now = None if arm == OFF else ARMS[arm].model_copy(update={"after_share": 0.0})
        self.trained(arm, 3 * _TIMED // 2, 0, lambda _: times.append(time.process_time()), checks=0, on_policy=now)
        return (times[-1] - times[-1 - _TIMED]) / _TIMED

    def trained(
        self,
        arm: str,
        steps: int,
        seed: int,
        on_step: Any = None,
        checks: int = 6,
        on_policy: OnPolicyConfig | None = None,
    ) -> "LlamaForCausalLM":
        """A student of the teacher's blocks after its training; `on_policy` in place of the arm's own."""
        from tinywave_core.losses.attention import IMPLEMENTATION
        from tinywave_core.models.llama import student_from
        from tinywave_core.progress import no_progress
        from tinywave_core.sequences.index import load_sequences
        from tinywave_core.stages.adaptation.teacher import training_parts, validation_of
        from tinywave_core.stages.distillation.student import share_of
        from tinywave_core.steps.inputs import training_shards
        from tinywave_core.teacher.layer_map import layer_map
        from tinywave_core.training.objective import DistillationObjective
        from tinywave_core.training.on_policy import OwnContinuations
        from tinywave_core.training.recipe import settle, tokens_of
        from tinywave_core.training.trainer import make_dataset, train
        from tinywave_core.training.validation import Validation

        config = self.settings(arm, steps, seed, on_policy)
        length = config.training.sequence_length
        sequences = load_sequences(training_shards(self.shared["tokens"]), "train", length)
        heard, validating = training_parts(sequences, validation_of(self.config))
        heard = share_of(heard, config.share)
        dataset = make_dataset(heard, config.training)
        training: TrainingConfig = settle(config.training, dataset, tokens_of(heard), "teacher's blocks")
        layers = layer_map(config.layer_map, self.teacher.config.num_hidden_layers, config.layers)
        student = student_from(self.teacher, layers)
        for model in (student, self.teacher):
            model.set_attn_implementation(IMPLEMENTATION)
        own = OwnContinuations(config.on_policy, dataset, self.allowed, training) if config.learns_from_itself else None
        how = self.config.validation.model_copy(update={"checks": checks or 1, "patience": 1000})
        checked = Validation.on(validating, length, how) if checks else None
        objective = DistillationObjective(config, layers, 1.0, self.teacher)
        with tempfile.TemporaryDirectory() as folder:
            runtime = RuntimeConfig(device="cpu", threads=1, checkpoint_every=10**6)
            train(
                student, dataset, objective, training, runtime, Path(folder, "resume"), no_progress,
                validation=checked, on_step=on_step, own=own,
            )  # fmt: skip
        student.set_attn_implementation("sdpa")
        self.teacher.set_attn_implementation("sdpa")
        return student.eval()

    def measured(self, student: "LlamaForCausalLM") -> Measured:
        """One student on the held-out speech."""
        import torch

        from tinywave_core.training.on_policy import Speaking, spoken

        own = OnPolicyConfig()
        prompts = np.stack([ids[: own.prompt_tokens] for ids in self.held_out])
        uniform = np.random.default_rng(0).random((len(prompts), own.new_tokens))
        said = spoken(student, Speaking(prompts, uniform, np.array(self.allowed), 1.0, whole=False)).tolist()
        new = [row[: row.index(2) + 1] if 2 in row else row for row in said]
        tops = {name: np.zeros(len(prompts)) for name in MEASURES}
        bottoms = {name: np.ones(len(prompts)) for name in MEASURES}
        for u, (ids, ours) in enumerate(zip(self.held_out, new, strict=True)):
            whole = np.concatenate([prompts[u], ours])
            log_p, log_q = (_log_probabilities(m, whole)[own.prompt_tokens - 1 :] for m in (self.teacher, student))
            tops["own_kl"][u], bottoms["own_kl"][u] = float((log_q.exp() * (log_q - log_p)).sum()), len(ours)
            log_p, log_q = (_log_probabilities(m, ids) for m in (self.teacher, student))
            tops["kl"][u], bottoms["kl"][u] = float((log_p.exp() * (log_p - log_q)).sum()), len(ids) - 1
            right = log_q.gather(-1, torch.from_numpy(ids[1:])[:, None])
            tops["nll"][u], bottoms["nll"][u] = -float(right.sum()), len(ids) - 1
            tops["repetition"][u], tops["auto_bleu"][u] = repetition(ours), _bleu(ours)
        return Measured(tops, bottoms)

    def recording(self) -> dict[str, float]:
        """Repetition and auto-BLEU of the recordings themselves."""
        own = OnPolicyConfig()
        parts = [ids[own.prompt_tokens :][: own.new_tokens].tolist() for ids in self.held_out]
        return {
            "repetition": float(np.mean([*map(repetition, parts)])),
            "auto_bleu": float(np.mean([*map(_bleu, parts)])),
        }


def _log_probabilities(model: "LlamaForCausalLM", ids: npt.NDArray[np.int64]) -> Any:
    """Of the next token at all places but the last [L - 1, V], in float64."""
    import torch

    with torch.no_grad():
        return torch.log_softmax(model(torch.from_numpy(ids)[None]).logits[0, :-1].double(), -1)


def repetition(ids: Sequence[int]) -> float:
    """Share of the runs of four tokens that were there before; 0 of fewer tokens."""
    runs = [tuple(ids[n : n + _RUN]) for n in range(len(ids) - _RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _bleu(ids: Sequence[int]) -> float:
    return auto_bleu(" ".join(f"t{i}" for i in ids)) or 0.0


def table(found: dict[str, list[Measured]], recording: dict[str, float]) -> tuple[list[str], dict[str, Any]]:
    """Figures of each arm, and its differences from off-policy."""
    lines, record = [], {"recording": recording}
    for name in MEASURES:
        lines.append(f"{name}" + (f" (recording {recording[name]:.4f})" if name in recording else ""))
        for arm, runs in found.items():
            top, bottom = (np.mean([getattr(m, side)[name] for m in runs], axis=0) for side in ("tops", "bottoms"))
            value = [float(top.sum() / bottom.sum()), *bootstrap_interval(top, bottom, 0)]
            text = f"  {arm:<20}{value[0]:.4f} [{value[1]:.4f}, {value[2]:.4f}]"
            record[f"{name}/{arm}"] = value
            if arm != OFF:
                gap = _gap(runs, found[OFF], name)
                text += f"   less {OFF}: {gap[0]:+.4f} [{gap[1]:+.4f}, {gap[2]:+.4f}]"
                record[f"{name}/{arm} less {OFF}"] = gap
            lines.append(text)
    return lines, record


def _gap(runs: list[Measured], others: list[Measured], name: str) -> list[float]:
    """The difference of two arms, each utterance against itself."""
    means = [np.mean([m.tops[name] / m.bottoms[name] for m in models], axis=0) for models in (runs, others)]
    gaps = means[0] - means[1]
    return [float(gaps.mean()), *bootstrap_interval(gaps, np.ones(len(gaps)), 0)]


if __name__ == "__main__":
    main()
