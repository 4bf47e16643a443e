"""Memory that native code shares with NumPy: page-aligned, zeroed, and taken from the system only when touched."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RuntimeFailure
from .ggml import ffi


def _anonymous(nbytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, nbytes)
    except (OSError, OverflowError, ValueError) as error:
        raise RuntimeFailure(f"taking {nbytes} bytes of memory", str(error)) from error


class Region:
    """Bytes at a fixed address: anonymous and zero, or a file's, read-only. Freed by `close`, once nothing views them."""

    def __init__(self, nbytes: int, file: Path | None = None) -> None:
        if file is None:
            self._map = _anonymous(max(1, nbytes))
        else:
            with file.open("rb") as opened:
                self._map = mmap.mmap(opened.fileno(), nbytes, access=mmap.ACCESS_READ)
        self._buffer: Any = ffi.from_buffer(self._map)
        self.nbytes = nbytes
        self.address = int(ffi.cast("uintptr_t", self._buffer))

    def array(self, dtype: Any, shape: tuple[int, ...], offset: int = 0) -> NDArray[Any]:
        """A view. It must be gone before `close`."""
        count = int(np.prod(shape))
        return np.frombuffer(self._map, dtype, count, offset).reshape(shape)

    def close(self) -> None:
        ffi.release(self._buffer)
        self._map.close()
