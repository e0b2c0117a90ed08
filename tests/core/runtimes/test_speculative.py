"""With a drafter both runtimes draw from the model's own distribution, and say how much of what was drafted they kept."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures.gguf_model import VOCABULARY, write_model
from tinywave_core.errors import CheckpointError
from tinywave_core.models.llama import load_llama, save_llama
from tinywave_core.runtimes.base import DRAFTED, RUNTIMES, Runtime, Sampling
from tinywave_core.runtimes.opening import open_runtime
from tinywave_core.runtimes.speculative import settle
from tinywave_core.runtimes.transformers_runtime import TransformersRuntime, probabilities
from tinywave_core.tokenizers.allowed import allowed_ids
from tinywave_core.tokenizers.vocabulary import Vocabulary

pytestmark = pytest.mark.arithmetic

SMALL = Vocabulary(text=259, hubert=4, pitch=0, style=0).speech_only()
PROMPT = [*SMALL.prompt_ids(SMALL.speech_marker), SMALL.speech_ids()[0]]
DRAWN = Sampling(temperature=0.7, top_p=0.97, max_new_tokens=4, min_new_tokens=4)
MEASURED = 2  # tokens of each continuation whose distribution is compared
TIMES = 250
RARE = 1e-4  # how often a right answer would fail, if the seeds were not fixed


def surprise(counts: Mapping[object, int], expected: Mapping[object, float]) -> float:
    """Pearson's chi-square of counts against probabilities, in standard deviations; outcomes below 5 expected are taken together."""
    total = sum(counts.values())
    often = [key for key, p in expected.items() if p * total >= 5]
    found = np.array([counts.get(key, 0) for key in often] + [0.0])
    wanted = np.array([expected[key] * total for key in often] + [0.0])
    found[-1], wanted[-1] = total - found.sum(), max(total - wanted.sum(), 1e-9)
    if wanted[-1] < 1:
        assert found[-1] < 8, "too many of what hardly ever occurs"
        found, wanted = found[:-1], wanted[:-1]
    degrees = len(found) - 1
    # Wilson and Hilferty 1931: the cube root of a chi-square is nearly normal.
    chi_square = ((found - wanted) ** 2 / wanted).sum()
    return float(((chi_square / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / (2 / (9 * degrees)) ** 0.5)


TOO_MUCH = 3.72  # standard deviations, one-sided: RARE


# The rule ------------------------------------------------------------------------------------------------------------

DRAFTER = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
TARGET = torch.tensor([[0.4, 0.3, 0.3, 0.0], [0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.45, 0.45]])


@cache
def settled() -> list[tuple[list[int], int]]:
    generator = torch.Generator().manual_seed(5)
    drafted = torch.stack([torch.multinomial(row, 2000, replacement=True, generator=generator) for row in DRAFTER], 1)
    return [settle(pair, DRAFTER, TARGET, generator) for pair in drafted.tolist()]


def test_each_token_that_stands_has_the_targets_distribution():
    stand = [tokens for tokens, _ in settled()]
    for place, target in enumerate(TARGET):
        counts = Counter(tokens[place] for tokens in stand if len(tokens) > place)
        assert surprise(counts, dict(enumerate(target.tolist()))) < TOO_MUCH
    together = Counter((tokens[0], tokens[1]) for tokens in stand if len(tokens) > 1)
    assert not any(first == 3 for first, _ in together)  # the target never says it


def test_as_much_is_kept_as_both_distributions_have_in_common():
    kept = [kept for _, kept in settled()]
    # Sum of the smaller of both: 0.1 + 0.2 + 0.3 + 0 and 0.25 + 0.1 + 0.1 + 0.1, of 2,000.
    assert np.mean([n >= 1 for n in kept]) == pytest.approx(0.6, abs=0.04)
    assert np.mean([n == 2 for n in kept]) == pytest.approx(0.6 * 0.55, abs=0.04)
    assert all(len(tokens) == n + 1 for tokens, n in settled()[:50])


def test_rounding_that_leaves_nothing_above_the_drafter_falls_back_on_the_target():
    drafter, target = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.5], [0.0, 1.0]])
    generator = torch.Generator().manual_seed(0)
    found = Counter(tuple(settle([0], drafter, target, generator)[0]) for _ in range(200))
    assert set(found) == {(0, 1), (0,), (1,)}  # kept; or drawn anew from the target's row


