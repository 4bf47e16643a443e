"""conifer-gguf plugins check: the conformance kit, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from .. import kit
from . import render
from ._options import ISA
from ._progress import working


@click.command("check")
@click.argument("target", metavar="FOLDER|LIBRARY|NAME")
@ISA
@click.option("--sanitize/--no-sanitize", default=True, help="Check a folder once more under ASan and UBSan.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(target: str, isa: str | None, sanitize: bool, as_json: bool) -> int:
    """Build a plugin and run the conformance kit on it, in a child process.

    Exit code 0 when it keeps its contract, 1 when it does not.

    \b
    Examples:
      conifer-gguf plugins check ./my_scan
      conifer-gguf plugins check ssd_scan --isa avx2 --json
    """
    environment = {"CONIFER_ISA": isa} if isa else {}
    with working(f"checking {target}"):
        reports = {"plain": _report(target, environment, False)}
        if sanitize and Path(target).is_dir() and reports["plain"].passes:
            reports["sanitized"] = _report(target, environment, True)
    if as_json:
        passes = all(report.passes for report in reports.values())
        plain = reports["plain"].to_json()
        sanitized = reports["sanitized"].to_json() if "sanitized" in reports else None
        render.as_json({**plain, "passes": passes, "sanitized": sanitized})
    else:
        for report in reports.values():
            _show(report, report is reports.get("sanitized"))
    return 0 if all(report.passes for report in reports.values()) else 1


def _report(target: str, environment: Mapping[str, str], sanitize: bool) -> kit.Report:
    place = Path(target) if Path(target).exists() else target
    depth: kit.Depth = "quick" if sanitize else "full"
    return kit.check(place, depth=depth, sanitize=sanitize, environment=environment)


def _show(report: kit.Report, sanitized: bool) -> None:
    if sanitized:
        click.echo()
    click.echo(f"{report.plugin} {report.version}{', under ASan and UBSan' if sanitized else ''}")
    if report.rows:
        render.table(
            ("OP", "CHECK", "VERDICT", "CASES", "ERROR"),
            [
                (r.op, r.check, r.verdict, str(r.n_case), "" if r.error is None else f"{r.error:.1e}")
                for r in report.rows
            ],
        )
    for op, (rtol, reason) in report.tolerances.items():
        click.echo(
            f"{op}: largest relative error {report.worst_errors().get(op, 0.0):.1e}, allowed {rtol:.0e}: {reason}"
        )
    for op, exact in report.split_exact().items():
        told = "the same bits" if exact else "equal within the tolerance"
        click.echo(f"{op}: however a sequence is cut into calls, {told}")
    for row in report.failures:
        click.echo(f"\n{row.op}: {row.check} fails\n  case: {row.case}\n  {row.problem}")
    if report.problem:
        click.echo(f"\n{report.problem}")
    click.echo(f"\n{'passes' if report.passes else 'FAILS'}")
