"""Trained weights on disk: safetensors, with what they are in the metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from holdfast import __version__
from holdfast.data.source import Source
from holdfast.foundation import registry
from holdfast.records.files import write_atomic
from holdfast.training.loop import fit
from holdfast.training.recipe import Recipe


def trained(net: str, source: Source, recipe: Recipe, path: Path) -> str:
    """Makes sure that ``path`` holds the registered net, trained by this recipe on this source; says what was done.

    A file that says it is just that is kept; anything else there is trained anew and replaced.

    Raises:
        StorageError: the file cannot be written.
        BadModel: the training failed.
    """
    recipe_id = hashlib.sha256(f"{net}|{recipe!r}|{source.fingerprint()}|{__version__}".encode()).hexdigest()[:16]
    if _declared(path).get("recipe") == recipe_id:
        return f"already trained, in {path}"
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = registry.load("net", net)(
            channels=source.shape[0], classes=len(source.class_names), size=source.shape[1]
        )
    history = fit(module, source, recipe)
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    write_atomic(path, [save(state, declared(net, recipe, recipe_id, source.name))])
    last = history[-1]
    return f"trained in {last.seconds:.0f} s ({last.epochs} epochs, last loss {last.loss:.3f})"


def declared(net: str, recipe: Recipe, recipe_id: str, data: str) -> dict[str, str]:
    """What weights say of themselves: the metadata of their file."""
    return {
        "format": "pt",
        "holdfast": __version__,
        "net": net,
        "recipe": recipe_id,
        "objective": type(recipe.objective).__name__,
        "operations": json.dumps(
            [*recipe.objective.operations, *(["translate"] if recipe.shift else []), *(["flip"] if recipe.flip else [])]
        ),
        "threat": json.dumps({"name": recipe.threat.name, "eps": recipe.threat.eps}),
        "data": data,
    }


def _declared(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