# Both runtimes -------------------------------------------------------------------------------------------------------


def unsure(folder: Path, seed: int) -> Path:
    """A model of few units that is less sure of them than random weights are, with its GGUF file."""
    from tinywave_core.exporters.gguf import write_gguf

    write_model(folder, SMALL, ("f16",), seed)
    model = load_llama(folder)
    with torch.no_grad():
        model.lm_head.weight *= 0.6
    save_llama(model, folder)
    write_gguf(folder, SMALL, folder / "tiny-f16.gguf", "f16", "tiny")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("speculative")
    return unsure(root / "target", 0), unsure(root / "drafter", 1)


@pytest.fixture(scope="module", params=RUNTIMES)
def drafting(request: pytest.FixtureRequest, folders: tuple[Path, Path]) -> Iterator[Runtime]:
    opened = open_runtime(folders[0], request.param, device="cpu", threads=1, drafter=folders[1])
    yield opened
    opened.close()


def distribution(folder: Path) -> dict[object, float]:
    """Of the first MEASURED new tokens, by the model's own scores and no runtime."""
    model, ids = load_llama(folder).eval(), [i for i in allowed_ids(SMALL, "speech") if i != 2]  # </s> comes later
    found = {}
    for new in product(ids, repeat=MEASURED):
        with torch.inference_mode():
            scores = model(torch.tensor([[*PROMPT, *new]])).logits[0, len(PROMPT) - 1 : -1, ids]
        rows = [probabilities(row, DRAWN) for row in scores]
        found[new] = float(np.prod([row[ids.index(i)] for row, i in zip(rows, new, strict=True)]))
    return found


def made(runtime: Runtime, seeds: Sequence[int]) -> Counter[object]:
    streams = (runtime.stream(PROMPT, Sampling(**{**vars(DRAWN), "seed": seed}), "speech") for seed in seeds)
    return Counter(tuple(stream)[:MEASURED] for stream in streams)


@pytest.mark.one_machine  # counts tokens
def test_continuations_have_the_models_own_distribution_and_not_the_drafters(drafting: Runtime, folders):
    counts = made(drafting, range(TIMES))
    assert surprise(counts, distribution(folders[0])) < TOO_MUCH
    assert surprise(counts, distribution(folders[1])) > 2 * TOO_MUCH
    assert drafting.drafting is not None
    assert 0.2 < (drafting.drafting.share or 0) < 0.95


@pytest.mark.one_machine  # two ids can be a rounding apart
def test_the_likeliest_tokens_are_those_without_a_drafter(drafting: Runtime, folders):
    likeliest = Sampling(1e-3, 1.0, 40, 40)
    alone = open_runtime(folders[0], drafting.name, device="cpu", threads=1)
    assert list(drafting.stream(PROMPT, likeliest, "speech")) == list(alone.stream(PROMPT, likeliest, "speech"))
    alone.close()


def test_a_model_that_drafts_for_itself_keeps_all_and_needs_no_more_of_the_drafter_than_of_itself(folders):
    model = load_llama(folders[0])
    runtime = TransformersRuntime(model, SMALL, drafter=load_llama(folders[0]))
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    model.register_forward_hook(count)
    # A token is dropped where rounding makes two equal numbers differ and a draw of 24 bits falls between: never here.
    assert len(list(runtime.stream(PROMPT, Sampling(max_new_tokens=16, min_new_tokens=16), "speech"))) == 16
    assert passes == 16 / (DRAFTED + 1)
    assert runtime.drafting is not None and runtime.drafting.share == 1 and runtime.drafting.drafted == 12


def test_a_runtime_without_a_drafter_counts_nothing(folders):
    assert open_runtime(folders[0], "transformers", device="cpu").drafting is None


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_drafter_of_other_tokens_is_refused_with_both_vocabularies(name, folders, gguf_folder: Path):
    with pytest.raises(
        CheckpointError, match=r"the drafter .* has the vocabulary .*'hubert': 30.* the model .*'hubert': 4"
    ):
        open_runtime(folders[0], name, drafter=gguf_folder)
    assert VOCABULARY.hubert == 30


@pytest.mark.one_machine  # about files
def test_a_folder_without_a_drafter_is_refused(folders, tmp_path: Path):
    with pytest.raises(CheckpointError, match=f"{tmp_path.name} has no config.json"):
        open_runtime(folders[0], "transformers", drafter=tmp_path)
