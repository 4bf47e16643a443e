"""The Flask application: routes, and the checks that every request passes."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, jsonify, request, stream_with_context
from werkzeug.exceptions import HTTPException

from ..errors import ConiferError, UnknownModel
from ..service import chat
from ..service.residency import Residency
from ..store import library
from . import native, openai, pages

MAX_BODY = 64 << 20  # bytes; a million tokens of text fit
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class ServerOptions:
    """`served` are files given on the command line, by name; everything else is found in the library."""

    default_model: str | None = None
    served: dict[str, library.LocalModel] = field(default_factory=dict)
    api_key: str | None = None
    allowed_hosts: frozenset[str] = LOOPBACK
    may_register: bool = False  # plugins over HTTP: loopback binds only


class Models:
    """Model names of requests to files. A path in a request is not a name, and is never opened."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options

    def all(self) -> list[library.LocalModel]:
        return [*self._options.served.values(), *library.models()]

    def default(self) -> str | None:
        here = self.all()
        return self._options.default_model or (here[0].name if here else None)

    def find(self, name: str) -> library.LocalModel:
        name = name or self.default() or ""
        if not name:
            raise UnknownModel("(none)")
        return self._options.served.get(name) or library.by_name(name)


def create_app(residency: Residency, options: ServerOptions | None = None) -> Flask:
    """The application over one residency. For any WSGI server with threads."""
    options = options or ServerOptions()
    models = Models(options)
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.secret_key = secrets.token_bytes(32)

    @app.before_request
    def check() -> Response | None:
        return refuse_strangers(options)

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = CONTENT_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.errorhandler(ConiferError)
    def conifer_error(error: ConiferError) -> tuple[Response, int]:
        return jsonify(openai.error_body(error)), error.http_status

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> tuple[Response, int]:
        body = {
            "message": error.description,
            "type": "invalid_request_error",
            "param": None,
            "code": error.name.lower().replace(" ", "_"),
        }
        return jsonify({"error": body}), error.code or 500

    @app.get("/health")
    def health() -> Any:
        return {"status": "ok", "loaded": [engine.name for engine in residency.loaded()]}

    @app.get("/v1/models")
    def list_models() -> Any:
        return {
            "object": "list",
            "data": [native.model_row(m, residency.options.runtime) for m in models.all()],
        }

    @app.get("/v1/models/<path:name>")
    def one_model(name: str) -> Any:
        return native.model_row(models.find(name), residency.options.runtime)

    @app.post("/v1/chat/completions")
    def chat_completions() -> Response:
        return complete(residency, models, openai.parse(openai.ChatRequest, request.get_data()), is_chat=True)

    @app.post("/v1/completions")
    def completions() -> Response:
        return complete(
            residency, models, openai.parse(openai.CompletionRequest, request.get_data()), is_chat=False
        )

    csrf = secrets.token_urlsafe(32) if options.may_register else ""
    app.register_blueprint(pages.blueprint(csrf))
    app.register_blueprint(native.blueprint(residency, models, csrf))
    return app


def complete(residency: Residency, models: Models, body: Any, *, is_chat: bool) -> Response:
    """Answer in one piece or as a stream; what is wrong with the request is an HTTP error in both."""
    # waitress tells when the client has hung up; other servers notice it when they write.
    abandoned = request.environ.get("waitress.client_disconnected", lambda: False)
    model, events = chat.answer(residency, models.find(body.model), body.to_generate(), abandoned)
    reply = openai.Reply.new(model.name, chat=is_chat)
    if not body.stream:
        return jsonify(reply.whole(events))

    def stream() -> Iterator[str]:
        try:
            yield from reply.chunks(events, body.wants_usage)
        finally:
            events.close()

    response = Response(stream_with_context(stream()), mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def refuse_strangers(options: ServerOptions) -> Response | None:
    """Host and Origin must be ours (DNS rebinding, pages of other sites); the API wants its key."""
    host = _name(request.host)
    if host not in options.allowed_hosts:
        return _refusal(
            403, "forbidden_host", f"host `{host}` is not allowed; start with --allowed-host {host}"
        )
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        return _refusal(403, "forbidden_origin", f"requests from pages of {origin} are not allowed")
    if options.api_key and request.path.startswith(("/v1/", "/api/")):
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), options.api_key.encode()):
            return _refusal(401, "invalid_api_key", "the API key is missing or wrong")
    return None


def _name(host: str) -> str:
    """The host without its port; IPv6 in brackets has colons of its own."""
    return urlsplit(f"//{host}").hostname or ""


def _refusal(status: int, code: str, message: str) -> Response:
    response = jsonify(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    )
    response.status_code = status
    return response
