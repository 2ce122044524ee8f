"""A copy of a model that gives the same answers and costs less to search.

A search evaluates one fixed function thousands of times and differentiates it in the images only. So the copy is in
evaluation mode, its parameters need no gradients, batch norms are folded into the convolutions before them, the gradient
in the image comes from a kernel made for few channels, and convolutions run channels-last where a static rule says that it
pays. The rules never time anything: which kernels run decides the last bits, and the same seed has to give the same bits.

Nothing here is taken on trust: the copy is compared with the original on a batch of the user's images, logits and
input gradients (tracing drops ``torch.no_grad`` and custom backward passes without a word), and is used only if they
agree.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from holdfast.ascent.few_channels import FewChannels
from holdfast.ascent.frozen import frozen, rng_kept

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference of a logit that counts as rounding, in units of the spread of the sample's logits."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Fold:
    """The layer ``name`` of a copy is ``layer`` and, after it, ``norm`` of the original: all three are submodules' names."""

    name: str
    layer: str
    norm: str


@dataclass(frozen=True)
class SearchCopy:
    """What a search should evaluate, and what was done to get it.

    Args:
        module: the copy; the given object itself where it could not be copied.
        folds: the batch norms that were folded into the layer before.
        channels_last: whether the convolutions' weights are channels-last.
        exact: largest difference of a logit from the original's, in units of the spread of the sample's logits.
        reason: why not more was done; empty if everything was.
    """

    module: Callable[[Tensor], Tensor]
    folds: tuple[Fold, ...]
    channels_last: bool
    exact: float
    reason: str

    @property
    def folded(self) -> int:
        """How many batch norms were folded."""
        return len(self.folds)


def search_copy(module: Callable[[Tensor], Tensor], x: Tensor) -> SearchCopy:
    """A cheaper module with the answers of ``module`` in evaluation mode; ``module`` itself is never changed.

    Args:
        module: images (N,C,H,W) in [0,1] -> logits (N,K). Anything that is no ``nn.Module``, or cannot be deep-copied,
            is returned as it is: search it inside `frozen`.
        x: a batch of images to compare both on, a few dozen will do. Where it is empty nothing can be compared, and the
            copy is a plain one. So it is for a model that raises on ``x`` or whose answers are random.
    """
    if not isinstance(module, nn.Module):
        return SearchCopy(module, (), False, 0.0, "not an nn.Module")
    with frozen(module), rng_kept(x.device):
        try:
            plain = _plain(module)
        except Exception as error:  # a foreign __deepcopy__ or __reduce__ may raise anything
            return SearchCopy(module, (), False, 0.0, f"cannot be copied: {short(error)}")
        unchanged = SearchCopy(plain, (), False, 0.0, "")
        if not len(x):
            return _because(unchanged, "no images to compare on")
        try:
            wanted, again = answer(plain, x), answer(plain, x)
        except Exception as error:  # the caller's own forward will raise it again, where it can be explained
            return _because(unchanged, f"raises on these images: {short(error)}")
        tolerance = TOLERANCE.get(wanted.logits.dtype, 0.0)
        if not _difference(wanted, again) <= tolerance:
            return _because(unchanged, "two evaluations of the same images differ, or are not finite")
        reasons: list[str] = []
        lasting = _pays_channels_last(plain, x)
        ways = (
            [(True, True), (True, False), (False, True), (False, False)] if lasting else [(True, False), (False, False)]
        )
        for fold, last in ways:
            try:
                built, folds = _folded(_plain(module)) if fold else (_plain(module), ())
                if last:
                    built = built.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
                if not _with_few_channels(built) and not folds and not last:
                    continue  # that is the plain copy
                exact = _difference(wanted, answer(built, x))
            except (
                Exception
            ) as error:  # tracing runs the user's code on stand-ins for tensors, which may raise anything
                reasons.append(f"{'folding' if fold else 'channels-last'}: {short(error)}")
                continue
            if exact <= tolerance:
                return SearchCopy(built, folds, last, exact, "; ".join(reasons))
            reasons.append(f"{'folding' if fold else 'channels-last'} changed the answers")
        return _because(unchanged, "; ".join(dict.fromkeys(reasons)) or "nothing to fold")


@dataclass(frozen=True)
class Answer:
    """Logits (N,K), and the input gradient (N,C,H,W) of a fixed combination of them; None where there is none."""

    logits: Tensor
    grad: Tensor | None


def _plain(module: nn.Module) -> nn.Module:
    # Called inside `frozen`, so that the copy is born in evaluation mode and without parameter gradients.
    return copy.deepcopy(module)


def answer(module: Callable[[Tensor], Tensor], x: Tensor) -> Answer:
    """Logits and the input gradient of a fixed combination of them that is not constant on softmax's invariance."""
    with torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        logits = module(at)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise TypeError("the output is not a tensor (N,K) of logits")
        if not logits.requires_grad:
            return Answer(logits.detach(), None)
        weights = torch.cos(torch.arange(logits.shape[1], device=logits.device) * 2.0 + 1.0).to(logits.dtype)
        (grad,) = torch.autograd.grad((logits * weights).sum(), at, allow_unused=True)
    return Answer(logits.detach(), None if grad is None else grad.detach())


