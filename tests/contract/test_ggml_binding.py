"""Every signature that we bind is the one in the installed headers, and every one is used."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import llama_cpp
import pytest

from conifer_gguf.native_api import ggml

ROOT = Path(__file__).parents[2]
HEADERS = ("ggml.h", "ggml-alloc.h", "ggml-backend.h", "ggml-cpu.h")
NAMES = re.findall(r"\b(ggml_\w+)\(", ggml.FUNCTIONS)


def header_folder() -> Path:
    beside_the_package = Path(llama_cpp.__file__).parents[1] / "include"
    return beside_the_package if beside_the_package.is_dir() else Path(sysconfig.get_path("include"))


def compiles(declarations: str) -> bool:
    """True when C accepts them after ggml's own: two declarations of a function must agree."""
    source = "".join(f"#include <{name}>\n" for name in HEADERS) + declarations
    command = ["cc", "-std=c11", "-fsyntax-only", f"-I{header_folder()}", "-xc", "-"]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


def test_no_bound_signature_drifted_from_the_installed_headers() -> None:
    assert compiles(ggml.FUNCTIONS)


@pytest.mark.parametrize(
    ("ours", "drifted"),
    [
        ("int64_t *ne);", "int64_t *ne, int extra);"),
        ("float eps);", "double eps);"),
        ("void ggml_free", "int ggml_free"),
    ],
)
def test_a_drifted_signature_would_be_noticed(ours: str, drifted: str) -> None:
    assert ours in ggml.FUNCTIONS
    assert not compiles(ggml.FUNCTIONS.replace(ours, drifted, 1))


def test_every_bound_function_is_used() -> None:
    ours = [path.read_text() for path in (ROOT / "conifer_gguf").rglob("*.py")]
    code = "\n".join(text.replace(ggml.FUNCTIONS, "") for text in ours)
    assert [name for name in NAMES if name not in code] == []
