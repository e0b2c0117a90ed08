"""Pictures as pure functions: numbers in; inline SVG for the report, or a small PNG for a Prefect artifact, out.

The SVGs are written by hand: a few kilobytes each, with the page's own font and its CSS variables as colours, so that
they follow the light and the dark scheme. A PNG stands alone, so it has a transparent ground and mid-grey lettering.
"""

import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = npt.NDArray[np.float64]

# CSS variables of style.css, and the same colours for a PNG. After Okabe and Ito: for colour-blind eyes too.
COLOURS = {
    "teacher": "#3b8fd1",
    "student": "#e07b39",
    "control": "#8a8f98",
    "hidden": "#a678c8",
    "attention": "#3aa882",
    "logits": "#c9a227",
    "floor": "#b04a5a",
    "accent": "#3b8fd1",
}
TERMS = ("teacher", "logits", "hidden", "attention", "control")
"""Colours of the terms of a loss, in order; from the first again where there are more."""
PNG_LIMIT_BYTES = 30_000
_WIDTH, _HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 14, 40


@dataclass(frozen=True)
class Line:
    """One curve: raw values faint, smoothed ones strong."""

    label: str
    x: Values
    y: Values
    colour: str = "accent"
    """A name of COLOURS."""
    dashed: bool = False
    noisy: bool = True
    """Whether a moving average says more than the values themselves."""

    @property
    def main(self) -> Values:
        """What the strong curve shows."""
        return smooth(self.y) if self.noisy else self.y


@dataclass(frozen=True)
class Bars:
    """One series of bars, a value per group; None where the group has none."""

    label: str
    values: Sequence[float | None]
    colour: str = "accent"
    as_line: bool = False
    """A dashed line across each group in place of bars: for what the bars are to be read against."""


@dataclass(frozen=True)
class Points:
    """One series of values with their intervals, one per group; None where the group has none."""

    label: str
    values: Sequence[tuple[float, float, float] | None]
    """Value, low, high."""
    colour: str = "accent"


@dataclass(frozen=True)
class Node:
    """A stage in the picture of the DAG."""

    name: str
    status: str
    seconds: float
    why: str
    fresh: bool
    """Whether anything was computed."""


# Numbers ---------------------------------------------------------------------------------------------------------


def smooth(y: Values, share: float = 0.03) -> Values:
    """Centred moving average over about `share` of the points; narrower at both ends, so that it never lags."""
    half = int(share * len(y) / 2)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    reach = np.minimum(half, np.minimum(np.arange(len(y)), np.arange(len(y))[::-1]))
    low, high = np.arange(len(y)) - reach, np.arange(len(y)) + reach + 1
    return np.asarray((sums[high] - sums[low]) / (high - low))


def thin(x: Values, y: Values, points: int = 240) -> tuple[Values, Values]:
    """At most about `points` of the points, first and last among them."""
    if len(x) <= points:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
    return x[keep], y[keep]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's label: short, without float noise."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:.6g}k"
    if abs(value) >= 1e-3:
        return f"{value:.6g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


# SVG -------------------------------------------------------------------------------------------------------------


def line_svg(lines: Sequence[Line], *, title: str, x_label: str, y_label: str) -> str:
    """Curves over a common x axis."""
    lines = [_finite(line) for line in lines]
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return ""
    xs, ys = np.concatenate([line.x for line in lines]), np.concatenate([line.y for line in lines])
    x, y = _Scale(xs.min(), xs.max(), _LEFT, _WIDTH - _RIGHT), _Scale(*_padded(ys), _HEIGHT - _BOTTOM, _TOP)
    body = [_y_axis(y, y_label), _x_axis(x, x_label)]
    for line in lines:
        dash = ";stroke-dasharray:5 4" if line.dashed else ""
        stroke = f"fill:none;stroke:var(--{line.colour})"
        if line.noisy:
            body.append(f'<path d="{_path(*thin(line.x, line.y), x, y)}" style="{stroke};opacity:.28;stroke-width:1"/>')
        strong = _path(*thin(line.x, line.main), x, y)
        body.append(f'<path d="{strong}" style="{stroke};stroke-width:2{dash}"/>')
    return _svg(title, "".join(body)) + _legend([(line.label, line.colour) for line in lines])


