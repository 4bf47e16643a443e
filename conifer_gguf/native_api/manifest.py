"""`plugin.toml`: what a plugin says about itself before any of its code runs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ..errors import PluginRefused
from ..ops import Contract, contracts, read_contract
from .cdef import ABI_MAJOR

FILE = "plugin.toml"
OP_FILE = "op.toml"
MAX_BYTES = 64 * 1024  # far above any honest manifest

OpId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+(\.[a-z0-9_-]+)*/[1-9][0-9]*$")]
PluginId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+(\.[a-z0-9_-]+)+$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Manifest(BaseModel):
    """The keys of `plugin.toml`. `library` and `source` are paths inside the plugin's folder, by default its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: PluginId
    version: Text
    abi: int
    ops: list[OpId] = Field(min_length=1)
    licence: Text
    author: Text
    description: str = ""
    library: str = ""
    source: str = ""


def read_manifest(folder: Path) -> Manifest:
    """Read and judge a manifest; no code of the plugin runs.

    Raises PluginRefused: no manifest, bad TOML, a key missing, unknown or of the wrong type, another ABI, or a path
    that leads outside the folder.
    """
    path = folder / FILE
    manifest = _parse(folder.name, path)
    if manifest.abi != ABI_MAJOR:
        raise PluginRefused(folder.name, f"{path} says abi = {manifest.abi}, this host speaks {ABI_MAJOR}")
    if len(set(manifest.ops)) != len(manifest.ops):
        raise PluginRefused(folder.name, f"{path} names an op twice: {', '.join(manifest.ops)}")
    for key, default in (("library", f"{folder.name}.so"), ("source", f"{folder.name}.c")):
        inside(folder, key, getattr(manifest, key) or default)
    return manifest


def library_path(folder: Path, manifest: Manifest) -> Path:
    return inside(folder, "library", manifest.library or f"{folder.name}.so")


def source_path(folder: Path, manifest: Manifest) -> Path:
    return inside(folder, "source", manifest.source or f"{folder.name}.c")


def inside(folder: Path, key: str, value: str) -> Path:
    """The path below `folder`; raises PluginRefused where `..`, an absolute path or a link leads out of it."""
    path = folder / value
    if not path.resolve().is_relative_to(folder.resolve()):
        raise PluginRefused(
            folder.name, f"{folder / FILE}: {key} = {value!r} leads outside the plugin's folder"
        )
    return path


def op_folders(folder: Path, manifest: Manifest) -> dict[str, Path]:
    """Where the contract of each op lies: the host's own, or else `op.toml` in the plugin's folder or one below it.

    Raises PluginRefused for an op that neither has. The host's ops are the host's: a plugin's copy is not looked at.
    """
    found = {op: contracts()[op].folder for op in manifest.ops if op in contracts()}
    unknown = [op for op in manifest.ops if op not in found]
    if not unknown:
        return found
    brought = {contract.op: contract.folder for contract in brought_contracts(folder)}
    for op in unknown:
        if op.startswith("conifer.") or op not in brought:
            known = ", ".join(contracts())
            raise PluginRefused(
                folder.name,
                f"unknown op `{op}`: this host knows {known}, and the plugin's folder has no {OP_FILE} for it",
            )
        found[op] = brought[op]
    return found


def brought_contracts(folder: Path) -> list[Contract]:
    """The contracts that a plugin's folder brings along."""
    paths = [p for p in (folder / OP_FILE, *sorted(folder.glob(f"*/{OP_FILE}"))) if p.is_file()]
    brought = []
    for path in paths:
        inside(folder, OP_FILE, str(path.relative_to(folder)))
        try:
            brought.append(read_contract(path.parent))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise PluginRefused(folder.name, f"{path} is not TOML: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PluginRefused(folder.name, f"{path} is no contract of an op: {error!r}") from error
    return brought


def _parse(name: str, path: Path) -> Manifest:
    try:
        if path.exists() and not path.is_file():
            raise PluginRefused(name, f"{path} is not a regular file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise PluginRefused(name, f"{path} is larger than {MAX_BYTES} bytes")
        return Manifest.model_validate(tomllib.loads(raw.decode("utf-8")))
    except OSError as error:
        raise PluginRefused(
            name,
            f"{path}: {error.strerror}; a plugin is a folder with {FILE}",
            next_step="conifer-gguf plugins new NAME writes a complete folder",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PluginRefused(name, f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise PluginRefused(name, f"{path}: `{key}`: {first['msg']} (got {first['input']!r})") from error
