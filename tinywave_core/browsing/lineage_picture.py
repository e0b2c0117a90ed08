"""Lineage as a picture: what an artifact was made from above it, what was made from it below, a row for each part of a stage.

In: the holdings and an id. Out: rows and arcs for the template. Artifacts of one part are one row, as in the report: a stage makes them alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinywave_core.browsing.holdings import Holdings
from tinywave_core.config.pipeline import STAGES
from tinywave_core.counts import count

ROW = 34
"""Height of a row."""
LEFT, _NEAR, _STEP = 96, 14, 7
"""Where the dots stand; how far an arc to the next row bends, and how much more one does for each row that it passes."""


@dataclass(frozen=True)
class Row:
    """One part of a stage."""

    label: str
    ids: Sequence[str]
    y: int
    is_this: bool
    missing: int
    """Artifacts that are not in the store any more, or damaged."""

    @property
    def note(self) -> str:
        """How many, or which one."""
        if len(self.ids) == 1:
            return "not in the store any more" if self.missing else self.ids[0].split("/")[-1][:12]
        return count(len(self.ids), "artifact") + (
            f", {self.missing} not in the store any more" if self.missing else ""
        )


@dataclass(frozen=True)
class Picture:
    """Rows from top to bottom, and the paths between them."""

    rows: Sequence[Row]
    arcs: Sequence[tuple[str, bool]]
    """Each path, and whether it begins or ends at the artifact itself."""

    @property
    def height(self) -> int:
        return ROW * len(self.rows)


def picture(holdings: Holdings, artifact_id: str) -> Picture:
    """Of all that leads to an artifact, and all that came of it."""
    related = [*holdings.before(artifact_id), artifact_id, *holdings.after(artifact_id)]
    labels = {i: _label(holdings, i) for i in related}
    groups: dict[str, list[str]] = {}
    for i in related:
        groups.setdefault(labels[i], []).append(i)
    edges = _edges(holdings, labels)
    order = _in_order(groups, edges)
    places = {label: number for number, label in enumerate(order)}
    rows = [
        Row(
            label,
            groups[label],
            ROW * places[label] + ROW // 2,
            artifact_id in groups[label],
            sum(i not in holdings.entries for i in groups[label]),
        )
        for label in order
    ]
    own = labels[artifact_id]
    return Picture(rows, [(_arc(places[start], places[end]), own in (start, end)) for start, end in edges])


def _label(holdings: Holdings, artifact_id: str) -> str:
    entry = holdings.entries.get(artifact_id)
    return entry.label if entry else f"{artifact_id.split('/', maxsplit=1)[0]}/…"


def _edges(holdings: Holdings, labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Between parts, each once; a student that goes on from another is one part with it."""
    edges: dict[tuple[str, str], None] = {}
    for i in labels:
        for source in holdings.entries[i].made_of if i in holdings.entries else ():
            if source in labels and labels[source] != labels[i]:
                edges[(labels[source], labels[i])] = None
    return list(edges)


def _in_order(groups: Mapping[str, object], edges: Sequence[tuple[str, str]]) -> list[str]:
    """Sources above what is made from them; else in the order of the stages."""

    def stage(label: str) -> tuple[int, str]:
        name = label.partition("/")[0]
        return (STAGES.index(name) if name in STAGES else len(STAGES), label)

    left, order = sorted(groups, key=stage), list[str]()
    while left:
        waiting = {end for start, end in edges if start in left}
        # Parts that need each other by different artifacts (a student that goes on from an older one's targets) have no order.
        free = next((label for label in left if label not in waiting), left[0])
        order.append(free)
        left.remove(free)
    return order


def _arc(start: int, end: int) -> str:
    y0, y1 = ROW * start + ROW // 2, ROW * end + ROW // 2
    bend = LEFT if abs(end - start) == 1 else max(4, LEFT - _NEAR - _STEP * abs(end - start))
    return f"M{LEFT} {y0}C{bend} {y0} {bend} {y1} {LEFT} {y1}"
