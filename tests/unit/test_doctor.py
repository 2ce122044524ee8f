import pytest
import torch
import torch.nn.functional as F
from torch import nn

from holdfast.ascent.frozen import rng_kept
from holdfast.foundation.errors import BadData, BadModel
from holdfast.models import doctor
from holdfast.models.doctor import examine, raise_errors
from holdfast.models.load import load
from holdfast.models.normalisation import PRESETS
from holdfast.models.wiring import Rewiring
from holdfast.nets.normalise import Normalise

SHAPE, NAMES = (3, 8, 8), ("cat", "dog", "owl", "bat")


def specimen_data(n=96):
    """Images whose class is the quadrant that is brighter than the rest, a little redder there."""
    generator = torch.Generator().manual_seed(0)
    images = 0.2 + 0.3 * torch.rand((n, *SHAPE), generator=generator)
    labels = torch.arange(n) % 4
    for image, label in zip(images, labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[:, row : row + 4, column : column + 4] += torch.tensor([0.45, 0.3, 0.15]).view(3, 1, 1)
    return images.clamp(0, 1), labels


IMAGES, LABELS = specimen_data()


class Honest(nn.Module):
    """The mean brightness of each quadrant, weighted by colour."""

    def __init__(self, scale=10.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 0.6, 0.3]))
        self.scale = scale

    def forward(self, x):
        return F.avg_pool2d((x * self.weight.view(1, 3, 1, 1)).sum(1, keepdim=True), 4).flatten(1) * self.scale


class Through(Honest):
    """Honest logits, and then whatever is wrong."""

    def __init__(self, wrong, scale=10.0):
        super().__init__(scale)
        self.wrong = wrong

    def forward(self, x):
        return self.wrong(super().forward(x))


def look(module, images=IMAGES, labels=LABELS, names=NAMES):
    model = load(module.eval() if isinstance(module, nn.Module) else module, shape=SHAPE)
    return {finding.check: finding for finding in examine(model, images, labels, names)}


def test_an_honest_net_is_healthy_and_untouched():
    net = nn.Sequential(Honest(), nn.Dropout(0.5)).train()
    net(IMAGES).sum().backward()
    grad, rng = net[0].weight.grad.clone(), torch.get_rng_state()
    assert look(net.eval()) == {}
    assert torch.equal(net[0].weight.grad, grad) and torch.equal(torch.get_rng_state(), rng)
    assert net[0].weight.requires_grad
    raise_errors(())


def test_train_mode_is_a_note_and_is_left():
    net = nn.Sequential(Honest(), nn.Dropout(0.5)).train()
    findings = examine(load(net, shape=SHAPE), IMAGES, LABELS, NAMES)
    assert [(finding.check, finding.level) for finding in findings] == [("train mode", "note")]
    assert net.training and net[1].training


@pytest.mark.parametrize("wrong, check, level", [
    (lambda z: z.softmax(1), "probabilities", "warning"),
    (lambda z: z.log_softmax(1), "probabilities", "note"),
    (lambda z: z + torch.rand_like(z) * 0.1, "randomised", "warning"),
    (lambda z: z - 0.1 * z.mean(0, keepdim=True), "batch dependence", "warning"),
    (lambda z: z.squeeze(), "batch dependence", "warning"),
    (lambda z: z.detach(), "no gradient", "warning"),
    (lambda z: z.round() + 0 * z, "zero gradients", "warning"),
    (lambda z: z * 0 + 1, "constant output", "error"),
    (lambda z: z + torch.tensor([90.0, 0, 0, 0]), "constant output", "warning"),
    (lambda z: z * 100, "logit scale", "warning"),
    (lambda z: z.roll(1, 1), "clean accuracy", "warning"),
    (lambda z: torch.cat([z, z[:, :1] - 9], 1), "class count", "warning"),
    (lambda z: torch.where(z.amax(1, keepdim=True) > 13.5, torch.nan, z), "finite logits", "error"),
])  # fmt: skip
def test_each_specimen_is_found(wrong, check, level):
    generator = torch.get_rng_state()
    found = look(Through(wrong))
    assert check in found and found[check].level == level, found
    assert torch.equal(torch.get_rng_state(), generator)
    assert found[check].saw and found[check].means and found[check].remedy


def test_a_batch_of_one_that_squeezes_is_said():
    assert "batch of one" in look(Through(lambda z: z.squeeze()))["batch dependence"].saw


def test_labels_and_classes():
    found = look(Honest(), labels=LABELS + 1, names=())
    assert found["labels"].level == "error" and "4" in found["labels"].saw
    with pytest.raises(BadData, match="labels"):
        raise_errors(tuple(found.values()))
    assert "cow" in look(Honest(), labels=LABELS + 1, names=(*NAMES, "cow"))["labels"].saw
    found = look(Honest(), names=(*NAMES, "cow"))
    assert found["class count"].level == "error"
    with pytest.raises(BadModel, match="class count"):
        raise_errors(tuple(found.values()))
    assert look(Honest(), labels=LABELS - 1)["labels"].level == "error"
    assert look(Honest(), labels=LABELS[:5])["labels"].level == "error"
    assert look(Honest(), labels=LABELS.float())["labels"].level == "error"


