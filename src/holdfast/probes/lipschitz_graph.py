"""Bounds through a net: products along its paths, sums where they meet."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from holdfast import keys
from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.ascent.search_copy import TOLERANCE, furthest
from holdfast.foundation.errors import BadModel, HoldfastError
from holdfast.probes.operator_norm import HINT, known, of_module
from holdfast.probes.operator_norm_kinds import BATCH_NORMS, FUNCTIONS, scale
from holdfast.probes.operator_norm_map import OUTWARD, Exact, Linear, Map, Norm, adjoint, lower, upper


@dataclass(frozen=True)
class Layer:
    """A layer of a net; its bounds are computed when they are first asked for.

    Args:
        name: its path in the model; with + where a batch norm behind it is part of it; of a function that of its node.
        kind: its class, or the function.
        map: what it does to differences.
        norm: of them.
    """

    name: str
    kind: str
    map: Map
    norm: Norm

    @cached_property
    def upper(self) -> float:
        """Certified."""
        return upper(self.map, self.norm)

    @cached_property
    def lower(self) -> float:
        """Attained."""
        return lower(self.map, self.norm)


@dataclass(frozen=True)
class Bound:
    """Certified Lipschitz constants of a net, image (1, ...) -> logits (1, K), in exact arithmetic.

    Args:
        norm: of differences of images, and of logits.
        total: of all logits together.
        pairs: (K, K) float64, of f_i - f_j: differences of images times this bound its absolute differences.
        layers: in the order in which they are computed.
    """

    norm: Norm
    total: float
    pairs: Tensor
    layers: tuple[Layer, ...]


def lipschitz_bound(model: nn.Module, shape: Sequence[int], *, norm: Norm = "l2") -> Bound:
    """Bounds every layer of ``model`` in evaluation mode, and the net through its graph, in float64.

    Factors multiply along the net; branches that are added add up, those that are concatenated do so in squares (in Linf the
    largest counts). A batch norm right behind a convolution or a linear layer is one layer with it. Where the last layer is
    linear, a pair of logits takes the difference of its two rows; else sqrt(2) times ``total`` (in Linf twice).

    Sources: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014), section 4.3; for pairs Tsuzuku, Sato and
    Sugiyama, "Lipschitz-margin training" (NeurIPS 2018).

    Args:
        model: images -> logits (N, K), traceable by ``torch.fx``: no branches on values.
        shape: of an image, (C, H, W): the norms of padded convolutions depend on it.
        norm: of all differences.

    Raises:
        BadModel: a layer or a function that nothing bounds, by its name; or a model that is no function of the image alone.
    """
    place = next(iter([*model.parameters(), *model.buffers()]), torch.empty(0)).device
    with frozen(model), rng_kept(place), torch.no_grad():
        own = copy.deepcopy(model).double()
        net = _traced(nn.Sequential(own) if known(own) else own)
        x = keys.uniform(keys.root(0, device=place)[None], tuple(shape), dtype=torch.float64)
        logits, end, layers = _walked(net, x, norm)
        if not furthest(own(x), logits) <= TOLERANCE[torch.float64]:
            raise BadModel("the model answers differently when traced", hint="compute the logits from the image alone")
        return Bound(norm, end.total, _pairs(end, logits.shape[1], norm), layers)


@dataclass(frozen=True)
class _Reach:
    """Differences at a node are at most ``total`` times those of the image. The last factor may never be needed."""

    before: float
    layer: Layer | None = None

    @cached_property
    def total(self) -> float:
        return self.before * (1.0 if self.layer is None else self.layer.upper)


class _Tracer(fx.Tracer):
    """Stops at the layers of torch; names the module where it cannot go on."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return known(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path) and not known(m):
            raise _refusal(path, type(m).__name__)
        try:
            return super().call_module(m, forward, args, kwargs)
        except HoldfastError:
            raise
        except Exception as error:  # the user's code, run on stand-ins for tensors, may raise anything
            raise _untraceable(path, m, error) from error


