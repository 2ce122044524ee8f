"""The watchdog: looks at a training every few steps, says in words what went wrong, and goes back to where it had not.

It looks at the net itself, not at its average, which shows a failure later, and at training images: the failures show on
them, and no labels are lost. The number of images is chosen such that looking costs at most 2 % of the training. What
alarms is looked at again, with more images and more steps, before anything is done.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.frozen import frozen
from holdfast.ascent.inner import worst
from holdfast.ascent.meter import Classifier
from holdfast.ascent.state import Rows
from holdfast.attacks.pgd import PGD
from holdfast.objectives.objective import Examples
from holdfast.records.schema import Finding, Frozen
from holdfast.threats.threat import Threat
from holdfast.training.held_out import classes_of
from holdfast.training.loop import Trainer
from holdfast.training.repair import inner, repaired

EVERY = 200
"""Steps between two looks, at most; every epoch ends with one."""

PATIENCE = 200
"""Steps in which a net may be constant."""

SHARE = 0.02
"""The share of the training that looking may cost, in passes."""

LEAST, MOST = 32, 256
"""Images of a look."""

REPAIRS = 4
"""Repairs of one training, at most."""

_PASSES = 16
"""What an image costs in a look, in forwards, besides the training's own attack: its gradient, that at a random point,
FGSM, PGD of five steps."""

NO_NUMBER = "loss is no number"
"""The failure that no training survives."""

_GAP = 0.2
"""By how much FGSM accuracy lies above PGD accuracy after catastrophic overfitting (Wong, Rice and Kolter 2020)."""

_NOISE = keys.number("watchdog")


class ProbeRecord(Frozen):
    """One look at the net in training: what ``images`` training images say at the radius ``eps`` of that step.

    ``loss``: the mean over the steps since the last look. ``clean``, ``single``, ``robust``: accuracy on the images, after
    FGSM and after PGD; ``trained``: after the inner attack of the training, as it stands (FGSM where there is none).
    ``alignment``: mean cosine between the input gradients at the image and at a random point of the set. ``vanished``: the
    share of images whose gradient is zero. ``repair``: what was changed after going back to step ``back``; -1 where nothing
    was.
    """

    step: int
    images: int
    eps: float
    loss: float
    clean: float = 0.0
    single: float = 0.0
    robust: float = 0.0
    trained: float = 0.0
    alignment: float = 1.0
    vanished: float = 0.0
    findings: tuple[Finding, ...] = ()
    repair: str = ""
    back: int = -1


@dataclass(frozen=True)
class Memory:
    """What later decisions depend on: the best PGD accuracy seen, repairs as (failure, share of steps), why it ended."""

    best: float = 0.0
    repairs: tuple[tuple[str, float], ...] = ()
    stopped: str = ""


class Watchdog:
    """Watches over one training, from wherever the trainer stands.

    ``memory``: see `Memory`; ``good``: the last state in which all was well and its step; ``seconds``: what looking has
    cost so far.

    Args:
        trainer: whose net is looked at, and which is set back.
        passes: what a step costs an image, in forwards (`holdfast.training.plan.passes`).
    """

    def __init__(self, trainer: Trainer, passes: float) -> None:
        self.trainer, self.memory, self.seconds = trainer, Memory(), 0.0
        self._looked, self._told = trainer.done, ""
        self.good = trainer.state(), trainer.done
        steps = min(EVERY, trainer.per_epoch)
        self._count = max(
            LEAST, min(MOST, int(SHARE * steps * trainer.recipe.batch_size * passes / (_PASSES + passes)))
        )
        enough = min(trainer.batches.per_epoch, -(-MOST // trainer.recipe.batch_size))
        batches = [trainer.batches.at(number) for number in range(enough)]
        x, y, key = (torch.cat(parts)[:MOST] for parts in zip(*(each[:3] for each in batches)))
        self._batch = Examples(x, y, key)
        threat = trainer.recipe.threat
        adversarial = "adversarial" in trainer.recipe.objective.operations
        self._attacked = adversarial and threat.name in PGD.threats and threat.eps > 0

    @property
    def due(self) -> bool:
        """Whether the net should be looked at after this step."""
        done = self.trainer.done
        return done - self._looked >= EVERY or done % self.trainer.per_epoch == 0

    def look(self, losses: Tensor) -> ProbeRecord:
        """Looks at the net; ``losses`` are those since the last look. Repairs or ends a failed training, as was asked."""
        began, trainer = time.monotonic(), self.trainer
        loss = trainer.team.by_first(lambda: float(losses.mean()))
        if math.isfinite(loss):
            trainer.compare(self._batch.x[:LEAST])
        # The first process looks; what all of them then do is decided by what it saw.
        with trainer.gathered():
            probe = trainer.team.by_first(lambda: self._probe(loss, self._count, 5))
            if probe.findings and probe.findings[0].check not in (self._told, NO_NUMBER):
                probe = trainer.team.by_first(lambda: self._probe(loss, MOST, 10))
        self._told = probe.findings[0].check if probe.findings else ""
        if not probe.findings:
            self.memory = dataclasses.replace(self.memory, best=max(self.memory.best, probe.robust))
            if trainer.recipe.watch == "repair":
                self.good = trainer.state(), trainer.done
        elif trainer.recipe.watch == "repair":
            probe = self._mended(probe)
        elif trainer.recipe.watch == "stop" or probe.findings[0].check == NO_NUMBER:
            self._stop(probe)
        self._looked = trainer.done
        self.seconds += time.monotonic() - began
        return probe

    def end(self, why: str) -> None:
        """The training is to end here."""
        self.memory = dataclasses.replace(self.memory, stopped=why)

    def stored(self) -> str:
        """The memory as text."""
        return json.dumps(dataclasses.asdict(self.memory))

    def load(self, text: str, good: dict[str, Tensor] | None, done: int) -> None:
        """Goes on with a stored memory; ``good`` is the state that was good after ``done`` steps, None for the trainer's."""
        values = json.loads(text)
        repairs = tuple((str(failure), float(share)) for failure, share in values["repairs"])
        self.memory = Memory(values["best"], repairs, values["stopped"])
        for failure, share in repairs:
            self.trainer.recipe = (repaired(self.trainer.recipe, failure, share) or (self.trainer.recipe, ""))[0]
        self.good = (self.trainer.state() if good is None else good), done
        self._looked = self.trainer.done if good is None else done

    def _mended(self, probe: ProbeRecord) -> ProbeRecord:
        """Goes back to the last good state with a recipe that is less likely to fail, or ends."""
        trainer, failure = self.trainer, probe.findings[0].check
        state, back = self.good
        change = repaired(trainer.recipe, failure, back / trainer.total)
        if change is None or len(self.memory.repairs) >= REPAIRS:
            self._stop(probe)
            return probe
        trainer.recipe, words = change
        trainer.load(state, back)
        self.memory = dataclasses.replace(self.memory, repairs=(*self.memory.repairs, (failure, back / trainer.total)))
        return probe.model_copy(update={"repair": words, "back": back})

    def _stop(self, probe: ProbeRecord) -> None:
        count = len(self.memory.repairs)
        after = f", after {count} repair{'s' * (count > 1)}" if count else ""
        self.end(f"{probe.findings[0].check} at step {probe.step} of {self.trainer.total}{after}")

    def _probe(self, loss: float, count: int, steps: int) -> ProbeRecord:
        trainer, threat = self.trainer, self.trainer.threat
        batch = Examples(self._batch.x[:count], self._batch.y[:count], self._batch.key[:count])
        probe = ProbeRecord(step=trainer.done, images=len(batch.x), eps=threat.eps, loss=loss)
        if not math.isfinite(loss):
            remedy = "lower the learning rate (lr), or look for bad images"
            finding = _warning(NO_NUMBER, f"the loss is {loss}", "the weights are lost since then", remedy)
            return probe.model_copy(update={"findings": (finding,)})
        searched = trainer.searched()
        with frozen(searched):
            model = classes_of(searched, trainer.recipe.objective.outputs)
            attack = inner(trainer.recipe.objective_at(trainer.done / trainer.total))
            seen = _seen(model, batch, threat if self._attacked else threat.resized(0.0), steps, attack)
        probe = probe.model_copy(update={name: getattr(seen, name) for name in seen.shown})
        found = self._failure(probe, seen)
        return probe.model_copy(update={"findings": (found,)}) if found else probe

    def _failure(self, probe: ProbeRecord, seen: _Seen) -> Finding | None:
        """What is wrong, if anything; the gravest first."""
        trainer, chance = self.trainer, math.log(max(2, seen.outputs))
        if self.memory.repairs and trainer.done < self.memory.repairs[-1][1] * trainer.total + EVERY:
            return None  # a repair takes some steps to show
        if seen.constant:
            late = trainer.done >= max(PATIENCE, 0.05 * trainer.total)  # every net begins as one
            if not late or seen.loss < 0.9 * chance:
                return None
            return _warning(
                "constant network",
                f"the net gives one answer to {probe.images} training images, at a loss of {seen.loss:.2f}",
                "it has learned nothing, as small nets at large radii can (Madry et al. 2018, section 4)",
                "let the radius grow over more steps (warm_up), lower the learning rate, or take a wider net",
            )
        if not self._attacked:
            return None
        objective = trainer.recipe.objective_at(trainer.done / trainer.total)
        attack = inner(objective)
        short = attack is not None and attack.steps_on(trainer.threat) == 1
        fell = short or (probe.robust < probe.single / 2 and probe.robust <= self.memory.best / 2)
        if probe.trained - probe.robust > _GAP or (probe.single - probe.robust > _GAP and fell):
            return _warning(
                "catastrophic overfitting",
                f"the training's attack leaves {probe.trained:.0%} right, FGSM {probe.single:.0%}, PGD {probe.robust:.0%}, "
                f"at best {self.memory.best:.0%}; gradients at the image and nearby have a cosine of {probe.alignment:.2f}",
                "the net has learned to bend its loss within the steps of its own attack (Wong, Rice and Kolter 2020)",
                "train with n_fgsm, or with more steps",
            )
        if seen.loss_noise - seen.loss_single > 0.1 * chance or (probe.vanished > 0.5 and probe.clean < 0.99):
            return _warning(
                "gradient masking",
                f"a step along the gradient raises the loss to {seen.loss_single:.2f}, a random one to "
                f"{seen.loss_noise:.2f}; {probe.vanished:.0%} of the gradients vanish",
                "gradients no longer say where the loss rises, and an attack that follows them says little",
                "train with more steps; judge with attacks that use no gradients",
            )
        return None


