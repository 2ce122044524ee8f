"""Keeps a fixed number of slots filled with searches, and judges every search that ends.

Peers run every sample for every iteration of every restart. Here a row leaves as soon as it has fooled or is done, the next
row takes its slot, and the other searches of a fooled sample are never begun. Which search decides a sample does not depend
on how many ran at once: it is the first, in the order of `Attack.searches`, that succeeds when all earlier ones have failed.

What does not fit into memory is done again in halves (`holdfast.ascent.halves`): states are never changed in place.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.halves import halves, told
from holdfast.ascent.meter import Classifier, Meter
from holdfast.ascent.state import Rows, State, join, observe, take
from holdfast.foundation.errors import BadModel
from holdfast.threats.threat import Threat

if TYPE_CHECKING:
    from holdfast.ascent.attack import Attack

T = TypeVar("T")

NOT_FINITE = "the model's logits are not finite (NaN or infinite)"

PATIENCE = 16
"""Steps after which ended searches are judged even if they do not fill a batch: a bound on what a kill can lose."""


class Feed(Protocol):
    """Where the engine takes samples from, by position. Only the samples in flight need to be in memory."""

    @property
    def key(self) -> Tensor:
        """(N,) int64: what each sample's randomness is made from."""
        ...

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The clean images (R, C, H, W) and labels (R,) at these positions, (R,) int64 on the CPU."""


class Batch(NamedTuple):
    """A feed over tensors that are already in memory."""

    x: Tensor
    y: Tensor
    key: Tensor

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        positions = positions.to(self.x.device)
        return self.x[positions], self.y[positions]


@dataclass(frozen=True)
class Ended:
    """One search that has ended and was judged. ``x``, (C, H, W), is kept where it is asked for or where it fooled."""

    position: int
    search: int
    label: int
    fooled: bool
    predicted: int
    value: float
    margin: float
    distance: float
    steps: int
    forwards: int
    backwards: int
    x: Tensor | None = None


@dataclass(frozen=True)
class Verdict(Ended):
    """The outcome for one sample: its deciding search, with the evaluations of all searches up to that one added up."""


@dataclass
class _Sample:
    """The ended searches of one sample that has no verdict yet; ``minimal``: whether the nearest success decides."""

    minimal: bool
    ended: dict[int, Ended] = field(default_factory=dict)
    claimed: set[int] = field(default_factory=set)
    """Searches that say they succeeded and are not judged yet."""
    broken_off: dict[int, str] = field(default_factory=dict)
    """Searches in which the model failed, and how."""

    def add(self, event: Ended) -> None:
        self.claimed.discard(event.search)
        if event.x is not None and (self.minimal or not event.fooled):
            # Of the searches that failed, or that only the nearest of can count, one point can still be asked for.
            rivals = [e for e in self.ended.values() if self.minimal or not e.fooled]
            if any(_rank(e) <= _rank(event) for e in rivals):
                event = dataclasses.replace(event, x=None)
            else:
                self.ended |= {e.search: dataclasses.replace(e, x=None) for e in rivals}
        self.ended[event.search] = event

    def wants(self, search: int) -> bool:
        if search in self.ended or any(other <= search for other in self.broken_off):
            return False
        return self.minimal or not any(e.fooled and e.search < search for e in self.ended.values())

    def undecidable(self) -> str | None:
        """How the model failed in a search that the verdict depends on, if it did."""
        if not self.broken_off:
            return None
        first = min(self.broken_off)
        decided = all(search in self.ended for search in range(first))
        return self.broken_off[first] if decided else None

    def decide(self, width: int) -> Verdict | None:
        """The verdict that the ended searches allow, or none yet.

        Of a budget attack: its first success, if all before it failed. Of a minimal attack: the nearest success of all.
        """
        for search in range(width):
            if search not in self.ended:  # also where the model failed
                return None
            if self.ended[search].fooled and not self.minimal:
                break
        considered = [self.ended[i] for i in range(search + 1)]
        last = considered[-1]
        chosen = last if last.fooled and not self.minimal else min(considered, key=_rank)
        return dataclasses.replace(
            Verdict(**vars(chosen)),
            margin=min(e.margin for e in considered),
            forwards=sum(e.forwards for e in considered),
            backwards=sum(e.backwards for e in considered),
        )


def breadth_first(portions: Iterable[Sequence[int]], width: int) -> Iterator[tuple[int, int]]:
    """The first search of every position, as the portions come, then the second of all, and so on."""
    positions = []
    for portion in portions:
        for position in portion:
            positions.append(position)
            yield position, 0
    yield from ((position, search) for search in range(1, width) for position in positions)


def _rank(event: Ended) -> tuple[bool, float]:
    """Smaller is better: a near success, then a far one, then a failure of a large loss."""
    return (False, event.distance) if event.fooled else (True, -event.value)


@dataclass
class Hunt:
    """One attack on many samples.

    Args:
        attack: the search.
        threat: the set.
        targets: the searches of each sample, (N, S) int64 target classes or -1.
        model: what the searches evaluate.
        original: the classifier itself, which judges every claim.
        slots: how many searches run at once.
        stage: folded into every key, so that two stages draw differently.
        keep: keep the points of samples that were not fooled, too.
        failed: called with the position of a sample that gets no verdict because its image cannot be read, or because the
            model raises or answers with NaN near it, and with what happened. None: that ends the hunt with an error.

    ``slots`` is lowered where memory does not suffice. ``begun`` counts the samples whose first search was begun.
    """

    attack: Attack
    threat: Threat
    targets: Tensor
    model: Meter
    original: Meter
    slots: int
    stage: int
    keep: bool = False
    failed: Callable[[int, str], None] | None = None

    begun: int = 0
    steps_made: int = 0
    rows_stepped: int = 0
    slots_offered: int = 0

    @property
    def occupancy(self) -> float:
        """The share of slots that held a row, averaged over the steps made so far."""
        return self.rows_stepped / max(1, self.slots_offered)

    def verdicts(self, feed: Feed, *, before: Iterable[Ended] = ()) -> Iterator[Verdict]:
        """The verdict on every sample, as soon as it is reached."""
        return (event for event in self.events(feed, before=before) if isinstance(event, Verdict))

    def events(
        self, feed: Feed, *, before: Iterable[Ended] = (), portions: Iterable[Sequence[int]] | None = None
    ) -> Iterator[Ended]:
        """Every search that ends, and every verdict, in the order in which they are reached.

        ``before``: searches that ended in an earlier run; they are not repeated. ``portions``: the positions that are
        searched, each portion asked for when slots get free; all positions unless given.
        """
        count, width = self.targets.shape
        minimal = self.attack.goal == "minimal"
        samples: dict[int, _Sample] = {}
        resolved = bytearray(count)
        ahead = breadth_first([range(count)] if portions is None else portions, width)
        put_back: deque[tuple[int, int]] = deque()
        deferred: list[tuple[int, int]] = []
        flight = _Flight()
        waiting: list[_Flight] = []
        returned: deque[_Flight] = deque()
        since = 0

        def settle(event: Ended) -> Iterator[Ended]:
            sample = samples.setdefault(event.position, _Sample(minimal))
            sample.add(event)
            verdict = sample.decide(width)
            if verdict is not None:
                resolved[event.position] = 1
                del samples[event.position]
                yield verdict
            else:
                if width > 1:
                    yield event
                give_up(event.position)

        def give_up(position: int) -> None:
            happened = samples[position].undecidable()
            if happened is not None and self.failed is not None:
                resolved[position] = 1
                del samples[position]
                self.failed(position, happened)

        def fail(place: tuple[int, int], happened: str) -> None:
            position, search = place
            if self.failed is None:
                raise BadModel(
                    f"{happened} near the sample at position {position}",
                    hint="look for divisions by zero, logarithms of zero or half-precision overflow in the model",
                )
            if wanted(position, search):
                sample = samples.setdefault(position, _Sample(minimal))
                sample.claimed.discard(search)
                sample.broken_off[search] = happened
                give_up(position)

        def wanted(position: int, search: int) -> bool:
            return not resolved[position] and (position not in samples or samples[position].wants(search))

        def still_wanted(flight: _Flight) -> _Flight:
            return flight.only([i for i, place in enumerate(flight.place) if wanted(*place)])

        for event in before:
            yield from (e for e in settle(event) if isinstance(e, Verdict))
        while True:
            # Fill the slots: searches whose claim was refused first, then new ones.
            fresh: list[tuple[int, int]] = []
            parts = [flight] if len(flight) else []
            free = self.slots - len(flight)
            while returned and free > 0:
                back = returned.popleft()
                if wanted(*back.place[0]):
                    parts.append(back)
                    free -= 1
            while len(fresh) < free:
                place = put_back.popleft() if put_back else next(ahead, None)
                if place is None:
                    break
                if not wanted(*place):
                    continue
                if not minimal and place[0] in samples and any(claim < place[1] for claim in samples[place[0]].claimed):
                    deferred.append(place)
                else:
                    fresh.append(place)
            begun = self._begin(feed, fresh, fail)
            self.begun += sum(not search for _, search in begun.place)
            flight = _Flight.joined([*parts, begun] if len(begun) else parts)
            if len(begun) < len(fresh):
                flight = still_wanted(flight)
                continue
            pending = sum(map(len, waiting))
            if pending and (
                not len(flight) or pending >= self.slots or since >= PATIENCE or (deferred and len(flight) < self.slots)
            ):
                since = 0
                for event, back in self._judge(_Flight.joined(waiting), fail):
                    # A search that ran ahead of a success, of its own batch even, is dropped.
                    if back is not None and wanted(*back.place[0]):
                        position, search = back.place[0]
                        samples[position].claimed.discard(search)
                        returned.append(back)
                    if event is not None and wanted(event.position, event.search):
                        yield from settle(event)
                waiting = []
                put_back.extend(deferred)
                deferred = []
                flight = still_wanted(flight)
                continue
            if not len(flight):
                return
            # One step of every row; those that claim success or are done leave their slots.
            stepped = self._step(flight, fail)
            since += 1
            flight = stepped if len(stepped) == len(flight) else still_wanted(stepped)
            state = flight.state
            if state is None:
                continue
            claims = state.fooled & state.done if minimal else state.fooled
            leaving = (claims | state.done).tolist()
            if any(leaving):
                out = flight.only([i for i, leaves in enumerate(leaving) if leaves])
                flight = flight.only([i for i, leaves in enumerate(leaving) if not leaves])
                for (position, search), claim in zip(out.place, out.state.fooled.tolist()):  # type: ignore[union-attr]
                    if claim:
                        samples.setdefault(position, _Sample(minimal)).claimed.add(search)
                waiting.append(out)

    def _begin(self, feed: Feed, places: list[tuple[int, int]], fail: _Fail) -> _Flight:
        def begin(at: slice) -> _Flight:
            some = places[at]
            position, search = torch.tensor(some, dtype=torch.int64).unbind(1)
            x0, y = feed(position)
            key = keys.fold(keys.fold(feed.key[position.to(feed.key.device)], self.stage), search.to(feed.key.device))
            target = self.targets[position.to(self.targets.device), search.to(self.targets.device)]
            rows = Rows(x0, y, target.to(y.device), key.to(y.device), self.threat)
            flight = _Flight(some, torch.zeros(len(some), 2, dtype=torch.int64), None)
            return self._measured(flight, lambda: self.attack.begin(self.model, rows))

        return _Flight.joined(self._tried(begin, places, fail))

    def _step(self, flight: _Flight, fail: _Fail) -> _Flight:
        """The flight one step later, without the searches in which the model failed."""
        self.steps_made += 1
        self.rows_stepped += len(flight)
        self.slots_offered += self.slots

        def step(at: slice) -> _Flight:
            part = flight.only(range(at.start, at.stop))
            state = part.state
            assert state is not None
            return self._measured(part, lambda: self.attack.step(self.model, state))

        return self._sound(_Flight.joined(self._tried(step, flight.place, fail)), fail)

    def _sound(self, flight: _Flight, fail: _Fail) -> _Flight:
        """The searches that have met no NaN."""
        if flight.state is None:
            return flight
        sick = flight.state.margin.isnan()
        if not bool(sick.any()):
            return flight
        for i in sick.nonzero()[:, 0].tolist():
            fail(flight.place[i], NOT_FINITE)
        return flight.only((~sick).nonzero()[:, 0].tolist())

    def _tried(self, work: Callable[[slice], T], places: list[tuple[int, int]], fail: _Fail) -> list[T]:
        """What ``work`` gives for these searches, in as few parts as memory allows."""
        failed = None if self.failed is None else lambda i, error: fail(places[i], told(error))
        tried = halves(work, len(places), self.slots, failed)
        self.slots = tried.most
        return tried.parts

    def _measured(self, flight: _Flight, work: Callable[[], State]) -> _Flight:
        forwards, backwards = self.model.forwards, self.model.backwards
        with torch.no_grad():
            state = work()
        made = torch.tensor([self.model.forwards - forwards, self.model.backwards - backwards])
        return _Flight(flight.place, flight.spent + made // max(1, len(flight)), state)

    def _judge(self, flight: _Flight, fail: _Fail) -> Iterator[tuple[Ended | None, _Flight | None]]:
        """Evaluates what ended searches hand in with the classifier itself: the last word on success.

        A search that claimed success is judged at its best point, one that ran out of steps at its last point, which it
        has not evaluated yet. A claim that the classifier does not confirm sends the search on; if it has no steps left, its
        last point is judged as well.
        """

        def answered(at: slice) -> tuple[_Flight, Tensor, Tensor]:
            part = flight.only(range(at.start, at.stop))
            state = part.state
            assert state is not None
            x0 = state.rows.x0
            shown = torch.where(state.fooled.view(-1, 1, 1, 1), state.best, state.x)
            shown = self.threat.project(x0, shown)
            with torch.no_grad():
                return part, shown, self.original(self.threat.render(x0, shown))

        for part, shown, logits in self._tried(answered, flight.place, fail):
            finite = torch.isfinite(logits).all(1)
            if not bool(finite.all()):
                for i in (~finite).nonzero()[:, 0].tolist():
                    fail(part.place[i], NOT_FINITE)
                part, shown, logits = part.only(finite.nonzero()[:, 0].tolist()), shown[finite], logits[finite]
            if len(part):
                yield from self._judged(part, shown, logits, fail)

    def _judged(
        self, flight: _Flight, shown: Tensor, logits: Tensor, fail: _Fail
    ) -> Iterator[tuple[Ended | None, _Flight | None]]:
        """What follows from the classifier's ``logits`` (R, K) at the points ``shown``."""
        state = flight.state
        assert state is not None
        rows = state.rows
        value = self.attack.objective(logits, rows.y, rows.target)
        # The claims are judged afresh: what the search saw in its own copy of the model does not count.
        refused = state.fooled & (logits.argmax(1) == rows.y)
        judged = observe(
            dataclasses.replace(
                state,
                x=shown,
                fooled=torch.zeros_like(state.fooled),
                value=torch.where(state.fooled, -torch.inf, state.value),
                margin=torch.where(state.fooled, torch.inf, state.margin),
            ),
            logits,
            value,
        )
        # ``best`` is a point of the set that the classifier judged, or the best one that the search copy saw.
        images = self.threat.render(rows.x0, judged.best)
        predicted, labels = logits.argmax(1).tolist(), rows.y.tolist()
        columns = zip(
            judged.fooled.tolist(),
            judged.value.tolist(),
            judged.margin.tolist(),
            self.threat.distance(rows.x0, judged.best).tolist(),
            judged.count.tolist(),
            flight.spent.tolist(),
        )
        again, done = refused.tolist(), state.done.tolist()
        for i, (fooled, value_, margin, distance, steps, (forwards, backwards)) in enumerate(columns):
            if again[i]:
                one = torch.tensor([i], device=rows.y.device)
                goes_on = _go_on(take(state, one), take(judged, one))
                back = _Flight(
                    [flight.place[i]], flight.spent[i : i + 1] + torch.tensor([self.original.cost, 0]), goes_on
                )
                if done[i]:
                    yield from self._judge(back, fail)
                else:
                    yield None, back
                continue
            position, search = flight.place[i]
            kept = images[i].clone() if fooled or self.keep else None
            yield (
                Ended(
                    position,
                    search,
                    labels[i],
                    fooled,
                    predicted[i] if fooled else labels[i],
                    value_,
                    margin if fooled else max(margin, 0.0),
                    distance,
                    steps,
                    forwards + self.original.cost,
                    backwards,
                    kept,
                ),
                None,
            )


