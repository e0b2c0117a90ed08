"""The sizes of a decoder, from its config.json or from the settings of a fresh one: what costs are counted from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinywave_core.checkpoints.architectures import ARCHITECTURES
from tinywave_core.checkpoints.bounds import read_json
from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.errors import CheckpointError, ConfigError


@dataclass(frozen=True)
class ModelShape:
    """Sizes of its blocks; the vocabulary's rows are told apart, since they change."""

    layers: int
    width: int
    heads: int
    intermediate: int
    key_heads: int
    """Heads of keys and values; fewer than `heads` where several share one."""
    head_width: int
    is_gated: bool = True
    """Whether the MLP has a third matrix, the gate."""
    is_tied: bool = False
    """Whether embedding and head are one matrix."""
    positions: int = 0
    """Rows of an embedding of positions."""

    @classmethod
    def of_fresh(cls, shape: FreshTeacherConfig) -> "ModelShape":
        """Of a fresh teacher: no grouped heads, nothing tied."""
        return cls(shape.layers, shape.width, shape.heads, shape.intermediate, shape.heads, shape.width // shape.heads)

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """Of a config.json; what it does not say is as transformers has it."""
        width, heads = int(config.get("hidden_size", 0)), int(config.get("num_attention_heads", 1))
        kind = str(config.get("model_type"))
        own = kind in ARCHITECTURES and ARCHITECTURES[kind].own_positions
        return cls(
            layers=int(config.get("num_hidden_layers", 0)),
            width=width,
            heads=heads,
            intermediate=int(config.get("intermediate_size") or config.get("ffn_dim") or 4 * width),
            key_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or width // heads),
            is_gated=kind not in ("gpt_neox", "opt"),
            is_tied=bool(config.get("tie_word_embeddings", kind == "opt")),
            positions=int(config.get("max_position_embeddings", 0)) + 2 if own else 0,
        )

    @classmethod
    def of_folder(cls, folder: Path) -> "ModelShape":
        """Of a model directory."""
        try:
            return cls.of_config(read_json(folder / "config.json"))
        except (AttributeError, ValueError, TypeError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"{folder / 'config.json'} does not tell the sizes of a decoder ({error}): copy it again"
            ) from error

    def narrowed(self, width: int | None) -> "ModelShape":
        """Of a student of another width: as much of heads, heads of keys and neurons, whole ones; ConfigError where they do not divide."""
        if width is None or width == self.width:
            return self
        shared = [self.heads, self.intermediate, *([self.key_heads] if self.key_heads > 1 else [])]
        step = self.width // math.gcd(self.width, *shared)
        if not 0 < width < self.width or width % step:
            fitting = ", ".join(map(str, range(step, self.width, step)[-6:])) or "none"
            raise ConfigError(
                f"distillation.width is {width}, the teacher is {self.width} wide, with {self.heads} heads, {self.key_heads} of keys, and "
                f"{self.intermediate} neurons: that part of each is no whole number. Widths that fit: {fitting}"
            )
        counts = {name: getattr(self, name) for name in ("heads", "key_heads", "intermediate")}
        return replace(
            self, width=width, **{name: max(1, count * width // self.width) for name, count in counts.items()}
        )

    def parameters(self, layers: int, rows: int) -> int:
        """Weights of so many of its blocks, with so many tokens; biases, which are few, are not counted."""
        attention = 2 * self.width * self.head_width * (self.heads + self.key_heads)
        block = attention + (2 + self.is_gated) * self.width * self.intermediate + 2 * self.width
        return layers * block + ((2 - self.is_tied) * rows + self.positions + 1) * self.width
