"""The fixture for teams that test their models: what it measures, and that it measures once."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import holdfast
from holdfast.audit import api
from holdfast.pytest_plugin import DoubtedRobustness, Robustness, measuring

pytest_plugins = ["pytester"]


class Sides(nn.Module):
    """Two classes by which half of the image is brighter; a negative scale answers the other way round."""

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.stack([x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))], 1)


class Reordered(Sides):
    """The same weights under other code."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 1.0)


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.4
    x[::2, ..., :4] += torch.linspace(0.05, 0.3, 6)[:, None, None, None]
    x[1::2, ..., 4:] += torch.linspace(0.05, 0.3, 6)[:, None, None, None]
    return x, torch.arange(12) % 2


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """The folders of the audits that were made."""
    folders, audit = [], api.audit
    monkeypatch.setattr(api, "audit", lambda *given, **more: folders.append(str(more["out"])) or audit(*given, **more))
    return folders


@pytest.fixture
def measure(tmp_path: Path, data) -> Callable[..., Robustness]:
    (tmp_path / "fresh").mkdir()
    ask = measuring(tmp_path / "kept", tmp_path / "fresh")
    return lambda model, **more: ask(model, data, **{"eps": "8/255", "plan": "quick", **more})


def test_it_is_the_audit(measure, data) -> None:
    found = measure(Sides(), curve=[0.1])
    expected = holdfast.audit(Sides(), data, threat=holdfast.Linf("8/255"), plan="quick", curve=[0.1])
    assert (found.clean_accuracy, found.robust_accuracy) == (expected.clean_accuracy, expected.robust_accuracy)
    assert found.clean_accuracy == 1.0 and 0.5 < found.robust_accuracy < 1.0
    assert found.summary.curve == expected.summary.curve and (found.folder / "records.jsonl").exists()
    assert found.doubts == ()


def test_a_doubt_is_a_warning(measure) -> None:
    with pytest.warns(DoubtedRobustness, match="clean accuracy"):
        found = measure(Sides(-20.0), limit=4)
    assert [doubt.check for doubt in found.doubts] == ["clean accuracy"]


def test_an_audit_is_made_once(measure, made: list[str]) -> None:
    first = measure(Sides())
    assert measure(Sides()) == first and len(made) == 1
    for count, (model, more) in enumerate(
        [(Sides(19.0), {}), (Reordered(), {}), (Sides(), {"eps": "9/255"}), (Sides(), {"limit": 6})], start=2
    ):
        assert measure(model, **more).folder != first.folder and len(made) == count


def test_what_cannot_be_told_apart_is_audited_each_time(measure, made: list[str]) -> None:
    net = Sides()
    for count in (1, 2):
        found = measure(lambda x: net(x))
        assert len(made) == count and found.folder.parent.name == "fresh"


def test_the_documented_test_passes(measure, data) -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names = {"model": Sides(), "data": data}
    exec(block, names)
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    test(robustness=lambda model, data, **more: measure(model, **{**more, "limit": 12}))


def test_the_plugin(pytester: pytest.Pytester) -> None:
    """The folder is that of the configuration, else pytest's cache."""
    pytester.makeini("[pytest]\nholdfast_folder = audits\n")
    pytester.makepyfile(
        """
        import inspect

        def test_it(robustness, pytestconfig):
            kept = inspect.getclosurevars(robustness).nonlocals["kept"]
            assert kept == pytestconfig.rootpath / "audits"
        """
    )
    pytester.runpytest_inprocess("-p", "holdfast.pytest_plugin").assert_outcomes(passed=1)
    pytester.makeini("")
    pytester.makepyfile(
        """
        import inspect

        def test_it(robustness):
            assert inspect.getclosurevars(robustness).nonlocals["kept"].parent.parent.name == ".pytest_cache"
        """
    )
    pytester.runpytest_inprocess("-p", "holdfast.pytest_plugin").assert_outcomes(passed=1)


def test_it_imports_no_torch() -> None:
    code = "import sys, holdfast.pytest_plugin; sys.exit('torch' in sys.modules or 'altair' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
