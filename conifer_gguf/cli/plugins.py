"""conifer-gguf plugins: the kernels that load-gated models wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from ..kit.build import built
from ..kit.scaffold import new_plugin
from ..native_api import registry
from ..native_api.cdef import ABI_VERSION
from ..native_api.state import cpu_features
from ..ops import contracts
from ..runtimes import tuning
from ..settings import home, include_dir
from . import _plugins_bench, _plugins_check, render
from ._progress import working
from .tune import summary


@click.group("plugins", short_help="Register, check, measure and write kernel plugins.")
def command() -> None:
    """Register, check, measure and write kernel plugins.

    \b
    Examples:
      conifer-gguf plugins register ssd_scan causal_conv
      conifer-gguf plugins new my_scan && conifer-gguf plugins check ./my_scan
    """


command.add_command(_plugins_check.command)
command.add_command(_plugins_bench.command)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON.")
def list_(as_json: bool) -> None:
    """List what is registered, and what could be: bundled plugins and those of installed packages."""
    rows = [_registered_row(p) for p in registry.registered()]
    names = {row.name for row in rows}
    rows += [_candidate_row(c) for c in registry.known() if c.name not in names]
    if as_json:
        render.as_json([asdict(row) for row in rows])
        return
    render.table(
        ("NAME", "VERSION", "SOURCE", "STATUS", "SUPPLIES"),
        [
            (r.name, r.version, r.source, f"{r.status}{r.problem and ': ' + r.problem}", ", ".join(r.ops))
            for r in rows
        ],
    )


@dataclass(frozen=True)
class Row:
    """One plugin. `status`: registered, refused (with the `problem`), available or not built."""

    name: str
    id: str
    version: str
    source: str
    ops: tuple[str, ...]
    status: str
    problem: str
    sha256: str
    path: str


def _registered_row(p: registry.Registered) -> Row:
    problem = registry.changed(p) or ""
    status = "refused" if problem else "registered"
    return Row(p.name, p.id, p.version, p.source, p.ops, status, problem, p.sha256, str(p.origin))


def _candidate_row(found: registry.Candidate) -> Row:
    built = found.library.is_file()
    m = found.manifest
    return Row(
        name=found.name,
        id=m.id,
        version=m.version,
        source=found.source,
        ops=tuple(m.ops),
        status="available" if built else "not built",
        problem="",
        sha256=found.sha256() if built else "",
        path=str(found.library),
    )


@command.command()
@click.argument("targets", nargs=-1, metavar="NAME|FOLDER|LIBRARY...")
@click.option("--bundled", is_flag=True, help="All plugins that this package brings.")
def register(targets: Sequence[str], bundled: bool) -> None:
    """Check plugins and register them: all that are named, or none.

    A folder is built first. Models that waited for their kernels run at once, also on a running server.

    \b
    Examples:
      conifer-gguf plugins register ssd_scan causal_conv
      conifer-gguf plugins register --bundled
      conifer-gguf plugins register ./my_scan
    """
    names = [*targets, *[c.name for c in registry.known() if bundled and c.source == "bundled"]]
    if not names:
        raise click.UsageError("name a plugin, a folder or a library, or say --bundled")
    wanted = [built(name) for name in dict.fromkeys(names)]
    with working(f"checking {', '.join(map(str, wanted))}"):
        made = registry.register(*wanted)
    for plugin in made:
        click.echo(f"registered {plugin.name} {plugin.version}: supplies {', '.join(plugin.ops)}")


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def unregister(names: Sequence[str]) -> None:
    """Forget plugins: models that need their kernels are load-gated again."""
    registry.unregister(*names)
    click.echo(f"unregistered {', '.join(names)}")


@command.command()
@click.argument("name")
@click.option("--op", help="Start from the bundled plugin of this op instead of a new op.")
def new(name: str, op: str | None) -> None:
    """Write a complete plugin folder that passes `plugins check` as it stands.

    \b
    Examples:
      conifer-gguf plugins new my_scan
      conifer-gguf plugins new my_ssd --op conifer.ssd_scan/1
    """
    folder = new_plugin(Path(name), op)
    for path in sorted(folder.iterdir()):
        click.echo(f"wrote {path}")
    render.notice(f"\nnext: conifer-gguf plugins check {_shown(folder)}")


def _shown(folder: Path) -> str:
    return f"./{folder.name}" if folder.parent == Path.cwd() else str(folder)


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(as_json: bool) -> None:
    """Show what a plugin author needs to know of this host: ABI, headers, ops, processor, what was measured here."""
    tuned = tuning.remembered()
    facts = {
        "abi": ABI_VERSION,
        "headers": str(include_dir()),
        "store": str(home() / "plugins"),
        "cpu": cpu_features(),
        "tuned": asdict(tuned) if tuned else None,
        "ops": [{"op": c.op, "title": c.title, "layers": c.layers, "folder": str(c.folder)} for c in contracts().values()],
    }  # fmt: skip
    if as_json:
        render.as_json(facts)
        return
    click.echo(f"kernel ABI  {facts['abi']}")
    click.echo(f"headers     {facts['headers']}")
    click.echo(f"store       {facts['store']}")
    click.echo(f"processor   {facts['cpu']}")
    click.echo(f"tuned       {summary(tuned) if tuned else 'not yet'}\n")
    render.table(("OP", "LAYERS", "TITLE"), [(c.op, c.layers or "", c.title) for c in contracts().values()])
