"""AugMix's augmentation against Pillow and a plain loop, and the two objectives that train on changed images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from holdfast import keys
from holdfast.audit.corrupted.overlap import FAMILIES, overlap
from holdfast.data.arrays import from_pair
from holdfast.data.load import load
from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue
from holdfast.imaging.augmix import DEPTH, OPERATIONS, TABLES, Draws, augmix, draw, operate
from holdfast.models.load import load as load_model
from holdfast.nets.small_cnn import SmallCNN
from holdfast.objectives.augmix import AugMix, jensen_shannon
from holdfast.objectives.gaussian_noise import GaussianNoise
from holdfast.objectives.objective import Examples
from holdfast.threats.linf import Linf
from holdfast.training.checkpoint import trained
from holdfast.training.loop import fit
from holdfast.training.recipe import Recipe

SIZES = [(1, 28, 28), (3, 32, 32), (3, 33, 47), (3, 96, 80)]


def pictures(channels: int, high: int, wide: int, count: int = 6) -> Tensor:
    """Smooth waves with noise, one of them dark, one of few levels, one flat, one of the whole range: uint8."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.linspace(0, 1, high), torch.linspace(0, 1, wide), indexing="ij")
    waves = torch.stack([torch.sin(6 * (index + 1) * rows + 4 * columns) for index in range(channels)]) * 0.35 + 0.5
    x = (waves + 0.2 * torch.rand(count, channels, high, wide, generator=generator)).clamp(0, 1)
    x[1] = x[1] * 0.3 + 0.1
    x[2] = (x[2] * 4).round() / 5
    x[3, 0] = 0.5
    x[4, :, 0, :2] = torch.tensor([0.0, 1.0])
    return (x * 255).round().to(torch.uint8)


def image(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).numpy())


def by_pillow(levels: Tensor, name: str, strength: float) -> Tensor:
    picture, sign = image(levels), -1 if strength < 0 else 1
    size, level = picture.size, abs(strength)

    def mapped(*matrix: float) -> Image.Image:
        return picture.transform(size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)

    out = {
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
        "posterize": lambda: ImageOps.posterize(picture, 4 - int(level * 4 / 10)),
        "solarize": lambda: ImageOps.solarize(picture, 256 - int(level * 256 / 10)),
        "rotate": lambda: picture.rotate(sign * int(level * 30 / 10), resample=Image.Resampling.BILINEAR),
        "shear_x": lambda: mapped(1, strength * 0.3 / 10, 0, 0, 1, 0),
        "shear_y": lambda: mapped(1, 0, 0, strength * 0.3 / 10, 1, 0),
        "translate_x": lambda: mapped(1, 0, sign * int(level * (size[0] / 3) / 10), 0, 1, 0),
        "translate_y": lambda: mapped(1, 0, 0, 0, 1, sign * int(level * (size[1] / 3) / 10)),
    }[name]()
    return torch.from_numpy(np.array(out)).view(size[1], size[0], len(levels)).permute(2, 0, 1)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_pillows(name: str, shape: tuple[int, int, int]) -> None:
    x, changed = pictures(*shape), 0
    for strength in (0.1, 0.9, 1.7, 2.99, 6.4, 9.99, -0.4, -2.6, -9.7):
        strengths = torch.full((len(x),), strength, dtype=torch.float64)
        found = operate(x, torch.full((len(x),), OPERATIONS.index(name)), strengths)
        wanted = torch.stack([by_pillow(each, name, strength) for each in x])
        difference = (found.int() - wanted.int()).abs()
        assert int(difference.max()) <= (0 if name in TABLES else 1)
        # Single levels differ where a mean is a whole number but for rounding, which Pillow truncates away.
        assert float((difference > 0).double().mean()) < 4e-3
        changed += not torch.equal(found, x)
    assert changed >= 6


def test_a_whole_augmentation_is_the_plain_loops() -> None:
    x = pictures(3, 32, 32, 30).double() / 255
    key = keys.fold(keys.root(3), torch.arange(30))
    for severity, width in ((3.0, 3), (9.0, 2)):
        draws = draw(key, severity=severity, width=width)
        for found, clean, operation, strength, depth, weight, share in zip(
            augmix(x, key, severity=severity, width=width), x, *draws
        ):
            mixture = torch.zeros_like(clean)
            for chain in range(width):
                levels = (clean * 255).round().to(torch.uint8)
                for step in range(int(depth[chain])):
                    levels = by_pillow(levels, OPERATIONS[operation[chain, step]], float(strength[chain, step]))
                mixture += float(weight[chain]) * levels / 255
            wanted = (1 - float(share)) * clean + float(share) * mixture
            # A level more can be a whole step of a later table; it is rare.
            assert float(((found - wanted).abs() > 1.01 / 255).double().mean()) < 5e-3


