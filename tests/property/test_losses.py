"""Every loss by hand, its invariances, its gradients, and what it does where floats end."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import losses
from holdfast.foundation.errors import UnknownName
from holdfast.losses import LOSSES

NAMES = sorted(LOSSES)
each_loss = pytest.mark.parametrize("name", NAMES)


def batch(seed: int, classes: int, rows: int = 7, *, targeted: bool = False):
    """Float64 logits, labels, and targets (a wrong class each, or -1)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (rows,), generator=generator)
    other = (y + torch.randint(1, classes, (rows,), generator=generator)) % classes
    return logits, y, other if targeted else torch.full_like(y, -1)


batches = st.builds(
    lambda seed, classes, targeted: batch(seed, classes, targeted=targeted),
    st.integers(0, 2**31),
    st.sampled_from([2, 3, 4, 5, 10, 100]),
    st.booleans(),
)


@pytest.mark.parametrize(
    ("name", "target", "value"),
    [
        ("ce", -1, math.log(sum(math.exp(v) for v in (2, 5, 1, -1))) - 2),
        ("ce", 2, 1 - math.log(sum(math.exp(v) for v in (2, 5, 1, -1)))),
        ("scaled_ce", -1, math.log(sum(math.exp(v * 10 / 6) for v in (2, 5, 1, -1))) - 20 / 6),
        ("scaled_ce", 3, -10 / 6 - math.log(sum(math.exp(v * 10 / 6) for v in (2, 5, 1, -1)))),
        ("margin", -1, 3.0),
        ("margin", 3, -3.0),
        ("dlr", -1, 3 / (5 - 1)),
        ("dlr", 2, -1 / (5 - 1)),
        ("targeted_dlr", 2, -1 / (5 - (1 - 1) / 2)),
        ("targeted_dlr", -1, 3 / 5),
        ("probability_margin", -1, (math.exp(5) - math.exp(2)) / sum(math.exp(v) for v in (2, 5, 1, -1))),
        ("probability_margin", 2, (math.exp(1) - math.exp(2)) / sum(math.exp(v) for v in (2, 5, 1, -1))),
    ],
)
def test_values_by_hand(name, target, value):
    logits = torch.tensor([[2.0, 5.0, 1.0, -1.0]], dtype=torch.float64)
    found = losses.named(name)(logits, torch.tensor([0]), torch.tensor([target]))
    assert found.shape == (1,) and float(found) == pytest.approx(value, rel=1e-9)


@given(batches)
@settings(max_examples=60, deadline=None)
def test_ce_is_torch_s(given_batch):
    logits, y, target = given_batch
    wanted = (
        -F.cross_entropy(logits, target, reduction="none")
        if target[0] >= 0
        else F.cross_entropy(logits, y, reduction="none")
    )
    torch.testing.assert_close(losses.ce(logits, y, target), wanted)


