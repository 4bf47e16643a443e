"""The llama.cpp runtime, on llama-cpp-python's low-level API."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import llama_cpp.llama_cpp as lib
import numpy as np

from ..errors import BadRequest, BrokenSequence, Cancelled, PromptTooLong, RuntimeFailure
from . import llama_log
from .base import CacheType, Logits, RuntimeInfo, SequenceId
from .repack import repacking_is_safe
from .vocabulary import LlamaVocabulary

CACHE_TYPES: dict[CacheType, int] = {"f32": 0, "f16": 1, "q8_0": 8}  # ggml_type
FLASH_OFF, FLASH_ON, FLASH_AUTO = 0, 1, -1  # llama_flash_attn_type
Flash = bool | Literal["auto"]
N_BATCH = 512
ABORTED = 2  # llama_decode's return value after the abort callback said stop


@dataclass(frozen=True)
class LlamaSetting:
    """What llama.cpp lets its user choose. None: `repack` where it does not crash, `flash` as the memory plan says."""

    repack: bool | None = None
    flash: Flash | None = None


@dataclass(frozen=True)
class LlamaSnapshot:
    """One sequence's state as llama.cpp serialises it."""

    n_tokens: int
    data: bytes

    @property
    def nbytes(self) -> int:
        return len(self.data)


