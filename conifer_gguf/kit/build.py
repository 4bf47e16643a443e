"""Builds a plugin from its folder, as `cc` alone does it: no build file, one source, one library."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..errors import PluginRefused
from ..native_api.known import known
from ..native_api.manifest import Manifest, library_path, read_manifest, source_path
from ..settings import include_dir

FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra")
# Lines are named, variables are not followed: with them the loops of three instruction sets take a compiler a minute.
SANITIZERS = (
    "-O1",
    "-g1",
    "-fno-var-tracking",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)


@dataclass(frozen=True)
class Built:
    """A compiled plugin; `environment` is what a process needs to load it (the sanitizers' runtime comes first)."""

    folder: Path
    manifest: Manifest
    library: Path
    environment: dict[str, str]


def build(folder: Path, into: Path | None = None, sanitize: bool = False) -> Built:
    """Compile the source that plugin.toml names to its library, in the folder or in `into`.

    The compiler is $CC or `cc`. Raises PluginRefused with the compiler's words.
    """
    folder = folder.resolve()
    manifest = read_manifest(folder)
    source, library = source_path(folder, manifest), library_path(folder, manifest)
    if not source.is_file():
        raise PluginRefused(folder.name, f"{source} does not exist; plugin.toml may name another `source`")
    if into is not None:
        library = into / library.name
    compile_library(source, library, folder.name, sanitize)
    return Built(folder, manifest, library, sanitizer_environment() if sanitize else {})


def built(target: str) -> str | Path:
    """What a person named: a plugin's name as it is, or a path; a folder of sources is compiled first."""
    path = Path(target).expanduser()
    if any(c.name == target for c in known()) or not path.exists():
        return target
    if path.is_dir() and source_path(path, read_manifest(path)).is_file():
        build(path)
    return path


def compile_library(source: Path, library: Path, name: str, sanitize: bool = False) -> None:
    """One source to one library. Raises PluginRefused with the compiler's words."""
    extra = SANITIZERS if sanitize else ()
    command = [
        *compiler(),
        *FLAGS,
        *extra,
        f"-I{include_dir()}",
        f"-I{source.parent}",
        str(source),
        "-o",
        str(library),
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise PluginRefused(name, f"`{shlex.join(command)}` failed:\n{done.stderr.strip()}")


def compiler() -> list[str]:
    """$CC, or `cc`. Raises PluginRefused where there is none."""
    command = shlex.split(os.environ.get("CC") or "cc")
    if not command or shutil.which(command[0]) is None:
        raise PluginRefused(
            "build", f"no C compiler `{' '.join(command)}` on this machine", next_step="install gcc or clang"
        )
    return command


def sanitizer_environment() -> dict[str, str]:
    """The runtime must be in the process before the interpreter's own allocations."""
    command = [*compiler(), "-print-file-name=libasan.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        raise PluginRefused("build", f"`{shlex.join(command)}` finds no address sanitizer; gcc brings it")
    # The interpreter itself leaks by design, and guard pages are meant to be hit with a report of their own.
    return {
        "LD_PRELOAD": str(Path(found).resolve()),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
