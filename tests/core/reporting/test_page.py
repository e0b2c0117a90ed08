"""The report: self-contained, escaped, honest, and whole even when much of a run is absent."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.small_run import SUMMARIES, small_run
from tinywave_core.config.pipeline import STAGES
from tinywave_core.reporting import page as page_module
from tinywave_core.reporting.page import render_report, settings, stage_edges
from tinywave_core.run.record import Outputs, RunRecord
from tinywave_core.stages.evaluation.summary import ProbeScoresSummary, ScoresSummary
from tinywave_core.stages.evaluation.words import (
    comparison_rows,
    continuation_text,
    likelihood_rows,
    nll_by_kind,
    probe_rows,
    verdict,
)
from tinywave_core.stages.ingestion.words import rejects
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.stages.tokenization.words import drift_text
from tinywave_core.wording import OVER_TEACHER, right, share

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags in order, open ones, and every URL."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert (self.open or [""]).pop() == tag, f"</{tag}> closes nothing"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Outputs]:
    return small_run(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def html(run: tuple[RunRecord, Outputs]) -> str:
    return render_report(*run)


def scores(**comparison: Any) -> dict[str, Any]:
    base = SUMMARIES["scores"]
    return base | {"comparison": base["comparison"] | comparison}


typed = ScoresSummary.model_validate


AT_CHANCE = {
    "ratio": 0.9,
    "ratio_interval": None,
    "above_chance": None,
    "above_chance_interval": None,
    "why": "the teacher's 52.0% over 60 items cannot be told from chance (50%)",
}


def without_cloze() -> dict[str, Any]:
    base = SUMMARIES["scores"]
    models = {name: {k: v for k, v in m.items() if "cloze" not in k} for name, m in base["models"].items()}
    comparison = {k: v for k, v in base["comparison"].items() if "cloze" not in k}
    return base | {"models": models, "comparison": comparison, "held_out": base["held_out"] | {"cloze_items": 0}}


def test_every_tag_is_closed_and_nothing_runs(html: str):
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags


def test_the_page_needs_no_network_and_no_file(html: str):
    assert {url.split(":")[0] for url in Page(html).urls if not url.startswith("#")} == {"data"}
    assert not re.search(r"url\(|@import|https?://", html)


def test_the_verdict_comes_first_and_every_link_leads_somewhere(html: str):
    assert html.index('class="verdict"') < html.index("<table") < html.index("<nav") < html.index("<h2>")
    ids, links = re.findall(r' id="([^"]+)"', html), [url[1:] for url in Page(html).urls if url.startswith("#")]
    assert len(ids) == len(set(ids)) and set(links) <= set(ids)
    sections = re.findall(r'<section id="(\w+)"', html)
    assert (
        links[links.index("listen") :][: len(sections) - 1] == sections[1:]
    )  # the list of contents, all but the verdict


def test_detail_is_folded_under_headings_that_leave_out_no_level(html: str):
    shown = re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    assert shown.count("<details>") == 0 and shown.count("<table") == 1 and shown.count("<audio") == 3
    levels = [int(level) for level in re.findall(r"<h(\d)", html)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert max(after - before for before, after in pairwise(levels)) == 1
    assert not re.findall(r"<details>(?!<summary>)", html)


def test_every_player_knows_its_length_before_it_plays_and_says_it(html: str):
    players = re.findall(r'<audio controls preload="metadata" aria-label="[^"]+, (\d+\.\d) seconds"', html)
    assert len(players) == html.count("<audio")
    titles = re.findall(r'<div class="title">[^<]*?, (\d+\.\d) s', html)
    assert sorted(titles) == sorted(players) and {"1.0", "2.5", "2.0"} == set(titles)


def test_a_warning_stands_above_the_verdict_and_claims_apart_from_their_figures(run: tuple[RunRecord, Outputs]):
    record, outputs = run
    warned = record.promotion.model_copy(update={"warning": "is worse than its undistilled control: 3.5"})
    found = page_module.verdict_lines(record.model_copy(update={"promotion": warned}), outputs)
    assert page_module.claim_and_figures(found[0]) == (
        "Warning: the published student is worse than its undistilled control.",
        "3.5.",
    )
    assert page_module.claim_and_figures(found[-1])[0] == "Published: the first student of this store."
    assert page_module.claim_and_figures("One claim: its figure.") == ("One claim.", "Its figure.")


def test_sections_come_in_order(html: str):
    assert re.findall(r'<section id="(\w+)"', html) == [
        "headline",
        "listen",
        "scores",
        "probes",
        "generated",
        "sound",
        "units",
        "stages",
        "data",
        "curves",
        "lineage",
        "glossary",
    ]


def test_paths_and_transcripts_are_text(html: str):
    assert "&lt;script&gt;alert(0)&lt;/script&gt;.wav" in html
    assert "he said &lt;i&gt;so&lt;/i&gt; &amp; left" in html
    assert "speech/&lt;b&gt;of mine&lt;/b&gt;" in html


def section(html: str, name: str) -> str:
    return html.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def test_each_sample_has_three_players_and_pictures(html: str):
    listen = section(html, "listen")
    assert listen.count("<audio controls") == listen.count('src="data:audio/mpeg;base64,') == 6
    assert listen.count('src="data:image/png;base64,') == 6


def test_two_pairs_of_each_probe_have_players_with_their_splice(html: str):
    probes = section(html, "probes")
    assert probes.count("<audio controls") == probes.count('style="left:50.00%"') == 4
    assert "Wrong: another &lt;b&gt;speaker&lt;/b&gt;" in probes


def test_probes_are_told_above_chance_and_with_paired_tests(html: str):
    probes = section(html, "probes")
    assert "26 of 40 (50% to 78%)" in probes  # Wilson's interval of 26 of 40: 49.5 % to 77.9 %
    assert ">50% (" in probes and "81%" not in probes  # (65 - 50) / (80 - 50), not 65 / 80
    assert "6 and 0 pairs (p = 0.031)" in probes
    assert "no gender swap: nobody said who is a &lt;woman&gt;" in probes


def test_a_run_without_probes_has_no_section_for_them(run: tuple[RunRecord, Outputs]):
    record, outputs = run
    without = {part: artifact for part, artifact in outputs.items() if not part.startswith("probe")}
    assert '<section id="probes">' not in render_report(record, without)


def test_likelihood_is_told_by_stream_after_a_prompt_and_beside_the_teacher(html: str):
    headline = section(html, "scores")
    assert "12 utterances of at least 6 s, whose first 3 s are the prompt" in headline
    assert 'data-label="bits per second, units"' in headline and "hubert" not in headline
    assert "90.0 (85.0 to 95.0)" in headline and "3.200 (3.000 to 3.400)" in headline
    assert "1.031 (1.021 to 1.041)" in headline and "1.105 (1.005 to 1.205)" in headline


def test_the_stream_of_units_and_the_control_have_names_for_people():
    kinds, bars = nll_by_kind(typed(SUMMARIES["scores"]))
    assert kinds == ["units", "pitch", "style"]
    assert [(series.label, series.colour) for series in bars][-2] == ("undistilled control", "control")
    assert comparison_rows(typed(SUMMARIES["scores"]))[2]["model"] == "Undistilled control"


def test_what_the_counts_reach_is_a_line_across_the_bars_of_each_kind():
    _, bars = nll_by_kind(typed(SUMMARIES["scores"]))
    assert [series.as_line for series in bars] == [False, False, False, True]
    assert (bars[-1].label, bars[-1].values) == ("counts of 3 tokens", [4.5, 3.7, 3.9])


def test_a_teacher_that_is_certain_leaves_no_ratio_and_has_none_itself():
    ratio = SUMMARIES["scores"]["ratios"]["student"] | {"nll": None, "nll_interval": None}
    certain = SUMMARIES["scores"] | {"ratios": {"student": ratio, "control": ratio}}
    assert [row[OVER_TEACHER] for row in likelihood_rows(typed(certain))][:3] == ["1", "–", "–"]


def test_speech_too_short_for_a_prompt_is_said_so(run: tuple[RunRecord, Outputs]):
    found = SUMMARIES["scores"]["continuation"] | {"models": {}, "ratios": {}}
    base = SUMMARIES["scores"] | {"continuation": found}
    assert continuation_text(typed(base)).startswith("No held-out utterance has 6 s")
    assert not [name for row in likelihood_rows(typed(base)) for name in row if "after" in name]


def test_continuations_are_told_as_text_with_intervals_and_what_was_not_heard(html: str):
    generated = section(html, "generated")
    assert "180.0 (170.0 to 190.0)" in generated and "1.200 (1.100 to 1.300)" in generated
    assert "How it really went on" in generated and "5.0% (4.0% to 6.0%)" in generated
    assert "student said &lt;b&gt;3&lt;/b&gt;" in generated and "said &lt;b&gt;4" not in generated
    assert ">nothing</td>" in generated
    assert "2.60 (2.50 to 2.70)" in generated and "2 no digit, 1 no words" in generated and "0 of 20" in generated
    assert "Student less teacher" in generated and "-0.80 (-0.90 to -0.70)" in generated


def test_a_run_without_judges_has_no_section_for_continuations(run: tuple[RunRecord, Outputs]):
    record, outputs = run
    without = {part: artifact for part, artifact in outputs.items() if part != "generated"}
    assert '<section id="generated">' not in render_report(record, without)


def test_how_it_sounds_stands_with_what_a_judge_cannot_say_and_which_one_is_absent(run: tuple[RunRecord, Outputs]):
    record, outputs = run
    sound = section(render_report(record, outputs), "sound")
    assert "1.60 (1.50 to 1.70)" in sound and "45.0% (44.0% to 46.0%), 10 of 100 words" in sound
    assert "MOS alone rewards a smooth wrong voice" in sound and "continued by undistilled control" in sound
    assert "Absent: likeness of voices (--evaluation.judges.speaker_model DIR" in sound
    unheard = {part: artifact for part, artifact in outputs.items() if part != "judges"}
    assert "How it sounds was not judged. Absent: DNSMOS (pip install" in re.sub(
        "</?a[^>]*>", "", section(render_report(record, unheard), "sound")
    )


def test_what_the_units_are_worth_stands_with_what_could_not_be_measured(html: str):
    units = section(html, "units")
    assert "75.0% (60.0% to 90.0%), chance 50.0% of 2" in units and "19.5 (19.0 to 20.0)" in units
    assert "No figures of phones: only words have &lt;times&gt;" in units and "no transcript 7" in units


def test_a_page_grows_no_further_than_a_phone_can_open(run: tuple[RunRecord, Outputs], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page_module, "MAX_EMBEDDED_BYTES", 1)
    page = render_report(*run)
    assert section(page, "listen").count("<audio") == 3
    assert section(page, "probes").count("<audio") == 2
    assert "1 more in the store" in page


def test_the_first_fifty_rejects_are_listed_and_the_rest_is_counted(html: str):
    assert html.count("rejected: undecodable") == 50
    assert "and 10 more" in html


def test_accepted_files_are_not_among_the_rejects(run: tuple[RunRecord, Outputs]):
    assert len(rejects(run[1]["corpus"])) == 60


def test_changed_settings_are_marked_and_explained(run: tuple[RunRecord, Outputs]):
    by_name = {s.name: s for s in settings(run[0].config)}
    assert {name for name, s in by_name.items() if s.changed} == {"source", "root"}
    assert by_name["distillation.training.learning_rate"].help == "Peak learning rate."


def test_the_dag_is_what_the_manifests_say(run: tuple[RunRecord, Outputs]):
    edges = stage_edges(run[1]["corpus"].store, run[0].rows)
    assert {start for start, _ in edges} | {end for _, end in edges} == set(STAGES)
    assert ("logit_caching", "distillation") in edges
    assert ("logit_caching", "evaluation") not in edges


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": {"pitch_histogram": [], "style_histogram": [], "drift": {}}},
        {"scores": without_cloze()},
        {"logits": {"kinds": {}}},
        {"corpus": {"reasons": {}}},
        {"scores": scores(nll_gap_closed=None, cloze_retention=AT_CHANCE)},
    ],
    ids=["base tokens", "no cloze", "no targets", "no rejects", "no gap"],
)
def test_what_is_absent_is_left_out(tmp_path: Path, changes: dict[str, Any]):
    assert Page(render_report(*small_run(tmp_path, **changes))).open == []


def test_a_perplexity_that_no_number_holds_is_said_in_words(tmp_path: Path):
    """A student that diverged: evaluation gives None there."""
    base = SUMMARIES["scores"]
    diverged = base["models"]["student"] | {"perplexity": None, "perplexity_interval": None}
    changed = base | {"models": base["models"] | {"student": diverged}}
    assert [row["perplexity"] for row in comparison_rows(typed(changed))][:3] == ["20.0", "too large", "20.0"]
    assert "too large" in render_report(*small_run(tmp_path, scores=changed))


def test_a_gain_beyond_noise_is_called_help():
    standing, gain, *_ = verdict(typed(scores()))
    assert gain.startswith("Distillation helped beyond noise")
    assert standing == (
        "The student is better than a table of counts: 3.300 nats per token on held-out speech, "
        "counts of 3 tokens in its training speech 4.000 (difference -0.700, 95% interval -0.750 to -0.650, paired over 20 held-out "
        "recordings)."
    )


def test_a_gain_whose_interval_holds_zero_is_called_noise():
    sentences = verdict(typed(scores(distillation_gain_nll=0.02, distillation_gain_nll_interval=[-0.01, 0.05])))
    assert "better than a table of counts" in sentences[0] and "control" not in sentences[0]
    assert "within noise" in sentences[1]
    assert "within noise" in sentences[2]


def test_a_gain_over_a_handful_of_recordings_proves_nothing():
    base = scores()
    few = verdict(typed(base | {"floors": base["floors"] | {"recordings": 2}}))
    assert "too little held-out speech" in few[1]
    assert "within noise" in few[2]


def test_one_recording_is_told_as_one_and_gives_no_intervals(tmp_path: Path):
    base = scores(distillation_gain_nll_interval=[0.1, 0.1])
    one = base | {"held_out": base["held_out"] | {"recordings": 1, "utterances": 1}}
    one |= {"floors": base["floors"] | {"recordings": 1}}
    one["models"] = {name: m | {"nll_interval": [m["nll"]] * 2} for name, m in base["models"].items()}
    text = " ".join(re.sub("<[^>]*>", "", render_report(*small_run(tmp_path, scores=one))).split())
    assert "1 recording, 1 utterance" in text and "One recording gives no intervals." in text
    assert not [sentence for sentence in verdict(typed(one)) if "interval" in sentence]
    assert [row["NLL, nats per token"] for row in comparison_rows(typed(one))][:2] == ["3.200", "3.300"]


def test_a_loss_beyond_noise_is_called_harm():
    hurt = scores(distillation_gain_nll=-0.2, distillation_gain_nll_interval=[-0.3, -0.1], nll_gap_closed=-0.8)
    assert "hurt beyond noise" in verdict(typed(hurt))[1]
    assert "further from the teacher" in verdict(typed(hurt))[2]


def test_harm_done_by_preference_tuning_is_not_called_distillations():
    hurt = scores(distillation_gain_nll=-0.2, distillation_gain_nll_interval=[-0.3, -0.1], nll_gap_closed=-0.8)
    told = verdict(typed(hurt), None, "The tuned student predicts held-out speech worse than before: NLL +0.4.")
    assert told[1].startswith("Distillation with preference tuning hurt beyond noise")
    assert told[2] == "The tuned student predicts held-out speech worse than before: NLL +0.4."


def below(model: str, *, guessing: tuple[float, float, float], counts: tuple[float, float, float]) -> list[str]:
    """The verdict where a model is so far above guessing and above the counts, each with its interval."""
    base = scores()
    floors = dict(base["floors"])
    for floor, (nll, low, high) in {"above_guessing": guessing, "above_counts": counts}.items():
        floors[floor] = floors[floor] | {model: {"nll": nll, "interval": [low, high]}}
    return verdict(typed(base | {"floors": floors}))


def test_a_student_worse_than_guessing_is_told_so_first():
    first, second, *_ = below("student", guessing=(0.4, 0.3, 0.5), counts=(2.4, 2.3, 2.5))
    assert first == (
        "The student is worse than guessing: 3.300 nats per token on held-out speech, a guess among all ids 6.000 (difference +0.400, "
        "95% interval +0.300 to +0.500, paired over 20 held-out recordings)."
    )
    assert second.startswith("Distillation helped")


def test_a_student_worse_than_counts_is_told_so_first():
    first, *_ = below("student", guessing=(-0.8, -0.9, -0.7), counts=(1.2, 1.1, 1.3))
    assert first.startswith(
        "The student is worse than a table of counts: 3.300 nats per token on held-out speech, counts of 3"
    )
    assert "4.000 (difference +1.200, 95% interval +1.100 to +1.300" in first


@pytest.mark.parametrize("nll", [-0.1, 0.1])
def test_a_student_whose_interval_holds_the_floor_is_not_shown_to_be_better(nll: float):
    first, *_ = below("student", guessing=(-2, -2.1, -1.9), counts=(nll, nll - 0.2, nll + 0.2))
    assert first.startswith("The student is not shown to be better than a table of counts")
    assert not any(
        "is better than a table" in sentence
        for sentence in below("student", guessing=(0.1, -0.2, 0.3), counts=(0, -1, 1))
    )


def test_a_teacher_worse_than_counts_has_a_sentence_of_its_own():
    student, teacher, *_ = below("teacher", guessing=(-0.8, -0.9, -0.7), counts=(1.2, 1.1, 1.3))
    assert student.startswith("The student is better than a table of counts")
    assert teacher.startswith("The teacher is worse than a table of counts: 3.200")
    assert teacher.endswith("Such a teacher has nothing to teach.")
    assert not [said for said in verdict(typed(scores())) if said.startswith("The teacher")]


def test_a_student_better_than_its_teacher_is_said_to_be():
    assert "better than its teacher" in verdict(typed(scores(student_is_better_than_teacher=True)))[2]


def test_cloze_of_a_teacher_at_chance_means_nothing():
    said = verdict(typed(scores(cloze_retention=AT_CHANCE)))[3]
    assert (
        "says nothing of what the student kept: the teacher's 52.0% over 60 items cannot be told from chance (50%)"
        in said
    )
    assert "the student has 45 of 60 right" in said


def test_what_is_kept_and_closed_has_its_interval():
    _, _, gap, cloze = verdict(typed(scores()))
    assert (
        gap
        == "Distillation closed 60% of the gap between the undistilled control and the teacher: 95% interval 40% to 80%."
    )
    assert (
        "keeps 83% of the teacher's lead over chance, within noise of its undistilled control: 95% interval 50% to 110%"
        in cloze
    )
    assert cloze.endswith("45 of 60 right, the teacher 48 of 60.")


def test_of_a_gap_that_may_be_none_no_share_is_told():
    assert (
        "cannot be told: the undistilled control is not shown to be worse than the teacher"
        in verdict(typed(scores(nll_gap_closed_interval=None)))[2]
    )


def test_few_are_counted_and_many_are_a_percentage():
    assert share(0.625, (0.306, 0.863), 8) == "5 of 8 (31% to 86%)"
    assert (right(0.3125, 8), right(0.75, 1000)) == ("2.5 of 8", "750 of 1,000")  # a tie is half an answer
    assert share(0.7, (0.604, 0.781), 99).startswith("69.5 of 99") and share(0.7, (0.604, 0.781), 100).startswith(
        "70.0%"
    )


def test_no_percentage_stands_beside_a_teacher_at_chance():
    found = SUMMARIES["probe_scores"]
    figures = found["probes"]["speaker_swap"] | {"retention": AT_CHANCE | {"ratio": 1.27}}
    (row,) = probe_rows(ProbeScoresSummary.model_validate(found | {"probes": {"speaker_swap": figures}}))
    assert row["kept of the teacher's lead over chance"] == "not known: the teacher is not shown to be above chance"
    assert "127%" not in str(row)


@pytest.mark.parametrize(
    ("control", "gain", "said"),
    [
        (0.70, (-0.02, 0.12), None),
        (0.75, (-0.10, 0.10), None),
        (0.80, (-0.12, 0.02), "within noise: 48 of 60 right, the student 45 of 60."),
        (0.90, (-0.25, -0.05), "beyond noise: 54 of 60 right, the student 45 of 60."),
    ],
)
def test_a_control_that_is_ahead_on_the_cloze_is_said_in_the_verdict(
    control: float, gain: tuple[float, float], said: str | None
):
    base = scores(cloze_gain_interval=list(gain))
    models = base["models"] | {"control": base["models"]["control"] | {"cloze": control}}
    found = verdict(typed(base | {"models": models}))[4:]
    assert found == ([f"The undistilled control scores higher than the student on the cloze, {said}"] if said else [])


def probes(student: int, control: int, *, alone: tuple[int, int], p: float) -> ProbeScoresSummary:
    """Forty pairs of which the models get so many right, with pairs that only student and only control get right."""
    found = SUMMARIES["probe_scores"]
    test = {"first_only": alone[0], "second_only": alone[1], "p": p}
    figures = found["probes"]["speaker_swap"]
    figures = figures | {"mcnemar": figures["mcnemar"] | {"control": test}}
    right_of = {"student": student, "control": control}
    overall = {name: found["overall"][name] | {"accuracy": number / 40} for name, number in right_of.items()}
    changed = found | {"probes": {"speaker_swap": figures}, "overall": found["overall"] | overall}
    return ProbeScoresSummary.model_validate(changed)


def test_a_control_that_is_ahead_on_the_probes_is_said_in_the_verdict():
    said = "The undistilled control scores higher than the student on"
    within = verdict(typed(scores()), probes(20, 23, alone=(2, 5), p=0.45))[4:]
    assert within == [
        f"{said} the probes, within noise on each of them: 23 of 40 pairs right in all, the student 20 of 40."
    ]
    beyond = verdict(typed(scores()), probes(20, 30, alone=(0, 10), p=0.002))[4]
    assert "on the probes, beyond noise on speaker swap (p = 0.002): 30 of 40" in beyond
    # Behind on one probe, ahead in all.
    some = verdict(typed(scores()), probes(31, 30, alone=(0, 10), p=0.002))[4]
    assert some.startswith(f"{said} some probes, beyond noise on speaker swap")
    assert verdict(typed(scores()), probes(30, 20, alone=(10, 0), p=0.002))[4:] == []


def test_the_targets_are_told_in_bytes_not_in_billions(run: tuple[RunRecord, Outputs]):
    (row,) = [row for row in run[0].rows if row.stage == "logit_caching"]
    assert row.came_out == "40,000 targets, 47.2 bytes each"


def test_guessing_and_counts_stand_below_the_models_and_the_floor_is_marked():
    rows = comparison_rows(typed(SUMMARIES["scores"]))[3:]
    assert [(row["model"], row["NLL, nats per token"]) for row in rows] == [
        ("Guessing", "6.000"),
        ("Counts of single tokens", "4.700 (4.600 to 4.800)"),
        ("Counts of 2 tokens", "4.100 (4.000 to 4.200)"),
        ("Counts of 3 tokens (the floor)", "4.000 (3.900 to 4.100)"),
        ("Counts of 4 tokens", "4.050 (3.950 to 4.150)"),
    ]
    assert {row["parameters"] for row in rows} == {row["cloze accuracy"] for row in rows} == {"–"}


def test_the_floor_has_its_bits_by_stream_beside_the_models():
    row = likelihood_rows(typed(SUMMARIES["scores"]))[-1]
    assert row["model"] == "Counts of 3 tokens" and row[OVER_TEACHER] == "1.250"
    assert row["bits per second, units"] == "90.0 (85.0 to 95.0)" and row["NLL after the prompt"] == "–"


def test_the_table_has_a_row_per_model_with_its_interval():
    rows = comparison_rows(typed(SUMMARIES["scores"]))[:3]
    assert [row["NLL, nats per token"] for row in rows] == [
        "3.200 (3.100 to 3.300)",
        "3.300 (3.200 to 3.400)",
        "3.450 (3.350 to 3.550)",
    ]


def test_large_drift_comes_with_advice():
    tokens = TokensSummary.model_validate(SUMMARIES["tokens"] | {"drift": {"a": 0.01, "b": 0.4}})
    assert "growth or always" in drift_text(tokens)
