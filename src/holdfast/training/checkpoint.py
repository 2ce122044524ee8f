"""Trained weights on disk: safetensors, with what they are in the metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from holdfast import __version__
from holdfast.data.source import Source
from holdfast.foundation.errors import BadFile
from holdfast.models.load import build
from holdfast.records.files import write_atomic
from holdfast.threats.threat import Threat
from holdfast.threats.union import Union, parts
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
    if metadata(path).get("recipe") == recipe_id:
        return f"already trained, in {path}"
    module = build(net, shape=source.shape, classes=len(source.class_names), seed=recipe.seed)
    history = fit(module, source, recipe)
    keep(module.state_dict(), path, declared(net, {}, source, recipe, recipe_id))
    last = history[-1]
    return f"trained in {last.seconds:.0f} s ({last.epochs} epochs, last loss {last.loss:.3f})"


def declared(net: str, options: Mapping[str, Any], source: Source, recipe: Recipe, recipe_id: str) -> dict[str, str]:
    """What weights say of themselves: the metadata of their file."""
    return {
        "format": "pt",
        "holdfast": __version__,
        "net": net,
        "options": json.dumps(dict(options)),
        "shape": json.dumps(list(source.shape)),
        "classes": json.dumps(list(source.class_names)),
        "recipe": recipe_id,
        "objective": type(recipe.objective).__name__,
        "operations": json.dumps(
            [*recipe.objective.operations, *(["translate"] if recipe.shift else []), *(["flip"] if recipe.flip else [])]
        ),
        "threat": json.dumps(_said(recipe.threat)),
        "data": source.name,
    }


def _said(threat: Threat) -> dict[str, Any]:
    more = {"parts": [_said(each) for each in parts(threat)]} if isinstance(threat, Union) else {}
    return {"name": threat.name, "eps": threat.eps, **more}


def keep(state: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Writes the state of a net, whole or not at all. Raises StorageError."""
    found = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    write_atomic(path, [save(found, metadata)])


def restored(path: Path) -> nn.Module:
    """The net of a file that a training wrote, in eval mode.

    Raises:
        BadFile: it is no such file.
        BadModel: the net that it names cannot be built, or has other weights.
    """
    said = metadata(path)
    if "net" not in said or "options" not in said:
        raise BadFile(
            f"{path} does not say which net its weights belong to",
            hint="give weights that holdfast train wrote, such as runs/NAME/best_clean.safetensors",
        )
    shape, classes = json.loads(said["shape"]), json.loads(said["classes"])
    net = build(said["net"], shape=shape, classes=len(classes), options=json.loads(said["options"]))
    try:
        net.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise BadFile(f"the weights in {path} do not fit {said['net']}: {error}", hint="train it again") from None
    return net.eval().requires_grad_(False)


def metadata(path: Path) -> dict[str, str]:
    """What the file at ``path`` says of itself; nothing where there is none, or it is torn."""
    if not path.exists():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def digest(path: Path) -> str:
    """A digest of a file's bytes. Raises BadFile."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}", hint="give the path of a file of weights") from None
