"""The slot engine on searches whose every step is known: what a search costs, which one decides, what is kept in memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from holdfast import keys
from holdfast.ascent.attack import Attack
from holdfast.ascent.engine import PATIENCE, Batch, Hunt, default_slots
from holdfast.ascent.gradient import evaluate
from holdfast.ascent.meter import Meter
from holdfast.ascent.state import State, observe
from holdfast.ascent.verdict import Ended, Verdict
from holdfast.attacks.apgd import APGD
from holdfast.attacks.bim import BIM
from holdfast.attacks.pgd import PGD
from holdfast.foundation.errors import BadModel
from holdfast.losses import margin
from holdfast.threats.linf import Linf

GRID = 1 / 256  # one step of a walk; exact in floats
NEVER = 200


class Door:
    """A two-class model: an image (1, 1, 2) is misclassified once its first pixel has walked to its second.

    ``late``: by how many steps it opens later than the second pixel says.
    """

    def __init__(self, late: int = 0) -> None:
        self.late = late
        self.largest = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x))
        ahead = x[:, 0, 0, 0] - x[:, 0, 0, 1] - (self.late - 0.5) * GRID
        return torch.stack([torch.zeros_like(ahead), ahead], 1)


@dataclass(frozen=True)
class Walk(Attack):
    """Walks one grid step at a time; the door of a search stands at its target. Source: made for this test."""

    steps: int = 10
    goal = "budget"

    @property
    def objective(self):
        return lambda logits, y, target: margin(logits, y, torch.full_like(y, -1))

    def steps_on(self, threat):
        return self.steps

    def begin(self, model, rows):
        x = rows.x0.clone()
        x[:, 0, 0, 1] = rows.target * GRID
        return State.at(rows, x)

    def step(self, model, state):
        logits, value, _ = evaluate(model, self.objective, state)
        state = observe(state, logits, value)
        x = state.x.clone()
        x[:, 0, 0, 0] += GRID
        count = state.count + 1
        return dataclasses.replace(state, x=x, count=count, done=count >= self.steps)


@dataclass
class Counting:
    """A feed that remembers what it was asked for."""

    count: int
    asked: list[list[int]] = field(default_factory=list)

    @property
    def key(self) -> Tensor:
        return torch.arange(self.count)

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.append(positions.tolist())
        return torch.zeros(len(positions), 1, 1, 2), torch.zeros(len(positions), dtype=torch.int64)


def hunt_for(doors, slots: int, *, steps: int = 10, late: int = 0, keep: bool = False) -> tuple[Hunt, Counting]:
    targets = torch.tensor(doors, dtype=torch.int64).view(
        len(doors), len(doors[0]) if doors and isinstance(doors[0], list) else 1
    )
    hunt = Hunt(
        attack=Walk(steps),
        threat=Linf(1.0),
        targets=targets,
        model=Meter(Door()),
        original=Meter(Door(late)),
        slots=slots,
        stage=0,
        keep=keep,
    )
    return hunt, Counting(len(targets))


def walked(door: int, steps: int = 10, late: int = 0) -> tuple[bool, int, int, int]:
    """(fooled, steps, forwards, backwards) of one search, walked by hand."""
    forwards = backwards = 0
    for place in range(steps):
        forwards, backwards = forwards + 1, backwards + 1
        if place >= door:
            forwards += 1  # the claim is judged
            if place >= door + late:
                return True, place + 1, forwards, backwards
    return steps >= door + late, steps, forwards + 1, backwards


def decided(doors, steps: int = 10, late: int = 0) -> tuple[bool, int, int]:
    """(fooled, forwards, backwards) of one sample: its searches one after the other, up to the first success."""
    forwards = backwards = 0
    for door in doors:
        fooled, _, f, b = walked(door, steps, late)
        forwards, backwards = forwards + f, backwards + b
        if fooled:
            return True, forwards, backwards
    return False, forwards, backwards


def summary(verdicts) -> dict[int, tuple]:
    found = {v.position: (v.fooled, v.forwards, v.backwards, v.search, v.steps, v.value, v.margin) for v in verdicts}
    return dict(sorted(found.items()))


@pytest.mark.parametrize("slots", [1, 2, 5, 64])
def test_a_fooled_row_costs_nothing_afterwards(slots):
    doors = [0, 1, 2, 5, 9, 10, 11, NEVER, 3, 3, 0]
    hunt, feed = hunt_for(doors, slots)
    verdicts = {v.position: v for v in hunt.verdicts(feed)}
    assert sorted(verdicts) == list(range(len(doors)))
    for position, door in enumerate(doors):
        v = verdicts[position]
        assert (v.fooled, v.steps, v.forwards, v.backwards) == walked(door)
        assert v.predicted == int(v.fooled) and v.label == 0
    # Not one evaluation more than the verdicts account for.
    assert hunt.model.forwards == hunt.model.backwards == sum(min(door + 1, 10) for door in doors)
    assert hunt.original.forwards == len(doors) and hunt.original.backwards == 0
    assert hunt.rows_stepped == hunt.model.forwards


def test_a_linear_model_falls_at_the_step_that_arithmetic_says():
    """BIM takes equal steps on w.x = 0.5: the row at distance d falls after ceil(d / step) of them."""
    weight = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(1, 1, 2, 2)
    model = Meter(lambda x: torch.stack([torch.zeros(len(x)), (x * weight).flatten(1).sum(1) - 1], 1))
    eps, steps = 0.25, 8
    rise = 4 * eps / steps  # of the logit, in one step
    x = torch.full((6, 1, 2, 2), 0.5)
    gaps = torch.tensor([0.5, 1.5, 3.5, 6.5, 7.5, 8.5]) * rise  # half steps: never at a tie
    x[:, 0, 0, 0] += 0.0 - gaps / 4
    x[:, 0, 0, 1] += gaps / 4
    x[:, 0, 1] -= (gaps / 4)[:, None]
    found = BIM(steps=steps)(model, x, torch.zeros(6, dtype=torch.int64), threat=Linf(eps), slots=3)
    assert found.fooled.tolist() == [True, True, True, True, True, False]
    evaluated = [2, 3, 5, 8, 8, 8]  # points of the search; one more forward on the clean image, one by the judge
    assert found.backwards.tolist() == evaluated
    assert found.forwards.tolist() == [count + 2 for count in evaluated]


def test_the_deciding_evaluations_are_all_there_are():
    """Meter against the sum of the verdicts, with a real attack: no evaluation is spent unseen, on one slot or on many."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(27, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
    x = torch.rand(30, 3, 3, 3)
    meter = Meter(net)
    y = meter.classifier(x).argmax(1).detach()
    for attack in (PGD(steps=6), APGD(steps=6)):
        for slots in (1, 8, 30):
            meter.forwards = meter.backwards = 0
            found = attack(meter, x, y, threat=Linf(0.05), slots=slots)
            assert found.fooled.any() and not found.fooled.all()
            assert (meter.forwards, meter.backwards) == (int(found.forwards.sum()), int(found.backwards.sum()))


