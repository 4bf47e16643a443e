"""What an architecture file may import: the types it writes its mathematics in. Ours and anyone else's see no more.

An architecture is a module with

    NAMES       values of `general.architecture` that it answers to
    KERNELS     ids of the ops its recurrent layers call
    Hyper       a frozen dataclass with `read(keys) -> Hyper`
    carry(hp)   what each layer remembers between tokens: one mapping a layer, name -> shape or KV(...)
    forward(g, hp, w, s)   builds the graph of one step: tokens in, logits [rows, n_vocab] out; s[i] is layer i's carry
    UNUSED      optional: prefixes of tensor names that the file may hold and nothing reads
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..engine.blocks import KV
from ..engine.carry import Carry, LayerSpec
from ..engine.graph import Graph
from ..engine.rope import RopeScaling
from ..engine.tensor import Tensor
from ..engine.weights import Weight, Weights
from ..errors import BadModelFile
from ..gguf import Header

__all__ = [
    "KV",
    "Architecture",
    "Carry",
    "Graph",
    "Keys",
    "LayerSpec",
    "RopeScaling",
    "Tensor",
    "Weight",
    "Weights",
]


class Keys:
    """The metadata of one file, below its architecture's name: `keys.u32("ssm.inner_size")`.

    Without a default a missing key raises BadModelFile naming key, file and architecture.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self.read: set[str] = set()

    @property
    def architecture(self) -> str:
        return self._header.architecture

    def __contains__(self, key: str) -> bool:
        return self._header.get(f".{key}") is not None

    def u32(self, key: str, default: int | None = None) -> int:
        value = self._value(key, default)
        if isinstance(value, list):  # some converters write one value per layer where all are equal
            value = value[0] if len(set(value)) == 1 else self._refuse(key, value, "one number")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._refuse(key, value, "a number of at least 0")
        return int(value)

    def size(self, key: str, default: int | None = None) -> int:
        """A `u32` of at least 1: a length, or a count that something is divided by."""
        value = self.u32(key, default)
        return value if value > 0 else int(self._refuse(key, value, "at least 1"))

    def f32(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._refuse(key, value, "a number")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            self._refuse(key, value, "a word")
        return str(value)

    def factor(self, key: str) -> float:
        """An `f32` that multiplies something; a file without it, or with 0, multiplies by 1."""
        return self.f32(key, 1.0) or 1.0

    def attention_scale(self, d_head: int) -> float:
        """What attention scores are multiplied by; a file without it, or with 0, means 1 / sqrt(d_head)."""
        return self.f32("attention.scale", 0.0) or d_head**-0.5

    def rope_scaling(self) -> RopeScaling:
        """`rope.scaling.*`: linear or YaRN."""
        kind, factor = self.text("rope.scaling.type", "linear"), self.factor("rope.scaling.factor")
        if kind not in ("none", "linear", "yarn"):
            self._refuse("rope.scaling.type", kind, "none, linear or yarn")
        magnitude = self.factor("rope.scaling.attn_factor")
        if kind != "yarn":
            return RopeScaling(1.0 if kind == "none" else 1.0 / factor, magnitude=magnitude)
        return RopeScaling(
            positions=1.0 / factor,
            extrapolation=1.0,
            magnitude=magnitude,
            beta_fast=self.f32("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=self.f32("rope.scaling.yarn_beta_slow", 1.0),
            n_ctx_original=self.u32("rope.scaling.original_context_length", self.u32("context_length", 0)),
        )

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            self._refuse(key, value, "true or false")
        return bool(value)

    def per_layer(self, key: str, n_layer: int, default: int | None = None) -> tuple[int, ...]:
        """One integer a layer, from a scalar or an array; an array may go on for prediction layers at the end."""
        value = self._value(key, default)
        values = value if isinstance(value, list) else [value] * n_layer
        if len(values) < n_layer:
            self._refuse(key, value, f"{n_layer} values")
        if not all(isinstance(v, int) and v >= 0 for v in values):
            self._refuse(key, value, "numbers of at least 0")
        return tuple(int(v) for v in values[:n_layer])

    def largest(self, key: str, n_layer: int, default: int | None = None) -> int:
        """The largest of `per_layer`, where layers without the thing in question say 0; at least 1."""
        values = self.per_layer(key, n_layer, default)
        return max(values) if any(values) else int(self._refuse(key, max(values, default=0), "at least 1"))

    @property
    def n_layer(self) -> int:
        """Layers that predict the next token; further ones (`nextn_predict_layers`) are not counted."""
        count, prediction = self.size("block_count"), self.u32("nextn_predict_layers", 0)
        if prediction >= count:
            self._refuse("nextn_predict_layers", prediction, f"less than the {count} blocks")
        return count - prediction

    def _value(self, key: str, default: Any) -> Any:
        self.read.add(f"{self.architecture}.{key}")
        value = self._header.get(f".{key}", default)
        if value is None:
            raise BadModelFile(str(self._header.path), f"key `{self.architecture}.{key}` is missing")
        return value

    def _refuse(self, key: str, value: object, wanted: str) -> Any:
        raise BadModelFile(
            str(self._header.path),
            f"key `{self.architecture}.{key}` is {str(value)[:60]}, {wanted} is needed",
        )


class Architecture(Protocol):
    """The shape of an architecture module."""

    NAMES: Sequence[str]
    KERNELS: Sequence[str]

    @property
    def Hyper(self) -> Any: ...

    def carry(self, hp: Any) -> Sequence[LayerSpec]: ...

    def forward(self, g: Graph, hp: Any, w: Weights, s: Sequence[Carry]) -> Tensor: ...
