"""Our own JSON for the page: what is here, what it costs, how it likes to be sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint

from ..engine import memory
from ..errors import BadModelFile
from ..gguf import read_header
from ..service import status
from ..service.residency import Residency
from ..store.library import LocalModel

if TYPE_CHECKING:
    from .app import Models


def blueprint(residency: Residency, models: Models) -> Blueprint:
    page_api = Blueprint("native", __name__, url_prefix="/api")

    @page_api.get("/models")
    def list_models() -> Any:
        loaded = {engine.name: engine.info for engine in residency.loaded()}
        rows = []
        for model in models.all():
            info = loaded.get(model.name)
            rows.append({**model_row(model), "n_ctx": info.info.n_ctx if info else None})
        return {"default": models.default(), "models": rows}

    return page_api


def model_row(model: LocalModel) -> dict[str, Any]:
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
    state = status.of_file(header)
    shape = memory.geometry(header)
    return {
        **row,
        "status": state.status,
        "runtime": state.runtime,
        "reason": state.reason,
        "needs": state.needs,
        "also_runs_with": state.also_runs_with,
        "kv_bytes_per_token": shape.kv_bytes_per_token,
        "state_bytes": shape.carry_bytes,
        "context": shape.n_ctx_train,
    }