WAYS = st.lists(st.sampled_from([0, 1, 3, 8, 9, 10, 11, NEVER, NEVER]), min_size=3, max_size=3)


@given(st.lists(WAYS, min_size=1, max_size=12), st.integers(1, 40), st.sampled_from([0, 0, 1, 2, 20]))
@example(
    [[3, 1, NEVER]], 3, 2
)  # both searches at once: the first is confirmed in the batch in which the second is refused
@example([[3, 3, 3]], 3, 1)
@example([[NEVER, 0, 0], [0, NEVER, 0]], 2, 0)
@settings(max_examples=80, deadline=None)
def test_the_first_success_in_search_order_decides_whatever_the_slots(doors, slots, late):
    hunt, feed = hunt_for(doors, slots, late=late)
    events = list(hunt.events(feed))
    verdicts = [e for e in events if isinstance(e, Verdict)]
    found = summary(verdicts)
    assert list(found) == list(range(len(doors))) and len(verdicts) == len(doors)
    for position, ways in enumerate(doors):
        assert found[position][:3] == decided(ways, late=late)
        if found[position][0]:
            first = next(i for i, door in enumerate(ways) if walked(door, late=late)[0])
            assert found[position][3] == first
    # After its verdict a sample is not heard of again.
    ended = set()
    for event in events:
        assert event.position not in ended
        if isinstance(event, Verdict):
            ended.add(event.position)
    # No batch and no request is larger than the slots.
    assert hunt.model.classifier.largest <= slots and hunt.original.classifier.largest <= slots
    assert max(map(len, feed.asked)) <= slots
    if late == 0:
        one, other = hunt_for(doors, 1)
        assert summary(one.verdicts(other)) == found