def _difference(wanted: Answer, given: Answer) -> float:
    """The largest relative difference of a logit; infinite where shapes, dtypes or the gradients disagree.

    A difference within t moves the gap between two logits by at most 2 t: the predicted class can only differ where
    the two best are that close, so that it needs no check of its own.
    """
    a, b = wanted.logits, given.logits
    if a.shape != b.shape or a.dtype != b.dtype or (wanted.grad is None) != (given.grad is None):
        return math.inf
    if wanted.grad is not None and given.grad is not None and not _same_gradients(wanted.grad, given.grad):
        return math.inf
    return furthest(a, b)


def furthest(wanted: Tensor, given: Tensor) -> float:
    """The largest difference of two logits (N,K), in units of the spread of the sample's; infinite for a NaN."""
    a, b = wanted.cpu().double(), given.cpu().double()
    spread = (a.amax(1) - a.amin(1)).clamp_min(torch.finfo(torch.float64).tiny)
    worst = float(((a - b).abs().amax(1) / spread).max())
    return worst if math.isfinite(worst) else math.inf


def _same_gradients(wanted: Tensor, given: Tensor) -> bool:
    """Whether three quarters of the samples agree to 2 %: rounding may flip a ReLU, but not those of most samples."""
    a, b = wanted.cpu().flatten(1).double(), given.cpu().flatten(1).double()
    return bool(((a - b).norm(dim=1) <= 0.02 * a.norm(dim=1)).double().mean() >= 0.75)


def _folded(module: nn.Module) -> tuple[nn.Module, tuple[Fold, ...]]:
    """``module`` with its batch norms folded where that is exact, and which; ``module`` is used up."""
    if any(getattr(each, hooks, None) for each in module.modules() for hooks in _HOOKS):
        raise ValueError("the module has hooks")
    before = _generators()
    traced = fx.symbolic_trace(module)
    if before != _generators():
        raise ValueError("its forward draws random numbers, which tracing would make constants")
    uses: dict[str, int] = {}
    for node in traced.graph.nodes:
        if node.op in ("call_module", "get_attr"):
            owner = node.target if node.op == "call_module" else node.target.rpartition(".")[0]
            uses[owner] = uses.get(owner, 0) + 1
    folds: list[Fold] = []
    for node in list(traced.graph.nodes):
        first = node.args[0] if node.op == "call_module" and len(node.args) == 1 and not node.kwargs else None
        if not isinstance(first, fx.Node) or first.op != "call_module" or len(first.users) != 1:
            continue
        names = str(first.target), str(node.target)
        if any(uses[each] != 1 for each in names):  # a layer that is called twice, or whose weights are read directly
            continue
        layer, norm = (traced.get_submodule(each) for each in names)
        if not _foldable(layer, norm):
            continue
        fold = Fold(f"_holdfast_folded_{len(folds)}", *names)
        traced.add_submodule(fold.name, _fold(layer, norm))
        first.target, uses[fold.name] = fold.name, 1
        node.replace_all_uses_with(first)
        traced.graph.erase_node(node)
        folds.append(fold)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced, tuple(folds)


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    """Exact types only: a subclass or a parametrised layer (weight norm) may compute anything."""
    pair = (type(layer), type(norm))
    if pair not in ((nn.Conv2d, nn.BatchNorm2d), (nn.Linear, nn.BatchNorm1d)):
        return False
    return getattr(norm, "running_mean", None) is not None and not norm.training


def _fold(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """The layer followed by the batch norm, as one layer."""
    new = copy.deepcopy(layer)
    weight, bias = merged(layer, norm)
    new.weight, new.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))
    return new


def merged(layer: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one layer that does what ``layer``, and after it ``norm``, do in evaluation mode.

    Computed in float64 and rounded once; the weight keeps its memory format. Both are a function of the numbers alone.
    """
    assert isinstance(layer, (nn.Conv2d, nn.Linear)) and isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d))
    assert norm.running_mean is not None and norm.running_var is not None
    weight = layer.weight.detach()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    bias = -norm.running_mean.double()
    if layer.bias is not None:
        bias = layer.bias.detach().double() + bias
    shift = bias * scale + (0 if norm.bias is None else norm.bias.detach().double())
    by_row = scale.view(-1, *([1] * (weight.dim() - 1)))
    return (weight.double() * by_row).to(weight.dtype), shift.to(weight.dtype)


def _with_few_channels(module: nn.Module) -> int:
    """Replaces the convolutions that `FewChannels` fits, in place, and says how many."""
    replaced = 0
    for name, layer in list(module.named_modules()):
        if name and FewChannels.fits(layer) and not any(getattr(layer, hooks, None) for hooks in _HOOKS):
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, FewChannels(layer))
            replaced += 1
    return replaced


def _pays_channels_last(module: nn.Module, x: Tensor) -> bool:
    """Float32 on a CPU, with at least three convolutions. Measured there, forward and input gradient, 1 and 2 threads:
    1.1 to 2.7 times as fast on residual, plain and depthwise nets together with folding, and no difference for two
    convolutions. Elsewhere it was not measured, so it is not done."""
    convolutions = sum(isinstance(each, nn.Conv2d) for each in module.modules())
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 4 and convolutions >= 3


def _generators() -> tuple[bytes, object, bytes, int]:
    _, key, position, *_ = np.random.get_state()  # noqa: NPY002 - a user's model may draw from it
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.asarray(key).tobytes(), int(position)


def _because(result: SearchCopy, reason: str) -> SearchCopy:
    return SearchCopy(result.module, result.folds, result.channels_last, result.exact, reason)


def short(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"[:200]