def test_classes_counted_from_the_labels_raise_no_doubt():
    """A hundred images of a thousand classes seldom hold the last one."""
    fewer = look(Honest(), images=IMAGES[:2], labels=LABELS[:2] * 0, names=("0",))["class count"]
    assert fewer.level == "note" and fewer.saw == "4 logits and 1 class in the data"
    assert look(Honest(), names=("ant", "bee"), labels=LABELS * 0)["class count"].level == "warning"


def test_the_range_of_the_images():
    assert look(Honest(), images=IMAGES / 255)["input range"].level == "note"
    assert look(Honest(), images=(IMAGES > 0.5).float())["input range"].level == "note"
    assert look(Honest(), images=IMAGES * 255)["input range"].level == "error"
    assert look(Honest(), images=IMAGES - 0.5)["input range"].level == "error"
    assert look(Honest(), images=IMAGES.log())["input range"].level == "error"  # NaN and below
    assert look(Honest(), images=(IMAGES * 255).byte())["input range"].level == "error"
    assert look(Honest(), images=IMAGES[:0], labels=LABELS[:0])["input range"].level == "error"


def test_logits_of_another_shape():
    net = Honest()
    pairs = load(lambda x: (net(x), x) if len(x) > 2 else net(x), shape=SHAPE)
    (finding,) = examine(pairs, IMAGES, LABELS, NAMES)
    assert (finding.check, finding.level) == ("logits shape", "error")


def window(images, moments):
    """Right where its input has the quadrants' statistics after ``moments``, and blind elsewhere: a narrow filter."""
    mean, std = (torch.tensor(part).view(1, -1, 1, 1) for part in moments)
    core = Honest()

    class Expecting(nn.Module):
        def forward(self, x):
            away = ((x * std + mean) - IMAGES_MEAN).abs().mean((1, 2, 3), keepdim=True).flatten(1)
            sharp = torch.sigmoid(40 * (0.17 - away))
            return core(x * std + mean) * sharp + (1 - sharp) * torch.tensor([20.0, 0, 0, 0])

    return Expecting()


IMAGES_MEAN = IMAGES.mean((0, 2, 3)).view(1, 3, 1, 1)


@pytest.mark.parametrize("moments, remedy", [
    (PRESETS["cifar10"], "--normalise cifar10"),
    (((0.0,) * 3, (1 / 255,) * 3), "--normalise 0/0.003921569"),
])  # fmt: skip
def test_a_missing_normalisation_is_named(moments, remedy):
    net = window(IMAGES, moments)
    found = look(net)["clean accuracy"]
    assert found.level == "warning" and remedy in found.remedy
    spec = found.remedy.split()[2]
    assert examine(load(net, shape=SHAPE, normalise=spec), IMAGES, LABELS, NAMES) == ()


def test_one_normalisation_too_many_and_swapped_colours_are_named():
    net = nn.Sequential(Normalise((0.5,), (0.05,)), window(IMAGES, ((0.0,) * 3, (1.0,) * 3)))
    assert "--normalise 0/1" in look(net)["clean accuracy"].remedy
    bgr = nn.Sequential(Honest())
    with rng_kept():

        class Swapped(nn.Module):
            def forward(self, x):
                right = (x[:, 2] > x[:, 0]).double().mean((1, 2)) > 0.6
                return torch.where(right[:, None], bgr(x), torch.tensor([20.0, 0, 0, 0]))

    assert "flip(1)" in look(Swapped())["clean accuracy"].remedy


def test_classes_in_another_order_are_named(monkeypatch):
    order = [2, 0, 1, 3]
    found = look(Through(lambda logits: logits[:, order]))["clean accuracy"]
    assert found.level == "warning" and "48 of 48" in found.means and "00_cat" in found.remedy
    assert "(cat is its class 1, dog is its class 2, owl is its class 0)" in found.means
    monkeypatch.setattr(doctor, "best_rewiring", lambda *given: Rewiring("another range", "scale", 30, 0, 96))
    assert "seems to number" in look(Through(lambda logits: logits[:, order]))["clean accuracy"].means  # explains more
    monkeypatch.undo()
    constant = look(Through(lambda logits: logits * 0 + torch.tensor([1.0, 0, 0, 0])))["clean accuracy"]
    assert "seems to number" not in constant.means and "the order of the classes" in constant.remedy
    assert "clean accuracy" not in look(Honest())


def test_labels_that_count_from_one():
    findings = examine(load(Honest().eval(), shape=SHAPE), IMAGES, LABELS + 1, ())
    assert [(each.check, each.remedy) for each in findings] == [
        ("labels", "the labels seem to count from 1: subtract 1")
    ]


def test_presets_that_the_images_cannot_tell_apart_are_all_named():
    found = look(window(IMAGES, PRESETS["cifar100"]))["clean accuracy"]
    assert "--normalise cifar10 " in found.remedy and "cannot tell" in found.remedy and "cifar100" in found.remedy
