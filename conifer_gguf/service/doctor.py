"""What is right and what is wrong on this machine, without loading a model or a plugin."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import requires, version
from pathlib import Path

import psutil

from ..engine.blocks import OP as ATTENTION
from ..engine.memory import free_memory
from ..engine.product import EXPERTS
from ..engine.product import OP as PRODUCT
from ..errors import ConiferError
from ..native_api import ggml, host, registry
from ..native_api.cdef import ABI_MAJOR, ABI_MINOR
from ..native_api.state import cpu_features, cpu_name, package_version
from ..runtimes import choose, repack, tuning
from ..runtimes.threads import default_threads
from ..runtimes.tuning import Tuning
from ..settings import HOME, RUNTIME, format_bytes, home

LEAST_MEMORY = 500_000_000  # bytes: a hybrid of 350M parameters with a window of some length
LEAST_DISK = 1_000_000_000  # bytes: one of 1B parameters
ACCELERATED = {"products": PRODUCT, "attention": ATTENTION, "experts": EXPERTS}
REINSTALL = "pip install --force-reinstall conifer-gguf"


@dataclass(frozen=True)
class Finding:
    """Something to do: `wrong`, or only better done. `hint` is the one next command."""

    wrong: bool
    fact: str
    hint: str


@dataclass(frozen=True)
class Machine:
    """Bytes. `cores` are physical ones, `usable` those that this process may use, `n_threads` what a hybrid is computed with."""

    cpu: str
    features: str
    instruction_set: str
    cores: int
    usable: int
    n_threads: int
    memory: int
    free: int


@dataclass(frozen=True)
class Libraries:
    conifer_gguf: str
    kernel_abi: str
    llama_cpp_python: str
    ggml: str
    ggml_accepted: bool
    repacking: str  # not tried (no AMX), safe, or crashes


@dataclass(frozen=True)
class PluginState:
    """`state` is registered, checked again (at the next use), refused, damaged, not registered or not built."""

    name: str
    version: str
    source: str
    ops: tuple[str, ...]
    state: str


@dataclass(frozen=True)
class Supplier:
    """Who computes what ggml could: a registered plugin with its version, or ggml. Types in `by_ggml` go to ggml all the same."""

    what: str
    op: str
    by: str
    is_plugin: bool
    by_ggml: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tuned:
    """`tuning` None: nothing is remembered for this machine as it is; `outdated`: something is for it as it was."""

    tuning: Tuning | None
    age_s: float | None
    outdated: bool


@dataclass(frozen=True)
class Home:
    path: str
    writable: bool
    free: int


@dataclass(frozen=True)
class Report:
    machine: Machine
    libraries: Libraries
    home: Home
    hybrid: tuple[Supplier, ...]
    tuned: Tuned
    plugins: tuple[PluginState, ...]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        return not any(f.wrong for f in self.findings)


def examine() -> Report:
    """Look at everything. Where the processor has AMX and nothing is known of it yet, a child process tries it, for seconds."""
    findings: list[Finding] = []
    libraries = _libraries(findings)
    place = _home(findings)
    plugins = _plugins(findings)
    tuned = _tuned(findings)
    machine = _machine(tuned.tuning, findings)
    hybrid = _suppliers(plugins, tuned.tuning)
    _setting(findings)
    return Report(machine, libraries, place, hybrid, tuned, plugins, tuple(sorted(findings, key=_gravest)))


def _gravest(finding: Finding) -> bool:
    return not finding.wrong


def _machine(tuned: Tuning | None, findings: list[Finding]) -> Machine:
    free, usable = free_memory(), default_threads()
    if free < LEAST_MEMORY:
        fact = (
            f"{format_bytes(free)} of memory are free, the smallest hybrids need {format_bytes(LEAST_MEMORY)}"
        )
        findings.append(Finding(True, fact, "ps aux --sort=-rss | head"))
    try:
        taken = host.instruction_set()
    except ConiferError as error:
        findings.append(Finding(True, error.fact, REINSTALL))
        taken = "none"
    if asked := os.environ.get("CONIFER_ISA"):
        fact = f"CONIFER_ISA is `{asked}`: kernels take {taken}, whatever more the processor has"
        findings.append(Finding(False, fact, "unset CONIFER_ISA"))
    elif taken == "scalar":
        fact = (
            "the processor has no vector instructions that kernels take (AVX2 or AVX-512): hybrids are slow"
        )
        findings.append(Finding(False, fact, f"export {RUNTIME.name}=llama.cpp"))
    return Machine(
        cpu=cpu_name(),
        features=cpu_features(),
        instruction_set=taken,
        cores=psutil.cpu_count(logical=False) or 1,
        usable=usable,
        n_threads=tuned.n_threads if tuned else usable,
        memory=int(psutil.virtual_memory().total),
        free=free,
    )


def _libraries(findings: list[Finding]) -> Libraries:
    installed, accepted = version("llama-cpp-python"), ggml.version() in ggml.VERSIONS
    pinned = next(r for r in requires("conifer-gguf") or () if r.startswith("llama-cpp-python"))
    if not accepted:
        fact = (
            f"llama-cpp-python {installed} ships ggml {ggml.version()}, the hybrid runtime knows "
            f"{', '.join(ggml.VERSIONS)}; no hybrid loads"
        )
        findings.append(Finding(True, fact, f"pip install '{pinned}'"))
    repacking = "not tried (no AMX)"
    if repack.needs_a_trial():
        repacking = "safe" if repack.repacking_is_safe() else "crashes"
    if repacking == "crashes":
        fact = (
            "llama.cpp's AMX product crashes here, as some compilers build it, so its weights are used as they "
            "lie in the file"
        )
        build = f"CC=clang CXX=clang++ pip install --force-reinstall --no-deps --no-cache-dir '{pinned}'"
        findings.append(Finding(False, fact, build))
    abi = f"{ABI_MAJOR}.{ABI_MINOR}"
    return Libraries(package_version(), abi, installed, ggml.version(), accepted, repacking)


def _home(findings: list[Finding]) -> Home:
    folder = home()
    nearest = next(
        p for p in (folder, *folder.parents) if os.path.exists(p)
    )  # False, too, where it is hidden
    problem = _write_problem(nearest)
    if problem:
        findings.append(Finding(True, f"{folder} cannot be written: {problem}", f"export {HOME.name}=FOLDER"))
    free = shutil.disk_usage(nearest).free
    if free < LEAST_DISK:
        fact = f"{folder} has {format_bytes(free)} of disk free, a 1B model takes {format_bytes(LEAST_DISK)}"
        findings.append(Finding(True, fact, "conifer-gguf list shows what `conifer-gguf rm NAME` would free"))
    return Home(str(folder), not problem, free)


def _write_problem(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _plugins(findings: list[Finding]) -> tuple[PluginState, ...]:
    try:
        held = registry.registered()
    except ConiferError as error:  # the file is damaged: everything is as if nothing were registered
        findings.append(Finding(True, error.fact, error.hint or "conifer-gguf plugins list"))
        return ()
    found = [_registered(plugin, findings) for plugin in held]
    names = {plugin.name for plugin in held}
    candidates = [c for c in registry.known() if c.name not in names]
    for c in candidates:
        built = c.library.is_file()
        state = "not registered" if built else "not built"
        found.append(PluginState(c.name, c.manifest.version, c.source, tuple(c.manifest.ops), state))
        if not built and c.source == "bundled":
            findings.append(
                Finding(
                    True, f"the bundled plugin {c.name} is not built: {c.library} does not exist", REINSTALL
                )
            )
    _advise([p for p in found if p.state == "not registered" and p.source == "bundled"], findings)
    return tuple(found)


def _registered(plugin: registry.Registered, findings: list[Finding]) -> PluginState:
    again = plugin.name if plugin.source != "path" else str(plugin.origin)
    state, problem = "registered", registry.changed(plugin)
    if problem:
        state = "refused"
    elif registry.damaged(plugin):
        state, problem = "damaged", f"its copy {plugin.library} is not what was registered"
    elif registry.stale(plugin):
        state = "checked again"
    if problem:
        findings.append(
            Finding(
                True, f"plugin {plugin.name} may not run: {problem}", f"conifer-gguf plugins register {again}"
            )
        )
    return PluginState(plugin.name, plugin.version, plugin.source, plugin.ops, state)


def _advise(available: Iterable[PluginState], findings: list[Finding]) -> None:
    """Bundled plugins that nobody registered: a gate that stands is nothing wrong."""
    faster = set(ACCELERATED.values())
    gates = [p.name for p in available if not faster.intersection(p.ops)]
    others = [p.name for p in available if faster.intersection(p.ops)]
    if gates:
        fact = f"not registered: {', '.join(gates)}; models that need their kernels are load-gated"
        findings.append(Finding(False, fact, f"conifer-gguf plugins register {' '.join(gates)}"))
    if others:
        fact = f"not registered: {', '.join(others)}; the hybrid runtime falls back to ggml, which is slower"
        findings.append(Finding(False, fact, f"conifer-gguf plugins register {' '.join(others)}"))


def _suppliers(plugins: Iterable[PluginState], tuned: Tuning | None) -> tuple[Supplier, ...]:
    usable = {p.name for p in plugins if p.state in ("registered", "checked again")}
    made = []
    for what, op in ACCELERATED.items():
        first = next((p for p in registry.suppliers_of(op) if p.name in usable), None) if usable else None
        by = f"{first.name} {first.version}" if first else f"ggml {ggml.version()}"
        types = tuned.by_ggml if tuned and first and op == PRODUCT else ()
        made.append(Supplier(what, op, by, first is not None, types))
    return tuple(made)


def _tuned(findings: list[Finding]) -> Tuned:
    try:
        found, others = tuning.remembered(), tuning.others()
    except ConiferError:  # no host shim, or a damaged registry: a finding of its own
        return Tuned(None, None, False)
    if found is None:
        fact = "nothing was measured on this machine yet; the first load of a hybrid takes a second for it"
        if others:
            day = others[0].tuning.date[:10]
            fact = f"what was measured on {day} was for another processor, number of cores or version"
        findings.append(Finding(False, fact, "conifer-gguf tune"))
        return Tuned(None, None, bool(others))
    if found.untried:
        types = ", ".join(dtype.upper() for dtype in found.untried)
        fact = f"the time to measure did not reach {types}, which keep the default"
        findings.append(Finding(False, fact, "conifer-gguf tune"))
    age = (datetime.now(UTC) - datetime.fromisoformat(found.date)).total_seconds()
    return Tuned(found, max(0.0, age), bool(others))


def _setting(findings: list[Finding]) -> None:
    value = os.environ.get(RUNTIME.name)
    if value and value not in choose.REQUESTS:
        fact = f"{RUNTIME.name} is `{value}`; there are {', '.join(choose.REQUESTS)}"
        findings.append(Finding(True, fact, f"unset {RUNTIME.name}"))