def test_the_draws_are_those_of_the_paper() -> None:
    draws = draw(keys.fold(keys.root(0), torch.arange(20000)), severity=3.0, width=3)
    operation, depth = draws.operation.flatten(), draws.depth.flatten()
    assert torch.allclose(torch.bincount(operation) / len(operation), torch.tensor(1 / len(OPERATIONS)), atol=3e-3)
    assert torch.allclose(torch.bincount(depth)[1:] / len(depth), torch.tensor(1 / DEPTH), atol=6e-3)
    size = draws.strength.abs()
    assert 0.1 <= float(size.min()) < 0.101 and 2.999 < float(size.max()) < 3.0
    assert abs(float(size.mean()) - 1.55) < 0.01 and abs(float(draws.strength.sign().mean())) < 0.01
    assert torch.allclose(draws.weight.sum(1), torch.ones(20000))
    # Dirichlet(1, 1, 1): mean 1/3, variance 1/18; Beta(1, 1): mean 1/2, variance 1/12.
    assert torch.allclose(draws.weight.mean(0), torch.tensor(1 / 3), atol=5e-3)
    assert torch.allclose(draws.weight.var(0), torch.tensor(1 / 18), atol=2e-3)
    assert abs(float(draws.share.mean()) - 0.5) < 0.01 and abs(float(draws.share.var()) - 1 / 12) < 2e-3
    together = torch.stack([draws.share, *draws.weight[:, :2].unbind(1), size[:, 0, 0].float(), depth[::3].float()])
    assert float((together.corrcoef() - torch.eye(5)).abs().fill_diagonal_(0).flatten()[1:].median()) < 0.02


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_is_the_same_in_any_batch(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    x = pictures(*shape, 9).to(dtype) / 255
    before, state = x.clone(), torch.get_rng_state()
    key = keys.fold(keys.root(0), torch.arange(9))
    whole = augmix(x, key)
    assert whole.shape == x.shape and whole.dtype == dtype
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1
    assert torch.equal(torch.cat([augmix(x[i : i + 1], key[i : i + 1]) for i in range(9)]), whole)
    assert torch.equal(augmix(x[[5, 0, 7]], key[[5, 0, 7]]), whole[[5, 0, 7]])
    assert all(not torch.equal(one, other) for one, other in zip(whole, x))
    assert not torch.equal(augmix(x, key + 1), whole)
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)
    assert augmix(x[:0], key[:0]).shape == (0, *shape)


def test_a_share_of_nothing_leaves_the_image_and_one_chain_of_one_operation_is_it() -> None:
    x = pictures(3, 32, 32)
    plain = Draws(
        operation=torch.full((6, 1, 1), OPERATIONS.index("equalize")),
        strength=torch.ones(6, 1, 1, dtype=torch.float64),
        depth=torch.ones(6, 1, dtype=torch.int64),
        weight=torch.ones(6, 1),
        share=torch.zeros(6),
    )
    key = torch.arange(6)
    assert torch.equal(augmix(x / 255, key, draws=plain), x / 255)
    only = augmix(x / 255, key, draws=plain._replace(share=torch.ones(6)))
    assert torch.equal((only * 255).round().to(torch.uint8), operate(x, plain.operation[:, 0, 0], torch.ones(6)))


