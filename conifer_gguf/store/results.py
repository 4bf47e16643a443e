"""What was measured on this machine, kept under CONIFER_GGUF_HOME/bench by machine and by content of the file.

The content id is the sha256 of a file's header and its size: renaming or copying a model keeps its results, and hashing
gigabytes of weights would not change a speed.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from ..gguf import Header, read_header
from ..native_api.state import cpu_features
from ..settings import home


@dataclass(frozen=True)
class Measured:
    """One point: a runtime with one setting, after `depth` tokens. Medians of `rounds`; times in seconds, sizes in bytes.

    `ttft_s` is from a prompt of `n_prompt` tokens to its first token, `decode_tps` the tokens a second after it. The
    spread is the lowest and the highest round. `bandwidth_share` is what decoding reads in a second over what
    this machine read right after it, the median of the rounds. `interleaved`: the settings took turns, so that their
    ratios hold on a busy machine.
    """

    model: str
    file: str
    content_id: str
    architecture: str
    runtime: str
    setting: str
    is_default: bool
    depth: int
    n_prompt: int
    n_decode: int
    rounds: int
    n_threads: int
    cache_type: str
    ttft_s: float
    prefill_tps: float
    prefill_tps_rounds: tuple[float, ...]
    decode_tps: float
    decode_tps_rounds: tuple[float, ...]
    rss_bytes: int
    load_s: float
    bandwidth_share: float
    read_bandwidth: float
    interleaved: bool
    machine: str
    version: str
    date: str
    accelerators: dict[str, str] = field(default_factory=dict)  # as in RuntimeInfo, like the next
    by_ggml: tuple[str, ...] = ()

    def as_row(self) -> dict[str, object]:
        return asdict(self)


_POINTS: Final = TypeAdapter(tuple[Measured, ...])


def content_id(header: Header) -> str:
    """16 hex digits for the header's bytes and the file's size."""
    with header.path.open("rb") as file:
        digest = hashlib.sha256(file.read(header.data_offset))
    digest.update(str(header.file_size).encode())
    return digest.hexdigest()[:16]


def keep(points: Sequence[Measured]) -> None:
    """Add points of one file; a point of the same runtime, setting, depth, threads and cache is replaced."""
    if not points:
        return
    path = _path(points[0].content_id)
    held = {_key(p): p for p in (*_read(path), *points)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(_POINTS.dump_json(tuple(held.values()), indent=1))
    Path(file.name).replace(path)


def results(path: Path) -> tuple[Measured, ...]:
    """Everything that was measured of this file on this machine. Raises BadModelFile."""
    return _read(_path(content_id(read_header(path)))) if _path("").parent.is_dir() else ()


def _path(content: str) -> Path:
    return home() / "bench" / cpu_features() / f"{content}.json"


def _key(p: Measured) -> tuple[object, ...]:
    return p.runtime, p.setting, p.depth, p.n_prompt, p.n_threads, p.cache_type


def _read(path: Path) -> tuple[Measured, ...]:
    """A file of another version of this format is as good as none: its results can be measured again."""
    try:
        return _POINTS.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return ()
