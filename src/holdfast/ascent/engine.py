"""Keeps a fixed number of slots filled with searches, and has every search judged that ends.

Peers run every sample for every iteration of every restart. Here a row leaves as soon as it has fooled or is done, the next
row takes its slot, and the other searches of a fooled sample are never begun. Which search decides a sample does not depend
on how many ran at once: it is the first, in the order of `Attack.searches`, that succeeds when all earlier ones have failed.

What does not fit into memory is done again in halves (`holdfast.ascent.halves`): states are never changed in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent.flight import Flight
from holdfast.ascent.halves import halves, told
from holdfast.ascent.judge import handed_in, judged
from holdfast.ascent.meter import Classifier, Meter
from holdfast.ascent.state import Rows, State
from holdfast.ascent.verdict import Ended, Sample, Verdict
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


def breadth_first(portions: Iterable[Sequence[int]], width: int) -> Iterator[tuple[int, int]]:
    """The first search of every position, as the portions come, then the second of all, and so on."""
    positions = []
    for portion in portions:
        for position in portion:
            positions.append(position)
            yield position, 0
    yield from ((position, search) for search in range(1, width) for position in positions)


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
        samples: dict[int, Sample] = {}
        resolved = bytearray(count)
        ahead = breadth_first([range(count)] if portions is None else portions, width)
        put_back: deque[tuple[int, int]] = deque()
        deferred: list[tuple[int, int]] = []
        flight = Flight()
        waiting: list[Flight] = []
        returned: deque[Flight] = deque()
        since = 0

        def settle(event: Ended) -> Iterator[Ended]:
            sample = samples.setdefault(event.position, Sample(minimal))
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
                sample = samples.setdefault(position, Sample(minimal))
                sample.claimed.discard(search)
                sample.broken_off[search] = happened
                give_up(position)

        def wanted(position: int, search: int) -> bool:
            return not resolved[position] and (position not in samples or samples[position].wants(search))

        def still_wanted(flight: Flight) -> Flight:
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
            flight = Flight.joined([*parts, begun] if len(begun) else parts)
            if len(begun) < len(fresh):
                flight = still_wanted(flight)
                continue
            pending = sum(map(len, waiting))
            if pending and (
                not len(flight) or pending >= self.slots or since >= PATIENCE or (deferred and len(flight) < self.slots)
            ):
                since = 0
                for found in self._judge(Flight.joined(waiting), fail):
                    # A search that ran ahead of a success, of its own batch even, is dropped.
                    position, search = found.place[0] if isinstance(found, Flight) else (found.position, found.search)
                    if not wanted(position, search):
                        continue
                    if isinstance(found, Flight):
                        samples[position].claimed.discard(search)
                        returned.append(found)
                    else:
                        yield from settle(found)
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
                        samples.setdefault(position, Sample(minimal)).claimed.add(search)
                waiting.append(out)

    def _begin(self, feed: Feed, places: list[tuple[int, int]], fail: _Fail) -> Flight:
        def begin(at: slice) -> Flight:
            some = places[at]
            position, search = torch.tensor(some, dtype=torch.int64).unbind(1)
            x0, y = feed(position)
            key = keys.fold(keys.fold(feed.key[position.to(feed.key.device)], self.stage), search.to(feed.key.device))
            target = self.targets[position.to(self.targets.device), search.to(self.targets.device)]
            rows = Rows(x0, y, target.to(y.device), key.to(y.device), self.threat)
            flight = Flight(some, torch.zeros(len(some), 2, dtype=torch.int64), None)
            return self._measured(flight, lambda: self.attack.begin(self.model, rows))

        return Flight.joined(self._tried(begin, places, fail))

    def _step(self, flight: Flight, fail: _Fail) -> Flight:
        """The flight one step later, without the searches in which the model failed."""
        self.steps_made += 1
        self.rows_stepped += len(flight)

        def step(at: slice) -> Flight:
            part = flight.only(range(at.start, at.stop))
            state = part.state
            assert state is not None
            return self._measured(part, lambda: self.attack.step(self.model, state))

        return self._sound(Flight.joined(self._tried(step, flight.place, fail)), fail)

    def _sound(self, flight: Flight, fail: _Fail) -> Flight:
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

    def _measured(self, flight: Flight, work: Callable[[], State]) -> Flight:
        forwards, backwards = self.model.forwards, self.model.backwards
        with torch.no_grad():
            state = work()
        made = torch.tensor([self.model.forwards - forwards, self.model.backwards - backwards])
        return Flight(flight.place, flight.spent + made // max(1, len(flight)), state)

    def _judge(self, flight: Flight, fail: _Fail) -> Iterator[Ended | Flight]:
        """Evaluates what ended searches hand in with the classifier itself: the last word on success.

        A claim that the classifier does not confirm sends the search on; if it has no steps left, its last point is judged
        as well.
        """

        def answered(at: slice) -> tuple[Flight, Tensor, Tensor]:
            part = flight.only(range(at.start, at.stop))
            state = part.state
            assert state is not None
            shown = handed_in(part, self.threat)
            with torch.no_grad():
                return part, shown, self.original(self.threat.render(state.rows.x0, shown))

        for part, shown, logits in self._tried(answered, flight.place, fail):
            finite = torch.isfinite(logits).all(1)
            if not bool(finite.all()):
                for i in (~finite).nonzero()[:, 0].tolist():
                    fail(part.place[i], NOT_FINITE)
                part, shown, logits = part.only(finite.nonzero()[:, 0].tolist()), shown[finite], logits[finite]
            if not len(part):
                continue
            for found in judged(
                part, shown, logits, attack=self.attack, threat=self.threat, cost=self.original.cost, keep=self.keep
            ):
                if isinstance(found, Flight) and found.state is not None and bool(found.state.done):
                    yield from self._judge(found, fail)
                else:
                    yield found


_Fail = Callable[[tuple[int, int], str], None]
"""Takes the (position, search) of a search in which the model failed, and what happened."""


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
