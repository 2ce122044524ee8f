"""Runs the graph of a ``torch.export`` archive, one listed operator after another, without torch's own loader.

That loader (tried: torch 2.13 and 2.15) unpickles members without restriction and evaluates the texts of sizes
(`sympy.sympify`); it looks an operator's name up anywhere below ``torch``. Here a node is an operator of ATen whose
arguments are tensors, numbers and settings, or arithmetic on numbers: no file's name (``from_file``), no third kind. No
text is evaluated, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from holdfast.foundation.errors import BadFile

DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    9: torch.complex32,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
"""The schema's numbers of the types that weights and casts have."""

_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7
_ATEN = re.compile(r"torch\.ops\.aten\.([A-Za-z_]\w*)\.([A-Za-z]\w*)", re.ASCII)
_TYPE = re.compile(r"Tensor|int|float|bool|number|complex|Device|Generator")
_TEXTS = {"approximate", "assert_msg", "equation", "indexing", "mode", "padding", "reduce", "rounding_mode"}
"""The arguments that are texts and choose among settings; a file's name is none."""
_GLOBAL = {"manual_seed", "set_grad_enabled", "backward", "from_file", "save"}
_INTERNAL = {
    "_adaptive_avg_pool2d",
    "_assert_scalar",
    "_assert_tensor_metadata",
    "_convolution",
    "_log_softmax",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_softmax",
    "_to_copy",
    "_unsafe_view",
    "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa",
}
"""What exporting and decomposing produce of ATen's internal operators; the others promise no checks of their arguments."""

_PYTHON = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod, operator.neg)
_COMPARING = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.not_)
_MATHS = (math.ceil, math.floor, math.trunc)
_SYMBOLIC = (torch.sym_float, torch.sym_int, torch.sym_max, torch.sym_min, torch.sym_not, torch.sym_ite)
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{one.__name__}": one
        for one in (*_PYTHON, *_COMPARING, operator.and_, operator.or_, operator.getitem)
    },
    **{f"math.{one.__name__}": one for one in _MATHS},
    **{f"torch.{one.__name__}": one for one in _SYMBOLIC},
}
_HINT = "export a module that takes images (N,C,H,W) and returns logits (N,K): torch.export.export, torch.export.save"


class _Name(NamedTuple):
    """A value that an earlier step made."""

    text: str


class _Place(NamedTuple):
    """The device of the images, whatever device the archive names."""


