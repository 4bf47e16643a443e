"""Times conifer.attention/1 against both of ggml's ways, flash attention and two products with a softmax between, at one depth.

Every side appends the same rows to a cache of its own and attends, as nodes of a ggml graph, turn by turn. A decode graph
holds several copies with caches of their own, as a model has layers: what a token reads must not come from the last token.
Errors are against float64 on the numbers that the cache holds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..native_api import ggml, host
from ..native_api.kernels import Call, Kernel, View
from ..native_api.memory import Region
from ..ops import Contract
from .bench import Backend, Float32, timed
from .values import Float64, store

OP = "conifer.attention/1"
BLOCK = 64  # positions of one block of ours
STEP = 256  # ggml reads its cache in multiples of this
FEW, COPIED_BYTES, MOST_COPIES = 8, 64 << 20, 8


@dataclass(frozen=True)
class Heads:
    """Query heads, key heads, key size and value size, and which models have them."""

    label: str
    n_head: int
    n_head_kv: int
    d_k: int
    d_v: int


HEADS = (
    Heads("granite-4.0-h-350m", 12, 4, 64, 64),
    Heads("falcon-h1-0.5b", 8, 2, 64, 64),
    Heads("granite-4.0-h-1b, granite-4.0-h-tiny", 12, 4, 128, 128),
    Heads("jamba-reasoning-3b", 20, 1, 128, 128),
    Heads("qwen3.5-0.8b, qwen3.5-2b", 8, 2, 256, 256),
)


@dataclass(frozen=True)
class AttentionTiming:
    """Medians in microseconds of one layer's call; ratios are ggml's time over ours, 0 where ggml has no such path. `ratio` is
    that of its faster one, with the middle half of the rounds."""

    model: str
    heads: str
    cache_type: str
    depth: int
    n_tokens: int
    n_threads: int
    us: float
    flash_us: float
    flash_ratio: float
    plain_us: float
    plain_ratio: float
    ratio: float
    ratio_low: float
    ratio_high: float
    error: float
    flash_error: float
    plain_error: float

    def to_json(self) -> dict[str, Any]:
        """Its own fields and those that every row has; ggml's way is the faster one there."""
        ggml_us = min(self.flash_us, self.plain_us or self.flash_us)
        return {
            "op": OP,
            "shape": f"{self.heads} {self.cache_type} after {self.depth}",
            "us_per_token": self.us / self.n_tokens,
            "ggml_us_per_token": ggml_us / self.n_tokens,
            **asdict(self),
        }