@given(batches, st.floats(-50, 50), st.floats(0.1, 1000))
@settings(max_examples=100, deadline=None)
def test_what_does_not_change_under_shift_and_scale(given_batch, shift, scale):
    logits, y, target = given_batch
    for name in NAMES:
        loss = losses.named(name)
        torch.testing.assert_close(loss(logits + shift, y, target), loss(logits, y, target), rtol=1e-7, atol=1e-7)
    invariant = ["scaled_ce"] + (["dlr", "targeted_dlr"] if logits.shape[1] > 2 else [])
    for name in invariant:
        loss = losses.named(name)
        torch.testing.assert_close(loss(logits * scale, y, target), loss(logits, y, target), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(losses.margin(logits * scale, y, target), scale * losses.margin(logits, y, target))


@given(batches)
@settings(max_examples=60, deadline=None)
def test_without_a_target_the_sign_of_margins_is_misclassification(given_batch):
    logits, y, _ = given_batch
    none = torch.full_like(y, -1)
    wrong = logits.argmax(1) != y
    for name in ("margin", "dlr", "targeted_dlr", "probability_margin"):
        assert torch.equal(losses.named(name)(logits, y, none) > 0, wrong)
    torch.testing.assert_close(
        losses.margin(logits, y, none), losses.best_other(logits, y) - losses.true_logit(logits, y)
    )


@given(batches)
@settings(max_examples=60, deadline=None)
def test_with_a_target_a_margin_is_positive_where_the_target_beats_the_label(given_batch):
    logits, y, _ = given_batch
    target = (y + 1) % logits.shape[1]
    ahead = logits.gather(1, target[:, None]) > logits.gather(1, y[:, None])
    for name in ("margin", "dlr", "targeted_dlr", "probability_margin"):
        assert torch.equal(losses.named(name)(logits, y, target) > 0, ahead[:, 0])


@given(batches, st.sampled_from(NAMES))
@settings(max_examples=60, deadline=None)
def test_larger_is_better_for_the_attacker(given_batch, name):
    logits, y, target = given_batch
    loss = losses.named(name)
    worse = logits.clone()
    if target[0] >= 0 and name in ("ce", "scaled_ce"):
        worse.scatter_add_(1, target[:, None], torch.ones(len(y), 1, dtype=worse.dtype))
    else:
        worse.scatter_add_(1, y[:, None], -torch.ones(len(y), 1, dtype=worse.dtype))
    if name in ("ce", "margin", "probability_margin"):  # the others rescale: a lower logit can change the scale
        assert (loss(worse, y, target) > loss(logits, y, target)).all()


@given(batches, st.randoms())
@settings(max_examples=40, deadline=None)
def test_one_value_per_row_and_rows_are_independent(given_batch, random):
    logits, y, target = given_batch
    order = torch.tensor(random.sample(range(len(y)), len(y)))
    for name in NAMES:
        loss = losses.named(name)
        value = loss(logits, y, target)
        assert value.shape == y.shape and value.dtype == logits.dtype
        assert torch.equal(loss(logits[order], y[order], target[order]), value[order])
        assert loss(logits[:0], y[:0], target[:0]).shape == (0,)
        torch.testing.assert_close(loss(logits[2:3], y[2:3], target[2:3])[0], value[2])


@each_loss
def test_targets_and_no_targets_mix_in_one_batch(name):
    logits, y, target = batch(1, 6, targeted=True)
    mixed = torch.where(torch.arange(len(y)) % 2 == 0, target, -1)
    loss = losses.named(name)
    both = torch.where(mixed >= 0, loss(logits, y, target), loss(logits, y, torch.full_like(y, -1)))
    assert torch.equal(loss(logits, y, mixed), both)


@each_loss
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_gradients(name, targeted, classes):
    """Scaled cross-entropy holds its scale constant, so its gradient is that of a plain one at that scale."""
    logits, y, target = batch(11, classes, targeted=targeted)
    loss = losses.named(name)
    x = logits.clone().requires_grad_()
    if name != "scaled_ce":
        assert torch.autograd.gradcheck(lambda z: loss(z, y, target), (x,))
        return
    spread = logits.amax(1) - logits.amin(1)
    (grad,) = torch.autograd.grad(loss(x, y, target).sum(), x)
    (plain,) = torch.autograd.grad(losses.ce(x * (10 / spread)[:, None], y, target).sum(), x)
    torch.testing.assert_close(grad, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_loss
def test_no_nan_with_extreme_logits(name, dtype):
    huge, tiny = 1e30, 1e-30
    rows = [
        [huge, -huge, 0, 1, 2],
        [-huge, huge, 0, 1, 2],
        [huge, huge, huge, huge, huge],
        [-huge, -huge, -huge, -huge, -huge],
        [0, 0, 0, 0, 0],
        [tiny, -tiny, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1e4, -1e4, 1e4, 3, 3],
        [huge, tiny, tiny, tiny, tiny],
    ]
    for columns in (2, 3, 5):
        for label in range(columns):
            for target in (-1, (label + 1) % columns):
                logits = torch.tensor(rows, dtype=dtype)[:, :columns].requires_grad_()
                y = torch.full((len(rows),), label)
                value = losses.named(name)(logits, y, torch.full_like(y, target))
                assert not value.isnan().any()
                (grad,) = torch.autograd.grad(value.sum(), logits)
                assert not grad.isnan().any()


def test_scaled_ce_survives_logits_that_stop_plain_ce():
    """A confident float32 net: plain cross-entropy has no gradient left, the scaled one has the same at every scale."""
    logits = torch.tensor([[4.0, 1.0, -2.0, 0.5]])
    y, none = torch.tensor([0]), torch.tensor([-1])

    def grad(loss, scale):
        z = logits.clone().requires_grad_()
        return torch.autograd.grad(loss(scale * z, y, none).sum(), z)[0]

    assert grad(losses.ce, 1000).abs().max() == 0
    torch.testing.assert_close(grad(losses.scaled_ce, 1000), grad(losses.scaled_ce, 1))
    assert grad(losses.scaled_ce, 1000).abs().max() > 1e-4
    for name in ("dlr", "targeted_dlr"):
        torch.testing.assert_close(grad(losses.named(name), 1000), grad(losses.named(name), 1), rtol=1e-4, atol=1e-6)


def test_few_classes_have_the_nearest_formula():
    logits, y, target = batch(3, 2, targeted=True)
    assert torch.equal(losses.dlr(logits, y, target), losses.margin(logits, y, target))
    assert torch.equal(losses.targeted_dlr(logits, y, target), losses.margin(logits, y, target))
    logits, y, target = batch(3, 3, targeted=True)
    assert torch.equal(losses.targeted_dlr(logits, y, target), losses.dlr(logits, y, target))


@given(batches)
@settings(max_examples=60, deadline=None)
def test_kl_is_torch_s(given_batch):
    logits = given_batch[0]
    reference = logits.flip(0)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=reference), torch.distributions.Categorical(logits=logits)
    )
    torch.testing.assert_close(losses.kl(logits, reference), wanted)
    assert (losses.kl(logits, reference) >= -1e-12).all()
    torch.testing.assert_close(losses.kl(logits, logits + 3), torch.zeros(len(logits), dtype=logits.dtype))


def test_kl_gradients_and_extremes():
    logits, reference = batch(4, 5)[0].requires_grad_(), batch(5, 5)[0].requires_grad_()
    assert torch.autograd.gradcheck(losses.kl, (logits, reference))
    z = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], requires_grad=True)
    r = torch.tensor([[-1e4, 0.0, 1e4], [1e4, 0.0, -1e4]])
    value = losses.kl(z, r)
    assert torch.isfinite(value).all() and value[0].item() == pytest.approx(2e4)
    assert torch.isfinite(torch.autograd.grad(value.sum(), z)[0]).all()


def test_named():
    assert losses.named("ce") is losses.ce
    with pytest.raises(UnknownName) as caught:
        losses.named("dlrr")
    assert "dlr" in caught.value.hint
