"""Makes a `Model` of whatever a user names: a registered net, their own factory, a module, a function."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from holdfast.ascent.frozen import rng_kept
from holdfast.foundation import registry
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.models import normalisation
from holdfast.models import weights as weight_files
from holdfast.models.device import placed
from holdfast.models.factory import called, imported
from holdfast.models.model import Model, fingerprint, placement
from holdfast.models.origin import Asked, origin_of, written
from holdfast.models.probe import find_shape, probe
from holdfast.models.resized import Resized, resized
from holdfast.nets.normalise import Normalise

_FORMS = "give net:NAME, your_module:factory, an nn.Module or a function from images to logits"

PRETRAINED = "pretrained"
"""What ``weights`` is for those that the model's origin publishes."""
MOST_VALUES = 2**26
"""Of an image that a file says its model takes, which is made to try it: a false one would fill the memory."""


class Called(nn.Module):
    """A plain function as the last layer behind a normalisation."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def load(
    given: str | Path | Model | Callable[[Tensor], Tensor],
    *,
    weights: str | Path | None = None,
    normalise: str | Sequence[Sequence[float]] | None = None,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
    options: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    trust_code: bool = False,
    download: bool = False,
) -> Model:
    """A classifier, checked on two images of the shape that it is to be evaluated on.

    Args:
        given: ``"net:NAME"`` (a registered net); ``"your_module:factory"`` (imported, with the current folder on the
            path during the import: naming it is your word that its code may run); a name or a file that one of
            `holdfast.models.origins` takes; an ``nn.Module``; a `Model`; or any function from images to logits. A module of
            yours is used as it is, unless weights or device need a change: then a copy is changed.
        weights: a ``.safetensors``, ``.pt``, ``.pth`` or ``.ckpt`` file; no code in it is ever run. ``"pretrained"``: those
            that the model's origin publishes.
        normalise: what to put in front: a preset's name, ``"m1,m2,m3/s1,s2,s3"``, or a pair of sequences. Where it is
            None, the ``mean`` and ``std`` in the metadata of a safetensors file are taken, else what the model's origin
            says; ``"0/1"`` is none.
        shape: (C,H,W) of the images. Where it is None, that of the model's origin, or one that works is found by trying.
            Where the origin says another size, the images are resized in front of the model.
        classes: number of classes, if known; the model must agree.
        options: keyword arguments of the net or the factory. A registered net takes ``channels``, ``size`` and
            ``classes`` from ``shape`` and ``classes``, or from what its weights say of themselves, unless they are here.
        device: where to evaluate: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` (`holdfast.models.device`).
        trust_code: code that comes with the model may run.
        download: what is not on this machine may be fetched.

    A net that is built without weights is initialised with seed 0. The global RNG is left alone.

    Raises:
        UnknownName: no such net, option, preset, or factory in that module.
        BadValue: an argument that does not go with the others.
        BadFile: the weights file cannot be read, or is not safe to read.
        BadModel: the weights do not fit, or the classifier cannot be evaluated on such images.
    """
    place, image = placed(device), _shape(shape)
    given = str(given) if isinstance(given, Path) else given
    asked = None if normalise is None else normalisation.parse(normalise)
    origin = origin_of(given) if isinstance(given, str) else None
    pretrained = weights == PRETRAINED
    if pretrained and (origin is None or not origin.publishes):
        raise BadValue(
            f"weights are {PRETRAINED!r}, and nobody publishes any of this model", hint="give a file of weights"
        )
    if weights is not None and origin is not None and not origin.weights:
        raise BadValue(f"{given} brings its own weights", hint="leave weights out")
    read = None if weights is None or pretrained else weight_files.read(weights)
    declared = {} if read is None else dict(sorted(read.metadata.items()))
    if options and not isinstance(given, str):
        raise BadValue(
            "options are for a net or factory that is built", hint="leave options out, or name what to build"
        )
    found = None
    class_names, differentiable = (given.class_names, given.differentiable) if isinstance(given, Model) else ((), True)
    with rng_kept(place):
        torch.default_generator.manual_seed(0)
        if origin is not None:
            found = origin.open(str(given), Asked(dict(options or {}), pretrained, trust_code, download))
            if found.shape is not None and math.prod(found.shape) > MOST_VALUES:
                raise BadModel(
                    f"{given} says that it takes images of shape {found.shape}",
                    hint="export it for images of at most 4,096 by 4,096 pixels",
                )
            module, name, differentiable = found.module, found.name, found.differentiable
        else:
            told = classes if read is None else classes or _classes(read.metadata)
            module, name = _built(given, dict(options or {}), image, told, {} if read is None else read.state)
    if isinstance(given, Model):
        declared = {**given.declared, **declared}
        image, classes = image or given.shape, classes or given.classes
    owned = isinstance(given, str)
    if read is not None:
        if not isinstance(module, nn.Module):
            raise BadValue("a plain function has no weights to load", hint="leave weights out, or give an nn.Module")
        module, owned = (module if owned else _copied(module)), True
        weight_files.put(module, read.state, path=str(weights))
    module = _moved(module, place, owned=owned)
    if owned and isinstance(module, nn.Module):
        module.eval()
    inside = isinstance(module, nn.Module) and any(isinstance(layer, Normalise) for layer in module.modules())
    if asked is None and read is not None and not inside:  # a net that normalises inside does not want it twice
        asked = normalisation.from_metadata(read.metadata, path=str(weights))
    if found is not None:
        declared["origin"] = registry.name_of(origin)
        asked, class_names = asked or found.moments, found.class_names
        image = image or found.shape
        module = resized(found.module, found.shape, image)
        if isinstance(module, Resized):
            declared["resize"] = module.extra_repr()
    if asked is not None:
        module = _normalised(module, asked, image)
        declared["normalise"] = str(asked)
    dtype, _ = placement(module, device=place)
    if image is None:
        channels = len(asked.mean) if asked is not None and len(asked.mean) > 1 else None
        image = find_shape(module, channels=channels, dtype=dtype, device=place)
    outputs = probe(module, image, dtype=dtype, device=place)
    if classes is not None and classes != outputs:
        raise BadModel(
            f"the model has {outputs} classes and {classes} are expected", hint="give the model that has them"
        )
    return Model(
        module=module,
        name=name if weights is None else f"{name} ({Path(weights).name})",
        classes=outputs,
        shape=image,
        fingerprint=fingerprint(module),
        parameters=sum(each.numel() for each in module.parameters()) if isinstance(module, nn.Module) else 0,
        dtype=dtype,
        device=place,
        declared=declared,
        class_names=class_names if len(class_names) == outputs else (),
        differentiable=differentiable,
    )


def _classes(metadata: Mapping[str, str]) -> int | None:
    """How many classes weights say that they were trained on, as `holdfast.training.checkpoint` writes it; None: nothing."""
    try:
        names = json.loads(metadata.get("classes", ""))
    except (ValueError, RecursionError):
        return None
    return len(names) if isinstance(names, list) and names else None


def build(
    net: str, *, shape: Sequence[int], classes: int, options: Mapping[str, Any] | None = None, seed: int = 0
) -> nn.Module:
    """A net to be trained, initialised with that seed, in train mode on the CPU. The global RNG is left alone.

    Args:
        net: the name of a registered net, or ``"your_module:factory"``: naming it is your word that its code may run.
        shape: (C,H,W) of its images.
        classes: its outputs.
        options: keyword arguments of the net or the factory, which win over the shape and the classes.

    Raises:
        UnknownName: no such net, option or factory.
        BadModel: what it gives is no ``nn.Module`` with parameters.
    """
    image = _shape(shape)
    with rng_kept():
        torch.default_generator.manual_seed(seed)
        given = net if ":" in net else f"net:{net}"
        module, _ = _built(given, dict(options or {}), image, classes, {})
    if not isinstance(module, nn.Module) or not any(each.requires_grad for each in module.parameters()):
        raise BadModel(f"{net} has nothing to train", hint="give a net, or a factory that returns an nn.Module")
    return module.train()


def _built(
    given: object,
    options: dict[str, Any],
    image: tuple[int, int, int] | None,
    classes: int | None,
    state: Mapping[str, Tensor],
) -> tuple[Callable[[Tensor], Tensor], str]:
    if isinstance(given, Model):
        return given.module, given.name
    if isinstance(given, str):
        kind, colon, rest = given.partition(":")
        if not colon or not kind or not rest:
            near = f"net:{given}" if given in registry.names("net") else "net:small_cnn"
            raise BadValue(f"{given!r} names no model", hint=f"write it as {near} or another of {written()}")
        if kind == "net":
            return _net(rest, options, image, classes, state), rest
        return called(imported(kind, rest), given, options), given
    if isinstance(given, type) or not callable(given):
        what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
        raise BadModel(f"the model is {what}, which cannot be called on images", hint=_FORMS)
    name = getattr(given, "__qualname__", None) or type(given).__qualname__
    return cast("Callable[[Tensor], Tensor]", given), name


def _net(
    name: str,
    options: dict[str, Any],
    image: tuple[int, int, int] | None,
    classes: int | None,
    state: Mapping[str, Tensor],
) -> nn.Module:
    net = registry.load("net", name)
    known = inspect.signature(net).parameters
    filled: dict[str, Any] = {}
    if image is not None:
        filled |= {"channels": image[0], "size": image[1]}
    if classes is not None:
        filled["classes"] = classes
    if "normalise.mean" in state and "normalise.std" in state:  # trained with a normalisation inside: build it likewise
        filled |= {part: state[f"normalise.{part}"].flatten().tolist() for part in ("mean", "std")}
    filled = {key: value for key, value in filled.items() if key in known}
    return called(net, f"net:{name}", {**filled, **options})


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # a foreign __deepcopy__ may raise anything
        raise BadModel(
            f"the module would have to be changed, and cannot be copied: {type(error).__name__}: {error}",
            hint="load its weights and move it to the device yourself, and give it without weights and device",
        ) from error


def _moved(module: Callable[[Tensor], Tensor], place: torch.device, *, owned: bool) -> Callable[[Tensor], Tensor]:
    if not isinstance(module, nn.Module) or placement(module, device=place)[1] == place:
        return module
    return (module if owned else _copied(module)).to(place)


def _normalised(
    module: Callable[[Tensor], Tensor], moments: normalisation.Moments, image: tuple[int, int, int] | None
) -> nn.Module:
    if image is not None and len(moments.mean) not in (1, image[0]):
        raise BadValue(
            f"the normalisation has {len(moments.mean)} channels and the images have {image[0]}",
            hint="give one mean and one deviation per channel, or one for all",
        )
    if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[0], Normalise):
        raise BadValue(
            "the model already has a normalisation in front", hint="leave normalise out, or load the bare model"
        )
    dtype, place = placement(module, device=torch.device("cpu"))
    core = module if isinstance(module, nn.Module) else Called(module)
    front = nn.Sequential(Normalise(*moments).to(place, dtype), core)
    front[0].training = front.training = core.training  # not through train(), which would reach into the user's module
    return front


def _shape(given: Sequence[int] | None) -> tuple[int, int, int] | None:
    if given is None:
        return None
    if len(given) != 3 or any(side < 1 for side in given):
        raise BadValue(
            f"the shape of an image is {tuple(given)}", hint="give (channels, height, width), e.g. (3, 32, 32)"
        )
    return given[0], given[1], given[2]
