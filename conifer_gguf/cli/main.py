"""The `conifer-gguf` command: finds its subcommands by listing this folder, and turns errors into text and exit codes.

A module here with a click command named `command` is a subcommand, called by the module's name; one whose name starts
with an underscore is not. Modules are imported only when their command runs.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
import traceback
from typing import Any

import click

from .. import __version__, cli
from ..errors import ConiferError
from . import render

NOT_COMMANDS = {"main", "render"}


class Commands(click.Group):
    """A group whose commands are the modules of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        modules = (m.name for m in pkgutil.iter_modules(cli.__path__))
        return sorted(name for name in modules if name not in NOT_COMMANDS and not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{cli.__name__}.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"\n\nhint: did you mean `{close[0]}`?" if close else ""
            raise click.UsageError(f"no command is called `{args[0]}`{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="conifer-gguf")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def root(ctx: click.Context, debug: bool) -> None:
    """Run GGUF language models on this machine, best where context gets long.

    \b
    Examples:
      conifer-gguf run smollm2-135m "Why is the sky blue?"
      conifer-gguf serve
      conifer-gguf catalog
    """
    ctx.obj = {"debug": debug}


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a fact of the world, 2 usage, 130 Ctrl-C."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    debug = "--debug" in argv
    try:
        result: Any = root.main(args=argv, prog_name="conifer-gguf", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConiferError as error:
        if debug:
            traceback.print_exc()
        render.error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 130
    return result if isinstance(result, int) else 0
