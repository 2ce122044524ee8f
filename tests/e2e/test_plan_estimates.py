"""What `holdfast plan` says beside what the audit then takes, on the digits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from holdfast.audit.corrupted.api import evaluate_conditions
from holdfast.audit.corrupted.estimate import estimate_conditions
from holdfast.audit.corrupted.question import asked
from holdfast.audit.corrupted.run import describe_conditions
from holdfast.audit.description import describe
from holdfast.audit.estimate import CHECKS, estimate
from holdfast.audit.plan import named
from holdfast.audit.preflight import examined
from holdfast.audit.run import run
from holdfast.data.load import load
from holdfast.data.source import Source
from holdfast.models.load import load as load_model
from holdfast.models.model import Model
from holdfast.threats.linf import Linf

NET = ["--model", "net:small_cnn", "--option", "width=4", "--option", "hidden=32"]
MEASURED = """
import resource, sys
from holdfast.cli.app import run
code = run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def ratio(pairs: list[tuple[float, float]]) -> float:
    """Said over taken, the median of each: other programs disturb single seconds."""
    said, taken = (median(column) for column in zip(*pairs))
    print(f"said {said:.2f} s, took {taken:.2f} s", pairs)
    return said / taken


@pytest.fixture
def subject(digits_net: Path) -> tuple[Model, Source]:
    source = load("digits")
    options = {"width": 4, "hidden": 32}
    return load_model("net:small_cnn", weights=str(digits_net), shape=source.shape, options=options), source


def test_shares_of_the_estimate(subject) -> None:
    model, source = subject
    threat = Linf(0.1)
    plan = named("fast", threat)
    costs = {cost.stage: cost for cost in estimate(model, source, threat=threat, plan=plan, slots=64)}
    assert [*costs] == [CHECKS, "clean", *(stage.name for stage in plan.stages)]
    assert costs["square-near"].usual == 0 < costs["square-near"].seconds, "nobody enters unless there is an alarm"
    assert 0 < costs["soft-1"].usual < costs["soft-1"].seconds / 2
    memory = [cost.memory for cost in costs.values()]
    assert memory == sorted(memory) and memory[0] > 50 * 2**20
    far = {cost.stage: cost for cost in estimate(model, source, threat=Linf(0.5), plan=plan, slots=64)}
    assert far["targets"].usual < costs["targets"].usual, "of a wider set fewer are left to search"


def test_shares_of_the_estimate_of_corruptions(subject) -> None:
    model, source = subject
    question = asked(source, corruptions=["fog", "contrast"], severities=[1, 4])
    costs = {cost.stage: cost for cost in estimate_conditions(model, source, question)}
    assert [*costs] == [CHECKS, "clean", "fog", "contrast"]
    assert costs["fog"].forwards == 2 * costs["clean"].forwards == 1000
    assert all(cost.seconds == cost.usual > 0 == cost.backwards for cost in costs.values())


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_seconds_of_an_audit(eps: float, subject, tmp_path: Path, record_property) -> None:
    model, source = subject
    threat = Linf(eps)
    plan = named("fast", threat)
    pairs = []
    for number in range(5):
        said = sum(cost.usual for cost in estimate(model, source, threat=threat, plan=plan))
        began = time.perf_counter()
        preflight = examined(model, source, plan, threat)
        info = describe(model, source, threat=threat, curve=[], plan=plan, seed=0, preflight=preflight, name="x")
        run(model, source, info, tmp_path / str(number), threat=threat, plan=plan)
        pairs.append((said, time.perf_counter() - began))
    record_property("estimated and measured seconds", pairs)
    assert 1 / 1.5 < ratio(pairs) < 1.5, pairs


@pytest.mark.slow
def test_seconds_of_the_corruptions(subject, tmp_path: Path, record_property) -> None:
    model, source = subject
    question = asked(source)
    pairs = []
    for number in range(5):
        said = sum(cost.usual for cost in estimate_conditions(model, source, question))
        began = time.perf_counter()
        info = describe_conditions(model, source, question, name="x")
        evaluate_conditions(model, source, info, question, tmp_path / str(number), None)
        pairs.append((said, time.perf_counter() - began))
    record_property("estimated and measured seconds", pairs)
    assert 1 / 1.5 < ratio(pairs) < 1.5, pairs


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_of_an_audit(digits_net: Path, tmp_path: Path, record_property) -> None:
    def lines(*arguments: str) -> list[str]:
        command = [
            sys.executable,
            "-c",
            MEASURED,
            *arguments,
            *NET,
            "--weights",
            str(digits_net),
            "--eps",
            "0.1",
            "--json",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    said = max(cost["memory"] for cost in json.loads(lines("plan")[0])) / 2**20
    taken = int(lines("audit", "--quiet", "--out", "run")[-1])
    record_property("MiB said, taken", (said, taken))
    print(said, taken)
    assert 1 / 1.5 < said / taken < 1.5