def bars_svg(groups: Sequence[str], series: Sequence[Bars], *, title: str, y_label: str) -> str:
    """Bars side by side per group, each with its value on top; lines across them."""
    values = [v for bars in series for v in bars.values if v is not None]
    if not values:
        return ""
    y = _Scale(0.0, max(values) * 1.12 or 1.0, _HEIGHT - _BOTTOM, _TOP)
    room = (_WIDTH - _LEFT - _RIGHT) / len(groups)
    upright = [bars for bars in series if not bars.as_line]
    width = min(46.0, room * 0.8 / len(upright))
    body = [_y_axis(y, y_label)]
    for g, group in enumerate(groups):
        middle = _LEFT + room * (g + 0.5)
        body.append(_text(middle, _HEIGHT - _BOTTOM + 18, group, "middle"))
        for s, bars in enumerate(upright):
            value = bars.values[g]
            if value is None:
                continue
            left, top = middle + width * (s - len(upright) / 2), y(value)
            hint = escape(f"{group}, {bars.label}: {value:.4g}")
            body.append(_bar(left, top, width * 0.9, y(0.0) - top, bars.colour, hint))
            body.append(_text(left + width * 0.45, top - 4, f"{value:.2f}", "middle", size=10))
        reach = width * len(upright) / 2 + 4
        body += [_across(middle, reach, y, bars, g, group) for bars in series if bars.as_line]
    return _svg(title, "".join(body)) + _legend([(bars.label, bars.colour) for bars in series if len(series) > 1])


def points_svg(
    groups: Sequence[str], series: Sequence[Points], *, title: str, y_label: str, across: tuple[str, float]
) -> str:
    """Points with intervals side by side per group; a dashed line over all of them, with its label."""
    found = [v for points in series for v in points.values if v is not None]
    if not found:
        return ""
    label, level = across
    y = _Scale(*_padded(np.array([*np.ravel(found), level])), _HEIGHT - _BOTTOM, _TOP)
    room = (_WIDTH - _LEFT - _RIGHT) / len(groups)
    apart = min(16.0, room * 0.8 / len(series))
    body = [_y_axis(y, y_label)]
    dashes = "stroke:var(--muted);stroke-dasharray:5 4"
    place = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}"'
    body.append(f'<line {place} style="{dashes}"><title>{escape(f"{label}: {level:.4g}")}</title></line>')
    for g, group in enumerate(groups):
        middle = _LEFT + room * (g + 0.5)
        body.append(_text(middle, _HEIGHT - _BOTTOM + 18, group, "middle"))
        for s, points in enumerate(series):
            if (value := points.values[g]) is None:
                continue
            at, (mean, low, high) = middle + apart * (s - (len(series) - 1) / 2), value
            hint = escape(f"{group}, {points.label}: {mean:.4g} ({low:.4g} to {high:.4g})")
            line = f'x1="{at:.1f}" x2="{at:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"'
            paint = _paint(points.colour)
            body.append(f'<line {line} style="stroke:{paint};stroke-width:1.6"/>')
            dot = f'<circle cx="{at:.1f}" cy="{y(mean):.1f}" r="3.6" style="fill:{paint}">'
            body.append(f"{dot}<title>{hint}</title></circle>")
    return _svg(title, "".join(body)) + _legend([(points.label, points.colour) for points in series])


