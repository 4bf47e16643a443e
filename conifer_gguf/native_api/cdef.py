"""The C ABI of kernel plugins as cffi sees it: derived from `conifer_kernel.h` itself, never retyped.

`ffi` is shared by everything that touches a `ck_` struct, because cffi's types compare by the FFI they come from.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from cffi import FFI

from ..settings import include_dir

HEADER_NAME = "conifer_kernel.h"
ABI_MAJOR = 1  # the number in the name of the entry symbol
ENTRY = f"conifer_kernel_entry_v{ABI_MAJOR}"

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_CPLUSPLUS = re.compile(r"#ifdef __cplusplus\n.*?#endif\n", re.DOTALL)
_DIRECTIVE = re.compile(r"^#(?:.*\\\n)*.*\n", re.MULTILINE)
_DECORATION = re.compile(r"\b(?:CK_EXPORT|CK_CALL)\b")


def declarations(header: str) -> str:
    """What `FFI.cdef` accepts of the header: its types and functions, without comments and preprocessor lines."""
    text = _CPLUSPLUS.sub("", _COMMENT.sub("", header))
    return _DECORATION.sub("", _DIRECTIVE.sub("", text))


def macro(header: str, name: str) -> int:
    """The value of an integer `#define` of the header."""
    found = re.search(rf"^#define {name} (\d+)u?$", header, re.MULTILINE)
    if found is None:
        raise LookupError(f"{HEADER_NAME} defines no integer {name}")
    return int(found[1])


def version(header: str) -> str:
    """What people call this contract, candidates included: "1.0-rc.1"."""
    found = re.search(r'^#define CK_ABI_VERSION "([^"]+)"', header, re.MULTILINE)
    if found is None:
        raise LookupError(f"{HEADER_NAME} defines no CK_ABI_VERSION")
    return found[1]


def header_path() -> Path:
    return include_dir() / HEADER_NAME


_header: Final = header_path().read_text("utf-8")
ABI_MINOR: Final = macro(_header, "CK_ABI_MINOR")
ABI_VERSION: Final = version(_header)

ffi: Final[Any] = FFI()  # Any: the stubs do not know struct members
ffi.cdef(declarations(_header))
_constants: Any = ffi.dlopen(None)  # no library is opened: enumerators are found in the declarations

_DTYPES = ("F32", "F16", "BF16", "I8", "I32", "I64", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q5_0")
_STATUSES = ("OK", "UNSUPPORTED", "BAD_SHAPE", "NO_MEMORY", "INTERNAL")

DTYPE: Final[dict[str, int]] = {name.lower(): getattr(_constants, f"CK_{name}") for name in _DTYPES}
STATUS: Final[dict[int, str]] = {getattr(_constants, f"CK_{name}"): f"CK_{name}" for name in _STATUSES}
OK: Final[int] = _constants.CK_OK
UNSUPPORTED: Final[int] = _constants.CK_UNSUPPORTED
INTERNAL: Final[int] = _constants.CK_INTERNAL
BAD_SHAPE: Final[int] = _constants.CK_BAD_SHAPE
CONSTANT: Final[int] = _constants.CK_CONSTANT
SPLIT_EXACT: Final[int] = _constants.CK_SPLIT_EXACT

# dtype -> (elements, bytes) of one block; GGUF's own numbers for the quantised types.
BLOCK: Final[dict[str, tuple[int, int]]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "i8": (1, 1),
    "i32": (1, 4),
    "i64": (1, 8),
    "q8_0": (32, 34),
    "q4_0": (32, 18),
    "q5_0": (32, 22),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
}


def status_name(status: int) -> str:
    return STATUS.get(status, f"status {status}")