def _go_on(state: State, judged: State) -> State:
    """A search whose claim was refused: it goes on from where it is and keeps its point as it was judged."""
    return dataclasses.replace(state, best=judged.best, value=judged.value, margin=judged.margin, fooled=judged.fooled)


_Fail = Callable[[tuple[int, int], str], None]
"""Takes the (position, search) of a search in which the model failed, and what happened."""


@dataclass(frozen=True)
class _Flight:
    """Searches in their slots: (position, search) of each, evaluations spent on each (R, 2), and their state."""

    place: list[tuple[int, int]] = field(default_factory=list)
    spent: Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.int64))
    state: State | None = None

    def __len__(self) -> int:
        return len(self.place)

    def only(self, index: Sequence[int]) -> _Flight:
        """The searches at these places, ascending."""
        if len(index) == len(self):
            return self
        if not index or self.state is None:
            return _Flight()
        chosen = torch.tensor(list(index))
        state = take(self.state, chosen.to(self.state.count.device))
        return _Flight([self.place[i] for i in index], self.spent[chosen], state)

    @staticmethod
    def joined(parts: list[_Flight]) -> _Flight:
        if len(parts) <= 1:
            return parts[0] if parts else _Flight()
        state = join(*(part.state for part in parts))
        return _Flight([p for part in parts for p in part.place], torch.cat([part.spent for part in parts]), state)


def predict(model: Classifier, x: Tensor) -> Tensor:
    """Logits without a gradient; in halves where memory does not suffice."""
    with torch.no_grad():
        if not len(x):
            return model(x)
        parts = halves(lambda at: model(x[at]), len(x), len(x)).parts
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def default_slots(x: Tensor) -> int:
    """How many searches run at once: as many pixels as 256 CIFAR images have, at least 16 and at most 512 images."""
    return int(min(512, max(16, 256 * 3072 // max(1, x[0].numel() if len(x) else 1))))
