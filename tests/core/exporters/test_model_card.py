"""The model card: front matter that is YAML, figures with their intervals, and no section for what was not computed."""

import re
from dataclasses import replace

import pytest
import yaml
from markdown_it import MarkdownIt

from tests.fixtures.markup import MARKUP
from tests.fixtures.small_run import SUMMARIES
from tinywave_core.config.distillation import DistillationConfig, OnPolicyConfig
from tinywave_core.escaping import visible
from tinywave_core.exporters.licence import FAIR_LINK, FAIR_NAME, Licence
from tinywave_core.exporters.model_card import Card, Data, model_card
from tinywave_core.stages.evaluation.summary import GeneratedSummary, ProbeScoresSummary, ScoresSummary
from tinywave_core.tokenizers.trained_on import TrainedOn
from tinywave_core.tokenizers.vocabulary import SPIRITLM_EXPRESSIVE

FRESH = Licence("The teacher was trained from random weights.")
FAIR = Licence("The teacher is SpiritLM's.", "other", FAIR_NAME, FAIR_LINK)
SCORES = ScoresSummary.model_validate(SUMMARIES["scores"])
CARD = Card(
    name='a "name": with marks',
    student=SUMMARIES["student"],
    vocabulary=SPIRITLM_EXPRESSIVE,
    trained=TrainedOn(speech=5_600),
    scores=SCORES,
    data=Data(hours=12.34, utterances=5_600, recordings=78),
    licence=FRESH,
    lineage={"student": "distillation/aa", "teacher": "adaptation/bb"},
    probes=ProbeScoresSummary.model_validate(SUMMARIES["probe_scores"]).probes,
    generated=GeneratedSummary.model_validate(SUMMARIES["generated"]),
)


def head(card: Card) -> dict:
    return yaml.safe_load(model_card(card).split("---\n")[1])


@pytest.fixture(scope="module")
def text() -> str:
    return model_card(CARD)


def test_front_matter_names_the_model_and_its_metrics():
    (model,) = head(CARD)["model-index"]
    assert model["name"] == CARD.name
    metrics = {metric["name"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert metrics["probe: speaker swap"] == 0.65 and metrics["generative perplexity"] == 180.0
    assert metrics["perplexity per token after the prompt"] == 22.0


def test_only_a_known_licence_is_claimed():
    assert not {"license", "license_name", "license_link", "base_model", "language"} & head(CARD).keys()
    claimed = head(replace(CARD, licence=FAIR))
    assert (claimed["license"], claimed["license_name"], claimed["license_link"]) == ("other", FAIR_NAME, FAIR_LINK)


def test_figures_stand_with_their_intervals(text: str):
    assert "| 3.300 (3.200 to 3.400) | 1.031 (1.021 to 1.041) |" in text
    assert "What comes after a prompt of 3 s, in 12 utterances of 6 s and more:" in text
    assert "| 3.200 (3.000 to 3.400) | 1.105 (1.005 to 1.205) |" in text
    assert "| speaker swap | 40 | 32 of 40 (" in text and "| 50% (" in text
    assert "| 180.0 (170.0 to 190.0) | 1.200 (1.100 to 1.300) | 5.0% (4.0% to 6.0%) | 1 of 20 |" in text


def test_a_student_that_was_made_otherwise_says_so(text: str):
    plain = DistillationConfig().model_dump(mode="json")
    assert model_card(replace(CARD, settings=plain)) == text
    own = DistillationConfig(regime="on_policy", width=64, start="fresh", on_policy=OnPolicyConfig(share=0.25))
    told = model_card(replace(CARD, settings=own.model_dump(mode="json")))
    for words in (
        "It is 64 channels wide",
        "Its weights were random",
        "In 25% of the rows it learned from what it said itself, which the teacher scored (on-policy), after the first 60% of the steps.",
    ):
        assert words in told and words not in text
    own = DistillationConfig(regime="on_policy", on_policy=OnPolicyConfig(after_share=0.0))
    assert "scored (on-policy).\n" in model_card(replace(CARD, settings=own.model_dump(mode="json")))
    tuned = DistillationConfig.model_validate({"preference": {"share": 0.5, "judge": "rating"}})
    told = model_card(replace(CARD, settings=tuned.model_dump(mode="json"), tuned="It predicts worse."))
    assert (
        "tuned by preference (DPO) on its own continuations, ranked by the judge `rating`. It predicts worse." in told
    )
    assert "it was a student of another run" in model_card(replace(CARD, settings={"start": "given"}))


@pytest.mark.parametrize(
    ("trained", "asked"),
    [
        (TrainedOn(speech=9), "audio=samples, sampling_rate=rate, return_tensors"),
        (TrainedOn(speech=9, mixed=9), "audio=samples, sampling_rate=rate, return_tensors"),
        (TrainedOn(text=9), 'text="Once upon a time", output="text", return_tensors'),
    ],
)
def test_the_example_in_plain_transformers_asks_for_what_the_model_was_trained_on(trained: TrainedOn, asked: str):
    _, plain, _ = re.findall(r"```python\n(.*?)```", model_card(replace(CARD, trained=trained)), re.DOTALL)
    compile(plain, "card", "exec")
    assert f"processor({asked}" in plain and ("decode_audio" in plain) == ("speech" in trained.outputs)


def test_guessing_and_counts_stand_below_the_models(text: str):
    models = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.endswith(" |")][2:10]
    assert models == [
        "Teacher",
        "This student",
        "Undistilled control",
        "Guessing",
        "Counts of single tokens",
        *(f"Counts of {order} tokens" for order in (2, 3, 4)),
    ]
    assert "| Guessing | – | 6.000 | – | 20.0 |" in text
    assert "| Counts of 3 tokens | – | 4.000 (3.900 to 4.100) | – |" in text


def test_a_perplexity_that_no_number_holds_is_said_in_words():
    """A student that diverged: evaluation gives None there."""
    diverged = SCORES.models["student"].model_copy(update={"perplexity": None, "perplexity_interval": None})
    scores = SCORES.model_copy(update={"models": SCORES.models | {"student": diverged}})
    text = model_card(replace(CARD, scores=scores))
    assert "| too large |" in text
    assert "perplexity per token" not in {
        m["name"] for m in yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]["metrics"]
    }


