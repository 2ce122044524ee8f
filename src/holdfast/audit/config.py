"""What an audit is asked for in text, on the command line or in a TOML file: validated once, here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast.data.size import parsed
from holdfast.foundation import toml
from holdfast.foundation.errors import BadValue, UnknownName

DEFENDED = 200
"""How many images a defence is evaluated on unless another number is asked for."""


class AuditConfig(BaseModel):
    """Everything that an audit can be asked for. The keys are those of the command line and of a TOML file.

    ``model`` is ``net:NAME``, ``module:factory`` or what one of `holdfast.models.origins` takes; ``options`` are keyword
    arguments for it; ``weights`` is a safetensors or ``.pt`` file, or ``pretrained``. ``trust_code`` lets code run that
    comes with the model, ``download`` lets the network be asked: words for one run, written nowhere. ``normalise`` is a
    preset's name or ``"m1,m2,m3/s1,s2,s3"``. ``data`` is a name or a path, ``size`` what its images are cut to. ``eps`` and
    the entries of ``curve`` are radii (``"8/255"``). ``out`` is the run's folder. The rest is asked of the corruptions:
    names or groups, severities, the variant of their tables, folders of frost photographs and of released files, the
    quality of a JPEG after each of them, a defence that adapts to them, and what a CE divides by; of the perturbation
    sequences: names or groups, and their difficulty; and of a defence at inference: its name and options, the data of its
    pool, and the effort of the attack on it (see `holdfast.audit_defence`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    model: str
    data: str = "digits"
    threat: str = "linf"
    eps: str | None = None
    plan: str = "fast"
    audited: int = 0
    out: str | None = None
    curve: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0
    weights: str | None = None
    normalise: str | None = None
    options: dict[str, Any] = {}
    trust_code: bool = Field(default=False, exclude=True)
    download: bool = Field(default=False, exclude=True)
    device: str = "cpu"
    split: str | None = None
    size: str | None = None
    slots: int | None = None
    precision: Literal["full", "bfloat16", "float16"] = "full"
    compile: Literal["none", "default", "graph"] = "none"
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    variant: str | None = None
    frost_dir: str | None = None
    released: str | None = None
    jpeg: int | None = None
    adapt: str | None = None
    baseline: str | None = None
    perturbations: tuple[str, ...] = ()
    difficulty: int = 1
    defence: str | None = None
    defence_options: dict[str, Any] = {}
    pool: str | None = None
    pool_per_class: int = 100
    steps: int = 20
    restarts: int = 2
    budgets: tuple[int, ...] = (1, 5, 20)
    evaluations: int = 20
    tries: int = 5

    @property
    def adversarial(self) -> bool:
        """Whether the worst case is asked for by a plan: by a radius, or because nothing else is."""
        return not self.defence and (self.eps is not None or not (self.corruptions or self.perturbations))

    @property
    def folder(self) -> Path:
        """The run's folder: the given one, or one under ``runs/`` that is named after what was asked for."""
        if self.out is not None:
            return Path(self.out)
        what = [
            Path(self.weights).stem if self.weights else self.model,
            Path(self.data).stem,
            *((self.threat, self.eps or "", self.plan) if self.adversarial else ()),
            *(("corruptions",) if self.corruptions else ()),
            *((self.adapt,) if self.adapt else ()),
            *(("perturbations",) if self.perturbations else ()),
            *((self.defence, self.threat, self.eps or "") if self.defence else ()),
        ]
        return Path("runs") / "-".join(re.sub(r"[^A-Za-z0-9.]+", "_", part).strip("_") for part in what)


def build(path: Path | None, given: Mapping[str, Any]) -> AuditConfig:
    """The configuration in a TOML file with the values ``given`` on the command line over it (None: not given).

    Raises:
        BadFile: the file is missing or is no TOML.
        UnknownName: a key that does not exist; the hint gives the nearest.
        BadValue: a value of a wrong kind, or no model.
    """
    values = toml.read(path, "configuration", 'eps = "8/255"') if path is not None else {}
    where = f"key in {path}"
    for key in values:
        if key not in AuditConfig.model_fields:
            raise UnknownName.among(where, key, AuditConfig.model_fields)
    if values.get("trust_code"):
        raise BadValue(
            f"trust_code is set in {path}", hint="a file cannot give that word: add --trust-code to the command"
        )
    values |= {key: value for key, value in given.items() if value is not None}
    if values.get("released") and not values.get("corruptions"):
        values["corruptions"] = ("all",)
    if values.get("defence"):
        values.setdefault("limit", DEFENDED)
    if "model" not in values:
        raise BadValue(
            "no model is given",
            hint="name one with --model: net:NAME, your_module:factory, timm:NAME, hf:FOLDER, a .pt2 or .onnx file",
        )
    try:
        config = AuditConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadValue(f"{key} is {first.get('input')!r}: {first['msg'].lower()}", hint=f"correct {key}") from None
    _check_used(config)
    check_numbers(limit=config.limit, slots=config.slots, seed=config.seed, audited=config.audited)
    if config.size is not None:
        parsed(config.size)
    return config


_USED_WITH = {
    **dict.fromkeys(("severities", "frost_dir", "released", "jpeg", "adapt"), ("corruptions",)),
    "difficulty": ("perturbations",),
    **dict.fromkeys(("variant", "baseline"), ("corruptions", "perturbations")),
    **dict.fromkeys(("defence_options", "pool", "steps", "restarts", "budgets", "evaluations", "tries"), ("defence",)),
    "pool_per_class": ("pool",),
}
_NOT_WITH_DEFENCE = ("plan", "audited", "curve", "slots", "precision", "compile", "corruptions", "perturbations")


def _check_used(config: AuditConfig) -> None:
    """Refuses what would be ignored. Raises BadValue."""
    for key, parts in _USED_WITH.items():
        given = getattr(config, key) != AuditConfig.model_fields[key].default
        if given and not any(getattr(config, part) for part in parts):
            raise BadValue(
                f"{key} is given, and no {' or '.join(parts)}",
                hint=f"add --{parts[0]} {'all' if parts[0][-1] == 's' else 'NAME'}, or leave {key} out",
            )
    for key in ("precision", "compile") if not (config.adversarial or config.defence) else ():
        if getattr(config, key) != AuditConfig.model_fields[key].default:
            raise BadValue(f"{key} is given, and nothing is searched", hint=f"add --eps, or leave {key} out")
    for key in _NOT_WITH_DEFENCE if config.defence else ():
        if getattr(config, key) != AuditConfig.model_fields[key].default:
            raise BadValue(
                f"{key} is given together with a defence, which is attacked by a plan of its own",
                hint=f"leave {key} out, or ask for it in a run without --defence",
            )


def check_numbers(*, limit: int | None, slots: int | None, seed: int, audited: int = 0) -> None:
    """Refuses counts below 1, negative seeds and negative ``audited``. Raises BadValue."""
    for key, number in (("limit", limit), ("slots", slots)):
        if number is not None and number < 1:
            raise BadValue(f"{key} is {number}; it must be at least 1", hint=f"leave {key} out for the default")
    if audited < 0:
        raise BadValue(f"audited is {audited}; it must not be negative", hint="leave audited out to audit none")
    if seed < 0:
        raise BadValue(f"seed is {seed}; it must not be negative", hint="give seed=0")


def option(text: str) -> tuple[str, Any]:
    """``"key=value"`` as a pair; the value is read as TOML where it is TOML (numbers, lists, true), else as text.

    Raises:
        BadValue: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadValue(f"the option {text!r} is no key=value", hint="write --option classes=10")
    return key.strip(), toml.value(value)