def time_attention(
    contract: Contract,
    kernel: Kernel,
    heads: Heads,
    depth: int,
    n_tokens: int,
    n_threads: int,
    cache_type: str = "f16",
    seconds: float = 1.0,
) -> AttentionTiming:
    """Time `n_tokens` after `depth` others."""
    given = _Given.random(heads, depth, n_tokens, cache_type)
    size = given.past_k.stored.nbytes + given.past_v.stored.nbytes
    copies = max(1, min(MOST_COPIES, COPIED_BYTES // size)) if n_tokens <= FEW else 1
    with Backend(n_threads, copies) as backend:
        sides: list[_Side] = [_Ours(backend, given, contract, kernel), _Flash(backend, given)]
        if cache_type != "q8_0":
            sides.append(_Plain(backend, given))
        backend.allocate()
        for side in sides:
            side.fill()
            side.run()
        expected = given.expected()
        errors = [_error(side.output(), expected) for side in sides]
        times = _in_turn([side.run for side in sides], seconds)
        for side in sides:
            side.close()
    medians = [statistics.median(t) * 1e6 / copies for t in times]
    rounds = [sorted(b / a for a, b in zip(times[0], t, strict=True)) for t in times]
    ratios = [statistics.median(r) for r in rounds]
    of_faster = min(rounds[1:], key=statistics.median)
    plain = len(sides) > 2
    return AttentionTiming(
        heads.label,
        f"{heads.n_head}/{heads.n_head_kv} x {heads.d_k}",
        cache_type,
        depth,
        n_tokens,
        n_threads,
        medians[0],
        medians[1],
        ratios[1],
        medians[2] if plain else 0.0,
        ratios[2] if plain else 0.0,
        statistics.median(of_faster),
        of_faster[len(of_faster) // 4],
        of_faster[(3 * len(of_faster)) // 4],
        errors[0],
        errors[1],
        errors[2] if plain else 0.0,
    )


def _error(found: Float32, expected: Float64) -> float:
    """Root mean square, relative to that of what was expected."""
    return float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))


def _in_turn(runs: Sequence[Callable[[], None]], seconds: float) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in runs]
    while sum(map(sum, times)) < seconds * len(runs) or len(times[0]) < 5:
        for run, of_run in zip(runs, times, strict=True):
            of_run.append(timed(run))
    return times


@dataclass(frozen=True)
class _Given:
    """New rows, and the past as the cache stores it: [positions, H_kv, d]."""

    heads: Heads
    depth: int
    q: Float32
    k: Float32
    v: Float32
    past_k: Any
    past_v: Any

    @classmethod
    def random(cls, h: Heads, depth: int, n: int, cache_type: str) -> _Given:
        rng = np.random.default_rng(0)

        def draw(*shape: int) -> Float32:
            return rng.standard_normal(shape, np.float32)

        past_k, past_v = (
            store(cache_type, draw(depth, h.n_head_kv, d).astype(np.float64)) for d in (h.d_k, h.d_v)
        )
        q, k = draw(n, h.n_head, h.d_k), draw(n, h.n_head_kv, h.d_k)
        return cls(h, depth, q, k, draw(n, h.n_head_kv, h.d_v), past_k, past_v)

    @property
    def scale(self) -> float:
        return float(self.heads.d_k**-0.5)

    @property
    def dtype(self) -> str:
        return str(self.past_k.dtype)

    def expected(self) -> Float64:
        """Of the last few tokens."""
        keys, values = (
            np.concatenate([past.value, store(self.dtype, new.astype(np.float64)).value])
            for past, new in ((self.past_k, self.k), (self.past_v, self.v))
        )
        n = len(self.q)
        rows = [self._row(keys[: self.depth + t + 1], values[: self.depth + t + 1], t) for t in range(n)[-4:]]
        return np.stack(rows)

    def _row(self, keys: Float64, values: Float64, t: int) -> Float64:
        h = self.heads
        q = self.q[t].reshape(h.n_head_kv, -1, h.d_k).astype(np.float64)
        score = self.scale * np.einsum("jgi,pji->jgp", q, keys)
        weight = np.exp(score - score.max(-1, keepdims=True))
        weight /= weight.sum(-1, keepdims=True)
        row: Float64 = np.einsum("jgp,pjv->jgv", weight, values).reshape(h.n_head, h.d_v)
        return row


class _Side:
    """One way to attend; its graph holds as many copies as the backend says."""

    graph: Any
    outputs: list[Any]

    def __init__(self, backend: Backend, given: _Given) -> None:
        self.backend, self.given = backend, given
        self.filled: list[tuple[Any, NDArray[Any]]] = []

    def tensor(self, values: NDArray[Any], dtype: str = "f32") -> Any:
        made = self.backend.tensor(values.shape, dtype)
        self.filled.append((made, values))
        return made

    def fill(self) -> None:
        for tensor, values in self.filled:
            self.backend.set(tensor, values)

    def run(self) -> None:
        self.backend.compute(self.graph)

    def output(self) -> Float32:
        h, n = self.given.heads, len(self.given.q)
        return self.backend.values(self.outputs[0], (n, h.n_head, h.d_v))[-4:]

    def close(self) -> None:
        """Free what is not the backend's."""


class _Ours(_Side):
    def __init__(self, backend: Backend, given: _Given, contract: Contract, kernel: Kernel) -> None:
        super().__init__(backend, given)
        self.kernel, self.contract = kernel, contract
        self.failure = host.ffi.new("int32_t[2]")
        n_block = -(-(given.depth + len(given.q)) // BLOCK)
        self.table = np.arange(n_block, dtype=np.int32)[None]
        self.position = np.arange(given.depth, given.depth + len(given.q), dtype=np.int32)
        self.regions: list[Region] = []
        self.calls = [self._call(n_block) for _ in range(backend.copies)]
        need = kernel.plan(self.calls[0], backend.n_threads)
        self.regions.append(Region(need.scratch_bytes))
        self.tasks: list[Any] = []
        self.outputs = [
            backend.custom_node(
                kernel, call, need.n_phase, self._shape, self.failure, self.regions[-1], self.tasks
            )
            for call in self.calls
        ]
        self.graph = backend.graph(self.outputs)

    @property
    def _shape(self) -> tuple[int, ...]:
        return (len(self.given.q), self.given.heads.n_head, self.given.heads.d_v)

    def _call(self, n_block: int) -> Call:
        g = self.given
        inputs = [View.dense("f32", a.shape, a.ctypes.data) for a in (g.q, g.k, g.v)]
        inputs.append(View.dense("i32", self.position.shape, self.position.ctypes.data))
        states = [View.dense("i32", self.table.shape, self.table.ctypes.data)]
        states += [
            self._pool(past, d, n_block) for past, d in ((g.past_k, g.heads.d_k), (g.past_v, g.heads.d_v))
        ]
        ints, reals = self.contract.attributes({"scale": g.scale})
        call = Call(self.contract, inputs, states, [View.dense("f32", self._shape)], ints, reals, 1)
        call.set_sequences([0, len(g.q)], [0])
        return call

    def _pool(self, past: Any, d: int, n_block: int) -> View:
        heads = self.given.heads.n_head_kv
        rows = np.zeros((n_block * BLOCK, heads, past.stored.shape[-1]), past.stored.dtype)
        rows[: self.given.depth] = past.stored
        blocks = rows.reshape(n_block, BLOCK, heads, -1).transpose(0, 2, 1, 3)
        region = Region(rows.nbytes)
        region.array(rows.dtype, blocks.shape)[...] = blocks
        self.regions.append(region)
        return View.dense(past.dtype, (n_block, heads, BLOCK, d), region.address)

    def fill(self) -> None:
        for call, output in zip(self.calls, self.outputs, strict=True):
            call.set_data("output", 0, host.address(self.backend.lib.ggml_get_data(output)))

    def run(self) -> None:
        super().run()
        if self.failure[0]:
            raise self.kernel.failed(self.failure[0], "while it was timed")

    def close(self) -> None:
        for region in self.regions:
            region.close()


class _Theirs(_Side):
    """ggml's sides: rows are appended by ggml_set_rows, and a mask says who sees what."""

    def __init__(self, backend: Backend, given: _Given) -> None:
        super().__init__(backend, given)
        self.n_kv = -(-(given.depth + len(given.q)) // STEP) * STEP
        seen = np.arange(self.n_kv)[None] <= np.arange(given.depth, given.depth + len(given.q))[:, None]
        self.mask = self.tensor(np.where(seen, np.float16(0), np.float16(-np.inf)), "f16")
        self.rows = self.tensor(np.arange(given.depth, given.depth + len(given.q)), "i64")
        self.nodes: list[Any] = []
        self.outputs = [self.attend() for _ in range(backend.copies)]
        self.graph = backend.graph(self.nodes)

    def attend(self) -> Any:
        raise NotImplementedError

    def padded(self, past: Any) -> NDArray[Any]:
        rows = np.zeros((self.n_kv, *past.stored.shape[1:]), past.stored.dtype)
        rows[: self.given.depth] = past.stored
        return rows

    def append(self, past: Any, new: Float32) -> Any:
        """The cache [n_kv, H_kv, d] as ggml sees it with heads outside, after the new rows went in."""
        lib, context = self.backend.lib, self.backend.context
        heads, d = new.shape[1:]
        cache = self.backend.tensor((self.n_kv, heads * d), past.dtype)
        self.filled.append((cache, self.padded(past)))
        self.nodes.append(
            lib.ggml_set_rows(context, cache, self.tensor(new.reshape(len(new), -1)), self.rows)
        )
        kind = ggml.TYPES_BY_NAME[past.dtype]
        row, head = (lib.ggml_row_size(kind, n) for n in (heads * d, d))
        return lib.ggml_view_4d(context, cache, d, self.n_kv, heads, 1, row, head, row * self.n_kv, 0)

    def queries(self) -> Any:
        return self.backend.lib.ggml_permute(self.backend.context, self.tensor(self.given.q), 0, 2, 1, 3)


class _Flash(_Theirs):
    def attend(self) -> Any:
        g, lib = self.given, self.backend.lib
        keys, values = self.append(g.past_k, g.k), self.append(g.past_v, g.v)
        out = lib.ggml_flash_attn_ext(
            self.backend.context, self.queries(), keys, values, self.mask, g.scale, 0.0, 0.0
        )
        self.nodes.append(out)
        return out


class _Plain(_Theirs):
    """As llama.cpp without flash attention: values are kept turned, scores of all positions are kept."""

    def attend(self) -> Any:
        g, lib, context, h = self.given, self.backend.lib, self.backend.context, self.given.heads
        keys = self.append(g.past_k, g.k)
        turned = self.padded(g.past_v)
        turned[g.depth : g.depth + len(g.v)] = store(g.dtype, g.v.astype(np.float64)).stored
        values = self.tensor(np.ascontiguousarray(turned.transpose(1, 2, 0)), g.dtype)
        score = lib.ggml_mul_mat(context, keys, self.queries())
        weight = lib.ggml_soft_max_ext(context, score, self.mask, g.scale, 0.0)
        out = lib.ggml_permute(context, lib.ggml_mul_mat(context, values, weight), 0, 2, 1, 3)
        out = lib.ggml_cont(context, out)
        self.nodes.append(out)
        assert h.n_head % h.n_head_kv == 0
        return out
