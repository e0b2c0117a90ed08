"""Pictures: what they show, how small they are, and that text in them is text."""

import re
import threading
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tinywave_core.plots import (
    PNG_LIMIT_BYTES,
    Bars,
    Line,
    Node,
    Points,
    bars_png,
    bars_svg,
    binned_svg,
    dag_svg,
    heatmap_svg,
    histogram_png,
    histogram_svg,
    line_svg,
    lines_png,
    mel_spectrogram,
    number,
    points_svg,
    smooth,
    spectrogram_png,
    strip_svg,
    thin,
    ticks,
)

STEPS = np.arange(1.0, 2001.0)
NOISY = np.random.default_rng(0).normal(3.0, 1.0, 2000)


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg.split("<div", maxsplit=1)[0])


def rects(svg: str) -> list[ET.Element]:
    return list(parse(svg).iter("rect"))


def test_smoothing_keeps_a_straight_line():
    line = np.linspace(0.0, 5.0, 101)
    assert np.allclose(smooth(line, share=0.2), line)


def test_smoothing_takes_the_noise_down():
    assert smooth(NOISY).std() < NOISY.std() / 3


def test_thinning_keeps_first_and_last():
    x, y = thin(STEPS, NOISY, points=50)
    assert len(x) <= 50
    assert (x[0], x[-1]) == (1.0, 2000.0)
    assert y[-1] == NOISY[-1]


def test_ticks_are_round_and_inside():
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(3.0, 3.0) == [3.0]


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.3, "0.3"), (2.5e-4, "2.5e-4"), (20_000, "20k"), (-1.5, "-1.5")]
)
def test_tick_labels_are_short(value: float, text: str):
    assert number(value) == text


def test_bar_heights_are_in_proportion_to_counts():
    low, high = (float(r.attrib["height"]) for r in rects(histogram_svg([10, 20], title="", x_label="", y_label="")))
    assert high == pytest.approx(2 * low, rel=0.01)


def test_a_missing_value_has_no_bar():
    svg = bars_svg(["a", "b"], [Bars("one", [1.0, None]), Bars("two", [2.0, 3.0])], title="", y_label="")
    assert len(rects(svg)) == 3


def test_a_line_crosses_the_bars_of_each_group_at_its_value_and_takes_no_room_from_them():
    bars, floor = [Bars("one", [1.0, 4.0]), Bars("two", [2.0, 3.0])], Bars("floor", [4.0, None], "floor", as_line=True)
    alone, crossed = (bars_svg(["a", "b"], series, title="", y_label="") for series in (bars, [*bars, floor]))
    assert [r.attrib for r in rects(alone)] == [r.attrib for r in rects(crossed)]
    (line,) = [e for e in parse(crossed).iter("line") if "dasharray" in e.attrib["style"]]
    fourth = next(r for r in rects(crossed) if r[0].text == "b, one: 4")
    assert line.attrib["y1"] == line.attrib["y2"] == fourth.attrib["y"]
    first, second = (r for r in rects(crossed) if (r[0].text or "").startswith("a, "))
    assert float(line.attrib["x1"]) < float(first.attrib["x"])
    assert float(line.attrib["x2"]) > float(second.attrib["x"]) + float(second.attrib["width"])
    assert crossed.count("<span>") == 3


def test_nothing_to_show_gives_no_picture():
    assert histogram_svg([], title="", x_label="", y_label="") == ""
    assert histogram_svg([0, 0], title="", x_label="", y_label="") == ""
    assert line_svg([], title="", x_label="", y_label="") == ""
    assert bars_svg([], [Bars("one", [])], title="", y_label="") == ""


def test_a_curve_of_one_point_or_with_gaps_is_drawn():
    parse(line_svg([Line("one", np.array([1.0]), np.array([2.0]))], title="", x_label="", y_label=""))
    svg = line_svg([Line("gap", np.arange(3.0), np.array([1.0, np.nan, 2.0]))], title="", x_label="", y_label="")
    assert "nan" not in svg


def test_text_in_an_svg_is_escaped():
    evil = '<script>"&'
    svgs = [
        line_svg([Line(evil, STEPS, NOISY)], title=evil, x_label=evil, y_label=evil),
        bars_svg([evil], [Bars(evil, [1.0]), Bars(evil, [2.0])], title=evil, y_label=evil),
        histogram_svg([1], title=evil, x_label=evil, y_label=evil, labels=[evil]),
        dag_svg([Node(evil, evil, 1.0, evil, True)], []),
    ]
    assert all(parse(svg) is not None and "<script>" not in svg for svg in svgs)


def test_the_dag_has_a_node_and_a_whole_reason_per_stage():
    why = "settings changed: " + "training.learning_rate: 0.001 → 0.002, " * 4
    svg = dag_svg([Node("a", "cached", 0.0, "same", False), Node("b", "run", 2.0, why, True)], [(0, 1)])
    assert len(list(parse(svg).iter("circle"))) == 2
    assert why in svg


