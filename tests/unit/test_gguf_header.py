"""Headers are read exactly, and hostile ones end in one clear error."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conifer_gguf.errors import BadModelFile
from conifer_gguf.gguf import SkippedArray, read_header

U32, STRING, ARRAY, F32 = 4, 8, 9, 0


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


ARCHITECTURE = key("general.architecture", STRING, text("llama"))


def build(keys: list[bytes] | None = None, tensors: list[bytes] | None = None, **change: Any) -> bytes:
    """A GGUF by hand; `change` overrides version, n_key, n_tensor, data."""
    keys = [ARCHITECTURE] if keys is None else keys
    tensors = tensors or []
    version, n_tensor, n_key = (
        change.get(name, default)
        for name, default in (("version", 3), ("n_tensor", len(tensors)), ("n_key", len(keys)))
    )
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensor, n_key) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + change.get("data", b"\0" * 4096)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def to_file(data: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    return to_file


def test_keys_and_tensors_are_read_with_the_slowest_axis_first(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(7)
    writer.add_array("llama.attention.head_count_kv", [0, 2, 0])
    writer.add_bool("llama.flag", True)
    writer.add_tensor("blk.0.attn_q.weight", np.arange(15, dtype=np.float32).reshape(3, 5))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    found = header.tensors["blk.0.attn_q.weight"]
    assert header.architecture == "llama"
    assert header.get(".block_count") == 7
    assert header.get(".attention.head_count_kv") == [0, 2, 0]
    assert header.get(".flag") is True
    assert (found.shape, found.nbytes, found.type.name) == ((3, 5), 60, "F32")
    assert np.frombuffer(path.read_bytes()[found.offset :][:60], np.float32)[4] == 4.0


def test_a_long_vocabulary_is_skipped_in_less_than_50_ms_and_read_when_asked(write: Any) -> None:
    n = 150_000
    words = b"".join(text(f"token{i}") for i in range(n))
    vocabulary = key("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, n) + words)
    path = write(build([ARCHITECTURE, vocabulary]))
    best = min(_timed(path) for _ in range(5))
    header = read_header(path)
    skipped = header.get("tokenizer.ggml.tokens")
    assert isinstance(skipped, SkippedArray)
    assert skipped.length == n
    assert header.array("tokenizer.ggml.tokens")[n - 1] == f"token{n - 1}"
    assert best < 0.05


def _timed(path: Path) -> float:
    start = time.perf_counter()
    read_header(path)
    return time.perf_counter() - start


HOSTILE = {
    "an empty file": (b"", "is empty"),
    "another magic": (b"GGML" + b"\0" * 60, "not b'GGUF'"),
    "a web page": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
    "an LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "Git LFS pointer",
    ),
    "a truncated header": (build()[:15], "ends inside the tensor count"),
    "a future version": (build(version=4), "GGUF version 4"),
    "a big-endian file": (build(version=0x03000000), "big-endian"),
    "more tensors than bytes": (build(n_tensor=2**40), "claims 1099511627776 tensors"),
    "more keys than bytes": (build(n_key=2**61), "keys, "),
    "no architecture": (build([key("a", U32, b"\1\0\0\0")]), "no `general.architecture`"),
    "one key twice": (build([ARCHITECTURE, ARCHITECTURE]), "appears twice"),
    "a value of unknown type": (build([ARCHITECTURE, key("k", 99, b"")]), "unknown value type 99"),
    "an array longer than the file": (
        build([ARCHITECTURE, key("k", ARRAY, struct.pack("<IQ", U32, 2**62))]),
        "claims 4611686018427387904 elements",
    ),
    "strings longer than the file": (
        build([ARCHITECTURE, key("k", ARRAY, struct.pack("<IQQ", STRING, 200, 2**63))]),
        "ends inside `k`",
    ),
    "arrays nested too deep": (
        build([ARCHITECTURE, key("k", ARRAY, struct.pack("<IQ", ARRAY, 1) * 3 + struct.pack("<IQ", U32, 0))]),
        "nests arrays",
    ),
    "a key that is not UTF-8": (
        build([ARCHITECTURE, text(b"\xff\xfe") + struct.pack("<II", U32, 1)]),
        "not UTF-8",
    ),
    "an alignment of zero": (build([ARCHITECTURE, key("general.alignment", U32, b"\0" * 4)]), "power of two"),
    "one tensor twice": (
        build(tensors=[tensor("t", (5,), F32, 0), tensor("t", (5,), F32, 32)]),
        "appears twice",
    ),
    "a tensor of rank 5": (build(tensors=[tensor("t", (1, 1, 1, 1, 1), F32, 0)]), "rank 5"),
    "an unknown tensor type": (build(tensors=[tensor("t", (5,), 1000, 0)]), "unknown type 1000"),
    "sizes whose product overflows": (build(tensors=[tensor("t", (2**33, 2**33), F32, 0)]), "needs bytes"),
    "a row that is no whole block": (
        build(tensors=[tensor("t", (33, 2), 8, 0)]),
        "cannot be cut into Q8_0 blocks",
    ),
    "a size of zero": (build(tensors=[tensor("t", (0, 3), F32, 0)]), "cannot be cut"),
    "a tensor past the end": (build(tensors=[tensor("t", (2000,), F32, 0)]), "needs bytes"),
    "an unaligned tensor": (build(tensors=[tensor("t", (5,), F32, 4)]), "not a multiple of 32"),
    "overlapping tensors": (
        build(tensors=[tensor("a", (16,), F32, 0), tensor("b", (5,), F32, 32)]),
        "overlap",
    ),
    "a tensor name of 100 bytes": (build(tensors=[tensor("n" * 100, (5,), F32, 0)]), "at most 64"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_named_in_one_error(name: str, write: Any) -> None:
    data, expected = HOSTILE[name]
    with pytest.raises(BadModelFile) as caught:
        read_header(write(data))
    assert expected in caught.value.fact
    assert "model.gguf" in caught.value.fact


def test_a_missing_file_and_a_folder_are_errors_too(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(BadModelFile):
            read_header(path)


SOUND = build(
    [
        ARCHITECTURE,
        key("llama.block_count", U32, b"\2\0\0\0"),
        key("s", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("bc")),
    ],
    [tensor("a", (8, 3), F32, 0), tensor("b", (32, 2), 8, 96)],
    data=b"\0" * 256,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, len(SOUND) - 1), value=st.integers(0, 255), cut=st.integers(0, len(SOUND)))
def test_any_damage_gives_a_header_or_a_bad_model_file(
    tmp_path: Path, position: int, value: int, cut: int
) -> None:
    damaged = bytearray(SOUND)
    damaged[position] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(bytes(damaged[:cut] if cut % 2 else damaged))
    try:
        header = read_header(path)
    except BadModelFile:
        return
    for found in header.tensors.values():
        assert found.offset + found.nbytes <= header.file_size