def _across(middle: float, reach: float, y: "_Scale", bars: Bars, g: int, group: str) -> str:
    """A line over the bars of one group."""
    value = bars.values[g]
    if value is None:
        return ""
    place = f'x1="{middle - reach:.1f}" x2="{middle + reach:.1f}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
    hint = escape(f"{group}, {bars.label}: {value:.4g}")
    stroke = f"stroke:{_paint(bars.colour)};stroke-width:1.6;stroke-dasharray:4 3"
    return f'<line {place} style="{stroke}"><title>{hint}</title></line>'


def histogram_svg(
    counts: Sequence[float], *, title: str, x_label: str, y_label: str, labels: Sequence[str] | None = None
) -> str:
    """One bar per count; `labels` under every bar, or a numbered axis when there are none."""
    if not len(counts) or not max(counts):
        return ""
    y = _Scale(0.0, max(counts) * 1.06, _HEIGHT - _BOTTOM, _TOP)
    x = _Scale(0.0, float(len(counts)), _LEFT, _WIDTH - _RIGHT)
    room = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    gap = min(room * 0.12, 3.0)
    body = [_y_axis(y, y_label)]
    if labels is None:
        body.append(_x_axis(x, x_label))
    else:
        size = 11 if room > 38 else 9
        body += [
            _text(x(i + 0.5), _HEIGHT - _BOTTOM + 15, label, "middle", size=size) for i, label in enumerate(labels)
        ]
        body.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, x_label, "middle", muted=True))
    for i, count in enumerate(counts):
        hint = escape(f"{labels[i] if labels else i}: {count:g}")
        body.append(_bar(x(i) + gap / 2, y(count), room - gap, y(0.0) - y(count), "accent", hint))
    return _svg(title, "".join(body))