class Linear(nn.Module):
    """The smallest net with a gradient."""

    def __init__(self, size: int, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(classes, size, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def examples(count: int = 8) -> Examples:
    key = keys.fold(keys.root(1), torch.arange(count))
    return Examples(pictures(1, 8, 8, count).double() / 255, torch.arange(count) % 4, key)


def test_the_loss_of_augmix_and_its_gradient() -> None:
    batch, net = examples(), Linear(64)
    terms = AugMix(severity=5, width=2, weight=7.0)(net, batch, Linf(0))
    views = [batch.x, *(augmix(batch.x, keys.fold(batch.key, i), severity=5, width=2) for i in (0, 1))]
    weight = net.weight.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(batch.y.tolist()):
        chances = [torch.exp(weight @ view[row].flatten()) for view in views]
        chances = [each / each.sum() for each in chances]
        mixture = sum(chances) / 3
        spread = sum((each * (each / mixture).log()).sum() for each in chances) / 3
        total = total + (-chances[0][label].log() + 7 * spread) / len(batch.y)
    assert torch.allclose(terms.loss, total)
    terms.loss.backward()
    (wanted,) = torch.autograd.grad(total, weight)
    assert torch.allclose(net.weight.grad, wanted)
    assert torch.allclose(terms.parts["clean"], F.cross_entropy(net(batch.x), batch.y))
    assert torch.allclose(terms.parts["clean"] + 7 * terms.parts["divergence"], terms.loss)


def test_the_divergence_of_certain_predictions_is_finite() -> None:
    """Where a probability is 0 in floating point; clamped mixtures have no gradient there."""
    logits = [(1e4 * torch.eye(3)[i : i + 1]).requires_grad_() for i in range(3)]
    spread = jensen_shannon(logits)
    assert torch.allclose(spread, torch.tensor([3.0]).log())
    assert all(bool(torch.isfinite(each).all()) for each in torch.autograd.grad(spread.sum(), logits))
    assert float(jensen_shannon([torch.randn(2, 3)] * 3).abs().max()) < 1e-6


def test_the_loss_of_gaussian_noise_and_its_share() -> None:
    batch, net = examples(400), Linear(64)
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for share, count in ((0.0, 0), (0.5, 200), (1.0, 400)):
        terms = GaussianNoise(sigma=0.05, share=share)(net, batch, Linf(0))
        x = seen[-1]
        changed = (x != batch.x).flatten(1).any(1)
        assert abs(int(changed.sum()) - count) < 40 and (share % 1 or int(changed.sum()) == count)
        inside = ((batch.x > 0.3) & (batch.x < 0.7)) & changed.view(-1, 1, 1, 1)
        if count:
            assert abs(float((x - batch.x)[inside].std()) - 0.05) < 1e-3
        assert float(x.min()) >= 0 and float(x.max()) <= 1
        assert torch.equal(terms.loss, F.cross_entropy(net(x), batch.y))
    everywhere = seen[-1]
    alone = Examples(*(part[3:4] for part in batch[:3]))
    GaussianNoise(sigma=0.05, share=1.0)(net, alone, Linf(0))
    assert torch.equal(seen[-1][0], everywhere[3])


@pytest.mark.parametrize("objective", [AugMix(), GaussianNoise()])
def test_they_learn_20_digits_and_repeat_to_the_bit(objective: AugMix | GaussianNoise) -> None:
    source = load("digits:train")
    images, labels = source.take(source.ids[:20])
    few, weights = from_pair(images, labels), []
    for epochs in (50, 2, 2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = SmallCNN(width=4, hidden=32)
        history = fit(net, few, Recipe(objective, Linf(0), epochs=epochs, batch_size=10, lr=1e-2))
        if epochs == 50:
            with torch.no_grad():
                assert (net(torch.from_numpy(images / np.float32(255))).argmax(1).numpy() == labels).all()
            assert history[-1].loss < 0.5 < history[0].loss
        weights.append([value.clone() for value in net.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*weights[1:]))


@pytest.mark.parametrize(("shift", "declared"), [(0, ("gaussian_noise",)), (1, ("gaussian_noise", "translate"))])
def test_an_audit_of_our_own_weights_knows_what_they_were_trained_on(shift: int, declared, tmp_path: Path) -> None:
    source = load("digits:train", limit=20)
    trained("small_cnn", source, Recipe(GaussianNoise(), Linf(0), epochs=1, shift=shift), tmp_path / "net.safetensors")
    model = load_model("net:small_cnn", weights=tmp_path / "net.safetensors", shape=source.shape)
    found = overlap(model.declared, ["fog", "gaussian_noise", "speckle_noise"])
    assert found.declared == declared and set(found.touched) == {"gaussian_noise", "speckle_noise"}
    assert not found.unknown


def test_every_objective_declares_operations_that_the_audit_knows() -> None:
    declared = {name: registry.load("objective", name).operations for name in registry.names("objective")}
    assert declared["standard"] == () and declared["adversarial"] == ("adversarial",)
    assert declared["augmix"] == OPERATIONS and declared["gaussian_noise"] == ("gaussian_noise",)
    for operations in declared.values():
        assert isinstance(operations, tuple) and set(operations) <= set(FAMILIES)
    assert not any(FAMILIES[operation] for operation in declared["augmix"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AugMix(severity=0), "severity is 0"),
        (lambda: AugMix(severity=11), "severity is 11"),
        (lambda: AugMix(width=0), "width is 0"),
        (lambda: AugMix(weight=-1.0), "weight is -1"),
        (lambda: GaussianNoise(sigma=-0.1), "sigma is -0.1"),
        (lambda: GaussianNoise(share=1.5), "share is 1.5"),
        (lambda: GaussianNoise(sigma=float("nan")), "sigma is nan"),
    ],
)
def test_settings_that_make_no_sense(make, message: str) -> None:
    with pytest.raises(BadValue, match=message):
        make()
