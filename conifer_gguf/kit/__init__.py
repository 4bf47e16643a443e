"""The conformance kit that kernel authors run: does a plugin keep the contract of its ops?

    from conifer_gguf import kit

    def test_my_scan_keeps_its_contract():
        kit.check(Path(__file__).parent).require()

The library always runs in a child process: a crash, an endless loop or a memory hog becomes a failed row.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..native_api.containment import Budget, ChildEnded, run_child
from ..native_api.known import resolve
from ..native_api.manifest import op_folders
from .build import build, sanitizer_environment
from .report import Report, Row

__all__ = ["Report", "Row", "build", "check", "check_library", "instruction_sets", "sanitizer_environment"]

Depth = Literal["brief", "quick", "full"]
_CHILD = "conifer_gguf.kit.child"


def instruction_sets(dot8: bool = False) -> tuple[str, ...]:
    """The values of CONIFER_ISA for this kind of machine, for a test of each. One that the processor lacks is not taken.

    `dot8`: also those that only a kernel with CK_DOT8 has.
    """
    if platform.machine() in ("x86_64", "AMD64"):
        return ("scalar", "avx2", "avxvnni", "avx512") if dot8 else ("scalar", "avx2", "avx512")
    return ("neon", "dotprod") if dot8 else ("neon",)


def check(
    target: str | Path,
    *,
    depth: Depth = "full",
    sanitize: bool = False,
    rebuild: bool = True,
    split_exact: bool = False,
    environment: Mapping[str, str] | None = None,
    on_row: Callable[[Row], None] | None = None,
) -> Report:
    """Check a plugin: a folder (built first, with the sanitizers if asked), a library beside its manifest, or a name.

    `depth` is how much is tried: "brief" where a kernel runs slowly, "quick" when it is registered, "full" by `plugins check`.
    `split_exact` requires that a token's bits do not depend on how its sequence is cut into calls; a kernel that
    promises CK_SPLIT_EXACT is held to it anyway. `environment` is added to the child's, say to choose an instruction set. `on_row` sees each row as it comes. Raises
    PluginRefused for a manifest that cannot be read and a source that does not compile; everything that the library
    itself does wrong is in the report.
    """
    found = resolve(target)
    folders = op_folders(found.folder, found.manifest)
    has_source = found.source == "path" and Path(target).expanduser().is_dir()
    with tempfile.TemporaryDirectory() as scratch:
        library, added = found.library, dict(environment or {})
        if has_source and (rebuild or sanitize):
            built = build(found.folder, Path(scratch) if sanitize else None, sanitize)
            library, added = built.library, {**added, **built.environment}
        return check_library(
            library,
            folders,
            depth=depth,
            split_exact=split_exact,
            on_row=on_row,
            name=found.name,
            environment=added,
        )


def check_library(
    library: Path,
    op_folders: Mapping[str, Path],
    *,
    depth: Depth = "full",
    shapes: Sequence[Mapping[str, int]] = (),
    rtol: float | None = None,
    split_exact: bool = False,
    budget: Budget | None = None,
    environment: Mapping[str, str] | None = None,
    on_row: Callable[[Row], None] | None = None,
    name: str = "",
) -> Report:
    """Check a library against ops given by the folders of their contracts. Never raises for what the library does.

    `shapes` are sizes to try besides those of the op's recipe; `rtol` replaces the recipe's tolerance.
    """
    request: dict[str, Any] = {
        "library": str(library),
        "ops": {op: str(folder) for op, folder in op_folders.items()},
        "depth": depth,
        "shapes": [dict(shape) for shape in shapes],
        "rtol": rtol,
        "split_exact": split_exact,
    }
    sanitized = bool(environment and "LD_PRELOAD" in environment)
    budget = budget or (Budget(memory=None, cpu_seconds=60.0) if sanitized else Budget())
    collected = _Collected(name or library.stem, on_row)
    try:
        for message in run_child(_CHILD, request, budget, environment):
            collected.take(message)
    except ChildEnded as ended:
        collected.ended(ended)
    return collected.report(op_folders)


class _Collected:
    """Turns the child's messages into a report."""

    def __init__(self, name: str, on_row: Callable[[Row], None] | None) -> None:
        self.plugin, self.version, self.problem = name, "", ""
        self.kernels: list[str] = []
        self.rows: list[Row] = []
        self.tolerances: dict[str, tuple[float, str]] = {}
        self.on_row = on_row

    def take(self, message: Mapping[str, Any]) -> None:
        if "plugin" in message:
            told = message["plugin"]
            self.plugin, self.version, self.kernels = told["id"], told["version"], list(told["kernels"])
        elif "tolerance" in message:
            told = message["tolerance"]
            self.tolerances[told["op"]] = (told["rtol"], told["reason"])
        elif "row" in message:
            self._add(Row(**message["row"]))
        elif "refused" in message:
            told = message["refused"]
            self.problem = f"{told['op']}: {told['problem']}" if told["op"] else told["problem"]

    def ended(self, ended: ChildEnded) -> None:
        at = (ended.last or {}).get("at")
        words = _sanitizer_words(ended.last_words)
        if at:
            self._add(Row(at["op"], at["check"], at["case"], "fails", problem=words or ended.problem))
        else:
            self.problem = f"loading the library: {words or ended.problem}"

    def report(self, op_folders: Mapping[str, Path]) -> Report:
        problem = self.problem
        absent = [op for op in op_folders if op not in self.kernels]
        if not problem and absent:
            problem = f"it has no kernel for {', '.join(absent)}; it supplies {', '.join(self.kernels)}"
        return Report(self.plugin, self.version, tuple(self.rows), self.tolerances, problem)

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        if self.on_row is not None:
            self.on_row(row)


def _sanitizer_words(text: str) -> str:
    """The line in which a sanitizer says what it found."""
    for line in text.splitlines():
        if "runtime error:" in line or "ERROR: AddressSanitizer" in line:
            return line.strip()
    return ""
