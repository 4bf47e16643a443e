"""The `[kit]` table of an op.toml: what the kit cannot guess about an op's inputs, and how exact a kernel must be."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import PluginRefused

Sizes = dict[str, int]


class When(BaseModel):
    """Other inputs where an attribute has a value: `attr = { beta_act = "none" }`, `range = { beta = [0.0, 1.0] }`.

    `unit_rows` are operands whose last axis is scaled to length 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attr: dict[str, str]
    range: dict[str, tuple[float, float]] = Field(default_factory=dict)
    unit_rows: list[str] = Field(default_factory=list)


class Recipe(BaseModel):
    """How the kit makes inputs for one op. Everything has a default; a new op may come without this table.

    `sizes` lists the sizes that a dimension may have, as numbers or from other dimensions (`H = ["G", "2*G"]`); what is
    not listed takes any size from 1. `shapes` are those of real models. `refused` are sizes that a kernel must answer
    with CK_BAD_SHAPE. `longest` bounds the tokens of a sequence, for an op whose work grows by their square. `needs` says which optional operand requires which other. `same_form` are operands that use the
    same alternative of their dims. `real` lists values of real attributes, `extreme` values of operands far outside
    their usual range. `representable` draws an operand's numbers so that another's dtype holds them exactly.
    `rtol` is the largest error, relative to the largest element of its row or the root mean square
    of the whole output, and `reason` why it is what it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rtol: float = Field(default=1e-4, gt=0)
    reason: str = "the op states no tolerance of its own"
    sizes: dict[str, list[int | str]] = Field(default_factory=dict)
    shapes: list[Sizes] = Field(default_factory=list)
    refused: list[Sizes] = Field(default_factory=list)
    needs: dict[str, str] = Field(default_factory=dict)
    same_form: list[list[str]] = Field(default_factory=list)
    longest: int = 1 << 20
    real: dict[str, list[float]] = Field(default_factory=dict)
    extreme: dict[str, list[float]] = Field(default_factory=dict)
    when: list[When] = Field(default_factory=list)
    representable: dict[str, str] = Field(default_factory=dict)


def read_recipe(folder: Path) -> Recipe:
    """The recipe of the op in this folder. Raises PluginRefused, which names the key."""
    path = folder / "op.toml"
    data = tomllib.loads(path.read_text("utf-8"))
    try:
        return Recipe.model_validate(data.get("kit", {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("kit", *first["loc"]))
        raise PluginRefused(
            folder.name, f"{path}: `{key}`: {first['msg']} (got {first['input']!r})"
        ) from error