class LlamaRuntime:
    """A model loaded by llama.cpp; see `Runtime` for the contract of every method.

    `repack` lets llama.cpp rearrange quantised weights for its own kernels: its default, and None follows it wherever it
    does not crash. `flash` is llama.cpp's flash attention, "auto" its own default, None where only the cache decides: q8_0
    needs it, f32 forbids it (it would silently be cast to f16). `n_ctx` is what one sequence holds; the cache is allocated for
    `max_sequences` times that.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        n_threads: int,
        cache_type: CacheType = "f16",
        max_sequences: int = 1,
        flash: Flash | None = None,
        repack: bool | None = None,
    ) -> None:
        llama_log.install()
        llama_log.forget()
        lib.llama_backend_init()
        self._model = _load_model(path, repacking_is_safe() if repack is None else repack)
        try:
            self._context = self._make_context(path, n_ctx, n_threads, cache_type, max_sequences, flash)
        except RuntimeFailure:
            lib.llama_model_free(self._model)
            raise
        self._memory = lib.llama_get_memory(self._context)
        self.vocabulary = LlamaVocabulary(self._model)
        self.info = RuntimeInfo(
            name="llama.cpp",
            architecture=_meta(self._model, "general.architecture"),
            n_ctx=n_ctx,
            n_vocab=self.vocabulary.n_vocab,
            n_threads=n_threads,
            cache_type=cache_type,
            max_sequences=max_sequences,
            can_trim=not (
                lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
            ),
        )
        self._length: dict[SequenceId, int] = {}
        self._broken: set[SequenceId] = set()
        self._batch = lib.llama_batch_init(N_BATCH, 0, 1)
        self._alive = True

    def _make_context(
        self,
        path: Path,
        n_ctx: int,
        n_threads: int,
        cache_type: CacheType,
        max_sequences: int,
        flash: Flash | None,
    ) -> lib.llama_context_p:
        self._stop = threading.Event()
        # The callback object must live as long as the context that calls it.
        self._abort = lib.ggml_abort_callback(lambda _: self._stop.is_set())
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx * max_sequences
        params.n_batch = N_BATCH
        params.n_ubatch = N_BATCH
        params.n_seq_max = max_sequences
        params.n_threads = params.n_threads_batch = n_threads
        params.type_k = params.type_v = CACHE_TYPES[cache_type]
        flash = cache_type == "q8_0" if flash is None else flash
        params.flash_attn_type = FLASH_AUTO if flash == "auto" else FLASH_ON if flash else FLASH_OFF
        params.abort_callback = self._abort
        params.no_perf = True
        context = lib.llama_init_from_model(self._model, params)
        if context is None:
            raise RuntimeFailure(
                f"making a context of {n_ctx} tokens for {path.name}", llama_log.last_words()
            )
        return context

    def open(self) -> SequenceId:
        for sequence in range(self.info.max_sequences):
            if sequence not in self._length:
                self._clear(sequence)
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
        self._check(tokens)
        self._stop.clear()
        wanted = {
            s: np.empty((len(t) if logits == "all" else 1, self.info.n_vocab), np.float32)
            for s, t in tokens.items()
        }
        left = {s: list(t) for s, t in tokens.items()}
        try:
            while left:
                self._step(left, wanted, logits)
        except BaseException:
            self._broken.update(tokens)
            raise
        return wanted

    def _check(self, tokens: Mapping[SequenceId, Sequence[int]]) -> None:
        for sequence, new in tokens.items():
            if sequence in self._broken:
                raise BrokenSequence(sequence)
            if not new:
                raise BadRequest(f"sequence {sequence} was given no tokens")
            if self._length[sequence] + len(new) > self.info.n_ctx:
                raise PromptTooLong(self._length[sequence] + len(new), self.info.n_ctx)
            wrong = next((t for t in new if not 0 <= t < self.info.n_vocab), None)
            if wrong is not None:
                raise BadRequest(f"token {wrong} is not in the vocabulary of {self.info.n_vocab}")

    def _step(
        self,
        left: dict[SequenceId, list[int]],
        wanted: dict[SequenceId, Logits],
        logits: Literal["last", "all"],
    ) -> None:
        """Decode up to N_BATCH tokens, an equal share from each sequence that still has some."""
        batch, n = self._batch, 0
        outputs: list[tuple[SequenceId, int, int]] = []  # sequence, row in the result, row in the batch
        share = max(1, N_BATCH // len(left))
        for sequence in list(left)[:N_BATCH]:
            chunk, rest = left[sequence][:share], left[sequence][share:]
            for offset, token in enumerate(chunk):
                batch.token[n] = token
                batch.pos[n] = self._length[sequence] + offset
                batch.n_seq_id[n] = 1
                batch.seq_id[n][0] = sequence
                last = not rest and offset == len(chunk) - 1
                batch.logits[n] = logits == "all" or last
                if logits == "all":
                    outputs.append((sequence, len(wanted[sequence]) - len(left[sequence]) + offset, n))
                elif last:
                    outputs.append((sequence, 0, n))
                n += 1
            self._length[sequence] += len(chunk)
            if rest:
                left[sequence] = rest
            else:
                del left[sequence]
        batch.n_tokens = n
        self._decode(n)
        for sequence, row, index in outputs:
            values = lib.llama_get_logits_ith(self._context, index)
            wanted[sequence][row] = np.ctypeslib.as_array(values, (self.info.n_vocab,))

    def _decode(self, n: int) -> None:
        status = lib.llama_decode(self._context, self._batch)
        if status == ABORTED or self._stop.is_set():
            raise Cancelled()
        if status != 0:
            raise RuntimeFailure(
                f"decoding {n} tokens", f"llama_decode returned {status}: {llama_log.last_words()}"
            )

    def fork(self, sequence: SequenceId) -> SequenceId:
        # Not llama_memory_seq_cp: it postpones the copy to the next decode, and a snapshot before that reads garbage.
        return self.restore(self.snapshot(sequence))

    def snapshot(self, sequence: SequenceId) -> LlamaSnapshot:
        self._refuse_broken(sequence)
        size = int(lib.llama_state_seq_get_size(self._context, sequence))
        buffer = (ctypes.c_uint8 * size)()
        written = int(lib.llama_state_seq_get_data(self._context, buffer, size, sequence))
        if written != size:
            raise RuntimeFailure("taking a snapshot", f"llama.cpp wrote {written} of {size} bytes")
        return LlamaSnapshot(self._length[sequence], bytes(buffer))

    def restore(self, snapshot: LlamaSnapshot) -> SequenceId:
        sequence = self.open()
        if snapshot.n_tokens:
            buffer = (ctypes.c_uint8 * snapshot.nbytes).from_buffer_copy(snapshot.data)
            if not lib.llama_state_seq_set_data(self._context, buffer, snapshot.nbytes, sequence):
                self.close(sequence)
                raise RuntimeFailure("restoring a snapshot", llama_log.last_words())
        self._length[sequence] = snapshot.n_tokens
        return sequence

    def trim(self, sequence: SequenceId, n_tokens: int) -> bool:
        """Drop everything after the first `n_tokens`; False where a recurrent state makes that impossible."""
        self._refuse_broken(sequence)
        if n_tokens == self._length[sequence]:
            return True
        if not self.info.can_trim or not lib.llama_memory_seq_rm(self._memory, sequence, n_tokens, -1):
            return False
        self._length[sequence] = n_tokens
        return True

    def close(self, sequence: SequenceId) -> None:
        del self._length[sequence]
        self._broken.discard(sequence)
        self._clear(sequence)

    def cancel(self) -> None:
        self._stop.set()

    def shutdown(self) -> None:
        if self._alive:
            self._alive = False
            self._length.clear()
            lib.llama_batch_free(self._batch)
            lib.llama_free(self._context)
            lib.llama_model_free(self._model)

    def __del__(self) -> None:
        if getattr(self, "_alive", False):
            self.shutdown()

    def _clear(self, sequence: SequenceId) -> None:
        lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _refuse_broken(self, sequence: SequenceId) -> None:
        if sequence in self._broken:
            raise BrokenSequence(sequence)


def _load_model(path: Path, repack: bool) -> lib.llama_model_p:
    params = lib.llama_model_default_params()
    params.use_extra_bufts = repack
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    if model is None:
        raise RuntimeFailure(f"loading {path.name} with llama.cpp", llama_log.last_words())
    return model


def _meta(model: lib.llama_model_p, key: str) -> str:
    buffer = ctypes.create_string_buffer(256)
    lib.llama_model_meta_val_str(model, key.encode(), buffer, 256)
    return buffer.value.decode("utf-8")