def binned_svg(
    edges: Sequence[float],
    counts: Sequence[float],
    marks: Sequence[tuple[float, str]],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> str:
    """Bars between bin edges, however far these lie apart, and a dashed line with its text at each marked value."""
    if not max(counts, default=0):
        return ""
    y = _Scale(0.0, max(counts) * 1.06, _HEIGHT - _BOTTOM, _TOP)
    x = _Scale(0.0, float(len(counts)), _LEFT, _WIDTH - _RIGHT)
    room = x(1.0) - x(0.0)
    step = max(1, -(-34 // max(1, int(room))))  # numbers need 34 pixels
    body = [_y_axis(y, y_label), _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, x_label, "middle", muted=True)]
    body += [_text(x(i), _HEIGHT - _BOTTOM + 15, f"{edges[i]:g}", "middle", size=9) for i in range(0, len(edges), step)]
    for i, count in enumerate(counts):
        hint = escape(f"{edges[i]:g} to {edges[i + 1]:g}: {count:g}")
        body.append(_bar(x(i) + 0.75, y(count), room - 1.5, y(0.0) - y(count), "accent", hint))
    for value, text in marks:
        place = x(float(np.interp(value, edges, np.arange(len(edges)))))
        line = f'x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"'
        body.append(f'<line {line} class="mark" style="stroke:var(--ink);stroke-width:1.5;stroke-dasharray:4 3"/>')
        is_right = place > (_LEFT + _WIDTH - _RIGHT) / 2
        body.append(_text(place + (-4 if is_right else 4), _TOP + 10, text, "end" if is_right else "start"))
    return _svg(title, "".join(body))


def heatmap_svg(
    values: Sequence[Sequence[float]],
    outlined: Collection[tuple[int, int]],
    limits: tuple[float, float],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> str:
    """A cell per (row, column), stronger from the lower limit to the upper one, row 0 at the bottom; `outlined` get a frame."""
    rows, columns = len(values), len(values[0])
    low, high = limits
    x, y = _Scale(0.0, float(columns), _LEFT, _WIDTH - _RIGHT), _Scale(0.0, float(rows), _HEIGHT - _BOTTOM, _TOP)
    width, height = x(1.0) - x(0.0), y(0.0) - y(1.0)
    body = []
    for r, row in enumerate(values):
        body.append(_text(_LEFT - 8, y(r + 0.5) + 4, str(r), "end"))
        for c, value in enumerate(row):
            share = (value - low) / (high - low) if high > low else 1.0
            hint = f"<title>{escape(f'{y_label} {r}, {x_label} {c}: {value:.3f}')}</title>"
            frame = "stroke:var(--ink);stroke-width:2" if (r, c) in outlined else "stroke:none"
            place = f'x="{x(c) + 1.5:.1f}" y="{y(r + 1) + 1.5:.1f}" width="{width - 3:.1f}" height="{height - 3:.1f}"'
            paint = f"fill:var(--accent);fill-opacity:{0.06 + 0.84 * share:.2f};{frame}"
            body.append(f'<rect {place} rx="2" style="{paint}">{hint}</rect>')
            if width >= 30 and height >= 12:
                body.append(_text(x(c + 0.5), y(r + 0.5) + 4, f"{value:.2f}", "middle"))
    step = max(1, round(columns / 12))
    body += [_text(x(c + 0.5), _HEIGHT - _BOTTOM + 16, str(c), "middle") for c in range(0, columns, step)]
    body.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, x_label, "middle", muted=True))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    body.append(f'<g transform="rotate(-90 14 {middle})">{_text(14, middle, y_label, "middle", muted=True)}</g>')
    return _svg(title, "".join(body))


def strip_svg(times_s: Sequence[float], values: Sequence[float], seconds: float, *, title: str) -> str:
    """Steps over the time of a recording, as wide as the picture above them; above the line: positive."""
    edges = [*times_s, seconds]
    reach = max(map(abs, values), default=0.0) or 1.0
    body = ['<line x1="0" x2="480" y1="30" y2="30" style="stroke:var(--line)"/>']
    for start, end, value in zip(edges, edges[1:], values, strict=False):
        height = 28 * abs(value) / reach
        left, width = 480 * start / seconds, max(480 * (end - start) / seconds, 0.8)
        colour = "student" if value > 0 else "teacher"
        body.append(_bar(left, 30 - height if value > 0 else 30, width, height, colour, f"{start:.2f} s: {value:+.2f}"))
    return _svg(title, "".join(body), 480, 60, "strip").replace("<svg ", '<svg preserveAspectRatio="none" ', 1)


_ROW, _DAG_WIDTH = 50, 440


def dag_svg(nodes: Sequence[Node], edges: Sequence[tuple[int, int]]) -> str:
    """The stages from top to bottom with time bars; edges that skip a stage are arcs on the left."""
    longest = max((node.seconds for node in nodes), default=0.0) or 1.0
    body = []
    for start, end in edges:
        y0, y1 = _ROW * start + 22, _ROW * end + 22
        bend = 74 - (0 if end == start + 1 else 10 + 9 * (end - start))
        curve = f"M74 {y0}C{bend} {y0} {bend} {y1} 74 {y1}"
        body.append(f'<path d="{curve}" style="fill:none;stroke:var(--line);stroke-width:1.4"/>')
    for row, node in enumerate(nodes):
        y = _ROW * row + 22
        colour = "student" if node.fresh else "control"
        length = max(1.5, 118 * node.seconds / longest)
        body += [
            f"<g><title>{escape(f'{node.name}: {node.status}, {node.seconds:.1f} s; {node.why}')}</title>",
            f'<circle cx="74" cy="{y}" r="7" style="fill:{_paint(colour) if node.fresh else "var(--card)"};'
            f'stroke:{_paint(colour)};stroke-width:2"/>',
            _text(92, y - 2, node.name.replace("_", " "), "start", size=14, weight=600),
            _text(92, y + 14, _short(f"{node.status}: {node.why}", 58), "start", size=11, muted=True),
            _bar(232, y - 13, length, 11, colour, ""),
            _text(238 + length, y - 3, f"{node.seconds:.1f} s", "start", size=11),
            "</g>",
        ]
    return _svg("The stages of this run and the time they took", "".join(body), _DAG_WIDTH, _ROW * len(nodes), "dag")


@dataclass(frozen=True)
class _Scale:
    """A linear axis: value to pixel."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return float(self.start + share * (self.end - self.start))


def _finite(line: Line) -> Line:
    keep = np.isfinite(line.y)
    return replace(line, x=line.x[keep], y=line.y[keep])


def _padded(ys: Values) -> tuple[float, float]:
    low, high = float(ys.min()), float(ys.max())
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return (0.0 if 0 <= low < 0.4 * high else low - pad), high + pad


def _path(xs: Values, ys: Values, x: _Scale, y: _Scale) -> str:
    return "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in zip(xs, ys, strict=True))


def _y_axis(y: _Scale, label: str) -> str:
    parts = []
    for value in ticks(y.low, y.high):
        line = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"'
        parts.append(
            f'<line {line} style="stroke:var(--line)"/>' + _text(_LEFT - 6, y(value) + 4, number(value), "end")
        )
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f'<g transform="rotate(-90 11 {middle})">{_text(11, middle, label, "middle", muted=True)}</g>'
    return "".join(parts) + turned


def _x_axis(x: _Scale, label: str) -> str:
    parts = [_text(x(v), _HEIGHT - _BOTTOM + 16, number(v), "middle") for v in ticks(x.low, x.high)]
    return "".join(parts) + _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, label, "middle", muted=True)


def _text(
    x: float, y: float, text: str, anchor: str, *, size: float = 11, weight: int = 400, muted: bool = False
) -> str:
    style = f"font-size:{size:g}px;font-weight:{weight};fill:var(--{'muted' if muted else 'ink'})"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{escape(text)}</text>'


def _bar(x: float, y: float, width: float, height: float, colour: str, hint: str) -> str:
    title = f"<title>{hint}</title>" if hint else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0.0):.1f}"'
    return f'<rect {place} rx="1" style="fill:{_paint(colour)}">{title}</rect>'


def _paint(colour: str) -> str:
    assert colour in COLOURS, colour
    return f"var(--{colour})"


def _svg(title: str, body: str, width: int = _WIDTH, height: int = _HEIGHT, kind: str = "plot") -> str:
    label = escape(title, quote=True)
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}</svg>'


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    if not entries:
        return ""
    keys = "".join(f'<span><i style="background:{_paint(c)}"></i>{escape(label)}</span>' for label, c in entries)
    return f'<div class="legend">{keys}</div>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


# PNG -------------------------------------------------------------------------------------------------------------


def mel_spectrogram(
    samples: npt.NDArray[np.floating], sample_rate: int, bands: int = 64, hop_s: float = 0.016
) -> Values:
    """Log-mel power [bands, frames] in dB below the loudest cell, floor -70: 64 ms Hann windows, 0 Hz to Nyquist."""
    size, hop = round(0.064 * sample_rate), max(1, round(hop_s * sample_rate))
    padded = np.pad(np.asarray(samples, np.float64), (size // 2, size // 2 + hop))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[: max(1, len(samples)) : hop]
    power = np.abs(np.fft.rfft(windows * np.hanning(size), axis=1)) ** 2
    mel = _mel_filters(size, sample_rate, bands) @ power.T
    level = 10 * np.log10(np.maximum(mel, 1e-10 * max(mel.max(), 1e-10)))
    return np.asarray(np.maximum(level - level.max(), -70.0))


def _mel_filters(size: int, sample_rate: int, bands: int) -> Values:
    """Triangles [bands, size / 2 + 1] on the HTK mel scale."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise, fall = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.asarray(np.maximum(0.0, np.minimum(rise, fall)))


def spectrogram_png(samples: npt.NDArray[np.floating], sample_rate: int) -> bytes:
    """The mel spectrogram as a bare picture, low frequencies at the bottom, in 32 colours."""
    import matplotlib
    from PIL import Image

    level = mel_spectrogram(samples, sample_rate)
    cells = np.clip((level[::-1] + 70) / 70 * 31, 0, 31).round().astype(np.uint8)
    picture = Image.fromarray(cells)
    picture.putpalette((matplotlib.colormaps["magma"](np.linspace(0, 1, 32))[:, :3] * 255).astype(np.uint8).tobytes())
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True, bits=5)
    return out.getvalue()


