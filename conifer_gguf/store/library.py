"""What is on this machine: one folder a model under `models/`, with a manifest beside the file, and what the package brings."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import BadRequest, ModelNotOnDisk, UnknownModel
from ..settings import models_dir, packaged_models_dir
from .catalog import Entry, PackageSource, catalog

MANIFEST = "manifest.json"
PACKAGE = "package"  # the source of a model that is part of the installation


@dataclass(frozen=True)
class LocalModel:
    """A model file that can be loaded. `name` is NAME:QUANT for a pulled one, the file's stem for a bare path."""

    name: str
    path: Path
    size: int
    quant: str | None
    sha256: str | None
    source: str
    entry: Entry | None

    @property
    def base_name(self) -> str:
        return self.name.partition(":")[0]


def models() -> list[LocalModel]:
    """Everything that was pulled, sorted by name, then what the package brings: the first is the one to offer."""
    return [*pulled(), *packaged()]


def pulled() -> list[LocalModel]:
    """A folder without a sound manifest is not a model."""
    found = (_read(path) for path in sorted(models_dir().glob(f"*/{MANIFEST}")))
    return sorted((m for m in found if m is not None), key=lambda m: m.name)


def packaged() -> list[LocalModel]:
    """The models in this package, in the catalog's order."""
    return [
        LocalModel(
            f"{e.name}:{s.quant}", packaged_models_dir() / s.file, s.size, s.quant, s.sha256, PACKAGE, e
        )
        for e in catalog().entries
        for s in e.sources
        if isinstance(s, PackageSource) and (packaged_models_dir() / s.file).is_file()
    ]


def folder_of(name: str, quant: str) -> Path:
    return models_dir() / f"{name}-{quant}"


def add(name: str, quant: str, file: Path, sha256: str | None, source: str) -> LocalModel:
    """Write the manifest of a file that is already in its folder; from then on the model is installed."""
    data = {
        "name": name,
        "quant": quant,
        "file": file.name,
        "size": file.stat().st_size,
        "sha256": sha256,
        "source": source,
    }
    temporary = file.parent / f"{MANIFEST}.new"
    temporary.write_text(json.dumps(data, indent=2))
    temporary.replace(file.parent / MANIFEST)
    model = _read(file.parent / MANIFEST)
    assert model is not None
    return model


def find(name_or_path: str) -> LocalModel:
    """A model file by its path, or a pulled model as `by_name` finds it."""
    path = Path(name_or_path).expanduser()
    if path.suffix == ".gguf" or path.is_file():
        if not path.is_file():
            raise UnknownModel(name_or_path)
        return LocalModel(path.stem, path.resolve(), path.stat().st_size, None, None, "file", None)
    return by_name(name_or_path)


def by_name(name: str) -> LocalModel:
    """A pulled model by name, alias or NAME:QUANT; never a path.

    Raises ModelNotOnDisk when the catalog knows it, UnknownModel otherwise.
    """
    here = models()
    base, _, quant = name.partition(":")
    entry = catalog().find(base)
    wanted = {base.lower()} | ({entry.name} if entry else set())
    matches = [
        m for m in here if m.base_name in wanted and (not quant or (m.quant or "").lower() == quant.lower())
    ]
    if matches:
        preferred = entry.source(None).quant if entry else None
        return next((m for m in matches if m.quant == preferred), matches[0])
    entry, asked = catalog().resolve(name)
    source = entry.source(asked)
    raise ModelNotOnDisk(f"{entry.name}:{source.quant}" if asked else entry.name, source.size)


def removable(name: str) -> LocalModel:
    """A pulled model. Raises UnknownModel, ModelNotOnDisk, or BadRequest for what comes with the package."""
    model = find(name)
    if model.source == "file":
        raise UnknownModel(name)
    if model.source == PACKAGE:
        raise BadRequest(f"`{model.base_name}` is part of the package and goes with it", "name")
    return model


def remove(name: str) -> LocalModel:
    """Delete a pulled model and its folder. Raises what `removable` raises."""
    model = removable(name)
    shutil.rmtree(model.path.parent)
    return model


def _read(manifest: Path) -> LocalModel | None:
    try:
        data = json.loads(manifest.read_text())
        path = manifest.parent / data["file"]
        name, quant = data["name"], data["quant"]
        size = path.stat().st_size
    except (OSError, ValueError, KeyError):
        return None
    return LocalModel(
        f"{name}:{quant}", path, size, quant, data.get("sha256"), data.get("source", ""), catalog().find(name)
    )


def as_row(model: LocalModel) -> dict[str, object]:
    """Plain values for JSON."""
    row = {k: v for k, v in asdict(model).items() if k != "entry"}
    return {**row, "path": str(model.path)}
