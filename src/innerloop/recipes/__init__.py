"""Runs by name, after the rows of the papers' tables: `recipe("omniglot-5w1s/maml")`.

A recipe is a function that returns a `RunConfig`, decorated with the tasks and methods it is for;
every number that is not a default of a config section has its source in that function. Inner rates
of MAML on images are the published ones times the number of classes, because the authors sum the
support loss over classes and we average it (see `innerloop.methods.maml`).
"""

from __future__ import annotations

# In the order in which `innerloop recipes` lists them.
from . import glyphs, images, omniglot, omniglot_quick, sine  # noqa: F401
from .images import PUBLISHED
from .registry import Family, Recipe, recipe, recipes, row

RECIPES: dict[str, Recipe] = recipes()

__all__ = ["PUBLISHED", "RECIPES", "Family", "Recipe", "recipe", "row"]
