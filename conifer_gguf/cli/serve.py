"""conifer-gguf serve: the page and the OpenAI-compatible API."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from typing import NoReturn

import click
import waitress

from ..errors import BadModelFile, BadRequest
from ..gguf import read_header
from ..native_api import registry
from ..service import status
from ..service.residency import EngineOptions, Residency
from ..settings import API_KEY, REGISTER, format_bytes
from ..store import library
from ..web.app import LOOPBACK, ServerOptions, create_app
from ..worker.load import plan_for
from . import _options, _pull, render
from ._progress import working

EXTRA_THREADS = 8  # besides one for each answer: pages, health checks, clients that hang


@click.command("serve", short_help="Serve the chat page and an OpenAI-compatible API.")
@click.argument("name", required=False, metavar="[NAME[:QUANT] | FILE]")
@click.option("--model", metavar="NAME", help="The same as the argument.")
@click.option(
    "--pull", "pull_first", is_flag=True, help="Download the model without asking if it is not here."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Any other address needs --api-key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--api-key", envvar=API_KEY.name, metavar="KEY", help="Ask every API request for this key.")
@click.option("--allowed-host", multiple=True, metavar="HOST", help="Another name this server is reached by.")
@click.option(
    "--parallel", type=click.IntRange(1, 64), default=1, show_default=True, help="Answers at the same time."
)
@click.option(
    "--max-loaded", type=click.IntRange(1, 16), default=1, show_default=True, help="Models at the same time."
)
@click.option(
    "--register",
    type=click.Choice(["bundled"]),
    envvar=REGISTER.name,
    help="Register the plugins that come with this package before serving.",
)
@_options.add(_options.ENGINE)
def command(
    name: str | None,
    model: str | None,
    pull_first: bool,
    host: str,
    port: int,
    api_key: str | None,
    allowed_host: tuple[str, ...],
    parallel: int,
    max_loaded: int,
    register: str | None,
    ctx: int | None,
    threads: int | None,
    cache_type: str,
    runtime: str,
) -> int:
    """Serve a chat page at / and an OpenAI-compatible API under /v1. Models load at their first request.

    \b
    Examples:
      conifer-gguf serve
      conifer-gguf serve --model lfm2.5-1.2b
      conifer-gguf serve smollm2-135m --ctx 4096 --port 9000
      conifer-gguf serve --host 0.0.0.0 --api-key SECRET --allowed-host box.local
    """
    if not is_loopback(host) and not api_key:
        raise BadRequest(
            f"--host {host} opens this server to others, and there is no API key", "host", "add --api-key KEY"
        )
    wanted = name or model  # without either, whatever is here is served
    served = _pull.find_or_pull(wanted, pull_first) if wanted else None
    if register:
        register_bundled()
    listener = bind(host, port)
    options = EngineOptions(runtime, ctx, threads, cache_type, parallel)
    residency = Residency(options, max_loaded)
    hosts = LOOPBACK | {host} | set(allowed_host)
    app = create_app(
        residency,
        ServerOptions(
            default_model=served.name if served else None,
            served={served.name: served} if served and served.source == "file" else {},
            api_key=api_key,
            allowed_hosts=frozenset(hosts),
            may_register=is_loopback(host),
        ),
    )
    # Requests that wait for a thread are ordinary here: an answer takes seconds.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    banner(served, options)
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"http://{shown}:{listener.getsockname()[1]}")
    leave_at_once(residency)
    try:
        waitress.serve(
            app,
            sockets=[listener],
            threads=parallel + EXTRA_THREADS,
            channel_request_lookahead=1,
            ident="conifer-gguf",
            _quiet=True,
        )
    except KeyboardInterrupt:
        pass
    finally:
        residency.close()
    return 0


def register_bundled() -> None:
    """Every bundled plugin that is not registered yet."""
    held = {plugin.name for plugin in registry.registered()}
    names = [c.name for c in registry.known() if c.source == "bundled" and c.name not in held]
    if names:
        with working(f"checking {', '.join(names)}"):
            registry.register(*names)


def leave_at_once(residency: Residency) -> None:
    """At Ctrl-C and SIGTERM running answers end now; waitress alone would wait five seconds for them."""

    def leave(*_: object) -> NoReturn:
        residency.close()
        raise KeyboardInterrupt

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, leave)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, made before anything is loaded. Raises BadRequest when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # from here on a client that connects waits instead of being refused
    except OSError as error:
        listener.close()
        raise BadRequest(
            f"cannot listen on {host}:{port}: {error.strerror}", "port", f"--port {port + 1}"
        ) from error
    return listener


def banner(served: library.LocalModel | None, options: EngineOptions) -> None:
    """What is ready, what waits, and what the default model will take; on stderr."""
    here = library.models()
    names = {m.name: m for m in [*here, *([served] if served else [])]}
    gated: set[str] = set()
    for local in names.values():
        words, register = state_of(local, options.runtime)
        render.notice(f"  {local.name:<36} {format_bytes(local.size):>8}  {words}")
        gated.update(register)
    if gated:
        render.notice(
            f"  conifer-gguf plugins register {' '.join(sorted(gated))} makes gated models answer; nothing restarts"
        )
    if not names:
        render.notice("  no models; conifer-gguf pull smollm2-135m, then reload the page")
    if served is not None:
        render.notice(plan_line(served, options))


def state_of(local: library.LocalModel, requested: str) -> tuple[str, tuple[str, ...]]:
    """The status of a model in words, and the plugins that it waits for. One bad file does not keep a server down."""
    try:
        state = status.of_file(read_header(local.path), requested)
    except BadModelFile as bad:
        return f"unknown · {bad.problem}", ()
    return f"unknown · {state.reason}" if state.status == "unknown" else state.words, state.register


def plan_line(model: library.LocalModel, options: EngineOptions) -> str:
    """The memory plan in one line. Raises DoesNotFit."""
    header = read_header(model.path)
    runtime = status.of_file(header, options.runtime).runtime
    plan = plan_for(model.name, header, runtime, options.n_ctx, options.cache_type, options.parallel)
    parts = [f"weights {format_bytes(plan.weights)}", f"cache {format_bytes(plan.cache)}"]
    if plan.carry:
        parts.append(f"carry {format_bytes(plan.carry)}")
    parts.append(f"scratch {format_bytes(plan.scratch)}")
    return f"{model.name}: {plan.n_ctx:,} tokens, {format_bytes(plan.total)} of memory ({', '.join(parts)})"
