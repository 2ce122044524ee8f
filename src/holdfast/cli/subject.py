"""What is under test: the options by which several commands take a model and images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from holdfast.audit.config import AuditConfig
    from holdfast.audit.plan import Plan
    from holdfast.audit.ranks import Ranks
    from holdfast.data.source import Source
    from holdfast.models.model import Model
    from holdfast.threats.threat import Threat

_FIRST = Group("Model and data", sort_key=1)


@Parameter(name="*", group=_FIRST)
@dataclass(frozen=True, kw_only=True)
class Images:
    """Which images."""

    data: str | None = None
    """The images: a folder of class folders, .tar shards, .npz, .parquet, CIFAR binary, idx, hf:NAME; else digits."""
    split: str | None = None
    """Which part of the data; its test part unless given."""
    size: str | None = None
    """224 or 224x224: resize the shorter side of every image file to that / 0.875, then cut out the centre."""
    limit: int | None = None
    """Use a seeded subset of that many samples."""
    download: Annotated[bool, Parameter(negative="")] = False
    """What is named and not on this machine may be fetched from the network; without it nothing is."""
    seed: int | None = None
    """Seed of every random draw, and of --limit. Default 0."""
    config: Path | None = None
    """A TOML file with any of these keys; what stands on the command line wins."""

    def configured(self, more: Mapping[str, Any] | None = None) -> AuditConfig:
        """The whole configuration: these options, over those in ``more``, over those of the TOML file."""
        from holdfast.audit.config import build

        given = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "config"}
        return build(self.config, {**(more or {}), **{key: value for key, value in given.items() if value is not None}})


@Parameter(name="*", group=_FIRST)
@dataclass(frozen=True, kw_only=True)
class Subject(Images):
    """What is under test."""

    model: str | None = None
    """The classifier: your_module:factory (its code runs), net:NAME, timm:NAME, torchvision:NAME, hf:FOLDER, .pt2, .onnx."""
    weights: str | None = None
    """Its weights: a .safetensors file, a .pt file with a plain state dict, or "pretrained" of timm: and torchvision:."""
    normalise: str | None = None
    """What to put in front of it: imagenet, cifar10, cifar100, mnist, or "m1,m2,m3/s1,s2,s3"."""
    option: Annotated[list[str] | None, Parameter(negative="")] = None
    """A keyword argument of the net or the factory, as key=value. Repeat for more."""
    trust_code: Annotated[bool, Parameter(negative="")] = False
    """Code that comes with the model may run: a .py file, a TorchScript program, the code in a folder of Hugging Face."""
    device: str | None = None
    """Where to compute: cpu (the default), cuda, cuda:1, mps, or auto: the first of cuda, mps and cpu that is there."""

    def configured(self, more: Mapping[str, Any] | None = None) -> AuditConfig:
        """The whole configuration: these options, over those in ``more``, over those of the TOML file."""
        from holdfast.audit.config import build, option

        given = {key: getattr(self, key) for key in self.__dataclass_fields__ if key not in ("config", "option")}
        given["options"] = dict(option(text) for text in self.option) if self.option else None
        return build(self.config, {**(more or {}), **{key: value for key, value in given.items() if value is not None}})


def allowed(config: AuditConfig) -> Threat:
    """The threat set of a configuration."""
    from holdfast.foundation import registry
    from holdfast.foundation.errors import BadValue

    kind = registry.load("threat", config.threat)
    if config.eps is None:
        raise BadValue("no radius is given", hint="give --eps, for example --eps 8/255")
    return kind(config.eps)


def question(config: AuditConfig) -> tuple[Threat, Plan]:
    """The threat set and the plan of a configuration, checked against each other; imports the attacks."""
    from holdfast.audit.plan import named

    threat = allowed(config)
    return threat, named(config.plan, threat, audited=config.audited)


def placed(config: AuditConfig, ranks: Ranks) -> AuditConfig:
    """The same, with a GPU for each process of a host where they share the work by CUDA."""
    from holdfast.models.device import placed as found

    shared = ranks.world > 1 and config.device in ("cuda", "auto") and found(config.device).type == "cuda"
    return config.model_copy(update={"device": f"cuda:{ranks.local}"}) if shared else config


def pictured(config: AuditConfig) -> Source:
    """The images of a configuration."""
    from holdfast.data.load import load as load_data

    return load_data(
        config.data,
        split=config.split,
        size=config.size,
        limit=config.limit,
        seed=config.seed,
        download=config.download,
    )


def load(config: AuditConfig) -> tuple[Model, Source]:
    """The model and the images of a configuration; the images first, as they say which shape the model takes."""
    from holdfast.models.load import load as load_model

    source = pictured(config)
    model = load_model(
        config.model,
        weights=config.weights,
        normalise=config.normalise,
        shape=source.shape,
        options=config.options,
        device=config.device,
        trust_code=config.trust_code,
        download=config.download,
    )
    _tell(model)
    return model, source


def _tell(model: Model) -> None:
    """Says on stderr what is put in front of a model that brings its own configuration, and what is known of it."""
    from holdfast.cli.terminal import terminal

    if "origin" not in model.declared or os.environ.get("RANK", "0") != "0":  # of torchrun's processes one says it
        return
    said = [f"images resized {model.declared['resize']}"] if "resize" in model.declared else []
    normalise = model.declared.get("normalise")
    said += [f"normalised by {normalise}" if normalise else "not normalised in front: if it needs that, --normalise"]
    said += [f"classes {', '.join(model.class_names[:3])}, ..."] if model.class_names else []
    said += [] if model.differentiable else ["no gradients: black-box attacks alone"]
    terminal(stderr=True).print(f"{model.name}: {'; '.join(said)}", markup=False)


def train_part(data: str, size: str | None) -> Source | None:
    """The train part of that data, at that size; None where it has no such part, or where its name says which part it is."""
    from holdfast.data.load import load as load_data
    from holdfast.foundation.errors import BadValue, UnknownName

    try:
        return load_data(data, split="train", size=size)
    except (UnknownName, BadValue):
        return None