def test_what_was_not_computed_has_no_section():
    nothing_after = SCORES.continuation.model_copy(update={"models": {}, "ratios": {}})
    short = SCORES.model_copy(update={"continuation": nothing_after})
    bare = model_card(replace(CARD, scores=short, probes={}, generated=None))
    assert not [word for word in ("Pairs of recordings", "Sampled continuations", "after a prompt") if word in bare]
    assert "| This student |" in bare and "| Undistilled control |" in bare


def test_data_and_lineage_are_told_and_that_licences_are_not_known(text: str):
    assert "12.3 hours of speech: 5,600 utterances of 78 recordings" in text
    assert "no record of their licences" in text
    assert "- student: `distillation/aa`" in text


def test_who_passes_a_student_of_spiritlm_on_is_told_to_add_the_licence():
    assert "put a copy of it beside this card" in model_card(replace(CARD, licence=FAIR))
    assert "a copy lies beside this card" in model_card(replace(CARD, licence=replace(FAIR, link="LICENSE")))


@pytest.mark.parametrize("hostile", [*MARKUP, "a\n---\nlicense: mit\n\n# b", "\x1b[2J\u202ea"])
def test_what_a_teacher_and_its_licence_call_themselves_is_text(hostile: str):
    """Read as a hub does, by markdown-it: the only links, code and emphasis are those of the card of plain words."""
    claimed = Licence(f"The teacher's README says {hostile}.", hostile, hostile, hostile, hostile)
    card = replace(CARD, name=hostile, licence=claimed)
    plain = replace(
        CARD, name="word", licence=Licence("The teacher's README says word.", "word", "word", "word", "word")
    )
    _, front, body = model_card(card).split("---\n", 2)
    values = yaml.safe_load(front)
    assert [values[name] for name in ("license", "license_name", "license_link", "base_model")] == [hostile] * 4
    assert values["model-index"][0]["name"] == hostile
    assert kinds(body) == kinds(model_card(plain).split("---\n", 2)[2])
    assert visible(model_card(card)) == model_card(card)


def kinds(body: str) -> list[str]:
    """Everything in a page of Markdown but its plain text."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(body)
    inner = [child.type for token in tokens for child in token.children or ()]
    return [token.type for token in tokens] + [kind for kind in inner if kind not in ("text", "text_special")]