def lines_png(lines: Sequence[Line], *, x_label: str, y_label: str) -> bytes:
    """Curves for a Prefect image artifact."""
    with _figure(x_label, y_label) as (axes, out):
        for line in (_finite(line) for line in lines):
            style = "--" if line.dashed else "-"
            axes.plot(*thin(line.x, line.main), style, color=COLOURS[line.colour], label=line.label, linewidth=1.6)
        axes.legend(frameon=False, labelcolor="#808080", fontsize=8)
    return out.getvalue()


def histogram_png(counts: Sequence[float], *, x_label: str, y_label: str, labels: Sequence[str] | None = None) -> bytes:
    """Counts for a Prefect image artifact."""
    from matplotlib.ticker import MaxNLocator

    with _figure(x_label, y_label) as (axes, out):
        axes.bar(np.arange(len(counts)), np.asarray(counts, np.float64), width=0.88, color=COLOURS["accent"])
        if labels is not None:
            axes.set_xticks(np.arange(len(labels)), labels)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return out.getvalue()


def bars_png(groups: Sequence[str], series: Sequence[Bars], *, y_label: str) -> bytes:
    """Grouped bars for a Prefect image artifact."""
    with _figure("", y_label) as (axes, out):
        upright = [bars for bars in series if not bars.as_line]
        width = 0.8 / len(upright)
        for s, bars in enumerate(upright):
            heights = [math.nan if v is None else v for v in bars.values]
            places = np.arange(len(groups)) + width * (s - (len(upright) - 1) / 2)
            axes.bar(places, heights, width=width * 0.9, color=COLOURS[bars.colour], label=bars.label)
        for bars in (bars for bars in series if bars.as_line):
            at = np.array([g for g, v in enumerate(bars.values) if v is not None])
            heights, colour = [v for v in bars.values if v is not None], COLOURS[bars.colour]
            axes.hlines(heights, at - 0.45, at + 0.45, colors=colour, linestyles="--", linewidth=1.4, label=bars.label)
        axes.set_xticks(np.arange(len(groups)), groups)
        # Above the bars, which would hide it.
        axes.legend(
            frameon=False, labelcolor="#808080", fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series)
        )
    return out.getvalue()