def test_siblings_of_a_fooled_sample_are_never_begun():
    doors = [[2, 0, 0], [NEVER, 4, 0], [NEVER, NEVER, NEVER], [NEVER, NEVER, 1]] * 5
    for slots in (1, 4):
        hunt, feed = hunt_for(doors, slots)
        list(hunt.events(feed))
        begun = [sum(batch.count(position) for batch in feed.asked) for position in range(len(doors))]
        assert begun == [1, 2, 3, 3] * 5
        assert hunt.model.forwards + hunt.original.forwards == sum(decided(ways)[1] for ways in doors)


def test_searches_that_ran_ahead_are_dropped_at_once():
    hunt, feed = hunt_for([[2, NEVER, NEVER]], 3)
    (verdict,) = hunt.verdicts(feed)
    assert verdict.fooled and verdict.search == 0
    # The siblings stepped beside it until its claim was judged, and not to their ends.
    assert hunt.steps_made <= 2 + PATIENCE and hunt.model.forwards <= 3 * 10
    hunt, feed = hunt_for([[NEVER, 2, NEVER]], 3)
    (verdict,) = hunt.verdicts(feed)
    assert (verdict.fooled, verdict.search, verdict.forwards) == (True, 1, 11 + 4)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("slots", [4, 16, 32])
def test_slots_stay_full_until_the_tail(slots, width):
    random = torch.Generator().manual_seed(slots)
    count = 400
    doors = torch.randint(0, 30, (count, width), generator=random).tolist()
    hunt, feed = hunt_for(doors, slots, steps=25)
    before_tail = 1.0
    for done, _ in enumerate(hunt.verdicts(feed), start=1):
        if done <= count - 2 * slots:
            before_tail = hunt.rows_stepped / (slots * hunt.steps_made)
    assert before_tail >= 0.95
    assert hunt.rows_stepped <= slots * hunt.steps_made


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_a_refused_claim_sends_the_search_on(slots):
    doors = [3, 7, 8, 9, 0, 10, 11]
    hunt, feed = hunt_for(doors, slots, late=2, keep=True)
    for v in hunt.verdicts(feed):
        assert (v.fooled, v.steps, v.forwards, v.backwards) == walked(doors[v.position], late=2)
        assert v.margin <= 0 if v.fooled else v.margin >= 0
        assert v.x is not None
        assert bool(Door(2)(v.x[None]).argmax(1) == 1) == v.fooled


def test_a_claim_refused_at_the_last_step_leaves_the_last_point_to_be_judged():
    """FGSM on a sample that the search's own model misreads from the start: the far end of the step still counts."""
    hunt, feed = hunt_for([0], 1, steps=1, late=1)
    (verdict,) = hunt.verdicts(feed)
    assert (verdict.fooled, verdict.forwards, verdict.backwards) == (True, 3, 1)


def test_a_refused_point_is_kept_if_nothing_better_comes():
    hunt, feed = hunt_for([5], 1, late=20, keep=True)
    (verdict,) = hunt.verdicts(feed)
    assert not verdict.fooled and verdict.margin == -verdict.value > 0  # the judge's, not the search model's
    assert verdict.value == pytest.approx(float(Door(20)(verdict.x[None])[0, 1]))
    assert float(verdict.x[0, 0, 0]) == 10 * GRID  # the last point is the best one


@pytest.mark.parametrize("slots", [1, 4, 50])
@pytest.mark.parametrize("done", [0, 1, 7, 20, 10_000])
def test_resumed_searches_are_not_repeated(slots, done):
    random = torch.Generator().manual_seed(3)
    doors = torch.randint(0, 14, (12, 3), generator=random).tolist()
    doors = [[door if door < 11 else NEVER for door in ways] for ways in doors]
    hunt, feed = hunt_for(doors, slots)
    whole = list(hunt.events(feed))
    earlier, later = whole[:done], whole[done:]
    finished = {e.position for e in earlier if isinstance(e, Verdict)}
    # What a store keeps: the searches that ended of samples without a verdict; samples with one are not asked for again.
    left = [p for p in range(len(doors)) if p not in finished]
    place = {p: i for i, p in enumerate(left)}
    kept = [dataclasses.replace(e, position=place[e.position], x=None) for e in earlier if e.position in place]
    again, feed = hunt_for([doors[p] for p in left], slots) if left else (None, None)
    events = list(again.events(feed, before=kept)) if again else []
    assert not {(e.position, e.search) for e in kept} & {
        (e.position, e.search) for e in events if not isinstance(e, Verdict)
    }
    verdicts = {left[e.position]: e for e in events if isinstance(e, Verdict)}
    wanted = {e.position: e for e in later if isinstance(e, Verdict)}
    assert verdicts.keys() == wanted.keys()
    for position, verdict in verdicts.items():
        assert summary([dataclasses.replace(verdict, position=0)]) == summary(
            [dataclasses.replace(wanted[position], position=0)]
        )
    if again and slots == 1:
        spent = sum(e.forwards + e.backwards for e in kept)
        total = sum(v.forwards + v.backwards for v in verdicts.values())
        assert again.model.forwards + again.model.backwards + again.original.forwards == total - spent


