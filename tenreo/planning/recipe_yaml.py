"""Recipes as YAML, with the keys that `tenreo compress --config` reads."""

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any

import yaml

from tenreo.planning.recipe import Recipe


def recipe_yaml(recipe: Recipe, others: Mapping[str, Any]) -> str:
    """Return the text of a YAML file for `tenreo compress --config`: the recipe, and values of other options.

    Args:
        recipe: recipe; fields with their default values are left out.
        others: values of other options by name, such as the model; they come first.
    """
    own: dict[str, Any] = {recipe.rate.name: recipe.rate.number}
    default = Recipe(recipe.groups, recipe.rate, refine=recipe.refine, pack=recipe.pack)
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        changed = value != getattr(default, f.name) or (f.name in ("groups", "refine", "pack") and value != f.default)
        if changed and value is not None:
            own[f.name] = list(value) if isinstance(value, tuple) else value
    plain = {name: str(value) if isinstance(value, StrEnum) else value for name, value in own.items()}
    return yaml.safe_dump({**others, **plain}, sort_keys=False, allow_unicode=True, width=100)