@dataclass(frozen=True)
class _Seen:
    """What one look measured."""

    clean: float
    single: float
    robust: float
    trained: float
    alignment: float
    vanished: float
    loss: float
    loss_single: float
    loss_noise: float
    constant: bool
    outputs: int

    shown = ("clean", "single", "robust", "trained", "alignment", "vanished")


def _seen(model: Classifier, batch: Examples, threat: Threat, steps: int, attack: Attack | None) -> _Seen:
    x, y = batch.x, batch.y
    key = keys.fold(batch.key, _NOISE)
    logits, grad = _gradient(model, x, y)
    right = logits.argmax(1) == y
    clean, loss = _mean(right), float(F.cross_entropy(logits, y))
    constant = bool((logits.argmax(1) == logits.argmax(1)[0]).all()) and len(y.unique()) > 1
    if not threat.eps:
        return _Seen(clean, clean, clean, clean, 1.0, 0.0, loss, loss, loss, constant, logits.shape[1])
    noise_logits, near = _gradient(model, threat.sample(x, key), y)
    moved = threat.project(x, x + threat.stride(1, 1.0) * threat.steepest(grad))
    rows = Rows(x, y, torch.full_like(y, -1), key, threat)
    found = worst(PGD(steps=steps), model, rows)
    own = moved if attack is None else worst(attack, model, rows)
    with torch.no_grad():
        single, robust, trained = model(moved), model(found), model(own)
    return _Seen(
        clean=clean,
        single=_mean(single.argmax(1) == y),
        robust=_mean((robust.argmax(1) == y) & right),
        trained=_mean((trained.argmax(1) == y) & right),
        alignment=float(F.cosine_similarity(grad.flatten(1), near.flatten(1), dim=1).mean()),
        vanished=_mean(grad.flatten(1).abs().amax(1) == 0),
        loss=loss,
        loss_single=float(F.cross_entropy(single, y)),
        loss_noise=float(F.cross_entropy(noise_logits, y)),
        constant=constant,
        outputs=logits.shape[1],
    )


def _gradient(model: Classifier, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        logits = model(at)
        (grad,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), at)
    return logits.detach(), grad


def _mean(right: Tensor) -> float:
    return float(right.double().mean())


def _warning(check: str, saw: str, means: str, remedy: str) -> Finding:
    return Finding(check=check, level="warning", saw=saw, means=means, remedy=remedy)
