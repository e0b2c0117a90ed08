"""Tokens per second are bandwidth over bytes, and the presets' students are as large as they say."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flows.cli import main
from tinywave_core.config.load import load_config, preset_names
from tinywave_core.costs.ondevice import Student, expected, machine, read_bandwidth, student_of
from tinywave_core.models.trim import trim
from tinywave_core.tokenizers.vocabulary import SPIRITLM_BASE

PLAIN = Student("plain", "base", parameters=1_100_000_000, read=1_000_000_000, head=100_000_000)


@pytest.mark.parametrize(
    ("form", "gigabytes"), [("float32", 4.0), ("bf16", 2.0), ("q8_0", 1.0625), ("q4_0", 0.9 * 0.5625 + 0.1 * 1.0625)]
)
def test_bytes_per_token_are_worked_out_by_hand(form: str, gigabytes: float):
    assert PLAIN.bytes_per_token(form) == pytest.approx(gigabytes * 1e9)


def test_tokens_per_s_are_the_reached_share_of_the_bandwidth_over_the_bytes():
    assert PLAIN.tokens_per_s("q8_0", 50e9) == pytest.approx(0.6 * 50 / 1.0625, rel=0.02)


@pytest.mark.parametrize(("speed", "said"), [(20.9, "too slow"), (21, "real time"), (30, "comfortable")])
def test_real_time_is_as_many_tokens_as_speech_has(speed: float, said: str):
    assert PLAIN.verdict(speed) == said


def test_the_small_student_reads_at_most_0_9_billion_weights_per_token():
    config = load_config("small", {})
    shape = config.adaptation.fresh
    with torch.device("meta"):
        whole = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=SPIRITLM_BASE.rows,
                num_hidden_layers=config.distillation.layers,
                hidden_size=shape.width,
                intermediate_size=shape.intermediate,
            )
        )
    model, vocabulary, _ = trim(whole, SPIRITLM_BASE)
    read = sum(p.numel() for p in model.parameters()) - vocabulary.rows * shape.width
    assert config.distillation.vocabulary == "speech" and 0.8e9 < read <= 0.9e9
    assert student_of("small", config).read == read
    assert student_of("small", config).tokens_per_s("q4_0", 28e9) >= 30


def test_the_2b_student_is_real_time_in_4_bits_from_50_gb_per_s_on():
    student = student_of("base-2b", load_config("base-2b", {}))
    speeds = {row["form"]: row for row in expected([student], 60e9)}
    assert speeds["q4_0"]["verdict"] == "real time" and speeds["float32"]["verdict"] == "too slow"


def test_the_probe_reads_random_numbers_with_each_thread():
    probes = [read_bandwidth(threads, rounds=1) for threads in (1, 2)]
    assert all(1e8 < probe.bytes_per_s < 2e12 and probe.bytes_per_core_s > 1e8 for probe in probes)


def test_the_machine_says_what_it_is():
    assert machine()["cores"] >= 1


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]):
    assert main(["bench-device", "--threads", "1"]) == 0
    assert "tokens per s" in (table := capsys.readouterr().out) and "small" in table
    assert main(["bench-device", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["students"]) == 4 * len(preset_names()) and found["bandwidth"][0]["threads"] == 1


def test_a_wrong_number_of_threads_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["bench-device", "--threads", "-1"]) == 2
    assert "expected 1 to 256" in capsys.readouterr().err