@dataclass(frozen=True)
class _Step:
    """One node: what is called, with what, what the parts of its result are called, and which values end here."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Any, ...]
    ended: tuple[str, ...]


class Program(nn.Module):
    """An exported graph with one image batch as its input and one tensor as its output.

    Args:
        text: the graph and its signature, the JSON of ``models/model.json``.
        state: parameters, buffers and constants by the names that the signature gives them.
        where: what errors call the file.

    ``shape`` is that of the input as it was exported, with None where it may vary.

    Raises:
        BadFile: anything that is not of the kinds above, or does not fit together.
    """

    def __init__(self, text: bytes | bytearray, state: Mapping[str, Tensor], *, where: str) -> None:
        super().__init__()
        try:
            held = json.loads(text)
            graph, signature = held["graph_module"]["graph"], held["graph_module"]["signature"]
            nodes = [{key: node[key] for key in ("target", "inputs", "outputs")} for node in graph["nodes"]]
            self.digest = hashlib.sha256(json.dumps([nodes, signature], sort_keys=True).encode()).hexdigest()[:32]
            self.images, self._held = self._bound(signature["input_specs"], state)
            self.shape = tuple(size.get("as_int") for size in graph["tensor_values"][self.images]["sizes"])
            outputs = [
                value["as_tensor"]["name"]
                for value, spec in zip(graph["outputs"], signature["output_specs"])
                if "user_output" in spec
            ]
            if len(outputs) != 1:
                raise ValueError(f"it returns {len(outputs)} tensors")
            self.logits = outputs[0]
            self._steps = _steps(nodes, self.logits)
        except BadFile:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, RecursionError) as error:
            raise BadFile(f"the program in {where} is not understood ({_short(error)})", hint=_HINT) from None

    def _bound(self, specs: Sequence[Any], state: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
        """The name of the images, and name in the graph -> name of the registered tensor."""
        images, bound = [], {}
        for spec in specs:
            ((kind, told),) = spec.items()
            if kind == "user_input":
                images.append(told["arg"]["as_tensor"]["name"])
                continue
            if kind not in ("parameter", "buffer", "tensor_constant"):
                raise ValueError(f"an input of the kind {kind}")
            name = told[f"{kind}_name"]
            key = re.sub(r"\W", "/", name)  # a dot is no part of a registered name
            if key not in self._parameters and key not in self._buffers:
                if kind == "parameter":
                    self.register_parameter(key, nn.Parameter(state[name], state[name].is_floating_point()))
                else:
                    self.register_buffer(key, state[name])
            bound[told["arg"]["name"]] = key
        if len(images) != 1:
            raise ValueError(f"it takes {len(images)} tensors")
        return images[0], bound

    def forward(self, images: Tensor) -> Tensor:
        values: dict[str, Any] = {name: self._tensor(key) for name, key in self._held.items()}
        values[self.images] = images
        for step in self._steps:
            args = [_value(each, values, images) for each in step.args]
            result = step.call(*args, **{key: _value(each, values, images) for key, each in step.kwargs.items()})
            _bind(step.results, result, values)
            for name in step.ended:
                values.pop(name, None)
        return values[self.logits]

    def _tensor(self, key: str) -> Tensor:
        found = self._parameters.get(key)
        return self._buffers[key] if found is None else found  # pyrefly: ignore[bad-return]

    def extra_repr(self) -> str:
        return f"program={self.digest}"


def _steps(nodes: Sequence[Any], kept: str) -> list[_Step]:
    """The nodes, each with the names that no later node asks for."""
    read = [
        (_call(node["target"]), [(one["name"], one.get("kind"), _argument(one["arg"])) for one in node["inputs"]], node)
        for node in nodes
    ]
    last: dict[str, int] = {}
    for place, (_, given, node) in enumerate(read):
        for name in _names([value for *_, value in given] + [_argument(one) for one in node["outputs"]]):
            last[name] = place
    last.pop(kept, None)
    steps = []
    for place, (call, given, node) in enumerate(read):
        steps.append(
            _Step(
                call=call,
                args=tuple(value for _, kind, value in given if kind != 2),
                kwargs={name: value for name, kind, value in given if kind == 2},
                results=tuple(_argument(one) for one in node["outputs"]),
                ended=tuple(name for name, at in last.items() if at == place),
            )
        )
    return steps


def _call(target: str) -> Callable[..., Any]:
    """What a node calls. Raises BadFile for everything that is not listed."""
    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    named = _ATEN.fullmatch(target)
    if named and named[1] not in _GLOBAL and (not named[1].startswith("_") or named[1] in _INTERNAL):
        found = getattr(getattr(torch.ops.aten, named[1], None), named[2], None)
        if isinstance(found, torch._ops.OpOverload) and all(map(_harmless, found._schema.arguments)):
            return found
    raise BadFile(
        f"the program calls {target[:100]!r}, which is not among the operators that are run",
        hint="export the model without custom operators, or give it as your_module:factory",
    )


def _harmless(argument: Any) -> bool:
    """Whether an operator's argument is a tensor, a number or a setting."""
    kind = str(argument.type)
    while inner := re.fullmatch(r"(?:Optional|List)\[(.+)\]", kind):
        kind = inner[1]
    return bool(_TYPE.fullmatch(kind)) or (kind == "str" and argument.name in _TEXTS)


def _argument(given: Any) -> Any:
    """An argument of the schema as a Python value, with `_Name` for what a step makes."""
    ((kind, value),) = given.items()
    if kind == "as_none":
        return None
    if kind == "as_tensor":
        return _Name(str(value["name"]))
    if kind == "as_tensors":
        return [_Name(str(one["name"])) for one in value]
    if kind in ("as_optional_tensor", "as_sym_int", "as_sym_float", "as_sym_bool"):
        return _argument(value)
    if kind in ("as_optional_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools"):
        return [_argument(one) for one in value]
    if kind == "as_name":
        return _Name(str(value))
    if kind in ("as_int", "as_bool", "as_string"):
        return _exactly(value, {"as_int": int, "as_bool": bool, "as_string": str}[kind])
    if kind in ("as_ints", "as_bools"):
        return [_exactly(one, int if kind == "as_ints" else bool) for one in value]
    if kind == "as_float":
        return float(value)  # infinity is written as a text
    if kind == "as_floats":
        return [float(one) for one in value]
    if kind == "as_scalar_type":
        return DTYPES[value]
    if kind == "as_memory_format":
        return _FORMATS[value]
    if kind == "as_layout" and value == _STRIDED:
        return torch.strided
    if kind == "as_device":
        return _Place()
    raise ValueError(f"an argument of the kind {str(kind)[:40]}")


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"a {type(value).__name__} for a {kind.__name__}")
    return value


def _names(value: Any) -> list[str]:
    if isinstance(value, _Name):
        return [value.text]
    return [name for one in value for name in _names(one)] if isinstance(value, list) else []


def _value(given: Any, values: Mapping[str, Any], images: Tensor) -> Any:
    if isinstance(given, _Name):
        return values[given.text]
    if isinstance(given, _Place):
        return images.device
    return [_value(one, values, images) for one in given] if isinstance(given, list) else given


def _bind(results: tuple[Any, ...], given: Any, values: dict[str, Any]) -> None:
    """Gives the parts of a result their names."""
    if len(results) == 1:
        (name,) = results
        if isinstance(name, list):
            _bind(tuple(name), tuple(given), values)
        elif isinstance(name, _Name):
            values[name.text] = given[0] if isinstance(given, (tuple, list)) and len(given) == 1 else given
        return
    for name, part in zip(results, given or ()):  # an assertion returns nothing
        _bind((name,), part, values)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
