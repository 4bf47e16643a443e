"""The hybrid runtime: an architecture's graph on ggml, its recurrent layers on registered kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..arch.api import Architecture, Keys, Weights
from ..engine.blocks import OP as ATTENTION
from ..engine.carry import Pools, Saved
from ..engine.compute import Built, Executor
from ..engine.graph import Graph, Share
from ..engine.product import EXPERTS
from ..engine.product import OP as PRODUCT
from ..engine.profile import NodeTime
from ..engine.supply import Supply, accelerators, registered_supply
from ..engine.weights import WeightFile
from ..errors import BadModelFile, BadRequest, BrokenSequence, ModelLoadGated, PromptTooLong
from ..gguf import Header
from .base import CacheType, Logits, RuntimeInfo, SequenceId
from .vocabulary import load_vocabulary

CHUNK = 512  # tokens of one step, over all sequences


class HybridRuntime:
    """A model that our engine runs; see `Runtime` for the contract of every method.

    Every op of `architecture.KERNELS` must have a registered kernel. `by_ggml` are types of weights whose products ggml
    computes although a kernel is registered. Raises BadModelFile or ShapeMismatch for a file whose keys and tensors do
    not fit the architecture.
    """

    def __init__(
        self,
        header: Header,
        architecture: Architecture,
        *,
        n_ctx: int,
        n_threads: int,
        cache_type: CacheType = "f16",
        max_sequences: int = 1,
        by_ggml: tuple[str, ...] = (),
    ) -> None:
        self._length: dict[SequenceId, int] = {}
        self._broken: set[SequenceId] = set()
        self._alive = True
        self._closers: list[WeightFile | Pools | Executor] = []
        try:
            self._open(header, architecture, n_ctx, n_threads, cache_type, max_sequences, by_ggml)
        except BaseException:
            self.shutdown()
            raise

    def _open(
        self,
        header: Header,
        architecture: Architecture,
        n_ctx: int,
        n_threads: int,
        cache_type: CacheType,
        max_sequences: int,
        by_ggml: tuple[str, ...],
    ) -> None:
        with ThreadPoolExecutor(1) as other:
            # In llama.cpp, half of the time that loading takes.
            vocabulary = other.submit(load_vocabulary, header)
            faster, split_dependent = self._build(
                header, architecture, n_ctx, n_threads, cache_type, max_sequences, by_ggml
            )
            self.vocabulary = vocabulary.result()
        self.info = RuntimeInfo(
            name="hybrid",
            architecture=header.architecture,
            n_ctx=n_ctx,
            n_vocab=self.vocabulary.n_vocab,
            n_threads=n_threads,
            cache_type=cache_type,
            max_sequences=max_sequences,
            can_trim=False,
            accelerators={
                op: supply.kernels[0].plugin
                for op, supply in faster.items()
                if op != ATTENTION or self._pools.blocks
            },
            by_ggml=by_ggml if PRODUCT in faster else (),
            split_dependent=split_dependent,
        )

    def _build(
        self,
        header: Header,
        architecture: Architecture,
        n_ctx: int,
        n_threads: int,
        cache_type: CacheType,
        max_sequences: int,
        by_ggml: tuple[str, ...],
    ) -> tuple[Mapping[str, Supply], tuple[str, ...]]:
        """Weights, pools and the largest graph: the kernels that stand in for ggml's operators, and what splits change."""
        hp = architecture.Hyper.read(Keys(header))
        weights = WeightFile(header)
        self._closers.append(weights)
        faster = dict(accelerators((ATTENTION, PRODUCT, EXPERTS)))
        if PRODUCT in faster:
            faster[PRODUCT] = replace(faster[PRODUCT], by_ggml=by_ggml)
        self._pools = Pools(architecture.carry(hp), max_sequences, n_ctx, cache_type, faster.get(ATTENTION))
        self._closers.append(self._pools)
        root = Weights(weights)

        def forward(graph: Graph) -> None:
            graph.finish(architecture.forward(graph, hp, root, self._pools.layers))

        needed = registered_supply(architecture.KERNELS)
        missing = tuple(op for op, found in needed.items() if not found.kernels)
        if missing:  # unregistered since the runtime was chosen
            raise ModelLoadGated(header.path.stem, missing)
        self._executor = Executor(weights, {**needed, **faster}, forward, n_threads, self._pools.n_row)
        self._closers.append(self._executor)
        # The largest step of a prompt; building it looks at every tensor once.
        largest = min(CHUNK, n_ctx)
        prompt = self._executor.reserve([Share(0, n_ctx - largest, largest)], "last")
        decode = self._executor.reserve([Share(0, n_ctx - 1, 1)], "last")
        _refuse_unread(
            header.path, weights, (*getattr(architecture, "UNUSED", ()), *_prediction_blocks(header))
        )
        return faster, _split_dependent(prompt, decode)

    def open(self) -> SequenceId:
        for sequence in range(self.info.max_sequences):
            if sequence not in self._length:
                self._pools.clear(sequence)
                self._length[sequence] = 0
                return sequence
        raise BadRequest(
            f"{self.info.max_sequences} sequences are open, which is all that this runtime holds"
        )

    def length(self, sequence: SequenceId) -> int:
        return self._length[sequence]

    def advance(
        self, tokens: Mapping[SequenceId, Sequence[int]], *, logits: Literal["last", "all"] = "last"
    ) -> dict[SequenceId, Logits]:
        for sequence, new in tokens.items():
            self._check(sequence, new)
        left = {s: np.asarray(t, np.int32) for s, t in tokens.items()}
        rows: dict[SequenceId, list[Logits]] = {s: [] for s in tokens}
        try:
            while left:
                self._step(left, rows, logits)
        except BaseException:
            self._broken.update(tokens)
            raise
        return {s: r[0] if len(r) == 1 else np.concatenate(r) for s, r in rows.items()}

    def _check(self, sequence: SequenceId, new: Sequence[int]) -> None:
        self._refuse_broken(sequence)
        if not len(new):
            raise BadRequest(f"sequence {sequence} was given no tokens")
        if self._length[sequence] + len(new) > self.info.n_ctx:
            raise PromptTooLong(self._length[sequence] + len(new), self.info.n_ctx)
        wrong = next((t for t in new if not 0 <= t < self.info.n_vocab), None)
        if wrong is not None:
            raise BadRequest(f"token {wrong} is not in the vocabulary of {self.info.n_vocab}")

    def _step(
        self,
        left: dict[SequenceId, np.ndarray[tuple[int], np.dtype[np.int32]]],
        rows: dict[SequenceId, list[Logits]],
        logits: Literal["last", "all"],
    ) -> None:
        """Compute up to CHUNK tokens, an equal share from each sequence that still has some."""
        share = max(1, CHUNK // len(left))
        chunks = {s: t[:share] for s, t in list(left.items())[:CHUNK]}
        shares = [Share(s, self._length[s], len(t)) for s, t in chunks.items()]
        for sequence, chunk in chunks.items():
            self._pools.grow(sequence, self._length[sequence] + len(chunk))
        out = self._executor.run(shares, np.concatenate(list(chunks.values())), logits)
        at = 0
        for sequence, chunk in chunks.items():
            self._length[sequence] += len(chunk)
            n = len(chunk) if logits == "all" else 1
            left[sequence] = left[sequence][len(chunk) :]
            if logits == "all" or not len(left[sequence]):
                rows[sequence].append(out[at : at + n])
            if not len(left[sequence]):
                del left[sequence]
            at += n

    def measure(self, share: Share, tokens: np.ndarray[tuple[int], np.dtype[np.int32]]) -> list[NodeTime]:
        """How long each node of one step took. The sequence is torn afterwards: its length does not count these tokens."""
        self._broken.add(share.slot)
        return self._executor.measure([share], tokens)

    def fork(self, sequence: SequenceId) -> SequenceId:
        self._refuse_broken(sequence)
        made = self.open()
        self._pools.copy(sequence, made, self._length[sequence])
        self._length[made] = self._length[sequence]
        return made

    def snapshot(self, sequence: SequenceId) -> Saved:
        self._refuse_broken(sequence)
        return self._pools.save(sequence, self._length[sequence])

    def restore(self, snapshot: Saved) -> SequenceId:
        sequence = self.open()
        self._pools.load(sequence, snapshot)
        self._length[sequence] = snapshot.n_tokens
        return sequence

    def trim(self, sequence: SequenceId, n_tokens: int) -> bool:
        """A carry holds no past: only "everything" can be kept."""
        self._refuse_broken(sequence)
        return n_tokens == self._length[sequence]

    def close(self, sequence: SequenceId) -> None:
        del self._length[sequence]
        self._pools.release(sequence)
        self._broken.discard(sequence)

    def cancel(self) -> None:
        self._executor.stop()

    def shutdown(self) -> None:
        if self._alive:
            self._alive = False
            self._length.clear()
            while self._closers:
                self._closers.pop().close()

    def __del__(self) -> None:
        if getattr(self, "_alive", False):
            self.shutdown()

    def _refuse_broken(self, sequence: SequenceId) -> None:
        if sequence in self._broken:
            raise BrokenSequence(sequence)


def _split_dependent(prompt: Built, decode: Built) -> tuple[str, ...]:
    """Also where a kernel refuses short calls, or long ones, and another one takes them."""
    chosen = zip(prompt.kernels, decode.kernels, strict=False)
    changed = {a.op for a, b in chosen if a != b}
    return tuple(sorted(prompt.split_dependent | decode.split_dependent | changed))


def _prediction_blocks(header: Header) -> list[str]:
    """Prefixes of the blocks that guess further tokens, at the end of the file: nothing here drafts with them."""
    n_block, n_prediction = (int(header.get(k, 0)) for k in (".block_count", ".nextn_predict_layers"))
    return [f"blk.{i}." for i in range(n_block - n_prediction, n_block)]


def _refuse_unread(path: Path, weights: WeightFile, unused: Sequence[str]) -> None:
    unread = [name for name in weights.unread() if not name.startswith(tuple(unused))]
    if unread:
        names = ", ".join(f"`{name}`" for name in unread[:3])
        raise BadModelFile(
            str(path),
            f"nothing reads {len(unread)} of its tensors ({names}); this is another variant of the architecture",
        )
