"""Searches in half precision and compiled: what they may change, what they cost, and what they never decide."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast
from holdfast.ascent import acceleration, compiled
from holdfast.ascent.acceleration import Acceleration, Searched, accelerated
from holdfast.ascent.compiled import Compiled
from holdfast.ascent.frozen import float32_kept, rng_kept
from holdfast.ascent.meter import Meter
from holdfast.ascent.rounded import Lowered, Rounded, lowered
from holdfast.attacks.ddn import DDN
from holdfast.attacks.pgd import PGD
from holdfast.attacks.square import Square
from holdfast.foundation.errors import BadModel, BadValue, UnknownName
from holdfast.models import device
from holdfast.records.store import read_info

IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def net(seed: int = 0) -> nn.Module:
    with rng_kept():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5)).eval().requires_grad_(False)


NET = net()
LABELS = NET(IMAGES).argmax(1)
THREAT = holdfast.Linf(0.1)


def gradient(classifier, x, weights):
    at = x.clone().requires_grad_()
    return torch.autograd.grad((classifier(at) * weights).sum(), at)[0]


def test_a_gradient_too_small_for_the_type_comes_through() -> None:
    half = Rounded(net().half(), torch.float16)
    wide = net().double()
    sizes = torch.tensor([1.0, 1e-9, 1e-20, 1e6])[:, None]
    weights = sizes * torch.cos(torch.arange(5.0))
    wanted = gradient(wide, IMAGES[:4].double(), weights.double()).flatten(1)
    found = gradient(half, IMAGES[:4], weights)
    assert found.dtype == torch.float32
    assert bool(((found.double().flatten(1) - wanted).norm(dim=1) < 0.01 * wanted.norm(dim=1)).all())
    plain = gradient(lambda x: half.module(x.half()).float(), IMAGES[:4], weights)
    assert not bool(plain[1:3].any())  # what it would be without the scaling


def test_the_scaling_alone_rounds_nothing() -> None:
    low = Rounded(net().bfloat16(), torch.bfloat16)
    weights = torch.cos(torch.arange(5.0)).expand(40, 5)
    plain = gradient(lambda x: low.module(x.bfloat16()).float(), IMAGES, weights)
    assert torch.equal(gradient(low, IMAGES, weights), plain) and bool(plain.any())


class Large(nn.Module):
    """Overflows in float16, for the first image only."""

    def forward(self, x):
        first = torch.where(torch.arange(len(x)) == 0, 2.0**20, 1.0)[:, None].to(x.dtype)
        return x.flatten(1)[:, :3] * first


def test_what_overflows_is_no_answer_and_no_gradient() -> None:
    low = Rounded(Large(), torch.float16)
    logits, grad = low(IMAGES[:3]), gradient(low, IMAGES[:3], torch.ones(3, 3))
    assert bool(logits.isfinite().all()) and float(logits[0].max()) == torch.finfo(torch.float16).max
    assert bool(grad.isfinite().all()) and not bool(grad[0].any()) and bool(grad[1:].any())


class Ripples(nn.Module):
    """Ripples that hardly move a logit, and make its gradient; their phase is lost in half precision."""

    def forward(self, x):
        flat = x.flatten(1)
        return flat[:, :5] + 1e-3 * torch.sin(3e3 * flat)[:, 5:10]


@pytest.mark.parametrize("module, why", [(Ripples(), "changed the input gradients"), (nn.Flatten(), "")])
def test_gradients_are_compared_too(module: nn.Module, why: str) -> None:
    found = lowered(module, IMAGES, torch.bfloat16)
    assert (found.module is None) == bool(why) and why in found.reason


def test_a_copy_that_lies_decides_nothing(monkeypatch, tmp_path: Path) -> None:
    class Liar(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return -self.module(x)

    lying = lambda module, x, dtype: Lowered(Rounded(Liar(module).to(dtype), dtype), "")
    monkeypatch.setattr(acceleration, "lowered", lying)
    plan = holdfast.Plan("two", "Two.", (holdfast.Stage("pgd", PGD(steps=4)), holdfast.Stage("again", PGD(steps=8))))
    found = holdfast.audit(NET, (IMAGES, LABELS), threat=THREAT, plan=plan, precision="bfloat16", out=tmp_path, seed=3)
    assert found.summary.measured and found.summary.measured.precision == "bfloat16"
    right = NET(found.points).argmax(1) == LABELS
    assert torch.equal(found.robust, right) and int(right.sum()) > 0
    made = PGD(steps=4)(NET, IMAGES, LABELS, threat=THREAT, precision="bfloat16")
    assert torch.equal(made.fooled, NET(made.x).argmax(1) != LABELS) and int((~made.fooled).sum()) > 0


def test_half_precision_is_said_and_kept_out_where_it_changes_the_answers(tmp_path: Path) -> None:
    plan = holdfast.Plan("one", "One.", (holdfast.Stage("pgd", PGD(steps=4)),))
    found = {
        precision: holdfast.audit(
            NET, (IMAGES, LABELS), threat=THREAT, plan=plan, precision=precision, out=tmp_path / precision
        )
        for precision in ("full", "bfloat16")
    }
    assert [each.summary.measured.precision for each in found.values()] == ["full", "bfloat16"]
    assert read_info(tmp_path / "bfloat16").versions["precision"] == "bfloat16"
    assert read_info(tmp_path / "bfloat16").model.dtype == found["bfloat16"].summary.measured.dtype == "float32"
    assert not [note for each in found.values() for note in each.summary.notes if note.check == "not accelerated"]
    labels = Ripples()(IMAGES).argmax(1)
    kept = holdfast.audit(Ripples(), (IMAGES, labels), threat=THREAT, plan=plan, precision="bfloat16")
    assert kept.summary.measured and kept.summary.measured.precision == "full"
    (note,) = [note for note in kept.summary.notes if note.check == "not accelerated"]
    assert "cosine" in note.saw and note.level == "note"
    with pytest.raises(BadModel, match="cosine"):
        PGD(steps=4)(Ripples(), IMAGES, labels, threat=THREAT, precision="bfloat16")


def test_a_run_may_go_on_in_another_precision_and_says_so(tmp_path: Path, monkeypatch) -> None:
    plan = holdfast.Plan("one", "One.", (holdfast.Stage("pgd", PGD(steps=4)),))
    ask = {"threat": THREAT, "plan": plan, "out": tmp_path}

    def stop(self, *more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("holdfast.audit.session.Session.stage", stop)
        with pytest.raises(KeyboardInterrupt):
            holdfast.audit(NET, (IMAGES, LABELS), **ask)
    found = holdfast.audit(NET, (IMAGES, LABELS), **ask, precision="bfloat16")
    (note,) = [note for note in found.summary.notes if note.check == "resumed otherwise"]
    assert note.saw == "begun with precision full, ended with precision bfloat16"
    assert torch.equal(found.robust, NET(found.points).argmax(1) == LABELS)


def test_who_gets_what() -> None:
    plain, quick = (lambda x: x), (lambda x: -x)
    low = Searched(plain, quick, Acceleration("bfloat16", "default"), ())
    own = Searched(plain, quick, Acceleration("full", "default"), ())
    assert [low.classifier(attack, None) for attack in (PGD(), DDN(), Square())] == [quick, plain, plain]
    assert [own.classifier(attack, None) for attack in (PGD(), DDN(), Square())] == [quick, quick, quick]
    assert own.classifier(PGD(), holdfast.Backward(tau=0.3)).classifier is plain


@pytest.mark.parametrize("ask, error, why", [
    (("float16",), BadValue, "CPU"), (("full", "graph"), BadValue, "CUDA"), (("half",), UnknownName, "float16"),
    (("full", "fast"), UnknownName, "default"),
])  # fmt: skip
def test_what_cannot_be_had_is_refused(ask, error, why) -> None:
    with pytest.raises(error, match=why):
        Acceleration(*ask).check(torch.device("cpu"))


class Steps:
    """A stand-in for ``torch.compile`` that keeps the sizes of the batches it is shown."""

    def __init__(self):
        self.sizes: list[int] = []

    def __call__(self, function, **how):
        def call(x):
            self.sizes.append(len(x))
            return function(x)

        return call


def test_every_compiled_batch_has_one_size_and_only_real_rows_count(monkeypatch) -> None:
    seen = Steps()
    monkeypatch.setattr(compiled.torch, "compile", seen)
    made = Compiled(NET, 16, "default")
    meter = Meter(made)
    for count in (16, 12, 9, 8, 3, 40):
        x = IMAGES[:count].clone().requires_grad_()
        logits = meter(x)
        assert torch.equal(logits, torch.cat([NET(part) for part in x.split(16)]))
        (grad,) = torch.autograd.grad(logits[:, 0].sum(), x)
        assert torch.equal(grad, gradient(NET, IMAGES[:count], torch.eye(5)[0]))
    assert set(seen.sizes) == {16} and len(seen.sizes) == 5
    assert meter.forwards == meter.backwards == made.rows + made.plain == 88
    assert (made.rows, made.padding, made.plain) == (16 + 12 + 9 + 32, 4 + 7, 8 + 3 + 8)


def test_what_does_not_compile_is_evaluated_as_it_is(monkeypatch) -> None:
    def broken(function, **how):
        def call(x):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(compiled.torch, "compile", broken)
    found = accelerated(NET, IMAGES, Acceleration("bfloat16", "default"), size=8)
    assert found.given == Acceleration("bfloat16", "none") and "RuntimeError" in found.reasons[0]
    assert isinstance(found.quick, Rounded) and found.plain is NET
    monkeypatch.setattr(compiled.torch, "compile", lambda function, **how: lambda x: 2 * function(x) + x.sum())
    assert "changed the answers" in accelerated(NET, IMAGES, Acceleration(compile="default"), size=8).reasons[0]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile calls g++ on the CPU")
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of itself
@pytest.mark.parametrize("precision, tolerance", [("full", 1e-5), ("bfloat16", 1e-2)])
def test_compiled_searches_end_like_plain_ones(precision: str, tolerance: float) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    found = accelerated(NET, IMAGES, Acceleration(precision, "default"), size=16)
    assert not found.reasons and found.given.compile == "default"
    eager = found.plain if precision == "full" else found.quick.classifier  # type: ignore[union-attr]
    for count in (16, 13, 9, 4, 40):
        with torch.no_grad():
            torch.testing.assert_close(found.quick(IMAGES[:count]), eager(IMAGES[:count]), rtol=1e-5, atol=1e-5)
        one, other = (gradient(classifier, IMAGES[:count], torch.eye(5)[0]) for classifier in (found.quick, eager))
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]  # with a gradient and without
    plan = holdfast.Plan("one", "One.", (holdfast.Stage("pgd", PGD(steps=4)),))
    ask = {"threat": THREAT, "plan": plan, "slots": 16, "precision": precision}
    one, other = (holdfast.audit(NET, (IMAGES, LABELS), **ask, compile=how) for how in ("none", "default"))
    assert torch.equal(one.robust, other.robust) and (one.forwards, one.backwards) == (other.forwards, other.backwards)
    assert any(note.check == "compiled" for note in other.summary.notes)


def test_the_device_is_the_first_that_is_there(monkeypatch) -> None:
    monkeypatch.setattr(device, "_cuda", lambda: False)
    monkeypatch.setattr(device, "_mps", lambda: False)
    assert device.placed("auto") == device.placed("cpu") == torch.device("cpu")
    assert device.name_of(torch.device("cpu"))
    asked: list[str] = []
    monkeypatch.setattr(device.torch, "empty", lambda size, device: asked.append(str(device)))
    monkeypatch.setattr(device, "_mps", lambda: True)
    assert device.placed("auto").type == "mps"
    monkeypatch.setattr(device, "_cuda", lambda: True)
    monkeypatch.setattr(device.torch.cuda, "current_device", lambda: 1)
    assert device.placed("auto") == torch.device("cuda", 1)
    assert asked == ["mps", "cuda"]


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="there are so many")
def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(BadValue, match=r"cuda:7(.|\n)*give cpu"):
        device.placed("cuda:7")


def test_float32_is_float32_within_and_what_it_was_afterwards() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with pytest.raises(KeyError), float32_kept():
            assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium" and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