def _traced(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.GraphModule(model, _Tracer().trace(model))
    except HoldfastError:
        raise
    except Exception as error:
        raise _untraceable("the model", model, error) from error


def _walked(net: fx.GraphModule, x: Tensor, norm: Norm) -> tuple[Tensor, _Reach, tuple[Layer, ...]]:
    """Logits, how far their node reaches, and all layers. What does not depend on the image is a constant."""
    run = fx.Interpreter(net, garbage_collect_values=False)
    run.args_iter = iter([x])
    values: dict[fx.Node, Any] = run.env
    reached: dict[fx.Node, _Reach] = {}
    layers: dict[fx.Node, Layer] = {}
    nodes = list(net.graph.nodes)
    for place, node in enumerate(nodes[:-1]):
        before = {each: value._version for each, value in values.items() if isinstance(value, Tensor)}
        values[node] = run.run_node(node)
        if node.op == "placeholder":
            reached[node] = _Reach(1.0)
        elif any(each in reached for each in node.all_input_nodes) and not _is_size(node):
            reached[node] = _reach(net, node, values, reached, layers, norm)
        later = {each for user in nodes[place + 1 :] for each in user.all_input_nodes}
        # Views share the counter of what they show: no writing goes unnoticed. That of a ReLU leaves all bounds valid.
        written = any(each in later and values[each]._version != version for each, version in before.items())
        if written and not (node in layers and layers[node].map == Exact(1.0, 1.0)):
            name, kind = _named(net, node)
            raise BadModel(f"{name} ({kind}) writes over what is used again", hint="let it return a new tensor")
    last = nodes[-1].args[0]
    if last not in reached or values[last].dim() != 2:
        raise BadModel("the model does not return one tensor (N, K)", hint="bound the module that computes the logits")
    return values[last], reached[last], tuple(layers.values())


def _reach(
    net: fx.GraphModule,
    node: fx.Node,
    values: Mapping[fx.Node, Any],
    reached: Mapping[fx.Node, _Reach],
    layers: dict[fx.Node, Layer],
    norm: Norm,
) -> _Reach:
    """How far a node reaches that depends on the image; a layer joins ``layers``."""
    name, kind = _named(net, node)
    given = node.args[0] if node.args else None
    if node.target in _CAT and isinstance(given, Sequence):
        parts = [reached[each].total for each in given if each in reached]
        return _Reach(max(parts) if norm == "linf" else math.hypot(*parts))
    if node.target in _SUMS and not node.kwargs:
        terms = [each for each in node.args if isinstance(each, fx.Node) and each in reached]
        return _Reach(sum(reached[each].total * _widened(values[each], values[node], norm) for each in terms))
    sources = [each for each in node.all_input_nodes if each in reached]
    source, alone = sources[0], len(sources) == 1 and isinstance(values[node], Tensor)
    if not alone or sum(each is sources[0] for each in node.args) != 1:
        raise _refusal(name, kind)
    given_values = fx.map_arg((node.args, node.kwargs), lambda each: values[each])  # pyrefly: ignore
    args, options = cast(tuple[tuple[Any, ...], dict[str, Any]], given_values)
    module = net.get_submodule(str(node.target)) if node.op == "call_module" else None
    front = layers.get(source)
    fold = front.map.rescaled if front is not None and isinstance(front.map, Linear) else None
    found: Map | None = None
    try:
        if isinstance(module, BATCH_NORMS) and front is not None and fold is not None and len(source.users) == 1:
            del layers[source]
            layers[node] = Layer(f"{front.name} + {name}", front.kind, fold(scale(module)), norm)
            return _Reach(reached[source].before, layers[node])
        if module is not None:
            found = of_module(module, values[source])
        elif not options and (node.target in _FACTORS or (node.target in _DIVISIONS and source is given)):
            factor = torch.as_tensor(args[1] if source is given else args[0], dtype=torch.float64).abs()
            largest = float((1 / factor if node.target in _DIVISIONS else factor).max())
            found = Exact(*[largest * _widened(values[source], values[node], norm)] * 2)
        elif node.target in FUNCTIONS and source is given:
            found = FUNCTIONS[node.target](*args, **options)
    except BadModel as error:
        raise BadModel(f"{name}: {error.message}", hint=error.hint) from None
    if found is None:
        raise _refusal(name, kind)
    layers[node] = Layer(name, kind, found, norm)
    return _Reach(reached[source].total, layers[node])


def _widened(given: Tensor, result: Tensor, norm: Norm) -> float:
    """What broadcasting to a larger shape does to differences."""
    return math.sqrt(result.numel() / given.numel()) if norm == "l2" else 1.0


def _pairs(end: _Reach, classes: int, norm: Norm) -> Tensor:
    """The bound of f_i - f_j, (K, K): through the last layer's rows where it is linear."""
    if end.layer is None or not isinstance(end.layer.map, Linear):
        return end.total * (math.sqrt(2) if norm == "l2" else 2.0) * (1 - torch.eye(classes, dtype=torch.float64))
    last = end.layer.map
    back = adjoint(last.apply, last.like)
    rows = torch.stack([back(unit[None]).flatten() for unit in torch.eye(classes).to(last.like)])
    apart = torch.cdist(rows, rows, p=2 if norm == "l2" else 1, compute_mode="donot_use_mm_for_euclid_dist")
    return end.before * OUTWARD * apart


def _is_size(node: fx.Node) -> bool:
    """Whether the node reads a shape, a dtype or a device: no differences pass through."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    return (node.op == "call_method" and node.target in ("size", "dim", "numel", "ndimension")) or node.target is len


def _named(net: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    if node.op == "call_module":
        return str(node.target), type(net.get_submodule(str(node.target))).__name__
    within = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    name = f"{within[-1]}.{node.name}" if within and within[-1] else node.name
    return name, node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _refusal(name: str, kind: str) -> BadModel:
    return BadModel(f"nothing bounds {name} ({kind})", hint=HINT)


def _untraceable(path: str, module: nn.Module, error: Exception) -> BadModel:
    said = str(error).partition("\n")[0]
    return BadModel(
        f"{path} ({type(module).__name__}) cannot be traced: {type(error).__name__}: {said}",
        hint="its forward must not branch on values, sizes of tensors among them; assertions count",
    )


_CAT = (torch.cat, torch.concat, torch.concatenate)
_SUMS = (operator.add, operator.sub, operator.iadd, operator.isub, torch.add, torch.sub, "add", "sub", "add_", "sub_")
_FACTORS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_DIVISIONS = (operator.truediv, operator.itruediv, torch.div, "div", "div_")