def heatmap_png(values: Sequence[Sequence[float]], *, x_label: str, y_label: str) -> bytes:
    """Cells for a Prefect image artifact, the lowest row at the bottom."""
    with _figure(x_label, y_label) as (axes, out):
        picture = axes.imshow(np.asarray(values, np.float64), origin="lower", aspect="auto", cmap="viridis")
        axes.figure.colorbar(picture).ax.tick_params(colors="#808080", labelsize=8)
    return out.getvalue()


@contextmanager
def _figure(x_label: str, y_label: str) -> Iterator[tuple["Axes", io.BytesIO]]:
    """Axes of a figure of its own (no pyplot: stages run in threads); the PNG is in the buffer afterwards."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure, out = Figure(figsize=(6, 3), dpi=80, layout="constrained"), io.BytesIO()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    yield axes, out
    grey = "#808080"
    axes.set_xlabel(x_label, color=grey)
    axes.set_ylabel(y_label, color=grey)
    axes.tick_params(colors=grey, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(grey)
    figure.savefig(out, format="png", transparent=True)


def series_of(table: Mapping[str, Sequence[float]], column: str) -> tuple[Values, Values]:
    """(step, value) of one column of a training curve; steps without the term, as without a live teacher, are left out."""
    steps, values = np.asarray(table["step"], np.float64), np.asarray(table[column], np.float64)
    there = ~np.isnan(values)
    return steps[there], values[there]
