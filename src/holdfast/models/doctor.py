"""Is this classifier wired correctly? A few forwards on a few images, before any number is believed.

Every check is a small function of `Evidence`, which is gathered once. Nothing is changed: the model's mode, its
gradients and the global random generators are as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from holdfast.ascent.frozen import frozen, rng_kept
from holdfast.data.source import numbered
from holdfast.foundation.errors import BadData, BadModel
from holdfast.models.evidence import Evidence, forward, gathered
from holdfast.models.model import Model
from holdfast.models.wiring import best_renumbering, best_rewiring
from holdfast.records.schema import Finding

_DATA_CHECKS = ("labels", "input range")
_IN_ITS_ORDER = "number the data's classes as the model does, e.g. by folders named 00_cat, 01_dog in its order"


def examine(model: Model, images: Tensor, labels: Tensor, class_names: Sequence[str] = ()) -> tuple[Finding, ...]:
    """What is wrong, or worth knowing, about a model on some labelled images; errors first.

    Args:
        model: the classifier.
        images: (n,C,H,W) floats in [0,1]; 64 to 256 of them are enough.
        labels: (n,) integers.
        class_names: one per class of the data; none, if they are not known.
    """
    data = input_range(images) + label_kind(images, labels)
    if not len(images) or any(finding.level == "error" for finding in data):
        return tuple(data)
    images = images.to(model.device, model.dtype)
    labels = labels.to(model.device)
    training = isinstance(model.module, nn.Module) and any(each.training for each in model.module.modules())
    with frozen(model.module), rng_kept(model.device):
        found = data + _of_model(model, images, labels, tuple(class_names), training)
    order = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def raise_errors(findings: Sequence[Finding]) -> None:
    """Does nothing unless a finding is an error.

    Raises:
        BadData: the first error is about the images or labels.
        BadModel: it is about the model.
    """
    for finding in findings:
        if finding.level == "error":
            kind = BadData if finding.check in _DATA_CHECKS else BadModel
            raise kind(f"{finding.check}: {finding.saw}; {finding.means}", hint=finding.remedy)


def _of_model(
    model: Model, images: Tensor, labels: Tensor, class_names: tuple[str, ...], training: bool
) -> list[Finding]:
    logits = forward(model, images)
    shape = logits_shape(logits, len(images))
    if shape or not isinstance(logits, Tensor):
        return shape
    fatal = finite(logits) + label_range(logits, labels, class_names) + class_order(model, class_names)
    if fatal:
        return fatal + class_count(logits, class_names)
    evidence = gathered(model, images, labels, class_names, training=training, logits=logits)
    found = class_count(logits, class_names)
    for check in CHECKS:
        found += check(evidence)
    return found


def input_range(images: Tensor) -> list[Finding]:
    """Images outside [0,1] are an error; images that use a suspicious part of it are a note."""
    name = "input range"
    if images.dim() != 4 or not images.is_floating_point():
        saw = f"images of shape {tuple(images.shape)} and {images.dtype}"
        return [_error(name, saw, "images are floats (n,C,H,W) in [0,1]", "convert them")]
    if not len(images):
        return [_error(name, "no images", "there is nothing to look at", "give some images")]
    low, high = float(images.amin()), float(images.amax())
    if not (low >= 0 and high <= 1):  # also true of NaN
        saw = f"pixel values from {low:.4g} to {high:.4g}"
        remedy = "give the images as they are, in [0,1], and the normalisation to the model: --normalise"
        return [_error(name, saw, "radii and the pixel box are in units of [0,1]", remedy)]
    if high <= 2 / 255:
        saw = f"no pixel is brighter than {high:.4g}"
        return [_note(name, saw, "the images were probably divided by 255 twice", "divide them once")]
    if bool(((images == 0) | (images == 1)).all()):
        return [
            _note(name, "all pixels are 0 or 1", "the images are binary, or were rounded", "check that they should be")
        ]
    return []


def label_kind(images: Tensor, labels: Tensor) -> list[Finding]:
    """One integer per image, none negative."""
    if labels.dim() != 1 or len(labels) != len(images) or labels.is_floating_point() or labels.dtype == torch.bool:
        saw = f"labels of shape {tuple(labels.shape)} and {labels.dtype} for {len(images)} images"
        return [_error("labels", saw, "there is one integer label per image", "give class indices, not one-hot rows")]
    if len(labels) and int(labels.min()) < 0:
        return [
            _error("labels", f"the label {int(labels.min())}", "labels count from 0", "subtract the smallest label")
        ]
    return []


def logits_shape(logits: object, n: int) -> list[Finding]:
    """A floating tensor (n,K), K at least 2."""
    if isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == n and logits.shape[1] >= 2:
        if logits.is_floating_point():
            return []
        saw = f"an output of {logits.dtype}"
    else:
        saw = (
            f"an output of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        )
    remedy = "return one floating logit per class and image"
    return [_error("logits shape", f"{saw} for {n} images", "attacks and accuracy need logits (n,K)", remedy)]


def finite(logits: Tensor) -> list[Finding]:
    """NaN or infinite logits."""
    bad = int((~torch.isfinite(logits)).any(1).sum())
    if not bad:
        return []
    saw = f"NaN or infinite logits for {bad} of {len(logits)} images"
    return [
        _error("finite logits", saw, "no prediction of these can be trusted", "check the weights and the normalisation")
    ]


def label_range(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> list[Finding]:
    """Labels that the model has no logit for."""
    top, classes = int(labels.max()), logits.shape[1]
    if top < classes:
        return []
    named = f" ({class_names[top]})" if top < len(class_names) else ""
    remedy = "use the model for these classes, or labels from 0 to classes - 1"
    if int(labels.min()) == 1 and top == classes:
        remedy = "the labels seem to count from 1: subtract 1"
    return [_error("labels", f"the label {top}{named} and {classes} logits", "that class cannot be predicted", remedy)]


def class_count(logits: Tensor, class_names: Sequence[str]) -> list[Finding]:
    """More or fewer logits than the data has classes."""
    classes, named = logits.shape[1], len(class_names)
    if not named or classes == named:
        return []
    saw = f"{classes} logits and {named} class{'es' * (named > 1)} in the data"
    if classes < named:
        means = "some classes of the data cannot be predicted"
        return [_error("class count", saw, means, "use the model that was trained on these classes")]
    means = "an attack may leave the data's classes: such a prediction counts as fooled"
    # Bare numbers may be counted from the labels, and a small set need not hold the last class.
    told = _note if tuple(class_names) == numbered(named) else _warning
    return [told("class count", saw, means, "check that the model and the data belong together")]


def class_order(model: Model, class_names: Sequence[str]) -> list[Finding]:
    """The same classes in the data as in the model, under other numbers."""
    theirs, ours = ([name.casefold() for name in names] for names in (model.class_names, class_names))
    if not ours or theirs == ours or sorted(theirs) != sorted(ours):
        return []
    place = next(place for place, (one, other) in enumerate(zip(theirs, ours)) if one != other)
    saw = f"class {place} is {model.class_names[place]!r} to the model and {class_names[place]!r} in the data"
    return [_error("class order", saw, "every label of these classes would be counted wrongly", _IN_ITS_ORDER)]


def probabilities(evidence: Evidence) -> list[Finding]:
    """A softmax, or its logarithm, at the end of the model."""
    logits, slack = evidence.logits, 1e-3
    if (
        bool((logits >= 0).all())
        and bool((logits <= 1 + slack).all())
        and bool(((logits.sum(1) - 1).abs() < slack).all())
    ):
        means = "its gradients vanish where it is confident, so that attacks fail and it looks robust"
        return [
            _warning("probabilities", "every output row is a probability", means, "return the logits, without softmax")
        ]
    if bool((logits <= slack).all()) and bool((logits.logsumexp(1).abs() < slack).all()):
        means = "cross-entropy and margins are the same as with logits"
        return [_note("probabilities", "every output row is a log-probability", means, "nothing to do")]
    return []


def train_mode(evidence: Evidence) -> list[Finding]:
    """A module that was handed over in training mode."""
    if not evidence.training:
        return []
    means = "it is evaluated in evaluation mode; your object is left as it is"
    return [_note("train mode", "the model is in training mode", means, "nothing to do; model.eval() says it clearly")]


def randomised(evidence: Evidence) -> list[Finding]:
    """Two evaluations of the same images that differ beyond rounding."""
    share = _differing(evidence.logits, evidence.again, evidence.rounding)
    if not share:
        return []
    saw = f"two evaluations differ on {share:.0%} of the images"
    means = "one gradient is not the gradient of the model: a plain attack overestimates its robustness"
    return [_warning("randomised", saw, means, "attack its expectation: the plan rand does (EOT)")]


def batch_dependence(evidence: Evidence) -> list[Finding]:
    """An image whose logits depend on the images beside it."""
    means = "a prediction depends on its neighbours, so that per-image verdicts mean little"
    remedy = "use stored statistics (track_running_stats=True), and no operation over the batch axis"
    if isinstance(evidence.alone, str):
        saw = f"a batch of one image fails: {evidence.alone}"
        return [
            _warning(
                "batch dependence", saw, "searches may end with a single image", "check for squeeze() in its forward"
            )
        ]
    if _differing(evidence.logits, evidence.again, evidence.rounding):
        return []  # randomness already explains it
    n = len(evidence.alone)
    share = _differing(evidence.logits[:n], evidence.alone, evidence.rounding[:n])
    return (
        [_warning("batch dependence", f"{share:.0%} of {n} images answer otherwise alone", means, remedy)]
        if share
        else []
    )


def constant(evidence: Evidence) -> list[Finding]:
    """One answer to all images."""
    logits, images = evidence.logits, evidence.images
    if len(images) < 2 or bool((images == images[:1]).all()):
        return []
    remedy = "check that the weights were loaded and that the input reaches them"
    if bool(((logits - logits[:1]).abs().amax(1) <= 1e-6 * logits.abs().amax()).all()):
        return [_error("constant output", "the logits are the same for all images", "the input is ignored", remedy)]
    predicted = logits.argmax(1)
    if bool((predicted == predicted[0]).all()) and len(evidence.labels.unique()) > 1:
        saw = f"all {len(images)} images are predicted to be class {int(predicted[0])}"
        return [_warning("constant output", saw, "the model does not tell these images apart", remedy)]
    return []


def gradients(evidence: Evidence) -> list[Finding]:
    """Gradients that are absent, or zero for most images."""
    if evidence.grad is None:
        means = "gradient attacks cannot work on it: only attacks on scores or labels say anything"
        remedy = "look for detach, no_grad"
        if not evidence.model.differentiable:
            remedy = "use --plan black-box, or give the model in a form that has them: .pt2, hf:, timm:, module:factory"
        return [_warning("no gradient", "the logits have no gradient in the images", means, remedy)]
    zero = (evidence.grad.flatten(1) == 0).all(1).double().mean().item()
    if zero <= 0.5:
        return []
    saw = f"the input gradient is exactly zero for {zero:.0%} of {len(evidence.grad)} images"
    means = "gradient attacks stand still there: surviving them is no robustness"
    return [
        _warning("zero gradients", saw, means, "look for rounding or saturation in the model; use score attacks too")
    ]


def scale(evidence: Evidence) -> list[Finding]:
    """Logits so far apart that cross-entropy is flat."""
    largest = float(evidence.margin.max())
    if largest <= 50:
        return []
    means = "cross-entropy saturates in float32, so that its gradients are rounding"
    remedy = "trust losses that are free of scale (dlr, margin) more than plain cross-entropy"
    return [_warning("logit scale", f"margins of up to {largest:.3g}", means, remedy)]


def accuracy(evidence: Evidence) -> list[Finding]:
    """Accuracy near chance, or one that another normalisation lifts clearly: then which, and how to ask for it."""
    from holdfast.foundation.stats import wilson

    n, classes = len(evidence.labels), len(evidence.class_names) or evidence.logits.shape[1]
    right = int((evidence.logits.argmax(1) == evidence.labels).sum())
    rate = wilson(right, n)
    near_chance = rate.low <= 1 / classes and len(evidence.labels.unique()) > 1
    if not near_chance and rate.high >= 0.9:
        return []
    interval = f"95 % interval {rate.low:.1%} to {rate.high:.1%}"
    saw = f"{right} of {n} images are classified correctly ({rate.value:.1%}, {interval})"
    found = best_rewiring(evidence.model, evidence.images, evidence.labels)
    other = best_renumbering(evidence.logits, evidence.labels)
    if found and (other is None or other.right / other.n <= found.right / found.n):
        means = f"with {found.name} {found.right} of {found.n} are classified correctly, as it is {found.before}"
        alike = f" (these images cannot tell it from: {', '.join(found.alike)})" if found.alike else ""
        return [_warning("clean accuracy", saw, means, found.remedy + alike)]
    if other:
        names = evidence.class_names or tuple(map(str, range(classes)))
        moved = [f"{name} is its class {k}" for own, (name, k) in enumerate(zip(names, other.numbers)) if own != k]
        means = (
            f"the model seems to number the classes otherwise ({', '.join(moved[:3])}{', ...' if moved[3:] else ''}): "
        )
        means += f"so {other.right} of {other.n} are right that had no part in finding it"
        return [_warning("clean accuracy", saw, means, _IN_ITS_ORDER)]
    if not near_chance:
        return []
    means = f"chance among {classes} classes is not ruled out, and no usual normalisation or channel order helps"
    remedy = "check the weights (without any, a net is random), the order of the classes and the preprocessing"
    return [_warning("clean accuracy", saw, means, remedy)]


CHECKS: tuple[Callable[[Evidence], list[Finding]], ...] = (
    probabilities,
    train_mode,
    randomised,
    batch_dependence,
    constant,
    gradients,
    scale,
    accuracy,
)
"""The checks that need all evidence, in the order in which they are reported."""


def _differing(one: Tensor, other: Tensor, rounding: Tensor) -> float:
    return float(((one - other).abs().amax(1) > rounding).double().mean())


def _error(check: str, saw: str, means: str, remedy: str) -> Finding:
    return Finding(check=check, level="error", saw=saw, means=means, remedy=remedy)


def _warning(check: str, saw: str, means: str, remedy: str) -> Finding:
    return Finding(check=check, level="warning", saw=saw, means=means, remedy=remedy)


def _note(check: str, saw: str, means: str, remedy: str) -> Finding:
    return Finding(check=check, level="note", saw=saw, means=means, remedy=remedy)
