"""Our own JSON for the page: what is here, what it costs, how it likes to be sampled."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from flask import Blueprint, request

from ..arch import geometry
from ..errors import BadModelFile, BadRequest, UnknownPlugin
from ..gguf import read_header
from ..native_api import registry
from ..service import status
from ..service.residency import Residency
from ..store.library import LocalModel

if TYPE_CHECKING:
    from .app import Models


def blueprint(residency: Residency, models: Models, csrf: str) -> Blueprint:
    """`csrf` empty: plugins cannot be registered over HTTP."""
    page_api = Blueprint("native", __name__, url_prefix="/api")

    @page_api.get("/models")
    def list_models() -> Any:
        loaded = {engine.name: engine.info for engine in residency.loaded()}
        rows = []
        for model in models.all():
            info = loaded.get(model.name)
            rows.append(
                {**model_row(model, residency.options.runtime), "n_ctx": info.info.n_ctx if info else None}
            )
        return {"default": models.default(), "models": rows}

    @page_api.post("/plugins/register")
    def register() -> Any:
        """Register plugins that are known by name: bundled or announced by installed packages, never a path."""
        given = request.headers.get("X-CSRF-Token", "")
        if not csrf or not hmac.compare_digest(given.encode(), csrf.encode()):
            raise BadRequest("plugins are registered from this server's own page on a loopback address only")
        names = (request.get_json(silent=True) or {}).get("names")
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or not names:
            raise BadRequest("`names` must be a list of plugin names", "names")
        known = {c.name for c in registry.known()}
        for name in names:
            if name not in known:
                raise UnknownPlugin(name)
        return {"registered": [f"{p.name} {p.version}" for p in registry.register(*names)]}

    return page_api


def bundled(names: tuple[str, ...]) -> tuple[str, ...]:
    """The page offers what comes with this package; other people's code is registered in a terminal, by its sha256."""
    own = {c.name for c in registry.known() if c.source == "bundled"}
    return tuple(name for name in names if name in own)


def model_row(model: LocalModel, requested: str) -> dict[str, Any]:
    """OpenAI's model object, and what we know besides. Reads the header, loads nothing."""
    entry = model.entry
    row = {
        "id": model.name,
        "object": "model",
        "created": int(model.path.stat().st_mtime),
        "owned_by": "conifer-gguf",
        "size": model.size,
        "class": entry.class_ if entry else None,
        "profile": entry.profile if entry else "",
        "sampling": entry.sampling.given() if entry else {},
    }
    try:
        header = read_header(model.path)
    except BadModelFile as error:
        return {**row, "status": "unknown", "reason": error.fact}
    state = status.of_file(header, requested)
    shape = geometry(header)
    return {
        **row,
        "status": state.status,
        "runtime": state.runtime,
        "words": state.words,
        "reason": state.reason,
        "needs": state.needs,
        "supply": state.supply,
        "register": bundled(state.register),
        "layers": status.layers_of(header),
        "also_runs_with": state.also_runs_with,
        "kv_bytes_per_token": shape.kv_bytes_per_token,
        "state_bytes": shape.carry_bytes,
        "context": shape.n_ctx_train,
    }
