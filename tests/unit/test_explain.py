"""Questions, their answers, what holds them against one another, and what stands on the disk."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from ranks_fixture import Thread, at_once
from torch import nn

from holdfast.data.arrays import from_pair
from holdfast.data.source import Source, subset
from holdfast.experiments.outcome import Column, Estimate
from holdfast.explain import store
from holdfast.explain.case import Case, Net, apart
from holdfast.explain.compare import difference, larger, median, none_for_nan, number, sign
from holdfast.explain.configure import configured
from holdfast.explain.contradictions import contradictions, of_distances, of_rights
from holdfast.explain.controls import untrained
from holdfast.explain.found import Distance, Figure, Found, Right, Table
from holdfast.explain.probe import Effort, Probe, Step
from holdfast.explain.questions.restarts import Restarts
from holdfast.explain.run import Speed, ask, explained, planned, run
from holdfast.foundation import registry, units
from holdfast.foundation.errors import BadData, BadValue, PlanMismatch, UnknownName
from holdfast.foundation.stats import Interval
from holdfast.models.load import load
from holdfast.threats.l0 import L0
from holdfast.threats.l2 import L2
from holdfast.threats.linf import Linf

SHAPE = (1, 4, 4)


class Linear(nn.Module):
    """Class 1 where the mean of an image is above a half."""

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        height = self.scale * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-height, height], 1)


def source(n: int = 12, seed: int = 0, name: str = "grey") -> Source:
    """Even images, half of them dark, at distances of 0.05 to 0.3 from the boundary in Linf."""
    labels = np.arange(n) % 2
    away = np.linspace(0.05, 0.3, n, dtype=np.float32)
    grey = 0.5 + np.where(labels == 1, away, -away) + 1e-4 * seed
    return from_pair(np.broadcast_to(grey[:, None, None, None], (n, *SHAPE)).copy(), labels, name=name)


def case(**changes) -> Case:
    nets = (Net("model", load(Linear(), shape=SHAPE)), Net("steep", load(Linear(80.0), shape=SHAPE), "twin"))
    return replace(Case(nets, source(), Linf(0.2)), **changes)


@dataclass(frozen=True, kw_only=True)
class Counting(Probe):
    """How often it was asked, and whatever it is told to find."""

    question: ClassVar[str] = "Is <b>this</b> escaped?"
    least: ClassVar[int] = 3

    images: int = 8
    each: int = 10

    def effort(self, case: Case, n: int) -> Effort:
        return Effort(n * self.each, 0)

    def ask(self, case: Case, step: Step) -> Found:
        asked.append(case.n)
        ids = tuple(case.source.ids.tolist())
        return Found(
            (
                Table(
                    "<i>all</i>", (Column("net"), Column("median")), (("model", Estimate(1.0, 2, -math.inf, math.nan)),)
                ),
            ),
            ("1 < 2.",),
            distances=(Distance("model", "linf", "attack", "hand", ids, tuple(0.01 * one for one in ids)),),
            of_images={"model": {"depth": tuple(None for _ in ids)}},
            arrays={"values": np.arange(3.0)},
        )

    def draw(self, found: Found) -> tuple[Figure, ...]:
        return ()


asked: list[int] = []


@pytest.fixture
def counting(monkeypatch):
    asked.clear()
    real = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Counting if name == "counting" else real(kind, name))
    return {"counting": Counting()}


def test_a_budget_decides_how_many_images_are_taken():
    probes, speed = {"a": Counting(images=8), "b": Counting(images=4, each=20)}, Speed(1.0, 2.0)
    assert [each.n for each in planned(case(), probes, speed)] == [8, 4]
    within = planned(case(), probes, speed, budget=120)
    assert sum(each.effort.forwards for each in within) <= 120 and [each.n for each in within] == [6, 3]
    assert [each.n for each in planned(case(), probes, speed, budget=1)] == [3, 3]  # never fewer than are needed
    assert [each.n for each in planned(case(), {"a": Counting(images=99)}, speed)] == [12]
    with pytest.raises(BadValue, match="needs at least 3 images, and there are 2"):
        planned(case(source=subset(source(), 2, 0)), probes, speed)


def test_answers_are_kept_and_asked_for_once(tmp_path, counting):
    questions = planned(case(), counting, Speed(1.0, 1.0))
    first = run(case(), questions, tmp_path, command="")
    again = run(case(), questions, tmp_path, command="")
    assert asked == [8] and first.answers["counting"].sentences == again.answers["counting"].sentences
    (cell,) = again.answers["counting"].tables[0].rows[0][1:]
    assert isinstance(cell, Estimate) and cell.low == -math.inf and math.isnan(cell.high)
    np.testing.assert_array_equal(again.answers["counting"].arrays["values"], [0, 1, 2])
    run(case(), planned(case(), {"counting": Counting(each=11)}, Speed(1.0, 1.0)), tmp_path, command="")
    assert asked == [8, 8]  # with other settings it is another question
    with pytest.raises(PlanMismatch, match="another eps"):
        run(case(threat=Linf(0.1)), questions, tmp_path, command="")
    with pytest.raises(PlanMismatch, match="another nets"):
        run(case(nets=case().nets[:1]), questions, tmp_path, command="")


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_questions(world: int, tmp_path: Path, counting, monkeypatch) -> None:
    """Each is asked once, the costliest first; a process that fails leaves what is answered; another net is refused."""
    known = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: known(kind, "counting" if name[0] == "q" else name))
    probes = {f"q{number}": Counting(images=3 + number, each=1 + number) for number in range(7)}
    questions = planned(case(), probes, Speed(1.0, 1.0))
    whole = run(case(), questions, tmp_path / "whole", command="")
    assert asked == [3, 4, 5, 6, 7, 8, 9]
    asked.clear()
    meet = threading.Barrier(world)

    class Ill(Counting):
        def ask(self, case: Case, step: Step) -> Found:
            if self.images > 9 - world:
                meet.wait(60)  # as many as there are processes are asked at once
            if self.images < 9:
                raise KeyError("it dies")
            return super().ask(case, step)

    def answered(ranks: Thread, kind: type[Counting] = Counting, nets: tuple[Net, ...] = case().nets) -> list[str]:
        here = [replace(each, probe=kind(images=each.probe.images, each=each.probe.each)) for each in questions]
        ask(case(nets=nets), here, tmp_path / "shared", command="", ranks=ranks)
        return sorted(path.parent.name for path in (tmp_path / "shared").glob("*/answer.json"))

    died = at_once(world, lambda ranks: answered(ranks, Ill))
    assert all(isinstance(each, KeyError) for each in died) and asked == ([] if world == 1 else [9])
    found = at_once(world, answered)
    assert found == [sorted(probes)] * world and sorted(asked) == [3, 4, 5, 6, 7, 8, 9]
    shared = explained(case(), tmp_path / "shared")
    assert shared.cases == whole.cases and {*shared.answers} == {*whole.answers}
    names = ({str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in tmp_path.iterdir())
    assert next(names) == next(names)
    if world > 1:
        other = at_once(world, lambda ranks: answered(ranks, nets=case().nets if ranks.rank != 1 else case().nets[:1]))
        assert isinstance(other[1], PlanMismatch) and "seen by process 1" in str(other[1])


def found_labels(ids: list[int]) -> np.ndarray:
    return source().take(np.array(ids)).labels


def test_case_files_begin_with_the_most_fragile_image(tmp_path, counting):
    found = run(
        case(known=source(5, seed=1, name="known")), planned(case(), counting, Speed(1.0, 1.0)), tmp_path, command=""
    )
    files = [json.loads(line) for line in (tmp_path / store.CASES).read_text().splitlines()]
    assert files == json.loads(json.dumps(found.cases)) and len(files) == 8
    ids = sorted(each["id"] for each in files)
    assert [each["id"] for each in files] == ids  # the probe says that a larger id is further away
    held = files[1]["nets"]["model"]
    assert held["nearest"]["linf"] == {"value": pytest.approx(0.01 * ids[1]), "by": "hand"}
    assert held["bracket"]["linf"] == [0.0, pytest.approx(0.01 * ids[1])] and held["counting"] == {"depth": None}
    nearest = files[0]["known"][0]
    there = case().batch(case().nets[0])
    near = source(5, seed=1).take([nearest["id"]]).images[0]
    assert nearest["l2"] == pytest.approx(
        float((there.x[there.ids == ids[0]][0] - torch.from_numpy(near)).norm()), rel=1e-5
    )
    drawn = store.portrayed(tmp_path)
    assert drawn["ids"].tolist() == ids and drawn["model/classes"].shape == (8, 17, 17)
    assert (drawn["model/classes"][:, 8, 8] == found_labels(ids)).all()  # in the middle stands the image
    away = dict(zip(source().ids.tolist(), np.linspace(0.05, 0.3, 12)))
    flips = [away[one] < 0.2 for one in ids]
    assert (drawn["model/becomes"] != found_labels(ids)).tolist() == flips  # the search reaches what lies within eps


def test_the_page_escapes_and_turns_red(tmp_path, counting):
    from holdfast.report.explained import write_explanation

    run(case(), planned(case(), counting, Speed(1.0, 1.0)), tmp_path, command="<script>")
    text = write_explanation(tmp_path).read_text()
    assert "Is &lt;b&gt;this&lt;/b&gt; escaped?" in text and "<script>" not in text and "1 &lt; 2." in text
    assert 'class="why red"' not in text and "Contradictions" not in text
    path = tmp_path / "counting" / store.ANSWER
    answer = json.loads(path.read_text())
    answer["found"]["breaches"] = ["model: <b>impossible</b>"]
    path.write_text(json.dumps(answer))
    text = write_explanation(tmp_path).read_text()
    assert 'class="why red"' in text and "model: &lt;b&gt;impossible&lt;/b&gt;" in text
    assert text.index("impossible") < text.index("escaped?")


IDS = tuple(range(10))


def distance(kind, values, net="model", by="x") -> Distance:
    return Distance(net, "l2", kind, by, IDS, tuple(values))


def test_no_attack_succeeds_inside_a_certificate():
    sound = [distance("certified", [0.1] * 10), distance("attack", [0.1] * 9 + [None])]
    assert not list(of_distances(sound))
    (said,) = of_distances([distance("certified", [0.1] * 10), distance("attack", [0.2] * 9 + [0.05])])
    assert "image 9 of 10 misclassified inside the L2 radius that x certified" in said
    assert not list(of_distances([distance("certified", [9.0] * 10, net="twin"), distance("attack", [0.2] * 10)]))


def test_a_random_direction_is_not_nearer_than_the_attacks():
    attack = distance("attack", [0.2] * 10)
    assert not list(of_distances([attack, distance("random", [0.3] * 9 + [0.1])]))  # one may be missed by chance
    (said,) = of_distances([attack, distance("random", [0.1] * 3 + [None] * 7)])
    assert "3 images (0, 1, 2) of 3" in said and "masked" in said
    nearer = distance("attack", [0.05] * 10, by="better")
    assert not list(of_distances([attack, nearer, distance("random", [0.1] * 10)]))  # the nearest attack counts


def right(wrong: int, *, how="white box", by="PGD", eps=0.1, strength=1) -> Right:
    return Right("model", "linf", how, by, eps, IDS, tuple(one >= wrong for one in IDS), strength)


def test_robust_accuracy_does_not_rise():
    assert not list(of_rights([right(2), right(3, eps=0.2), right(3, strength=5)]))
    (said,) = of_rights([right(2), right(1, eps=0.2)])
    assert "image 1 of 10 are wrong after PGD (white box, eps 0.1) and right after PGD (white box, eps 0.2)" in said
    (said,) = of_rights([right(2), right(1, strength=5)])
    assert "strength 5" in said
    assert not list(of_rights([right(2, eps=0.2), right(1, strength=5)]))  # neither contains the other


@pytest.mark.parametrize("how", ["transfer", "noise"])
def test_white_box_attacks_break_what_others_break(how):
    assert not list(of_rights([right(4), right(5, how=how, by="other")]))  # one may be missed by chance
    (said,) = of_rights([right(2), right(5, how=how, by="other")])
    assert f"other ({how}, eps 0.1) breaks 3 images (2, 3, 4) of 10" in said and "masked" in said
    assert not list(
        of_rights([right(2), right(5, by="APGD"), right(5, how=how, by="other")])
    )  # the best of them counts
    assert not list(of_rights([right(2, eps=0.05), right(5, how=how)]))  # at a smaller radius it need not


def test_all_answers_are_held_against_one_another():
    first = Found((), (), distances=(distance("certified", [1.0] * 10),), breaches=("the net is constant",))
    second = Found((), (), distances=(distance("attack", [0.5] * 10),))
    assert len(contradictions([first, second])) == 2 and contradictions([first]) == ("the net is constant",)


def test_the_control_has_fresh_weights_and_the_model_its_own():
    model = load("net:small_cnn", shape=(1, 8, 8))
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    state = torch.get_rng_state()
    control, other = untrained(model), untrained(model, seed=1)
    assert control is not None and other is not None and control.role == "untrained"
    weights = [next(iter(net.model.module.parameters())) for net in (control, other)]
    assert not torch.equal(*weights) and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert untrained(model).model.fingerprint == control.model.fingerprint
    assert untrained(case().nets[0].model) is None  # a weight that its layer cannot draw anew


def test_known_images_are_not_under_test():
    apart(source(5, seed=1), source())
    with pytest.raises(BadData, match=r"12 images under test are among the known ones"):
        apart(source(name="same"), source())


def test_other_threats_are_refused_before_any_work():
    with pytest.raises(BadValue, match="threat is l0"):
        case(threat=L0(3))
    with pytest.raises(BadValue, match="eps is 0"):
        case(threat=Linf(0.0))


def test_settings_are_checked_by_name():
    assert configured(["restarts"], ["restarts.num=7"])["restarts"] == Restarts(num=7)
    with pytest.raises(UnknownName, match="restart"):
        configured(["restart"])
    for pair in ("restarts.nums=7", "gradients.num=7"):
        with pytest.raises(UnknownName):
            configured(["restarts"], [pair])
    with pytest.raises(BadValue, match="names no probe"):
        configured(["restarts"], ["num=7"])
    with pytest.raises(BadValue, match="num"):
        configured(["restarts"], ["restarts.num=0"])


def test_times():
    assert [units.seconds(each) for each in ("60s", "5min", "1h", "2", 3)] == [60, 300, 3600, 2, 3]
    for bad in ("soon", "-1s", "0", "infs", "nan"):
        with pytest.raises(BadValue, match="budget"):
            units.seconds(bad)


def test_numbers_of_nets():
    values = np.array([1.0, 2.0, 3.0, np.nan])
    assert median(values).n == 3 and median(values).value == 2
    assert difference([1.0, 2.0, 4.0], [0.0, 1.0, 2.0]).value == 1
    assert larger([1, 2], [0, 1]) == 0.875 and larger([0], [1]) == 0 and math.isnan(larger([], [1]))
    assert [sign(Interval(0, 1, *ends)) for ends in ((1, 2), (-2, -1), (-1, 1))] == [1, -1, 0]
    assert number(0.0) == "0" and number(1234.5) == "1.23e+03" and number(1e-7) == "1e-07"
    assert none_for_nan([1, np.nan, np.inf]) == (1.0, None, None)


def test_restarts_of_a_linear_model_agree_and_have_its_robust_accuracy():
    found = Restarts(num=5, steps=10, images=12).ask(case(), lambda *_: None)
    (held,) = (each for each in found.rights if each.net == "model" and each.strength == 5)
    away = np.linspace(0.05, 0.3, 12)
    assert list(held.right) == list(away > 0.2)
    loss = found.arrays["model/loss"]
    expected = np.log1p(np.exp(-2 * 20.0 * (away - 0.2)))
    np.testing.assert_allclose(loss, np.broadcast_to(expected[:, None], loss.shape), rtol=1e-4)
    np.testing.assert_allclose(found.arrays["model/middle"], 1, rtol=1e-4)
    assert not contradictions([found])
    assert "on 0 of them some searches succeed" in found.sentences[0]
    for figure in Restarts().draw(found):
        assert figure.chart.to_dict()["config"]


def test_restarts_do_not_depend_on_the_other_images():
    asked_for = Restarts(num=3, steps=4)
    whole = asked_for.ask(case(threat=L2(0.5)), lambda *_: None)
    part = subset(source(), 5, 0)
    some = asked_for.ask(case(threat=L2(0.5), source=part), lambda *_: None)
    places = np.isin(whole.arrays["model/ids"], part.ids)
    np.testing.assert_allclose(whole.arrays["model/loss"][places], some.arrays["model/loss"], rtol=1e-6)


def test_a_page_is_drawn_from_the_files_alone(tmp_path):
    from holdfast.report.explained import write_explanation

    questions = planned(case(), {"restarts": Restarts(num=2, steps=2, images=3)}, Speed(1.0, 1.0))
    run(case(), questions, tmp_path, command="x")
    first = write_explanation(tmp_path).read_bytes()
    assert first == write_explanation(Path(tmp_path)).read_bytes() and b"<svg" in first and b"Case files" in first


def test_questions_from_python():
    import holdfast

    images, labels = case().batch(case().nets[0])[:2]
    found = holdfast.explain(
        Linear(),
        (images, labels),
        threat=Linf(0.2),
        probes=[Restarts(num=2, steps=2, images=4)],
        against={"steep": Linear(80.0)},
    )
    assert [*found.answers] == ["restarts"] and found.folder is None and not found.breaches
    assert [row[0] for row in found.answers["restarts"].tables[0].rows] == [
        "model",
        "steep",
    ]  # no fresh weights: no control
    assert len(found.figures("restarts")) == 2 and "<svg" in found._repr_html_()
    kept = holdfast.explain(
        "net:small_cnn", "digits", threat=Linf(0.1), probes=[Restarts(num=1, steps=1, images=2)], limit=4
    )
    assert [row[0] for row in kept.answers["restarts"].tables[0].rows] == ["model", "untrained"]


def test_a_probe_may_refuse_a_case(monkeypatch):
    monkeypatch.setattr(Counting, "refuses", lambda self, case: "there are no known images: give --train")
    with pytest.raises(BadValue, match="counting cannot be asked: there are no known images"):
        planned(case(), {"counting": Counting()}, Speed(1.0, 1.0))
