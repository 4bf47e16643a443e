"""Reads the header of a GGUF file without trusting it.

Every count, length and offset is held against the bytes that are really there before anything is allocated, so that a
hostile or damaged file ends in one BadModelFile and no native code ever sees it. Long arrays (the vocabulary, the
merges) are stepped over and parsed only when `Header.array` asks for them.

Source: GGUF specification v3 (ggml docs/gguf.md).
"""

from __future__ import annotations

import itertools
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import BadModelFile
from .types import TENSOR_TYPES, TensorType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_RANK = 4
MAX_KEY = 65_535  # bytes; the specification's limit
MAX_NAME = 64  # bytes; ggml refuses longer tensor names
MAX_NESTING = 2
SHORT_ARRAY = 4096  # elements; longer ones are skipped
LFS_POINTER = b"version https://git-lfs"

STRING, ARRAY, BOOL = 8, 9, 7
# value type -> numpy dtype, little endian
SCALARS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")

Scalar = bool | int | float | str


@dataclass(frozen=True)
class SkippedArray:
    """A long array that was stepped over: its element type, its length, and where its elements start."""

    element_type: int
    length: int
    offset: int


Value = Scalar | list[Any] | SkippedArray


@dataclass(frozen=True)
class TensorInfo:
    """One tensor. `shape` is in paper order (slowest axis first); `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    nbytes: int

    @property
    def n_elements(self) -> int:
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1


@dataclass(frozen=True)
class Header:
    """What a GGUF file says about itself. Sizes and offsets in bytes."""

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    data_offset: int
    file_size: int
    _arrays: dict[str, list[Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def get(self, key: str, default: Any = None) -> Any:
        """A value by its full key, or by the key below the architecture when it starts with a dot."""
        return self.metadata.get(self.architecture + key if key.startswith(".") else key, default)

    def array(self, key: str) -> list[Any]:
        """All elements of an array, read from the file now if the header skipped it.

        Raises KeyError when there is no such key, BadModelFile when the file changed since.
        """
        value = self.metadata[key]
        if isinstance(value, list):
            return value
        if not isinstance(value, SkippedArray):
            raise KeyError(f"{key} is not an array")
        if key not in self._arrays:
            with _Reader(self.path) as reader:
                reader.position = value.offset
                self._arrays[key] = reader.elements(value.element_type, value.length, key, 0)
        return self._arrays[key]


def read_header(path: Path | str) -> Header:
    """Read and verify the header of one GGUF file; of a split model, that of the part that is named.

    Raises BadModelFile: one clear problem, whatever the bytes are.
    """
    path = Path(path)
    try:
        with _Reader(path) as reader:
            return reader.header()
    except OSError as error:
        raise BadModelFile(str(path), f"cannot be read: {error.strerror}") from error


class _Reader:
    """A cursor over the mapped file that cannot leave it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0

    def __enter__(self) -> _Reader:
        self._file = self.path.open("rb")
        try:
            self.size = self.path.stat().st_size
            if self.path.is_dir() or self.size == 0:
                self.fail(
                    "is empty" if self.size == 0 else "is a folder",
                    f"conifer-gguf pull replaces {self.path.name}",
                )
            self.bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes.close()
        self._file.close()

    def fail(self, problem: str, next_step: str | None = None) -> NoReturn:
        raise BadModelFile(str(self.path), problem, next_step)

    def need(self, n: int, what: str) -> int:
        """Step over `n` bytes and return where they start."""
        start = self.position
        if n > self.size - start:
            self.fail(
                f"ends inside {what}: {n} bytes are needed at offset {start}, the file has {self.size}",
                "the download is incomplete; pull it again",
            )
        self.position = start + n
        return start

    def u32(self, what: str) -> int:
        return int(U32.unpack_from(self.bytes, self.need(4, what))[0])

    def u64(self, what: str) -> int:
        return int(U64.unpack_from(self.bytes, self.need(8, what))[0])

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.u64(what)
        if limit is not None and length > limit:
            self.fail(f"{what} is {length} bytes long, at most {limit} are allowed")
        start = self.need(length, what)
        try:
            return bytes(self.bytes[start : start + length]).decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")

    def header(self) -> Header:
        self.check_magic()
        version = self.u32("the version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            reason = "it is big-endian" if swapped in VERSIONS else "versions 2 and 3 are supported"
            self.fail(f"is GGUF version {version}; {reason}")
        n_tensor, n_key = self.u64("the tensor count"), self.u64("the key count")
        # The shortest tensor info has 24 bytes, the shortest key 13.
        for count, least, what in ((n_tensor, 24, "tensors"), (n_key, 13, "keys")):
            if count * least > self.size - self.position:
                self.fail(f"claims {count} {what}, {self.size - self.position} bytes cannot hold that many")
        metadata = self.metadata(n_key)
        if not isinstance(metadata.get("general.architecture"), str):
            self.fail("has no `general.architecture`")
        alignment = metadata.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or alignment <= 0
            or alignment & (alignment - 1)
            or alignment > 1 << 20
        ):
            self.fail(f"`general.alignment` is {alignment}, a power of two is needed")
        infos = self.tensor_infos(n_tensor)
        data_offset = -(-self.position // alignment) * alignment
        tensors = self.place(infos, data_offset, alignment)
        return Header(self.path, version, metadata, tensors, data_offset, self.size)

    def check_magic(self) -> None:
        start = bytes(self.bytes[:512])
        if start[:4] == MAGIC:
            self.position = 4
            return
        if start.startswith(LFS_POINTER):
            self.fail(
                "is a Git LFS pointer, not the model itself",
                "git lfs pull, or conifer-gguf pull, fetches the file",
            )
        if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
            self.fail(
                "is an HTML page, not a GGUF file",
                "the address led to a web page; use the file's download link",
            )
        self.fail(f"is not a GGUF file: it starts with {start[:4]!r}, not {MAGIC!r}")

    def metadata(self, n_key: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for number in range(n_key):
            key = self.string(f"key {number}", MAX_KEY)
            if key in found:
                self.fail(f"key `{key}` appears twice")
            found[key] = self.value(self.u32(f"the type of `{key}`"), key)
        return found

    def value(self, kind: int, key: str) -> Value:
        if kind == STRING:
            return self.string(f"`{key}`")
        if kind != ARRAY:
            value: Scalar = self.elements(kind, 1, key, 0)[0]
            return value
        element, length = self.array_head(key)
        start = self.position
        if length <= SHORT_ARRAY or element == ARRAY:
            return self.elements(element, length, key, 1)
        self.skip(element, length, key)
        return SkippedArray(element, length, start)

    def array_head(self, key: str) -> tuple[int, int]:
        element, length = self.u32(f"the element type of `{key}`"), self.u64(f"the length of `{key}`")
        least = 8 if element == STRING else 12 if element == ARRAY else self.scalar_size(element, key)
        if length * least > self.size - self.position:
            self.fail(
                f"`{key}` claims {length} elements, {self.size - self.position} bytes cannot hold that many"
            )
        return element, length

    def scalar_size(self, kind: int, key: str) -> int:
        if kind not in SCALARS:
            self.fail(f"`{key}` has unknown value type {kind}")
        return np.dtype(SCALARS[kind]).itemsize

    def skip(self, element: int, length: int, key: str) -> None:
        if element != STRING:
            self.need(length * self.scalar_size(element, key), f"`{key}`")
            return
        # The one hot loop: a quarter of a million strings. Leaving the file raises struct.error.
        position, data, unpack = self.position, self.bytes, U64.unpack_from
        try:
            for _ in range(length):
                position += unpack(data, position)[0] + 8
        except struct.error:
            position = self.size + 1
        self.need(position - self.position, f"`{key}`")

    def elements(self, kind: int, length: int, key: str, depth: int) -> list[Any]:
        if kind == STRING:
            return [self.string(f"`{key}`") for _ in range(length)]
        if kind == ARRAY:
            if depth >= MAX_NESTING:
                self.fail(f"`{key}` nests arrays more than {MAX_NESTING} deep")
            heads = range(length)
            return [self.elements(*self.array_head(key), key, depth + 1) for _ in heads]
        dtype = np.dtype(SCALARS.get(kind) or self.fail(f"`{key}` has unknown value type {kind}"))
        start = self.need(length * dtype.itemsize, f"`{key}`")
        numbers: NDArray[Any] = np.frombuffer(self.bytes[start : self.position], dtype)
        if kind == BOOL:
            if length and int(numbers.max()) > 1:
                self.fail(f"`{key}` is a bool with value {int(numbers.max())}")
            return [bool(n) for n in numbers]
        return list(numbers.tolist())

    def tensor_infos(self, count: int) -> list[tuple[str, tuple[int, ...], TensorType, int]]:
        infos, names = [], set()
        for number in range(count):
            name = self.string(f"the name of tensor {number}", MAX_NAME)
            if name in names:
                self.fail(f"tensor `{name}` appears twice")
            names.add(name)
            rank = self.u32(f"the rank of `{name}`")
            if not 1 <= rank <= MAX_RANK:
                self.fail(f"tensor `{name}` has rank {rank}, 1 to {MAX_RANK} are possible")
            dims = tuple(self.u64(f"a dimension of `{name}`") for _ in range(rank))
            kind = self.u32(f"the type of `{name}`")
            if kind not in TENSOR_TYPES:
                self.fail(f"tensor `{name}` has unknown type {kind}", "a newer llama-cpp-python may know it")
            infos.append((name, dims[::-1], TENSOR_TYPES[kind], self.u64(f"the offset of `{name}`")))
        return infos

    def place(
        self, infos: list[tuple[str, tuple[int, ...], TensorType, int]], data_offset: int, alignment: int
    ) -> dict[str, TensorInfo]:
        """Sizes and absolute offsets; every tensor inside the file, aligned, none over another."""
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in infos:
            if 0 in shape or shape[-1] % kind.block_size:
                self.fail(
                    f"tensor `{name}` of shape {list(shape)} cannot be cut into {kind.name} blocks of {kind.block_size}"
                )
            n_elements = 1
            for size in shape:
                n_elements *= size
            nbytes = n_elements // kind.block_size * kind.block_bytes
            if offset % alignment:
                self.fail(f"tensor `{name}` starts at {offset}, not a multiple of {alignment}")
            if offset + nbytes > self.size - data_offset:
                self.fail(
                    f"tensor `{name}` needs bytes {data_offset + offset} to {data_offset + offset + nbytes}, "
                    f"the file has {self.size}",
                    "the download is incomplete; pull it again",
                )
            tensors[name] = TensorInfo(name, shape, kind, data_offset + offset, nbytes)
        in_order = sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes))
        for before, after in itertools.pairwise(in_order):
            if before.offset + before.nbytes > after.offset:
                self.fail(f"tensors `{before.name}` and `{after.name}` overlap")
        return tensors
