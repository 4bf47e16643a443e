"""The description of one kernel call: operands, attributes and sequences as the C structs of `conifer_kernel.h`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..ops import Contract
from . import cdef
from .cdef import ffi

Pointer = Any  # a cffi pointer
# Types by their C name, looked up once: a graph has thousands of operands.
_TENSOR, _TENSORS, _SIZES = (ffi.typeof(t) for t in ("ck_tensor *", "ck_tensor *[]", "int64_t[]"))
_DATA = ffi.typeof("void *")
_TENSOR_SIZE, _CALL_SIZE = ffi.sizeof("ck_tensor"), ffi.sizeof("ck_call")
Role = Literal["input", "state", "output"]


@dataclass(frozen=True)
class View:
    """One operand: `stride_bytes` slowest first, `address` 0 where no data exists yet (supports, plan)."""

    dtype: str
    shape: tuple[int, ...]
    stride_bytes: tuple[int, ...]
    address: int = 0
    constant: bool = False

    @classmethod
    def dense(cls, dtype: str, shape: tuple[int, ...], address: int = 0, constant: bool = False) -> View:
        """A view without gaps; of a quantised dtype the last stride is one block."""
        return cls(dtype, shape, dense_strides(dtype, shape), address, constant)


def dense_strides(dtype: str, shape: Sequence[int]) -> tuple[int, ...]:
    elements, size = cdef.BLOCK[dtype]
    strides = [size]
    if shape:
        row = -(-shape[-1] // elements) * size
        for length in reversed(shape[1:-1]):
            strides.append(row)
            row *= length
        strides.append(row)
    return tuple(reversed(strides[: len(shape)]))


class Call:
    """One `ck_call` and every C struct it points to; nothing is copied, so `pointer` dies with this object.

    Shapes are not judged here: `Contract.bind` does that before, and the kit passes wrong ones on purpose.
    """

    def __init__(
        self,
        contract: Contract,
        inputs: Sequence[View | None],
        states: Sequence[View],
        outputs: Sequence[View],
        ints: Sequence[int] = (),
        reals: Sequence[float] = (),
        max_sequences: int = 1,
    ) -> None:
        self.contract = contract
        self.max_sequences = max_sequences
        self._keep: list[Pointer] = []
        self._tensors: dict[str, list[Pointer]] = {
            "input": [self._tensor(v) for v in inputs],
            "state": [self._tensor(v) for v in states],
            "output": [self._tensor(v) for v in outputs],
        }
        self._seq_start = ffi.new("int32_t[]", max_sequences + 1)
        self._slot = ffi.new("int32_t[]", max(max_sequences, 1))
        self.pointer: Pointer = ffi.new("ck_call *")
        call = self.pointer
        call.struct_size = _CALL_SIZE
        call.n_input, call.n_state, call.n_output = len(inputs), len(states), len(outputs)
        call.n_int, call.n_real, call.n_seq = len(ints), len(reals), max_sequences
        call.input, call.state, call.output = (self._pointers(r) for r in ("input", "state", "output"))
        call.int_attr = self._own(ffi.new(_SIZES, list(ints) or 1))
        call.real_attr = self._own(ffi.new("double[]", list(reals) or 1))

    def set_data(self, role: Role, index: int, address: int) -> None:
        """Point one operand at its data; `address` stays the caller's to keep alive."""
        self._tensors[role][index].data = ffi.cast(_DATA, address)

    def set_sequences(self, seq_start: Sequence[int], slot: Sequence[int]) -> None:
        """Which tokens belong to which sequence, and the pool row of each; may be called before every run."""
        n = len(slot)
        if n > self.max_sequences or len(seq_start) != n + 1:
            raise ValueError(
                f"{n} slots and {len(seq_start)} offsets, at most {self.max_sequences} sequences"
            )
        self._seq_start[0 : n + 1] = seq_start
        if n:
            self._slot[0:n] = slot
        self.pointer.n_seq = n
        self.pointer.seq_start, self.pointer.slot = self._seq_start, self._slot

    def owned_bytes(self) -> bytes:
        """Everything of this call that is the host's: a kernel may change none of it."""
        owned = (self.pointer, self._seq_start, self._slot, *self._keep)
        return b"".join(bytes(ffi.buffer(made)) for made in owned)

    def _own(self, made: Pointer) -> Pointer:
        self._keep.append(made)
        return made

    def _tensor(self, view: View | None) -> Pointer:
        if view is None:
            return ffi.NULL
        tensor = self._own(ffi.new(_TENSOR))
        tensor.struct_size = _TENSOR_SIZE
        tensor.dtype = cdef.DTYPE[view.dtype]
        tensor.rank = len(view.shape)
        tensor.flags = cdef.CONSTANT if view.constant else 0
        tensor.dim = self._own(ffi.new(_SIZES, view.shape or 1))
        tensor.stride_bytes = self._own(ffi.new(_SIZES, view.stride_bytes or 1))
        if view.address:
            tensor.data = ffi.cast(_DATA, view.address)
        return tensor

    def _pointers(self, role: str) -> Pointer:
        return self._own(ffi.new(_TENSORS, self._tensors[role] or 1))
