"""A run folder of a stranger: whatever its files say, a run, or an error that a user can act on."""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from holdfast.card.claim import claim
from holdfast.card.hub import card
from holdfast.card.measured import measured
from holdfast.comparison import compare
from holdfast.foundation.errors import HoldfastError
from holdfast.gate.judge import Gate, judge
from holdfast.records.store import Store, read_info
from holdfast.report.index import lines
from holdfast.report.read import read

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from report_fixture import write_run

WEIRD = (
    None, True, 0, -1, 2**31, 2**63, 10**400, 0.5, 1e308, -1e308, float("nan"), float("inf"), "", "0.5", "\x1b[2J", "[/red]",
    "../../x", [], {}, [None], [[]], {"a": 1},
)  # fmt: skip
READERS: tuple[Callable[[Path, Path], object], ...] = (
    lambda run, other: read(run),
    lambda run, other: compare([other, run]),
    lambda run, other: judge(run, Gate(require=("robust_accuracy >= 0.4", "clean_accuracy >= 0.1"))),
    lambda run, other: card(measured(run)),
    lambda run, other: claim(measured(run), {}),
    lambda run, other: Store(run, read_info(run)).close(),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for folder, seed in (("one", 0), ("other", 1)):
        write_run(root / folder, n=8, num_classes=3, gallery=2, curve=(8 / 255,), searches=False, seed=seed)
    for reader in READERS:
        reader(root / "one", root / "other")
    return root


def paths(held: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to everything inside ``held``."""
    inside = held.items() if isinstance(held, dict) else enumerate(held[:4]) if isinstance(held, list) else ()
    return [way for key, each in inside for way in ((*here, key), *paths(each, (*here, key)))]


@st.composite
def twisted(draw: st.DrawFn, held: Any) -> Any:
    """JSON with something in it removed, repeated, exchanged, or replaced by what does not belong there."""
    held = copy.deepcopy(held)
    for _ in range(draw(st.integers(1, 2))):
        ways = paths(held)
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        at = held
        for key in way:
            at = at[key]
        how = draw(st.sampled_from(("replace", "replace", "scale", "remove", "repeat")))
        if how == "remove":
            del at[last]
        elif how == "repeat" and isinstance(at, list):
            at.append(copy.deepcopy(at[last]))
        elif how == "scale" and isinstance(at[last], (int, float)):
            at[last] = draw(st.sampled_from((-1, 0, 2, 10**6))) * at[last] + draw(st.integers(-1, 1))
        else:
            at[last] = draw(st.sampled_from(WEIRD))
    return held


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """A gallery of any shapes and types."""
    count = draw(st.integers(0, 3))
    kind = draw(st.sampled_from((np.float32, np.float16, np.uint8, np.int64, np.bool_)))
    shape = (count, *draw(st.tuples(*[st.sampled_from((0, 1, 3, 8))] * 3)))
    images = np.full(shape, draw(st.sampled_from((0.0, 1.0, np.nan, 1e4))), np.float32).astype(kind)
    ids = np.arange(count) if draw(st.booleans()) else np.zeros((count, 1), np.float32)
    return save({"ids": ids, "clean": images, "adversarial": images})


def check(runs: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        run.mkdir()
        for file in (runs / "one").iterdir():
            (run / file.name).write_bytes(file.read_bytes())
        name = data.draw(st.sampled_from(("run.json", "summary.json", "records.jsonl", "gallery.safetensors")))
        if name == "gallery.safetensors":
            (run / name).write_bytes(data.draw(pictures()))
        elif name == "records.jsonl":
            told = [json.loads(line) for line in (run / name).read_text().splitlines()]
            told = data.draw(twisted(told))
            (run / name).write_text("".join(json.dumps(each) + "\n" for each in told))
        else:
            (run / name).write_text(json.dumps(data.draw(twisted(json.loads((run / name).read_text())))))
        for reader in READERS:
            try:
                reader(run, runs / "other")
            except HoldfastError as error:
                assert error.message and error.hint
        try:
            assert lines(Path(folder))
        except HoldfastError as error:
            assert error.hint


quick = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=40, **quick)
@given(data=st.data())
def test_a_twisted_run_is_read_or_refused(runs, data) -> None:
    check(runs, data)


@pytest.mark.slow
@settings(max_examples=3000, **quick)
@given(data=st.data())
def test_many_twisted_runs_are_read_or_refused(runs, data) -> None:
    check(runs, data)
