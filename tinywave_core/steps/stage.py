"""A stage as data: how it is built, how it is described to people, what it costs. Adding a stage is copying such a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import Estimate
from tinywave_core.steps.base import Execute, Outputs
from tinywave_core.storage.store import Store


@dataclass(frozen=True)
class Table:
    """Rows with the same keys, and what they show."""

    rows: Sequence[Mapping[str, Any]]
    about: str


@dataclass(frozen=True)
class Picture:
    """A PNG of at most plots.PNG_LIMIT_BYTES bytes, and what it shows."""

    png: bytes
    about: str


@dataclass(frozen=True)
class Link:
    """A place in the store, and what lies there."""

    url: str
    text: str


Extra = Table | Picture | Link


@dataclass(frozen=True)
class Section:
    """A part of a stage's page: a title, a text, and a table where there is one."""

    title: str
    text: str
    rows: Sequence[Mapping[str, Any]] = ()


def no_sections(_: Outputs) -> list[Section]:
    """For a stage that needs no sections."""
    return []


def no_look(_: PipelineConfig, __: Store) -> list[str]:
    """For a stage whose input is the output of others."""
    return []


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline. All functions but `build` read summaries and small files only."""

    name: str
    about: str
    """What it does, in a sentence."""
    build: Callable[[PipelineConfig, Store, Outputs, Execute], Outputs]
    """Its steps, from the outputs of the stages before it; what it adds to them, by part."""
    describe: Callable[[Outputs], tuple[str, str]]
    """What came in and what came out, each in half a line."""
    facts: Callable[[Outputs], list[tuple[str, str]]]
    """The other things that a person wants to know first: name and value."""
    cost: Callable[[PipelineConfig, float, str], Estimate]
    """Seconds and bytes for a corpus of so many hours on a device, if all of it has to be computed."""
    extras: Mapping[str, Callable[[Outputs], Extra | None]] = field(default_factory=dict)
    """Tables, pictures and links beside its page, by name; at most four, since each is a call to Prefect's server."""
    sections: Callable[[Outputs], list[Section]] = no_sections
    look: Callable[[PipelineConfig, Store], list[str]] = no_look
    """What a person wants to hear of its input before it begins, a line each."""
    needs_gpu: bool = False
    """Whether its runs go to workers with a GPU."""
