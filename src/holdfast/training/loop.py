"""The training loop: data resident on the device, draws by key, nothing global touched.

What a step does is a pure function of the weights before it, the recipe and the number of the step, so that a run which is
stored and loaded goes on to the same bits.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.ascent.frozen import frozen
from holdfast.ascent.meter import Classifier
from holdfast.data.source import Source
from holdfast.foundation.errors import BadModel, BadValue
from holdfast.objectives.objective import Carrying, Examples
from holdfast.threats.threat import Threat
from holdfast.training.attack_copy import AttackCopy
from holdfast.training.averaging import follow, with_statistics
from holdfast.training.awp import perturbed
from holdfast.training.batches import Batches
from holdfast.training.grad_align import misalignment
from holdfast.training.recipe import Recipe
from holdfast.training.schedule import rate
from holdfast.training.team import Team


@dataclass(frozen=True)
class Epoch:
    """What one epoch did: its number from 1, all epochs, the mean loss, and the seconds since training began."""

    number: int
    epochs: int
    loss: float
    seconds: float


def fit(net: nn.Module, source: Source, recipe: Recipe, *, watch: Callable[[Epoch], None] | None = None) -> list[Epoch]:
    """Trains ``net`` in place and leaves it in eval mode; nobody watches over it. The source must fit in memory.

    The same net, source and recipe give the same weights on the same machine; the global random generators are not used.
    Where the recipe averages, the net ends with the average.

    Raises:
        BadModel: the loss became infinite or NaN; the message names the epoch.
    """
    trainer, began, history = Trainer(net, source, recipe), time.monotonic(), []
    while not trainer.finished:
        losses = [trainer.step() for _ in range(trainer.per_epoch)]
        epoch = Epoch(trainer.epoch, recipe.epochs, float(torch.stack(losses).mean()), time.monotonic() - began)
        trainer.check(epoch.loss)
        history.append(epoch)
        if watch:
            watch(epoch)
    net.load_state_dict(trainer.judged().state_dict())
    net.eval()
    return history


class Trainer:
    """A training run at some step.

    ``net``: the weights that are trained; ``average``: their average, None where the recipe has none; ``done``: steps
    taken, of ``total``, ``per_epoch`` of them an epoch. ``recipe`` may be replaced by one of the same length. ``team``: the
    processes that divide each step, all of which stand at the same state after it. ``sharded``: whether they divide the
    net, too (`holdfast.training.sharded`).

    Raises:
        BadValue: the recipe has an objective that cannot be divided, and several processes or parts are to do so; or the net
            is to be divided where that cannot be.
    """

    def __init__(
        self,
        net: nn.Module,
        source: Source,
        recipe: Recipe,
        *,
        extra: Source | None = None,
        team: Team | None = None,
        sharded: bool = False,
    ) -> None:
        parameter = next(net.parameters())
        self.net, self.recipe, self.team = net, recipe, team or Team()
        self._check_divisible(sharded)
        self.batches = Batches(source, recipe, dtype=parameter.dtype, device=parameter.device, extra=extra)
        self._pieces = None
        if sharded:
            from holdfast.training import sharded as pieces

            pieces.shard(net, self.team)
            self._pieces = pieces
        self._copy = self._copied()
        if self._copy is not None and self._copy.channels_last:
            net.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]
        self.average = copy.deepcopy(net).requires_grad_(False) if recipe.average else None
        self.optimiser = _optimiser(net, recipe)
        self.per_epoch = self.batches.per_epoch * recipe.replays
        self.total, self.done = recipe.epochs * self.per_epoch, 0
        self._carried: Tensor | None = None

    @property
    def sharded(self) -> bool:
        """Whether the processes divide the net."""
        return self._pieces is not None

    @property
    def epoch(self) -> int:
        """The number, from 1, of the epoch of the last step."""
        return max(1, -(-self.done // self.per_epoch))

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done >= self.total

    @property
    def threat(self) -> Threat:
        """The set of the next step: the radius grows while the recipe warms up."""
        recipe = self.recipe
        past = self.done + 1 - recipe.warm_from * self.total
        grown = min(1.0, max(0.0, past / max(1.0, recipe.warm_up * self.total)))
        return recipe.threat.resized(recipe.threat.eps * grown)

    def searched(self) -> Classifier:
        """The net as a search should see it, up to date: a cheaper copy where there is one. Keep it in `frozen`."""
        return self.net if self._copy is None else self._copy.refreshed()

    def compare(self, x: Tensor) -> None:
        """Does without the cheaper copy where it no longer answers as the net does on images ``x``."""
        copied = self._copy
        if copied is not None and self.team.by_first(lambda: copied.difference(x) > copied.tolerance):
            self._copy = None

    def judged(self) -> nn.Module:
        """What stands for the outcome: the average, or the net itself."""
        if self.average is None:
            return self.net
        if self.recipe.averaging == "exponential" or self.done <= self.recipe.average_from * self.total:
            return self.average
        found = with_statistics(self.average, self._feed, self.batches.per_epoch)
        self.team.level(_statistics(found), _statistics(self.average), 1 / self.team.world)
        return found

    def gathered(self) -> AbstractContextManager[None]:
        """Within, every process may evaluate the net as often as it likes; the passes to the weights are for without."""
        return self._pieces.gathered(self.net) if self._pieces else nullcontext()

    def weights(self, net: nn.Module) -> dict[str, Tensor]:
        """The whole state of ``net``, which `judged` gave. All processes that divide it are to call this alike."""
        return self._whole(net.state_dict())

    def parts(self, number: int) -> list[tuple[float, Examples]]:
        """What this process does of batch ``number``, part by part, and the weight of each part in the mean."""
        return self.team.parts(self.batches.at(number), self.recipe.accumulate)

    def step(self) -> Tensor:
        """One step; returns its loss, detached, which nobody has looked at yet."""
        recipe, done = self.recipe, self.done / self.total
        batch = self.batches.at(self.done // recipe.replays)
        if self._carried is not None:
            batch = batch._replace(delta=self._carried[: len(batch.x)])
        parts = self.team.parts(batch, recipe.accumulate)
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.lr * rate(recipe.schedule, done)
        objective, threat = recipe.objective_at(done), self.threat
        self.net.train()
        searched = self.searched()
        with self.gathered(), frozen(searched):
            prepared = [objective.prepare(searched, part, threat) for _, part in parts]
        before = [each.clone() for each in _statistics(self.net)] if self.team.world > 1 else []
        gamma = recipe.awp if done >= recipe.awp_from else 0.0
        losses = (weight * objective.terms(self.net, each).loss for (weight, _), each in zip(parts, prepared))
        with perturbed(self.net, lambda weights: self._gradient(losses, weights), gamma):
            self.optimiser.zero_grad(set_to_none=True)
            loss = batch.x.new_zeros(())
            for (weight, part), each in zip(parts, prepared):
                mean = objective.terms(self.net, each).loss
                if recipe.align:
                    mean = mean + recipe.align * misalignment(self.net, part, threat)
                (weight * mean).backward()
                loss += weight * mean.detach()
            summed = [] if self.sharded else [each.grad for each in self.net.parameters() if each.grad is not None]
            self.team.add_up([loss, *summed])
        self.team.level(_statistics(self.net), before, sum(weight for weight, _ in parts))
        self.optimiser.step()
        if isinstance(objective, Carrying):
            self._carry(batch, [objective.carried(each, threat) for each in prepared], [part for _, part in parts])
        if self.average is not None:
            follow(self.average, self.net, recipe, self.done, self.total)
        self.done += 1
        return loss

    def check(self, loss: float) -> None:
        """Refuses to go on after a loss that is no number. Raises BadModel."""
        if not math.isfinite(loss):
            raise BadModel(f"the loss is {loss} in epoch {self.epoch}", hint="train with a smaller learning rate (lr)")

    def state(self) -> dict[str, Tensor]:
        """Everything that the steps to come depend on, besides the recipe, the data and `done`: tensors by name.

        All processes that divide a net are to call this alike.
        """
        found = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for number, held in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{number}.{name}": value for name, value in held.items() if value is not None}
        if self._carried is not None:
            found["carried.delta"] = self._carried
        # A divided net has no copy, and says nothing against one where the training goes on with a whole net.
        found["search.copied"] = torch.tensor(self._copy is not None or self.sharded)
        return {name: value.detach().clone().contiguous() for name, value in self._whole(found).items()}

    def load(self, state: dict[str, Tensor], done: int) -> None:
        """Goes on from what `state` gave after ``done`` steps."""
        rooms = ("net", "average", "optimiser", "carried", "search")
        parts: dict[str, dict[str, Tensor]] = {room: {} for room in rooms}
        for name, value in state.items():
            room, _, rest = name.partition(".")
            parts[room][rest] = value
        self.net.load_state_dict(self._divided(parts["net"], self.net.state_dict()))
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        held: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimiser"].items():
            number, _, rest = name.partition(".")
            held.setdefault(int(number), {})[rest] = value
        # The optimiser keeps what it is given, and steps change it in place.
        held = {number: {name: value.clone() for name, value in each.items()} for number, each in held.items()}
        if self.sharded:
            weights = [each for group in self.optimiser.param_groups for each in group["params"]]
            for number, each in held.items():
                like = {name: weights[number] for name, value in each.items() if value.shape == weights[number].shape}
                held[number] = self._divided(each, like)
        self.optimiser.load_state_dict({"state": held, "param_groups": self.optimiser.state_dict()["param_groups"]})
        carried = parts["carried"].get("delta")
        self._carried = None if carried is None else carried.to(next(self.net.parameters()).device, copy=True)
        if not parts["search"]["copied"]:
            self._copy = None
        self.done = done

    def _copied(self) -> AttackCopy | None:
        """The net's copy for searches, where the recipe has any and the net is whole."""
        if self.sharded:
            return None
        objectives = [self.recipe.objective, *(each for _, each in self.recipe.later)]
        if not any("adversarial" in each.operations and not isinstance(each, Carrying) for each in objectives):
            return None
        low = torch.bfloat16 if self.recipe.precision == "bfloat16" else None
        return AttackCopy(self.net, self.batches.at(0).x[:32], dtype=low)

    def _feed(self, net: nn.Module, number: int) -> None:
        """Passes a batch as it is trained on through a net in train mode."""
        objective = self.recipe.objective_at(self.done / self.total)
        for _, part in self.parts(number):
            with frozen(net):
                prepared = objective.prepare(net, part, self.threat)
            objective.terms(net, prepared)

    def _gradient(self, losses: Iterable[Tensor], weights: Sequence[nn.Parameter]) -> list[Tensor]:
        """The gradient of the sum of the losses, of all processes, in the weights."""
        total = [torch.zeros_like(each) for each in weights]
        for loss in losses:
            for each, grad in zip(total, torch.autograd.grad(loss, weights, allow_unused=True)):
                if grad is not None:
                    each += grad
        self.team.add_up(total)
        return total

    def _carry(self, batch: Examples, deltas: Sequence[Tensor], parts: Sequence[Examples]) -> None:
        """Keeps the perturbations of the whole batch for the next step."""
        found = torch.zeros_like(batch.x)
        for delta, part in zip(deltas, parts):
            found[slice(None) if part.of is None else part.of.rows] = delta
        if self.team.divides(len(found)):
            self.team.add_up([found])
        if self._carried is None:
            self._carried = found.new_zeros(self.recipe.batch_size, *found.shape[1:])
        self._carried[: len(found)] = found

    def _whole(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._pieces.whole(state) if self._pieces else state

    def _divided(self, state: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._pieces.as_divided(state, like) if self._pieces else state

    def _check_divisible(self, sharded: bool) -> None:
        if sharded and self.team.world == 1:
            raise BadValue("one process cannot divide a net", hint="start several: torchrun --nproc-per-node 2 -m ...")
        for name in ("average", "awp", "align"):
            if sharded and getattr(self.recipe, name):
                raise BadValue(
                    f"{name} is {getattr(self.recipe, name)}, which needs the whole net, and it is divided",
                    hint=f"set {name}=0, or train without --shard",
                )
        if self.team.world == self.recipe.accumulate == 1:
            return
        for objective in (self.recipe.objective, *(each for _, each in self.recipe.later)):
            if not objective.divisible:
                raise BadValue(
                    f"the loss of {type(objective).__name__} is of a batch as a whole, which cannot be divided among "
                    f"processes or into parts",
                    hint="train it by one process, without torchrun, with accumulate=1",
                )


def _statistics(net: nn.Module) -> list[Tensor]:
    """What a net knows besides its weights and may change in train mode: batch norm's running statistics."""
    return [each for each in net.buffers() if each.is_floating_point()]


def _optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    return torch.optim.AdamW(groups, lr=recipe.lr)
