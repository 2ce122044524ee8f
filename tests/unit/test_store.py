"""A run folder while it is written."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from holdfast.foundation.errors import BadFile, PlanMismatch, StorageError
from holdfast.records import store
from holdfast.records.files import write_atomic
from holdfast.records.schema import DataInfo, ModelInfo, Record, RunInfo, StageInfo
from holdfast.records.store import Store, read_info, read_records

SHAPE = (1, 2, 3)


def info(**change: object) -> RunInfo:
    model = ModelInfo(
        name="net", fingerprint="f" * 32, classes=3, shape=SHAPE, parameters=7, dtype="float32", device="cpu"
    )
    data = DataInfo(name="digits", fingerprint="0" * 16, n=5, shape=SHAPE, class_names=("a", "b", "c"))
    settings = {
        "name": "net",
        "created": "2025-01-01",
        "plan": "mine",
        "stages": (StageInfo(name="pgd", attack="pgd", configuration={"steps": 3}),),
        "threat": "linf",
        "eps": 0.1,
        "curve": (0.1,),
        "seed": 0,
        "model": model,
        "data": data,
        "versions": {},
    }
    return RunInfo(**{**settings, **change})


def record(sample: int, *, fooled: bool = False, final: bool = True, search: int = 0, stage: str = "pgd") -> Record:
    return Record(
        id=sample,
        stage=stage,
        eps=0.1 if stage != "clean" else 0.0,
        search=search,
        final=final,
        label=0,
        fooled=fooled,
        predicted=int(fooled),
        margin=-1.0 if fooled else 1.0,
        value=0.5,
        distance=0.1,
        steps=3,
        forwards=4,
        backwards=3,
        ranking=(2, 1) if stage == "clean" else None,
    )


def point(value: float) -> np.ndarray:
    return np.full(SHAPE, value, dtype=np.float32)


def opened(folder: Path, **change: object) -> Store:
    return Store(folder, info(**change))


def test_what_is_appended_is_there_again(tmp_path: Path) -> None:
    first = opened(tmp_path / "new" / "run")
    first.append(record(3, stage="clean"))
    first.append(record(4, stage="clean", fooled=True))
    first.append(record(3, fooled=True), point(0.25))
    first.append(record(1))
    first.append(record(2, final=False, search=1))
    first.close()
    second = opened(tmp_path / "new" / "run")
    assert second.info == first.info == read_info(tmp_path / "new" / "run")
    assert (
        set(second.judged("clean", 0.0)) == {3, 4}
        and set(second.judged("pgd", 0.1)) == {3, 1}
        and not second.judged("x", 1)
    )
    assert set(second.broken) == {3, 4} and second.ranking == {3: (2, 1), 4: (2, 1)}
    assert second.searches("pgd", 0.1) == [record(2, final=False, search=1)] and not second.searches("pgd", 0.2)
    second.append(record(0, fooled=True), point(0.75))
    second.append(record(2))
    assert not second.searches("pgd", 0.1)
    second.close()
    kept = list(read_records(tmp_path / "new" / "run"))
    assert [(one.id, one.point) for one in kept if one.point is not None] == [(3, 0), (0, 1)]
    raw = np.fromfile(tmp_path / "new" / "run" / store.POINTS, dtype=np.float32).reshape(-1, *SHAPE)
    assert (raw[0] == 0.25).all() and (raw[1] == 0.75).all() and len(raw) == 2


@pytest.mark.parametrize("again", [False, True])
def test_the_point_of_a_search_is_written_once(again: bool, tmp_path: Path) -> None:
    """A later search succeeds first; when its predecessors have failed, the verdict refers to its point."""
    run = opened(tmp_path)
    run.append(record(2, final=False, search=1, fooled=True), point(0.5))
    if again:
        run.close()
        run = opened(tmp_path)
        assert [one.point for one in run.searches("pgd", 0.1)] == [0]
    run.append(record(2, final=False, search=0))
    run.append(record(2, search=1, fooled=True), None if again else point(0.5))
    run.append(record(3, search=1, fooled=True), point(0.75))
    run.close()
    assert [one.point for one in read_records(tmp_path) if one.final] == [0, 1]
    assert (tmp_path / store.POINTS).stat().st_size == 2 * store.point_bytes(run.info)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"plan": "other"}, "plan"),
        ({"stages": (StageInfo(name="pgd", attack="pgd", configuration={"steps": 4}),)}, "stages"),
        ({"threat": "l2"}, "threat"),
        ({"eps": 0.2}, "eps"),
        ({"curve": (0.05, 0.1)}, "curve"),
        ({"seed": 1}, "seed"),
        ({"model": info().model.model_copy(update={"fingerprint": "e" * 32})}, "model"),
        ({"data": info().data.model_copy(update={"n": 6})}, "data"),
    ],
)
def test_a_folder_belongs_to_one_run(change: dict, field: str, tmp_path: Path) -> None:
    opened(tmp_path).close()
    with pytest.raises(PlanMismatch, match=f"holds another run: its {field} is .* now it is"):
        opened(tmp_path, **change)
    opened(tmp_path).close()  # and the refusal has left no lock


def test_names_devices_and_dates_do_not_make_another_run(tmp_path: Path) -> None:
    opened(tmp_path).close()
    elsewhere = info().model.model_copy(update={"device": "cuda:0", "name": "copy"})
    data = info().data.model_copy(update={"name": "copy"})
    again = opened(tmp_path, model=elsewhere, data=data, created="2026-01-01", command="x", name="y")
    again.close()
    assert again.info == info()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(StorageError, match="another process is writing"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="file is not a folder"):
        opened(tmp_path / "file")
    with pytest.raises(StorageError, match="file/run is not a folder"):
        opened(tmp_path / "file" / "run")
    with pytest.raises(PlanMismatch, match="not empty and holds no run"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_damaged_line(tmp_path: Path) -> None:
    run = opened(tmp_path)
    for sample in range(3):
        run.append(record(sample))
    run.close()
    path = tmp_path / store.RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + b"\n")  # a last line that ends, and is no record: torn all the same
    assert opened_and_closed(tmp_path) == {0, 1}
    path.write_bytes(whole.replace(b'"id":1', b'"id":x'))
    with pytest.raises(BadFile, match=r"line 2 of .* is damaged"):
        opened(tmp_path)
    assert path.read_bytes().count(b"\n") == 3


def opened_and_closed(folder: Path) -> set[int]:
    run = opened(folder)
    run.close()
    return set(run.judged("pgd", 0.1))


def test_seconds_are_added_up_over_sessions(tmp_path: Path, monkeypatch) -> None:
    now = 1000.0
    monkeypatch.setattr(store.time, "time", lambda: now)
    run = opened(tmp_path)
    now = 1010.0
    assert run.finish(discarded=7) == 10
    run.close()
    now = 2000.0
    killed = opened(tmp_path)  # this one is killed: it lasted until its last record
    killed.close()
    os.utime(tmp_path / store.RECORDS, (2005, 2005))
    (tmp_path / store.SESSIONS).open("a").close()
    with (tmp_path / store.SESSIONS).open("a") as file:
        file.write('{"started": 20')
    now = 3000.0
    last = opened(tmp_path)
    assert last.past_discarded == 7
    now = 3001.0
    assert last.finish(discarded=1) == 10 + 5 + 1
    last.close()


def test_a_torn_first_line_of_a_session_does_not_spoil_the_next_one(tmp_path: Path, monkeypatch) -> None:
    now = 1000.0
    monkeypatch.setattr(store.time, "time", lambda: now)
    opened(tmp_path).close()
    (tmp_path / store.SESSIONS).write_text('{"star')
    now = 2000.0
    opened(tmp_path).close()  # this one is killed: it lasted until its last record
    os.utime(tmp_path / store.RECORDS, (2005, 2005))
    now = 3000.0
    with contextlib.closing(opened(tmp_path)) as last:
        assert last.finish(discarded=0) == 5


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 0.1])
def test_a_record_holds_any_number(value: float, tmp_path: Path) -> None:
    with contextlib.closing(opened(tmp_path)) as run:
        run.append(record(1).model_copy(update={"value": value}))
        run.append(record(2))
    with contextlib.closing(opened(tmp_path)):
        pass
    (found, after) = read_records(tmp_path)
    assert repr(found.value) == repr(value) and after.id == 2
    for line in (tmp_path / store.RECORDS).read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # strict JSON has no NaN


def test_newer_and_older_readers(tmp_path: Path) -> None:
    opened(tmp_path).close()
    path = tmp_path / store.RUN
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "schema_version": 2, "more": 1}))
    with pytest.raises(BadFile, match="newer holdfast"):
        opened(tmp_path)
    path.write_text(json.dumps({**held, "more": 1}))
    with pytest.raises(BadFile, match="more"):
        read_info(tmp_path)


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def parts():
        yield b"new"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomic(path, parts())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_atomic(path, [b"new", b"er"])
    assert path.read_bytes() == b"newer" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(StorageError, match="below something that is none"):
        write_atomic(path / "below", [b"x"])
    with pytest.raises(StorageError, match="no file that can be replaced"):
        write_atomic(tmp_path, [b"x"])