def test_a_verdict_that_earlier_searches_already_allow_costs_nothing():
    hunt, feed = hunt_for([[3, NEVER]], 4)
    before = [Ended(0, 0, 0, True, 1, 0.5, -0.5, 0.1, 4, 5, 4)]
    (verdict,) = hunt.verdicts(feed, before=before)
    assert verdict.fooled and verdict.forwards == 5
    assert hunt.model.forwards == hunt.original.forwards == 0 and not feed.asked


@pytest.mark.parametrize("slots", [1, 4])
def test_logits_that_are_not_finite_are_an_error(slots):
    def broken(x):
        logits = Door()(x)
        return torch.where((x[:, :1, 0, 0] > 4 * GRID) & (x[:, :1, 0, 1] == NEVER * GRID), torch.nan, logits)

    targets = torch.tensor([[1], [NEVER], [2]])
    hunt = Hunt(Walk(), Linf(1.0), targets, Meter(broken), Meter(broken), slots, 0)
    with pytest.raises(BadModel, match="position 1") as caught:
        list(hunt.verdicts(Counting(3)))
    assert caught.value.hint
    for value in (torch.nan, torch.inf):
        with pytest.raises(BadModel, match="not finite"):
            PGD(steps=2)(
                lambda x, value=value: x.flatten(1)[:, :2] * value,
                torch.rand(3, 1, 2, 2) + 0.0,
                torch.ones(3).long(),
                threat=Linf(0.1),
            )


def test_only_as_many_samples_as_slots_are_in_memory():
    hunt, feed = hunt_for(torch.randint(0, 14, (200, 2)).tolist(), 8)
    alive = 0
    for verdict in hunt.verdicts(feed):
        alive = max(alive, hunt.model.classifier.largest)
        assert verdict.x is None or verdict.fooled  # nothing is kept that nobody asked for
        if verdict.x is not None:
            assert verdict.x.untyped_storage().nbytes() == verdict.x.numel() * 4  # no view into a whole batch
    assert alive <= 8 and max(map(len, feed.asked)) <= 8


def test_points_are_kept_on_request():
    for keep in (False, True):
        hunt, feed = hunt_for([[2, 2], [NEVER, NEVER]], 2, keep=keep)
        points = {v.position: v.x for v in hunt.verdicts(feed)}
        assert points[0] is not None and (points[1] is not None) == keep


def test_draws_depend_on_sample_stage_and_search_only():
    seen = {}

    @dataclass(frozen=True)
    class Spy(Walk):
        def begin(self, model, rows):
            for key, target in zip(rows.key.tolist(), rows.target.tolist()):
                seen.setdefault(key, []).append(target)
            return super().begin(model, rows)

    targets = torch.arange(6).view(3, 2) + NEVER
    for slots in (1, 2, 6):
        hunt = Hunt(Spy(), Linf(1.0), targets, Meter(Door()), Meter(Door()), slots, 5)
        list(hunt.verdicts(Counting(3)))
    assert sorted(seen.values()) == [[NEVER + i] * 3 for i in range(6)]
    wanted = keys.fold(keys.fold(torch.arange(3), 5)[:, None], torch.arange(2)).flatten().tolist()
    assert sorted(seen) == sorted(wanted)


def test_no_samples_and_default_slots():
    hunt, feed = hunt_for([], 4)
    assert list(hunt.events(feed)) == [] and hunt.steps_made == 0
    assert default_slots(torch.zeros(4, 3, 32, 32)) == 256
    assert default_slots(torch.zeros(4, 3, 224, 224)) == 16
    assert default_slots(torch.zeros(0, 3, 32, 32)) == default_slots(torch.zeros(9, 1, 8, 8)) == 512


def test_a_batch_is_a_feed():
    x, y = torch.rand(5, 1, 2, 2), torch.arange(5)
    images, labels = Batch(x, y, y)(torch.tensor([3, 0]))
    assert torch.equal(images, x[[3, 0]]) and labels.tolist() == [3, 0]
