"""What several tests share: one thread, a small trained net, the command line in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from holdfast.cli.app import run
from holdfast.data.load import load
from holdfast.nets.small_cnn import SmallCNN
from holdfast.objectives.standard import Standard
from holdfast.threats.linf import Linf
from holdfast.training.loop import fit
from holdfast.training.recipe import Recipe

torch.set_num_threads(1)  # one core for each test process; nothing here is faster on more


class Ran(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys) -> Callable[..., Ran]:
    """Runs ``holdfast ARGUMENTS`` in this process."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def shell() -> Callable[..., Ran]:
    """Runs ``python -m holdfast ARGUMENTS`` in a process of its own."""

    def call(*arguments: object, cwd: Path | None = None, timeout: float = 240) -> Ran:
        command = [sys.executable, "-m", "holdfast", *(str(argument) for argument in arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def digits_net(tmp_path_factory) -> Path:
    """The weights of a small CNN that reads nearly all digits, and loses them to small changes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallCNN(width=4, hidden=32)
    fit(net, load("digits:train"), Recipe(Standard(), Linf(0.1), epochs=8, lr=1e-2))
    path = tmp_path_factory.mktemp("net") / "digits.safetensors"
    save_file(net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The first 40 test digits: images (40, 1, 32, 32) uint8 and their labels."""
    source = load("digits")
    return tuple(source.take(source.ids[:40]))
