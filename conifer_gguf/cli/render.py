"""Text for people: the only module of the CLI that lays out errors, tables and sizes.

Data goes to stdout, everything else to stderr, so that output can be piped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from ..errors import ConiferError


def error(problem: ConiferError) -> None:
    """Fact, what was tried, one next command; on stderr."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {problem.fact}", err=True)
    for number, attempt in enumerate(problem.tried):
        click.echo(f"  {'tried:' if number == 0 else '      '} {attempt}", err=True)
    if problem.hint:
        click.echo(f"\n{click.style('hint:', fg='cyan')} {problem.hint}", err=True)
    for way in problem.also:
        click.echo(f"{click.style('also:', fg='cyan')} {way}", err=True)


def notice(text: str) -> None:
    """One line to the person, on stderr."""
    click.echo(text, err=True)


def as_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def facts(rows: Sequence[tuple[str, str]]) -> None:
    """A name and a value a line, the values below one another."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name.ljust(width)}  {value}")


def finding(kind: str, fact: str, hint: str) -> None:
    """One line that ends with the next command."""
    colour = "red" if kind == "wrong" else "yellow"
    click.echo(f"{click.style(f'{kind}:', fg=colour)} {fact}; {click.style('hint:', fg='cyan')} {hint}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns padded to their widest cell; readable without colour, greppable."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
