"""An audit whose images are decoded ahead says what one says that asks for them one by one."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import holdfast
from holdfast.data import ahead
from holdfast.data.folder import Folder
from holdfast.records.store import read_summary
from holdfast.threats.linf import Linf

SIDE, N = 66, 12


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 4)).double()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, net: nn.Module) -> Path:
    draw = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        (root / str(number)).mkdir()
    for number in range(N):
        image = draw.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        right = int(net(torch.from_numpy(image / 255)[None, None]).argmax()) if number > 3 else number
        Image.fromarray(image).save(root / str(right) / f"{number:02}.png")
    return root


def audited(net: nn.Module, folder: Path, out: Path) -> list[str]:
    """The records of an audit, sorted."""
    holdfast.audit(net, str(folder), threat=Linf(0.002), plan="quick", out=out, slots=5)
    return sorted((out / "records.jsonl").read_text().splitlines())


def test_the_records_are_the_same(net: nn.Module, folder: Path, tmp_path: Path, monkeypatch) -> None:
    asked: list[int] = []
    take = Folder.take

    def counted(source: Folder, ids):
        asked.extend(ids)
        return take(source, ids)

    monkeypatch.setattr(Folder, "take", counted)
    found, decoded = {}, {}
    for workers in (0, 2):
        monkeypatch.setattr(ahead, "workers_for", lambda _, workers=workers: workers)
        asked.clear()
        found[workers] = audited(net, folder, tmp_path / f"{workers}")
        decoded[workers] = len(asked)
    verdicts = [line for line in found[0] if '"stage":"clean"' not in line]
    assert found[2] == found[0] and len(verdicts) >= N
    assert any('"fooled":true' in line for line in verdicts) and any('"fooled":false' in line for line in verdicts)
    assert decoded[2] <= 1.5 * decoded[0], "what is expected is what the engine asks for, but for what has fallen"


def test_an_image_that_hangs_is_left_out_by_name_and_done_by_the_next_call(
    net: nn.Module, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    free, take = threading.Event(), Folder.take

    def hanging(source: Folder, ids):
        if threading.current_thread() is not threading.main_thread() and 7 in ids:
            free.wait(30)
        return take(source, ids)

    monkeypatch.setattr(Folder, "take", hanging)
    monkeypatch.setattr(ahead, "workers_for", lambda _: 2)
    monkeypatch.setattr(ahead, "PATIENCE", 0.2)
    kept = audited(net, folder, tmp_path / "run")
    assert {json.loads(line)["id"] for line in kept} == set(range(N)) - {7}
    (failed,) = read_summary(tmp_path / "run").failed
    assert failed.id == 7 and "was not decoded within 0.2 seconds" in failed.happened
    free.set()
    whole = audited(net, folder, tmp_path / "run")
    assert set(kept) < set(whole) and not read_summary(tmp_path / "run").failed
    monkeypatch.undo()
    verdicts = [
        [[json.loads(line)[key] for key in ("id", "stage", "fooled")] for line in lines]
        for lines in (whole, audited(net, folder, tmp_path / "undisturbed"))
    ]
    assert verdicts[0] == verdicts[1]
