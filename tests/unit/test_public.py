"""What `import holdfast` offers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import holdfast
from holdfast.models.load import load as load_model
from holdfast.nets.small_cnn import SmallCNN
from holdfast.records import store


@pytest.fixture(scope="module")
def net(digits_net: Path) -> torch.nn.Module:
    return load_model("net:small_cnn", weights=digits_net, shape=(1, 32, 32), options={"width": 4, "hidden": 32}).module


@pytest.fixture(scope="module")
def pair(digits) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = digits
    return torch.from_numpy(images / np.float32(255)), torch.from_numpy(labels)


def test_importing_it_imports_no_torch() -> None:
    code = "import sys, holdfast; holdfast.__version__, dir(holdfast); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("name", holdfast.__all__)
def test_every_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(holdfast, name)
    assert name in dir(holdfast) and (name == "__version__" or value.__doc__)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'audits'"):
        _ = holdfast.audits
    with pytest.raises(AttributeError, match="PGDD"):
        _ = holdfast.attacks.PGDD


def test_an_attack(net, pair) -> None:
    x, y = pair
    before = torch.get_rng_state()
    threat = holdfast.Linf("8/255")
    found = holdfast.attacks.PGD(steps=3)(net, x, y, threat=threat, seed=0)
    assert isinstance(found, holdfast.Perturbed) and found.x.shape == x.shape and found.x.dtype == x.dtype
    assert torch.equal(found.fooled, net(found.x).argmax(1) != y) and found.fooled.dtype == torch.bool
    assert float((found.x - x).abs().max()) <= 8 / 255 + 1e-6 and found.x.min() >= 0 and found.x.max() <= 1
    assert int(found.forwards.max()) <= 3 + 2 and found.value.shape == found.margin.shape == found.distance.shape == (
        40,
    )
    again = holdfast.attacks.PGD(steps=3)(net, x, y, threat=threat, seed=0)
    other = holdfast.attacks.PGD(steps=3)(net, x, y, threat=threat, seed=1)
    assert torch.equal(found.x, again.x) and not torch.equal(found.x, other.x)
    assert torch.equal(torch.get_rng_state(), before)


def check(audit: holdfast.Audit, net, x: torch.Tensor, y: torch.Tensor, threat: holdfast.Threat) -> None:
    """Everything that the docstring of `Audit` says."""
    n = len(y)
    assert (
        audit.ids.dtype == audit.labels.dtype == torch.int64 and audit.robust.dtype == audit.correct.dtype == torch.bool
    )
    assert audit.ids.tolist() == sorted(audit.ids.tolist()) and torch.equal(audit.labels, y)
    assert audit.ids.shape == audit.labels.shape == audit.correct.shape == audit.robust.shape == (n,)
    assert audit.points.shape == x.shape and audit.points.is_floating_point()
    with torch.no_grad():
        right, held = net(x).argmax(1) == y, net(audit.points).argmax(1) == y
    assert torch.equal(audit.correct, right) and torch.equal(audit.robust, held)
    assert torch.equal(audit.points[held], x[held]) and torch.equal(audit.points[~right], x[~right])
    assert float(threat.distance(x, audit.points).max()) <= threat.eps + 1e-6
    assert float(audit.points.min()) >= 0 and float(audit.points.max()) <= 1
    assert (audit.clean_accuracy, audit.robust_accuracy) == (float(right.double().mean()), float(held.double().mean()))
    assert (audit.forwards, audit.backwards) == (audit.summary.forwards, audit.summary.backwards)
    assert audit.forwards >= n and audit.warnings == audit.summary.warnings


@pytest.mark.parametrize("threat", [holdfast.Linf(0.05), holdfast.L2(0.7)], ids=["linf", "l2"])
def test_an_audit_of_a_pair(threat, net, pair, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before, mode = torch.get_rng_state(), net.training
    audit = holdfast.audit(net, pair, threat=threat)
    check(audit, net, *pair, threat)
    assert 0 < int(audit.robust.sum()) < int(audit.correct.sum())
    assert audit.folder is None and not list(tmp_path.iterdir()), "something is left behind"
    assert torch.equal(torch.get_rng_state(), before) and net.training == mode


def test_an_audit_that_is_kept_goes_on_and_is_only_read_again(net, pair, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(progress) -> None:
        if progress.stage == "targets":
            raise Stop

    threat = holdfast.Linf(0.05)
    options = {"threat": threat, "curve": ["0.02", 0.08], "out": tmp_path / "run"}
    with pytest.raises(Stop):
        holdfast.audit(net, pair, **options, watch=stop)
    kept = (tmp_path / "run" / store.RECORDS).read_bytes()
    assert kept.count(b"\n") >= 40 and not (tmp_path / "run" / store.SUMMARY).exists()
    audit = holdfast.audit(net, pair, **options)
    check(audit, net, *pair, threat)
    assert audit.folder == tmp_path / "run"
    records = (tmp_path / "run" / store.RECORDS).read_bytes()
    assert records.startswith(kept) and len(records) > len(kept)
    plain = holdfast.audit(net, pair, threat=threat, curve=["0.02", 0.08])
    assert torch.equal(plain.points, audit.points) and torch.equal(plain.robust, audit.robust)
    read = holdfast.audit(net, pair, **options, watch=stop)
    assert torch.equal(read.points, audit.points) and read.summary == audit.summary
    with pytest.raises(holdfast.HoldfastError, match="holds another run: its seed is 0, now it is 1"):
        holdfast.audit(net, pair, **options, seed=1)


def test_a_plan_of_ones_own_and_a_limit(net, pair) -> None:
    plan = holdfast.Plan("mine", "Two looks.", (holdfast.Stage("one", holdfast.attacks.PGD(steps=2, restarts=3)),))
    x, y = pair
    audit = holdfast.audit(net, (x.numpy(), y.tolist()), threat=holdfast.Linf("8/255"), plan=plan, limit=15, seed=3)
    check(audit, net, x[audit.ids], y[audit.ids], holdfast.Linf("8/255"))
    assert len(audit.ids) == 15 and audit.summary.plan == "mine"


def test_a_function_and_a_float64_model(pair) -> None:
    x, y = pair
    weight = torch.randn(1024, 10, generator=torch.Generator().manual_seed(0))
    audit = holdfast.audit(lambda z: z.flatten(1) @ weight, pair, threat=holdfast.Linf(0.01), plan="sweep")
    assert audit.robust_accuracy <= audit.clean_accuracy
    with torch.random.fork_rng():
        torch.manual_seed(0)  # some draws of so small a net are dead
        double = SmallCNN(width=2, hidden=6).double()
    audit = holdfast.audit(double, pair, threat=holdfast.Linf(0.01), plan="sweep")
    assert audit.points.dtype == torch.float64
    check(audit, double, x.double(), y, holdfast.Linf(0.01))


def test_bad_requests_are_holdfast_errors(net, pair) -> None:
    x, y = pair
    for call in (
        lambda: holdfast.Linf(8),
        lambda: holdfast.audit(net, pair, threat=holdfast.Linf(0.1), plan="quik"),
        lambda: holdfast.audit(net, (x * 255, y), threat=holdfast.Linf(0.1)),
        lambda: holdfast.audit(net, pair, threat=holdfast.Linf(0.1), limit=0),
        lambda: holdfast.audit(net, pair, threat=holdfast.Linf(0.1), slots=0),
        lambda: holdfast.audit(net, pair, threat=holdfast.Linf(0.1), seed=-1),
        lambda: holdfast.audit(net, pair, threat=holdfast.Linf(0.1), curve=["many"]),
        lambda: holdfast.audit(net, x, threat=holdfast.Linf(0.1)),
        lambda: holdfast.attacks.PGD(steps=0),
        lambda: holdfast.attacks.PGD()(net, x * 255, y, threat=holdfast.Linf(0.1)),
    ):
        with pytest.raises(holdfast.HoldfastError) as raised:
            call()
        assert raised.value.hint