def test_a_tone_is_loudest_in_its_mel_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    level = mel_spectrogram(tone, 16_000, bands=64)
    # 1000 Hz is 1000 mel of 2840: the 23rd of 65 steps.
    assert abs(int(level.mean(axis=1).argmax()) - 22) <= 1
    assert level.max() == 0.0
    assert level.min() >= -70.0


def test_silence_and_one_sample_have_a_spectrogram():
    assert spectrogram_png(np.zeros(16_000), 16_000).startswith(b"\x89PNG")
    assert spectrogram_png(np.zeros(1), 16_000).startswith(b"\x89PNG")


def test_ten_seconds_of_noise_have_a_small_spectrogram():
    assert len(spectrogram_png(np.random.default_rng(0).normal(0, 0.1, 160_000), 16_000)) < PNG_LIMIT_BYTES


def test_pictures_for_the_ui_are_small():
    pictures = [
        lines_png([Line("student", STEPS, NOISY), Line("control", STEPS, NOISY)], x_label="step", y_label="nats"),
        histogram_png(np.random.default_rng(0).integers(0, 999, 500), x_label="unit", y_label="frames"),
        bars_png(["a", "b"], [Bars("student", [1.0, None]), Bars("control", [1.0, 2.0])], y_label="nats"),
        bars_png(["a", "b"], [Bars("student", [1.0, 2.0]), Bars("counts", [3.0, None], as_line=True)], y_label="nats"),
    ]
    assert all(p.startswith(b"\x89PNG") and len(p) < PNG_LIMIT_BYTES for p in pictures)


def test_threads_draw_the_same_picture_at_the_same_time():
    pictures: list[bytes] = []
    draw = lambda: pictures.append(histogram_png([1, 2, 3], x_label="x", y_label="y"))
    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pictures) == 4
    assert len(set(pictures)) == 1


def test_a_heat_map_is_stronger_for_larger_values_and_frames_what_is_asked():
    svg = heatmap_svg([[0.0, 0.5], [1.0, 0.25]], {(1, 0)}, (0.0, 1.0), title="t", x_label="x", y_label="y")
    cells = re.findall(r'x="([0-9.]+)" y="([0-9.]+)"[^>]*fill-opacity:([0-9.]+);([^"]*)"', svg)
    assert [opacity for _, _, opacity, _ in cells] == ["0.06", "0.48", "0.90", "0.27"]
    assert ["none" in frame for *_, frame in cells] == [True, True, False, True]
    assert float(cells[0][1]) > float(cells[2][1])  # row 0 is at the bottom


def test_a_strip_has_costs_above_the_line_and_gains_below_at_their_times():
    svg = strip_svg([0.0, 1.0, 1.5], [2.0, -1.0, 0.5], 2.0, title="t")
    bars = re.findall(r'<rect x="([0-9.]+)" y="([0-9.]+)" width="([0-9.]+)" height="([0-9.]+)"', svg)
    assert bars == [
        ("0.0", "2.0", "240.0", "28.0"),
        ("240.0", "30.0", "120.0", "14.0"),
        ("360.0", "23.0", "120.0", "7.0"),
    ]


def test_a_mark_stands_between_the_edges_that_its_value_lies_between():
    svg = binned_svg([0, 1, 10, 100], [5, 0, 2], [(5.5, "limit 5.5 & <up>")], title="t", x_label="x", y_label="y")
    first, _, last = (float(rect.attrib["x"]) for rect in rects(svg))
    (mark,) = [line for line in parse(svg).iter("line") if line.get("class") == "mark"]
    # 5.5 is the middle of the second of three bins, so half way from the first bar to the third and half a bin on.
    assert float(mark.attrib["x1"]) == pytest.approx((first + last) / 2 - 0.75 + (last - first) / 4, abs=0.2)
    assert "limit 5.5 & <up>" in [text.text for text in parse(svg).iter("text")]
    assert binned_svg([0, 1, 2], [0, 0], [], title="t", x_label="x", y_label="y") == ""


def test_points_stand_at_their_values_with_their_intervals_and_missing_ones_leave_a_gap():
    series = [Points("a", [(2.0, 1.0, 3.0), None]), Points("b", [(3.0, 3.0, 3.0), (1.0, 0.5, 2.0)], "student")]
    root = parse(points_svg(["10 %", "all"], series, title="t", y_label="nats", across=("teacher", 1.0)))
    dots = [e for e in root.iter() if e.tag.endswith("circle")]
    lines = [e for e in root.iter() if e.tag.endswith("line") and e.get("x1") == e.get("x2")]
    across = next(e for e in root.iter() if e.tag.endswith("line") and len(e) and e[0].text == "teacher: 1")
    assert len(dots) == len(lines) == 3
    assert float(dots[0].get("cy")) == pytest.approx(
        (float(lines[0].get("y1")) + float(lines[0].get("y2"))) / 2, abs=0.1
    )
    assert dots[2].get("cy") == across.get("y1")  # both are 1
    assert dots[0][0].text == "10 %, a: 2 (1 to 3)"
    assert points_svg(["x"], [Points("a", [None])], title="", y_label="", across=("", 0)) == ""
