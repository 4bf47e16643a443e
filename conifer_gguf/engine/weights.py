"""The tensors of a model file, mapped into memory and looked up by their GGUF names.

An architecture walks `w.blk[3].attn_q` and hands the result to the graph; what was looked up is noted, so that loading
can refuse a file with tensors that nothing read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from ..errors import BadModelFile, ShapeMismatch
from ..gguf import Header, TensorInfo, read_header
from ..native_api import ggml
from ..native_api.memory import Region
from .tensor import Tensor, dense_strides, row_bytes

TENSOR_ALIGNMENT = 32  # bytes; what ggml's CPU backend demands of an address


class WeightFile:
    """Every tensor of a model (all files of a split one), readable by ggml in place. One thread."""

    def __init__(self, header: Header) -> None:
        self.path = header.path
        self._read: set[str] = set()
        self._tensors: dict[str, Tensor] = {}
        self._where: dict[str, tuple[Region, TensorInfo]] = {}
        self._converted: dict[str, Tensor] = {}
        self._regions: list[Region] = []
        self._buffers: list[Any] = []
        parts = list(_parts(header))
        n_tensors = sum(len(part.tensors) for part in parts)
        # A few more: constants that a kernel wants in float32 get a second header.
        self._context = ggml.new_context(2 * n_tensors)
        try:
            for part in parts:
                self._map(part)
        except BaseException:
            self.close()
            raise

    def _map(self, part: Header) -> None:
        region = Region(part.file_size, part.path)
        self._regions.append(region)
        buffer = self._buffer(region)
        for name, info in part.tensors.items():
            address = region.address + info.offset
            if address % TENSOR_ALIGNMENT:
                raise BadModelFile(
                    str(part.path), f"tensor `{name}` is at offset {info.offset}, which no 32 divides"
                )
            self._tensors[name] = self._place(name, info.type.name.lower(), info.shape, buffer, address)
            self._where[name] = region, info

    def _buffer(self, region: Region) -> Any:
        made = ggml.library().ggml_backend_cpu_buffer_from_ptr(
            ggml.ffi.cast("void *", region.address), region.nbytes
        )
        self._buffers.append(made)
        return made

    def _place(self, name: str, dtype: str, shape: tuple[int, ...], buffer: Any, address: int) -> Tensor:
        pointer = ggml.new_tensor(self._context, dtype, shape)
        ggml.library().ggml_backend_tensor_alloc(buffer, pointer, ggml.ffi.cast("void *", address))
        return Tensor(pointer, shape, dense_strides(dtype, shape), dtype, constant=True, name=name)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> Tensor:
        """A tensor by its full name. Raises BadModelFile when the file lacks it."""
        if name not in self._tensors:
            raise BadModelFile(str(self.path), f"tensor `{name}` is missing")
        self._read.add(name)
        return self._tensors[name]

    def float32(self, tensor: Tensor) -> Tensor:
        """The same values in float32, where ggml or a kernel takes nothing else. Kept as long as this file."""
        if tensor.dtype == "f32":
            return tensor
        if tensor.name not in self._converted:
            self._converted[tensor.name] = self._keep(tensor.name, self._values(tensor.name))
        return self._converted[tensor.name]

    def transposed(self, matrices: Tensor, first: int, count: int) -> Tensor:
        """Rows `first` to `first + count` of a weight seen as [n, d_out, d_in], as float32 [n, d_in, count]. Kept."""
        name = f"{matrices.name}[{first}:{first + count}]^T"
        if name not in self._converted:
            values = self._values(matrices.name).reshape(matrices.shape)
            self._converted[name] = self._keep(name, values[:, first : first + count].swapaxes(1, 2))
        return self._converted[name]

    def rows(self, matrices: Tensor, first: int, count: int) -> Tensor:
        """Rows `first` to `first + count` of a weight seen as [n, d_out, d_in], as [n, count, d_in] without gaps. Kept."""
        name = f"{matrices.name}[{first}:{first + count}]"
        if name not in self._converted:
            region, info = self._where[matrices.name]
            n, d_out, d_in = matrices.shape
            whole = region.array(np.uint8, (n, d_out, row_bytes(matrices.dtype, d_in)), info.offset)
            chosen = whole[:, first : first + count].copy()
            del whole  # a view would live on in the traceback of an error, and the region could not be closed
            self._converted[name] = self._keep(name, chosen, matrices.dtype, (n, count, d_in))
        return self._converted[name]

    def _values(self, name: str) -> NDArray[np.float32]:
        region, info = self._where[name]
        # Copied: a view would live on in the traceback of an error, and the region could not be closed.
        rows = region.array(np.uint8, (info.nbytes,), info.offset).copy().reshape(*info.shape[:-1], -1)
        try:
            values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(info.type.number))
        except NotImplementedError:
            raise BadModelFile(
                str(self.path), f"tensor `{name}` is {info.type.name}, which cannot be expanded to float32"
            ) from None
        return np.asarray(values, np.float32).reshape(info.shape)

    def _keep(
        self, name: str, stored: NDArray[Any], dtype: str = "f32", shape: tuple[int, ...] | None = None
    ) -> Tensor:
        held = Region(stored.nbytes)
        held.array(stored.dtype.type, stored.shape)[...] = stored
        self._regions.append(held)
        return self._place(name, dtype, shape or stored.shape, self._buffer(held), held.address)

    def unread(self) -> list[str]:
        return sorted(set(self._tensors) - self._read)

    def close(self) -> None:
        """Unmap everything; no graph that uses these tensors may run afterwards."""
        lib = ggml.library()
        for buffer in self._buffers:
            lib.ggml_backend_buffer_free(buffer)
        lib.ggml_free(self._context)
        for region in self._regions:
            region.close()


def _parts(header: Header) -> Iterable[Header]:
    """The headers of every file of a split model, in order; most models are one file."""
    count = int(header.metadata.get("split.count", 0))  # type: ignore[arg-type]  # the key is an integer
    if count <= 1:
        yield header
        return
    for i in range(1, count + 1):
        yield read_header(_part_path(header.path, i, count))


def _part_path(path: Path, i: int, count: int) -> Path:
    stem = path.name.rpartition("-of-")[0].rpartition("-")[0]
    return path.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf")


class Weight:
    """What the file holds under one name: `.weight`, `.bias`, or a tensor without either ending."""

    def __init__(self, file: WeightFile, name: str) -> None:
        self._file = file
        self.name = name

    @property
    def weight(self) -> Tensor:
        """`NAME.weight`, or the tensor called just NAME (`ssm_a`, Falcon-H1's `ffn_norm`)."""
        plain = self.name in self._file
        return self._file.tensor(self.name if plain else f"{self.name}.weight")

    @property
    def bias(self) -> Tensor | None:
        name = f"{self.name}.bias"
        return self._file.tensor(name) if name in self._file else None

    @property
    def required_bias(self) -> Tensor:
        """`NAME.bias`. Raises BadModelFile when the file lacks it."""
        return self._file.tensor(f"{self.name}.bias")

    def expect(self, *shape: int) -> Tensor:
        """`.weight` if it has this shape, in paper order. Raises ShapeMismatch naming the tensor."""
        found = self.weight
        if found.shape != shape:
            raise ShapeMismatch(self._file.path.name, found.name, str(list(shape)), str(list(found.shape)))
        return found


class Blocks:
    """`blk[i]` is the names of layer i; whether the file holds any of them shows when one is looked up."""

    def __init__(self, file: WeightFile, prefix: str) -> None:
        self._file = file
        self._prefix = prefix

    def __getitem__(self, i: int) -> Weights:
        return Weights(self._file, f"{self._prefix}blk.{i}.")


class Weights:
    """The names below one prefix. `w.blk[3].attn_q` is a Weight; `"ffn_gate_inp" in w.blk[3]` asks for an optional one."""

    def __init__(self, file: WeightFile, prefix: str = "") -> None:
        self._file = file
        self._prefix = prefix

    @property
    def blk(self) -> Blocks:
        """The layers, by number."""
        return Blocks(self._file, self._prefix)

    def __getattr__(self, name: str) -> Weight:
        return Weight(self._file, self._prefix + name)

    def __contains__(self, name: str) -> bool:
        full = self._prefix + name
        return any(full + ending in self._file for ending in ("", ".weight", ".bias"))
