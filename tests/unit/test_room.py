"""How many searches run at once where memory is short."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.ascent import room
from holdfast.ascent.engine import default_slots
from holdfast.ascent.room import PROBED, TRANSIENT, slots_for
from holdfast.foundation import memory

X = torch.rand(4, 3, 32, 32)


class Net(nn.Module):
    """Keeps three arrays of the size of the images, in float32, for its backward pass, and counts what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 32, 32))
        self.shown = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shown += len(x)
        for _ in range(3):
            x = x.exp()  # keeps its result
        return x.flatten(1)[:, :10]


@pytest.mark.parametrize(("rows", "slots"), [(1000.5, 256), (256.5, 256), (255.5, 255), (17.5, 17), (0.5, 1)])
def test_as_many_as_fit(rows: float, slots: int, monkeypatch) -> None:
    one = 3 * X[0].numel() * 4
    net = Net()
    monkeypatch.setattr(memory, "free", lambda: int(rows * TRANSIENT * one))
    assert slots_for(net, X) == slots
    assert net.shown == PROBED and net.weight.grad is None and net.weight.requires_grad
    assert slots_for(net, X, processes=2) == max(1, min(256, int(rows / 2)))


def test_where_nothing_is_known(monkeypatch) -> None:
    def raises(x: torch.Tensor) -> torch.Tensor:
        raise ValueError

    monkeypatch.setattr(memory, "free", lambda: 1)
    assert slots_for(raises, X) == slots_for(lambda x: torch.zeros(len(x), 2), X) == default_slots(X)
    assert slots_for(Net(), X[:1]) == default_slots(X)
    monkeypatch.setattr(memory, "free", lambda: None)
    assert slots_for(Net(), X) == default_slots(X)


def test_free_memory_of_a_graphics_card(monkeypatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    assert room._free(cuda) == 1200 and room._free(torch.device("meta")) is None


def test_free_memory(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (groups / "memory").mkdir(parents=True)
    proc.mkdir()
    assert memory.free(proc, groups) is None
    (proc / "meminfo").write_text("MemTotal:  999 kB\nMemAvailable:   50 kB\nHugePages_Total:  0\n")
    assert memory.free(proc, groups) == 50 * 1024
    for folder, limit, usage in (
        (groups, "memory.max", "memory.current"),
        (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        (folder / usage).write_text("9000\n")
        (folder / "memory.stat").write_text("anon 8000\ninactive_file 300\nactive_file 200\n")
        (folder / limit).write_text("max\n")
        assert memory.free(proc, groups) == 50 * 1024
        (folder / limit).write_text("10000\n")
        assert memory.free(proc, groups) == 10000 - 9000 + 500
        (folder / limit).unlink()
    real = memory.free()
    assert real is None or 0 < real < 2**50
