"""The way of the README's newcomer: a module, a checkpoint, a folder of PNG files; then one command to a report."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

MODULE = """
from torch import nn

class PixelNet(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))

    def forward(self, x):
        return self.head(x.flatten(1))
"""
MEAN, STD = 0.3, 0.4
PER_CLASS = 8
OPTIONS = ("--model", "pixel_net:PixelNet", "--weights", "w.pt", "--data", "photos")


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a module, a checkpoint as DataParallel saves it, and a folder of PNG files for each class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "pixel_net", raising=False)
    Path("pixel_net.py").write_text(MODULE)
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels.reshape(-1, 8, 8) * 15.9375).astype(np.uint8)
    x, y = (torch.from_numpy(pixels) / 255).flatten(1), torch.from_numpy(labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head((x - MEAN) / STD), y).backward()
        optimiser.step()
    saved = {f"module.head.{name}": value for name, value in head.state_dict().items()}
    torch.save({"epoch": 40, "state_dict": saved}, "w.pt")
    for label in range(10):
        folder = Path(f"photos/{label} & co")
        folder.mkdir(parents=True)
        for number, image in enumerate(pixels[labels == label][-PER_CLASS:]):
            Image.fromarray(image).save(folder / f"Foto ({number}).PNG")
    return tmp_path


def test_from_a_folder_of_pictures_to_a_report(project: Path, cli) -> None:
    ran = cli("audit", *OPTIONS, "--eps", "4/255", "--normalise", f"{MEAN}/{STD}", "--out", "runs/x", "-q")
    assert ran.code == 0, ran.err
    assert "n = 80" in ran.out and "report: runs/x/report.html" in ran.out
    assert "warning clean accuracy" not in ran.out + ran.err
    page = Path("runs/x/report.html").read_text()
    assert "How robust is" in page and "pixel_net:PixelNet" in page and "7 &amp; co" in page
    assert '"normalise":"0.3/0.4"' in Path("runs/x/run.json").read_text().replace(" ", "")
    assert "model-index" in cli("card", "runs/x").out


def test_folders_in_another_order_are_noticed(project: Path, cli) -> None:
    for label in range(10):
        Path(f"photos/{label} & co").rename(f"photos/{'abcdefghij'[9 - label]}")
    ran = cli("doctor", *OPTIONS, "--normalise", f"{MEAN}/{STD}")
    assert "a is its class 9, b is its class 8" in ran.out and "00_cat" in ran.out
