"""Recipes: training options for one purpose, under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

RecipeName = Literal["gentle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Values for options of a training run. What the user gives explicitly wins over them."""

    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig, nested."""


RECIPES: Mapping[RecipeName, Recipe] = {
    "gentle": Recipe(
        summary="the vision tower frozen and encoded once, the text tower trained on large batches",
        options={
            "epochs": 5,
            "lr": 2e-4,
            "train_bs": 512,
            "micro_batch": 64,
            "warmup_ratio": 0.1,
            "gentle": {"freeze": "vision"},
        },
    )
}
"""By name. `benchmarks/recipes.py` compares their options with others."""

assert set(RECIPES) == set(get_args(RecipeName)), "a name for each recipe"


def recipe_options(name: Any) -> Mapping[str, Any]:
    """The options of a recipe. An unknown name has none, and the config refuses it."""
    return RECIPES[name].options if name in RECIPES else {}


def told(name: RecipeName) -> str:
    """Describe a recipe in the header of a run: `gentle: the vision tower frozen ...`."""
    return f"{name}: {RECIPES[name].summary}"
