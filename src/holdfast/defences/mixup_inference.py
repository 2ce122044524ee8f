"""Mixup inference: an image is judged by its mixtures with clean ones."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from holdfast import keys
from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.ascent.mixtures import outputs
from holdfast.ascent.search_copy import search_copy
from holdfast.defences.average import Average, Branch, Seen
from holdfast.defences.defence import Opening
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.foundation.registry import register
from holdfast.imaging import partners
from holdfast.imaging.pool import Pool

NAME = keys.number("mixup inference")


@register
@dataclass(frozen=True)
class MixupInference:
    """The mean of the probabilities of mixtures of the image with clean images of a pool.

    MI-PL (``pl`` alone) mixes with images of the class that the model gives the image, MI-OL (``ol`` alone) with images of
    the others. MI-Combined (both) answers by MI-PL, or by MI-OL where the confidence fell by ``tau`` or more from the model
    to MI-PL: there the image is taken for adversarial. MI-OL is evaluated for those images only.

    Source: Pang, Xu and Zhu, "Mixup inference: better exploiting mixup to defend adversarial attacks" (ICLR 2020), section
    3 and algorithm 1, and the authors' code.
    Departures: the pool comes from training images, not from the test split; labels are stratified, images drawn without
    replacement, and a control variate is subtracted: the paper's is ``sampling="independent", control_variate=False``.

    It adds randomness, not robustness: under an attack that averages over its draws nothing, or nearly so, was left of its
    gain (Tramer et al., NeurIPS 2020, section 14). Report it with its openings.

    Args:
        pool: the clean images. It must have the model's classes, or be a foreign one, which has partners for ``ol`` alone.
        pl, ol: the averages; None leaves one out. The authors' Combined has ``Average(0.5, 5)`` and ``Average(0.4, 15)``.
        tau: Combined only: the fall of confidence that counts as an attack; the authors' 0.2 flags a tenth of the clean
            images of some models. Set it by `holdfast.foundation.calibration.threshold`.
        on_clean: Combined only: what answers for images that are not flagged, ``pl`` (the code) or ``base`` (the paper).
        sampling: how partners are drawn (see `holdfast.imaging.partners`).
        control_variate: subtract what the model's answers to the drawn partners, which are computed once, differ from
            their mean over the pool: unbiased, and less noise.
        early_stop: stop drawing for an image once the leading class leads by so many standard errors, looked at after every
            four draws. A heuristic without a guarantee: where it was measured (`benchmarks/mixup_inference.py`) 3.5 changed
            no answer of MI-PL and one in a hundred of MI-OL. Never in effect while gradients are taken. None: off.
        seed: of all draws.
    """

    transductive: ClassVar[bool] = False

    pool: Pool
    pl: Average | None = None
    ol: Average | None = field(default_factory=Average)
    tau: float = 0.2
    on_clean: str = "pl"
    sampling: str = "stratified"
    control_variate: bool = True
    early_stop: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pl is None and self.ol is None:
            raise BadValue("pl and ol are both None", hint="give one of them for MI-PL or MI-OL, both for MI-Combined")
        if self.pl is not None and self.pool.foreign:
            raise BadValue(
                f"pl wants partners of the predicted class, and the pool of {self.pool.source} has none: it is foreign",
                hint="give a pool of the model's training data, or ol alone",
            )
        if self.on_clean not in ("pl", "base"):
            raise BadValue(f"on_clean is {self.on_clean!r}", hint='give "pl" or "base"')
        if math.isnan(self.tau):
            raise BadValue("tau is NaN", hint="it is a difference of probabilities: for example tau=0.2")
        if self.early_stop is not None and not self.early_stop > 0:
            raise BadValue(f"early_stop is {self.early_stop}; it must be positive", hint="3.5, or None for off")
        partners.named(self.sampling)

    @property
    def averages(self) -> tuple[Average, ...]:
        """Those that are used, MI-PL first."""
        return tuple(each for each in (self.pl, self.ol) if each)

    @property
    def combined(self) -> bool:
        return len(self.averages) == 2

    def forwards(self, flagged: float = 1.0) -> float:
        """Forwards for one image, where that share of all images is flagged: the most without it."""
        first, *second = self.averages
        return 1 + first.num_draws + flagged * sum(each.num_draws for each in second)

    def wrap(self, module: nn.Module) -> MixedUp:
        return MixedUp.around(module, self)

    def openings(self, module: nn.Module) -> tuple[Opening, ...]:
        """The core; the defence with its choices (class, partners, branch) as constants; of Combined each branch as well,
        and both at once, which a search must fool whichever is taken."""
        defended = self.wrap(module)
        found = [Opening("core", module), Opening("defended", defended)]
        if self.combined:
            pl = defended.under(replace(defended.defence, ol=None))
            ol = defended.under(replace(defended.defence, pl=None))
            found += [Opening("pl", pl), Opening("ol", ol), Opening("both", Both((pl, ol)))]
        return tuple(found)


@dataclass(frozen=True)
class Answer:
    """What a defended classifier says of B images, and how it came to it.

    Args:
        logits: the logarithms of the averaged probabilities, (B, L).
        gap: by how much the largest probability fell from the model to the first average, (B,): what Combined detects by.
        flagged: whether the answer is MI-OL's because of the gap, (B,) bool; False where it is not Combined.
        forwards: how many were made for each image, (B,) int64.
    """

    logits: Tensor
    gap: Tensor
    flagged: Tensor
    forwards: Tensor


class MixedUp(nn.Module):
    """A classifier under mixup inference: a `Randomised`, which answers with the logarithm of the averaged probabilities.

    It is a pure function. Its draws are those of evaluation 0 until `at` takes others; as it stands it is the deterministic
    mode, in which a predicted class has the same partners for the model's life.
    """

    def __init__(self, core: Classifier, quick: Classifier, defence: MixupInference, seen: Seen | None) -> None:
        """``core``: the model; ``quick``: evaluates mixtures; ``seen``: what it says of the pool."""
        super().__init__()
        self.core = core
        self.quick = quick
        self.defence = defence
        self.seen = seen
        self.evaluation: tuple[int, ...] = (0,)
        self.eval()

    @classmethod
    @torch.inference_mode(False)
    @torch.no_grad()
    def around(cls, module: Classifier, defence: MixupInference) -> MixedUp:
        """``module`` is copied, in eval mode and without parameter gradients, and asked about the pool once.

        Raises:
            BadModel: it cannot be copied, or its classes are not the pool's.
        """
        try:
            with frozen(module):
                core = copy.deepcopy(module)
        except Exception as error:  # a foreign __deepcopy__ may raise anything
            raise BadModel(
                f"the model cannot be copied, and a defence changes a copy alone: {type(error).__name__}: {error}",
                hint="give a module that copy.deepcopy can copy, without hooks that hold tensors of a graph",
            ) from error
        like = _weight(core)
        pool = defence.pool.to(like.device)
        few = pool.take(torch.arange(min(32, len(pool.images)), device=like.device), like.dtype)
        try:
            shape = tuple(core(few[:1]).shape)
        except Exception as error:  # whatever a foreign forward raises
            raise BadModel(
                f"the model cannot be asked about the pool: {type(error).__name__}: {error}",
                hint=f"its images are {tuple(few.shape[1:])}: take them from the model's own training data",
            ) from error
        classes = shape[-1] if pool.foreign and len(shape) == 2 else len(pool.counts)
        if shape != (1, classes) or classes < 2:
            raise BadModel(
                f"the model returns {shape} for one image, and the pool has {len(pool.counts)} classes",
                hint="take the pool from the model's own training data; at least two classes are needed",
            )
        quick = search_copy(core, few).module
        return cls(core, quick, replace(defence, pool=pool), None).under(defence)

    @torch.inference_mode(False)
    @torch.no_grad()
    def under(self, defence: MixupInference) -> MixedUp:
        """The same model, pool and evaluation under other settings; those of ``defence.pool`` are not read."""
        pool, seen = self.defence.pool, self.seen
        if seen is None and defence.control_variate and any(each.lam < 1 for each in defence.averages):
            seen = Seen.of(outputs(self.quick, pool, _weight(self.core).dtype), pool)
        made = MixedUp(self.core, self.quick, replace(defence, pool=pool), seen)
        made.evaluation = self.evaluation
        return made

    def at(self, *evaluation: int) -> MixedUp:
        made = MixedUp(self.core, self.quick, self.defence, self.seen)
        made.evaluation = evaluation
        return made

    def branch(self, *, others: bool) -> Branch:
        """How MI-OL's average is made, or MI-PL's where ``others`` is False.

        Raises:
            BadValue: the defence has no such average.
        """
        defence, average = self.defence, self.defence.ol if others else self.defence.pl
        if average is None:
            name = "ol" if others else "pl"
            raise BadValue(f"{name} is None, and its draws were asked for", hint=f"give {name}=Average()")
        sampling = partners.named(defence.sampling)
        seen = self.seen if defence.control_variate else None
        return Branch(self.quick, defence.pool, average, others, sampling, seen, defence.early_stop)

    def key(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """What the images' draws are made from, (B,) int64."""
        key = keys.fold(keys.root(self.defence.seed, device=x.device), NAME)
        for number in self.evaluation:
            key = keys.fold(key, number)
        return key.expand(len(x)) if ids is None else keys.fold(key, ids.to(x.device))

    def draws(self, x: Tensor, key: Tensor, *, others: bool) -> Tensor:
        """The probabilities of all mixtures, (B, N, L) (see `Draws.probabilities`), by ``key`` (B,) int64 alone."""
        with torch.no_grad():
            predicted = self.core(x).argmax(1)
        return self.branch(others=others).draws(x, predicted, key).probabilities()

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        return self.answer(x, ids).logits

    def answer(self, x: Tensor, ids: Tensor | None = None) -> Answer:
        """The classifier's answer and how it came about; arguments as for `Randomised`."""
        defence = self.defence
        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if all(each.lam == 1 for each in defence.averages):
            logits = self.core(x)  # every mixture is the image itself
            return Answer(logits, torch.zeros_like(logits[:, 0]).detach(), none, none + 1)
        keeps = defence.combined and defence.on_clean == "base"
        with torch.set_grad_enabled(keeps and torch.is_grad_enabled()):
            base = self.core(x).log_softmax(1)
        predicted, key = base.detach().argmax(1), self.key(x, ids)
        logits, made = self.branch(others=defence.pl is None).mean(x, predicted, key)
        gap = base.detach().amax(1).exp() - logits.detach().amax(1).exp()
        if not defence.combined:
            return Answer(logits, gap, none, made + 1)
        flagged = gap.double() >= defence.tau  # float32 would round tau onto the gap beside it
        logits = base if keeps else logits
        rows = flagged.nonzero()[:, 0]
        if len(rows):
            other, more = self.branch(others=True).mean(x[rows], predicted[rows], key[rows])
            logits = logits.index_copy(0, rows, other)
            made = made.index_add(0, rows, more)
        return Answer(logits, gap, flagged, made + 1)

    def extra_repr(self) -> str:
        return f"{self.defence}, evaluation={self.evaluation}"


def _weight(core: Classifier) -> Tensor:
    """A tensor of the model's dtype and device: its first floating weight."""
    weights = core.parameters() if isinstance(core, nn.Module) else ()
    return next((each for each in weights if each.is_floating_point()), torch.zeros(0))


@dataclass(frozen=True)
class Both:
    """The branches of Combined at once: their log-probabilities added.

    A margin or a cross-entropy on the sum rises when it rises in both; it is no prediction of the defence's.
    """

    parts: tuple[MixedUp, ...]

    def __call__(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        return torch.stack([part(x, ids) for part in self.parts]).sum(0)

    def at(self, *evaluation: int) -> Both:
        return Both(tuple(part.at(*evaluation) for part in self.parts))
