"""What newcomers type first, and get wrong: each answer names what was given and what to do next."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import holdfast
from holdfast import losses
from holdfast.attacks import PGD
from holdfast.data.load import load as load_data
from holdfast.foundation.errors import BadData, BadFile, BadModel, BadValue, HoldfastError, UnknownName
from holdfast.models import weights
from holdfast.models.load import load
from holdfast.models.probe import probe

X, Y = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2
NET = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
LINF = holdfast.Linf(0.1)

MODULE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width, *, classes, bias=True):
        super().__init__(nn.Flatten(), nn.Linear(width, classes, bias))

net = Net(36, classes=2)

def late():
    raise OSError("no such disk")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch):
    """A module ``mine_first`` in the current folder."""
    (tmp_path / "mine_first.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "mine_first"
    sys.modules.pop("mine_first", None)


def told(kind: type[HoldfastError], *words: str):
    """An error of that kind whose message and hint hold these words."""
    return pytest.raises(kind, match="(?s)" + "".join(f"(?=.*{word})" for word in words))


def test_factories(mine: str) -> None:
    with told(BadModel, "mine_first:Net", "without width, classes", "--option width=... --option classes="):
        load("mine_first:Net", shape=(1, 6, 6))
    with told(BadModel, "without width", "--option width="):
        load("mine_first:Net", shape=(1, 6, 6), options={"classes": 2})
    with told(BadModel, "mine_first:net is a Net that is built already", "def build.*return net"):
        load("mine_first:net", shape=(1, 6, 6))
    with told(BadModel, "no options: OSError: no such disk", "by hand"):
        load("mine_first:late", shape=(1, 6, 6))
    assert load("mine_first:Net", shape=(1, 6, 6), options={"width": 36, "classes": 2}).classes == 2


@pytest.mark.parametrize("module, shape, words", [
    (nn.Conv2d(3, 4, 3), (1, 28, 28), ("3 .colour. channels", r"expand\(-1, 3, -1, -1\)")),
    (nn.Conv2d(1, 4, 3), (3, 28, 28), ("1 .grey. channels", r"mean\(1, keepdim=True\)")),
])  # fmt: skip
def test_channels(module: nn.Module, shape: tuple[int, int, int], words: tuple[str, ...]) -> None:
    with told(BadModel, *words):
        probe(nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten()), shape)


def test_sizes() -> None:
    with told(BadModel, "--size 28x28"):
        probe(nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), (1, 32, 32))
    with told(BadModel, "--size 28x28", "keepdim=True"):
        probe(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(784, 2)), (3, 32, 32))


def test_weights_of_other_kinds(tmp_path: Path) -> None:
    torch.save(NET, tmp_path / "whole.pt")
    with pytest.raises(BadFile) as caught:
        weights.read(tmp_path / "whole.pt")
    assert "Linear" in caught.value.message or "Sequential" in caught.value.message
    assert "safe_globals" not in str(caught.value) and "state_dict()" in caught.value.hint
    torch.save(NET.state_dict(), tmp_path / "w.pt")
    with told(BadFile, "weights alone", "your_module:factory"):
        load(str(tmp_path / "w.pt"), shape=(1, 6, 6))


def test_paths_of_data(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos_test/cat").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("photos_test/cat/one.png")
    with told(UnknownName, "photos_tset", "the path photos_test$"):
        load_data("photos_tset")
    with told(BadFile, "one image", ": photos_test$"):
        load_data("photos_test/cat/one.png")


@pytest.mark.parametrize("given, words", [
    (0.1, ("threat is 0.1", r"holdfast.Linf\(0.1\)")),
    ("linf", ("threat is 'linf'", r'holdfast.Linf\("8/255"\)')),
    (holdfast.L2, ("the class L2", "holdfast.L2")),
])  # fmt: skip
def test_what_is_no_threat(given, words: tuple[str, ...]) -> None:
    with told(BadValue, *words):
        holdfast.audit(NET, (X, Y), threat=given)
    with told(BadValue, *words):
        PGD()(NET, X, Y, threat=given)


def test_arrays_for_an_attack() -> None:
    with told(BadData, "x is a ndarray", "torch.as_tensor"):
        PGD()(NET, X.numpy(), Y, threat=LINF)
    with told(BadData, "y is a list", "torch.as_tensor"):
        PGD()(NET, X, Y.tolist(), threat=LINF)


def test_labels_as_floats() -> None:
    with told(BadData, "float32, the first is 0.0;", r"labels.long\(\)"):
        load_data((X, Y.float()))


def test_a_loss_of_ones_own(monkeypatch) -> None:
    def mine(logits, y, target):
        return -losses.true_logit(logits, y)

    with told(BadValue, "takes the name of a loss", "LOSSES"):
        PGD(loss=mine)(NET, X, Y, threat=LINF)
    monkeypatch.setitem(losses.LOSSES, "mine", mine)
    found = PGD(loss="mine", steps=3)(NET, X, Y, threat=LINF)
    kept = -losses.true_logit(NET(found.x), Y)
    assert torch.allclose(found.value, kept, atol=1e-5)


def test_names_in_other_letters() -> None:
    for wrong, right in {"LInf": "Linf", "linf": "Linf", "PGD": "attacks.PGD", "APGD": "attacks.APGD"}.items():
        with pytest.raises(AttributeError, match=f"did you mean holdfast.{right}"):
            getattr(holdfast, wrong)
    with pytest.raises(AttributeError, match=r"'nonsense'$"):
        _ = holdfast.nonsense


def test_results_fit_a_notebook() -> None:
    found = PGD(steps=2)(NET, X, Y, threat=LINF)
    assert (
        repr(found)
        == f"Perturbed({int(found.fooled.sum())} of 4 fooled, x (4, 1, 6, 6), {int(found.forwards.sum())} forwards)"
    )
    audit = holdfast.audit(NET, (X, Y), threat=LINF, plan="sweep")
    clean, robust = f"clean {audit.clean_accuracy:.1%}", f"robust {audit.robust_accuracy:.1%}"
    assert repr(audit).startswith(
        f"Audit(Sequential: {clean}, {robust} ("
    ) and "at linf 0.1, n = 4, plan sweep" in repr(audit)
    assert len(repr(audit)) < 200
