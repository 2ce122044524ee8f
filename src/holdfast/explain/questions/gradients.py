"""Gradients: where does a net look, and is that the object?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from holdfast import keys, losses
from holdfast.ascent.engine import default_slots
from holdfast.ascent.gradient import Evaluation, evaluate
from holdfast.ascent.state import State, take
from holdfast.explain.case import NORMS, Case, Net
from holdfast.explain.compare import none_for_nan, number
from holdfast.explain.found import Figure, Found
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.gradients_figures import COMPARED, NOISE, drawn, figures, scaled
from holdfast.explain.questions.gradients_said import caveats, sentences, tables
from holdfast.foundation.errors import BadValue
from holdfast.foundation.registry import pick, register
from holdfast.probes import alignment
from holdfast.probes.attributions import ATTRIBUTIONS, attribution, captum, gradients_taken
from holdfast.probes.linearity import Tangent, fault


@register
@dataclass(frozen=True, kw_only=True)
class Gradients(Probe):
    """Maps of the loss gradient, and how far they agree with the image, the object and the classes.

    The gradient of the loss in the image, as a map and in numbers: its cosine with the image and with the difference of
    class means, its share on the object, its sparsity, and how little it turns when the image is shaken.

    Sources: Tsipras et al., "Robustness may be at odds with accuracy" (ICLR 2019), section 3.1; Etmann et al., "On the
    connection between adversarial robustness and saliency map interpretability" (ICML 2019). Departures: cosines keep their
    sign and take the image without its mean; the maps of an image share a scale.

    Args:
        loss: whose gradient it is (see `holdfast.losses`). The gradient of the margin is as long for images that a net is
            sure of as for others; that of ``ce``, which the literature draws, vanishes with the loss.
        maps: what is drawn: ``gradient``; ``integrated_gradients`` and ``smooth_grad``, of minus the loss, which need captum
            (the extra ``explain``).
        scale: of the maps of one image: ``shared`` by all nets, 3 standard deviations of the widest map of a trained one, or
            each its ``own``.
        above: the pixel value, in [0, 1), above which a pixel shows the object; only images with a plain dark background
            have one.
        shake: how far images are shaken, at random, in radii of the threat, in (0, 1].
    """

    question: ClassVar[str] = "Where does the net look, and is that the object?"

    images: int = 200
    loss: str = "margin"
    maps: tuple[str, ...] = ("gradient",)
    scale: Literal["shared", "own"] = "shared"
    above: float = 0.1
    shake: float = 0.25

    def __post_init__(self) -> None:
        losses.named(self.loss)
        for name in self.maps:
            pick("map", name, dict.fromkeys(("gradient", *ATTRIBUTIONS)))
        if self.scale not in ("shared", "own"):
            raise BadValue(f"scale is {self.scale!r}", hint="give shared or own")
        if not 0 <= self.above < 1:
            raise BadValue(f"above is {self.above}; it must lie in [0, 1)", hint="give above=0.1")
        if not 0 < self.shake <= 1:
            raise BadValue(f"shake is {self.shake}; it must lie in (0, 1]", hint="give shake=0.25")

    def effort(self, case: Case, n: int) -> Effort:
        if self._averaged:
            captum()
        each = n * len(case.nets) * (3 + sum(map(gradients_taken, self._averaged)))
        return Effort(each, each)

    def ask(self, case: Case, step: Step) -> Found:
        batch = case.batch(case.nets[0])
        x, y = batch.x.cpu().double(), batch.y.cpu()
        shown = alignment.objects(x, self.above) if alignment.plain(x, self.above) else None
        means = self._means(case)
        arrays: dict[str, np.ndarray] = {}
        maps: dict[str, dict[str, Tensor]] = {name: {} for name in self.maps}
        gradients: dict[str, Tensor] = {}
        towards: dict[str, Tensor | None] = {}
        breaches: list[str] = []
        zero: dict[str, int] = {}
        chosen = drawn(y.numpy(), len(case.nets) + 2, x[0].numel())
        noise, again = self._noise(case)
        for place, net in enumerate(case.nets):
            step("gradients", place, len(case.nets))
            found, shaken, margin = self._evaluated(case, net)
            if why := fault(Tangent(found.logits, found.value, found.grad)):
                breaches.append(f"{net.name}: {why}")
            zero[net.name] = int((found.grad == 0).flatten(1).all(1).sum())
            rival = found.logits.scatter(1, y[:, None], -torch.inf).argmax(1)
            gradients[net.name] = found.grad
            towards[net.name] = None if means is None else means[y] - means[rival]
            arrays |= _numbers(net.name, x, -found.grad, shown, towards[net.name])
            arrays[f"{net.name}/stability"] = alignment.cosine(found.grad, shaken.grad).numpy()
            arrays[f"{net.name}/alpha"] = alignment.alpha(x, margin.grad).numpy()
            arrays[f"{net.name}/rho"] = alignment.linearised(margin.value, margin.grad).numpy()
            for name in self._averaged:
                each, error = self._attributed(case, net, name)
                # Integrated gradients are 0 wherever the image is black: their share on the object says nothing.
                lit = shown if name == "smooth_grad" else None
                arrays |= _numbers(f"{net.name}/{name}", x, each, lit, None)
                arrays[f"{net.name}/{name}/cosine"] = alignment.cosine(each, -found.grad).numpy()
                arrays[f"{net.name}/{name}/error"] = error
                maps[name][net.name] = each[chosen]
        model = case.nets[0].name
        arrays |= _numbers(NOISE, x, noise, shown, towards[model])
        arrays[f"{NOISE}/stability"] = alignment.cosine(noise, again).numpy()
        arrays[f"{NOISE}/alpha"] = alignment.alpha(x, noise).numpy()
        arrays[f"{NOISE}/rho"] = np.full(len(x), np.nan)
        if "gradient" in maps:
            length = gradients[model].flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
            gradients[NOISE] = noise * length.view(-1, 1, 1, 1)
            maps["gradient"] = {name: each[chosen] for name, each in gradients.items()}
        nets = [net.name for net in case.nets]
        present = [
            key
            for key in (*COMPARED, "alpha", "rho")
            if any(np.isfinite(arrays[f"{name}/{key}"]).any() for name in (*nets, NOISE))
        ]
        pictures: dict[str, Any] = {"images": x[chosen].numpy().astype(np.float16)}
        trained = [net.name for net in case.trained]
        for name, each in maps.items():
            pictures[f"map/{name}"], pictures[f"scale/{name}"] = scaled(each, trained, self.scale)
        answer = Found(
            (),
            (),
            breaches=tuple(breaches),
            of_images={
                name: {COMPARED[key]: none_for_nan(arrays[f"{name}/{key}"]) for key in COMPARED if key in present}
                for name in nets
            },
            arrays={**arrays, **pictures},
            words={
                "nets": nets,
                "trained": trained,
                "keys": present,
                "labels": [case.source.class_names[int(label)] for label in y[chosen]],
                "maps": list(self.maps),
                "scale": self.scale,
                "loss": self.loss,
                "shaken": f"{NORMS[case.threat.name]} {number(self.shake * case.threat.eps)}",
                "zero": zero,
                "area": None if shown is None else float(shown.double().mean()),
                "seed": case.seed,
                "confidence": case.confidence,
            },
        )
        return dataclasses.replace(
            answer, tables=tables(answer, case.n), sentences=sentences(answer), caveats=caveats(answer)
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        return figures(found)

    @property
    def _averaged(self) -> tuple[str, ...]:
        return tuple(name for name in self.maps if name in ATTRIBUTIONS)

    def _evaluated(self, case: Case, net: Net) -> tuple[Evaluation, Evaluation, Evaluation]:
        """The loss at the images and at shaken ones, and the margin at the images, all on the CPU in float64."""
        batch = case.batch(net)
        rows = case.rows(batch)
        small = case.threat.resized(self.shake * case.threat.eps)
        shaken = small.sample(batch.x, keys.fold(rows.key, keys.number("shake")))

        def taken(loss: losses.Loss, x: Tensor) -> Evaluation:
            parts = [
                evaluate(net.model, _exact(loss), State.at(take(rows, where), x[where]))
                for where in torch.arange(len(x), device=x.device).split(default_slots(x))
            ]
            return Evaluation(*(torch.cat(each).cpu().double() for each in zip(*parts)))

        loss = losses.named(self.loss)
        found = taken(loss, batch.x)
        return found, taken(loss, shaken), found if loss is losses.margin else taken(losses.margin, batch.x)

    def _attributed(self, case: Case, net: Net, name: str) -> tuple[Tensor, np.ndarray]:
        """The attribution, on the CPU in float64, and by what share integrated gradients miss the loss's change, (n,)."""
        batch, loss = case.batch(net), _exact(losses.named(self.loss))

        def function(x: Tensor, y: Tensor) -> Tensor:
            return -loss(net.model(x), y, torch.full_like(y, -1))

        slots = default_slots(batch.x)
        each = attribution(name, function, batch.x, batch.y, seed=case.seed, slots=slots).cpu().double()
        if name != "integrated_gradients":
            return each, np.full(len(each), np.nan)
        none = torch.full_like(batch.y, -1)
        ends = [-loss(net.logits(x), batch.y, none).cpu() for x in (batch.x, torch.zeros_like(batch.x))]
        whole = ends[0] - ends[1]
        return each, ((each.flatten(1).sum(1) - whole) / whole).abs().numpy()

    def _means(self, case: Case) -> Tensor | None:
        if case.known is None:
            return None
        known = case.batch(case.nets[0], case.known)
        return alignment.class_means(known.x.cpu(), known.y.cpu(), case.nets[0].model.classes)

    def _noise(self, case: Case) -> tuple[Tensor, Tensor]:
        """Two draws of what stands in for a gradient, (n, C, H, W) float64 each."""
        batch = case.batch(case.nets[0])
        key = keys.fold(keys.root(case.seed), batch.ids.cpu())
        first, second = (
            keys.normal(keys.fold(key, salt), batch.x.shape[1:], dtype=torch.float64)
            for salt in (keys.number("noise"), keys.number("more noise"))
        )
        return first, second


def _exact(loss: losses.Loss) -> losses.Loss:
    """The loss of logits in float64: a probability near 1 keeps its gradient."""
    return lambda logits, y, target: loss(logits.double(), y, target)


def _numbers(name: str, x: Tensor, map_: Tensor, shown: Tensor | None, towards: Tensor | None) -> dict[str, np.ndarray]:
    """What is measured on any map, (n,) each; NaN where there is nothing to measure it by."""
    nothing = torch.full((len(x),), torch.nan, dtype=torch.float64)
    found = {
        "image": alignment.cosine(map_, alignment.centred(x)),
        "classes": nothing if towards is None else alignment.cosine(map_, towards),
        "object": nothing if shown is None else alignment.on_object(map_, shown),
        "gini": alignment.gini(map_),
    }
    return {f"{name}/{key}": each.numpy() for key, each in found.items()}
