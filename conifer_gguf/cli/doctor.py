"""conifer-gguf doctor: what is right and what is wrong on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from ..service import doctor
from ..service.doctor import Report, Supplier, Tuned
from ..settings import format_bytes
from . import render
from ._progress import working
from .tune import summary

UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


@click.command("doctor", short_help="Tell what is right and what is wrong on this machine.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print as JSON: bytes, seconds; `problems` and `advice`."
)
def command(as_json: bool) -> int:
    """Tell what is right and what is wrong on this machine: processor, memory, libraries, plugins, what is fast.

    Exit code 1 when something is wrong; what could only be better changes nothing.

    \b
    Examples:
      conifer-gguf doctor
      conifer-gguf doctor --json
    """
    with working("examining this machine"):
        report = doctor.examine()
    if as_json:
        render.as_json(as_row(report))
    else:
        _show(report)
    return 0 if report.healthy else 1


def as_row(report: Report) -> dict[str, Any]:
    row = asdict(report)
    findings = row.pop("findings")
    row["problems"] = [{"fact": f["fact"], "hint": f["hint"]} for f in findings if f["wrong"]]
    row["advice"] = [{"fact": f["fact"], "hint": f["hint"]} for f in findings if not f["wrong"]]
    return row


def _show(report: Report) -> None:
    machine, libraries = report.machine, report.libraries
    threads = f"{machine.n_threads} of {machine.usable} usable cores, {machine.cores} physical"
    ggml = f"{libraries.ggml} in llama-cpp-python {libraries.llama_cpp_python}"
    rows = [
        ("processor", machine.cpu),
        ("kernels take", machine.instruction_set),
        ("threads", threads),
        ("memory", f"{format_bytes(machine.free)} free of {format_bytes(machine.memory)}"),
        ("conifer-gguf", f"{libraries.conifer_gguf}, kernel ABI {libraries.kernel_abi}"),
        ("ggml", f"{ggml}, {'known' if libraries.ggml_accepted else 'not known'}"),
        ("repacking", f"llama.cpp's: {libraries.repacking}"),
        *[(s.what, _supplier(s)) for s in report.hybrid],
        ("tuned", _tuned(report.tuned)),
        ("home", _home(report)),
    ]
    render.facts(rows)
    if report.plugins:
        click.echo()
        render.table(
            ("PLUGIN", "VERSION", "SOURCE", "STATE", "SUPPLIES"),
            [(p.name, p.version, p.source, p.state, ", ".join(p.ops)) for p in report.plugins],
        )
    click.echo()
    for finding in report.findings:
        render.finding("wrong" if finding.wrong else "advice", finding.fact, finding.hint)
    if report.healthy:
        click.echo("nothing is wrong")


def _supplier(s: Supplier) -> str:
    types = ", ".join(dtype.upper() for dtype in s.by_ggml)
    by = s.by if s.is_plugin else f"{s.by}, no plugin is registered"
    return f"{by}; with {types} weights ggml, which is faster here" if types else by


def _tuned(found: Tuned) -> str:
    if found.tuning is None or found.age_s is None:
        return "for another machine or version" if found.outdated else "not yet"
    how = "in a second" if found.tuning.brief else f"in {found.tuning.seconds:.0f} seconds"
    return f"{summary(found.tuning)} ({age(found.age_s)} ago, {how})"


def _home(report: Report) -> str:
    place = report.home
    writable = "writable" if place.writable else "not writable"
    return f"{place.path}, {writable}, {format_bytes(place.free)} of disk free"


def age(seconds: float) -> str:
    """In the largest unit that it fills: `3 days`, `1 minute`."""
    size, unit = next((u for u in UNITS if seconds >= u[0]), UNITS[-1])
    n = int(seconds // size)
    return f"{n} {unit}{'s' * (n != 1)}"
