"""What a person at a terminal sees: colours there alone, lines that fit, and Ctrl-C that says how to go on."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from holdfast.audit.forecast import Left
from holdfast.audit.session import Progress
from holdfast.cli.watch import watching, watching_counts

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*3\d")
SMALL = ("--option", "width=4", "--option", "hidden=32")


def on_a_terminal(*arguments: str, columns: int = 80, **more: str) -> str:
    """What a command writes to a terminal of that width."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**environment, "TERM": "xterm", **more},
    )
    os.close(its)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # how Linux says that the other end is closed
        pass
    process.wait(60)
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def test_colours_only_on_a_terminal_that_has_them(cli) -> None:
    wrong = ("audit", "--epz", "1")
    told = on_a_terminal(*wrong)
    assert COLOUR.search(told) and "Did you mean --eps?" in ESCAPE.sub("", told)
    assert not COLOUR.search(on_a_terminal(*wrong, NO_COLOR="1"))
    assert not ESCAPE.search(on_a_terminal(*wrong, TERM="dumb"))
    assert not ESCAPE.search(cli(*wrong).err)


@pytest.mark.parametrize("arguments", [("audit", "--help"), ("--help",), ("list", "attack")], ids=" ".join)
def test_a_narrow_terminal(arguments: tuple[str, ...]) -> None:
    lines = [ESCAPE.sub("", line) for line in on_a_terminal(*arguments, columns=44).splitlines()]
    assert len(lines) > 20 and max(map(len, lines)) <= 44
    assert "adversarial_patch" in " ".join(lines) or arguments[0] != "list"  # a name is never cut


def test_signs_that_the_terminal_lacks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "na\u00efve \u00b7"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and 'Unknown command "na?ve ?"' in done.stderr, done.stderr


def drawn(columns: int, **more: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=columns, soft_wrap=True, highlight=False, **more)


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_progress_fits(columns: int, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    console = drawn(columns)
    with watching(console) as watch:
        assert watch is not None
        watch(Progress("apgd-ce", 0.15, 3, 117, 114, 120, 725.0, Left(120.0, 543.0)))
    assert isinstance(console.file, io.StringIO)
    lines = [ESCAPE.sub("", line).rstrip() for line in re.split(r"[\r\n]", console.file.getvalue())]
    assert max(map(len, lines)) <= columns
    words = " ".join(" ".join(lines).split())
    assert "apgd-ce at eps 0.15: 3/117, 114/120 unbroken \u00b7 12 min 05 s, 2 min 00 s to 9 min 03 s left" in words


def test_a_dumb_terminal_gets_plain_lines(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = drawn(80)
    with watching(console) as watch:
        assert watch is not None
        for eta in (Left(60.0, 70.0), Left(1.0, 3600.0), None):
            watch(Progress("clean", 0.0, 10, 10, 9, 10, 3.0, eta))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        f"clean: 10/10, 9/10 unbroken \u00b7 3 s, {left} left"
        for left in ("about 1 min 05 s", "at most 1 h 00 min", "about ?")
    ]


def test_what_an_earlier_session_did_says_nothing_about_the_pace(monkeypatch) -> None:
    now = iter([0.0, 1.0, 11.0])
    monkeypatch.setattr("holdfast.cli.watch.time", type("", (), {"monotonic": staticmethod(lambda: next(now, 11.0))}))
    console = Console(file=io.StringIO(), width=200)
    with watching_counts(console, "steps") as watch:
        assert watch is not None
        monkeypatch.setattr("holdfast.cli.watch.LINE_EVERY", 0)
        watch("training", 80, 100)
        watch("training", 90, 100)
    assert isinstance(console.file, io.StringIO)
    assert "steps: 90/100, training \u00b7 11 s, about 10 s left" in console.file.getvalue()


@contextmanager
def ctrl_c(when: Callable[[], bool]) -> Iterator[None]:
    """Presses it as soon as that holds."""
    over = threading.Event()

    def press() -> None:
        while not over.wait(0.005):
            if when():
                os.kill(os.getpid(), signal.SIGINT)
                return

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_training(tmp_path: Path, cli) -> None:
    out = tmp_path / "a run"
    command = ("train", "--recipe", "standard", "--eps", "0.1", "--limit", "150", "--no-audit", "--out", str(out))
    command += ("--set", "epochs=6", *SMALL)
    log = out / "log.jsonl"
    with ctrl_c(lambda: log.exists() and log.read_bytes().count(b"\n") > 1):
        ran = cli(*command)
    assert ran.code == 4, ran.err
    said = ran.err.splitlines()[-2:]
    assert said == [
        "stopped. What is finished is kept: run the same command again to go on:",
        f"  {shlex.join(['holdfast', *command])}",
    ]
    ran = cli(*shlex.split(said[1])[1:])
    assert ran.code == 0 and "epoch 1/6" not in ran.err and "epoch 6/6" in ran.err


def test_ctrl_c_in_an_audit_of_corruptions(tmp_path: Path, cli, digits_net: Path) -> None:
    net = ("--model", "net:small_cnn", "--weights", str(digits_net), *SMALL)
    command = ("audit", *net, "--corruptions", "validation", "--limit", "200", "--out", str(tmp_path / "run"))
    lines = tmp_path / "run" / "corruptions" / "outcomes.jsonl"
    with ctrl_c(lambda: lines.exists() and lines.read_bytes().count(b"\n") > 1):
        ran = cli(*command)
    assert ran.code == 4 and ran.err.endswith(f"go on:\n  {shlex.join(['holdfast', *command])}\n"), ran.err
    kept = lines.read_bytes()
    assert cli(*command, "-q").code == 0
    assert lines.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])


def test_ctrl_c_where_nothing_is_left_to_go_on_from(cli, monkeypatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("holdfast.cli.doctor.load", pressed)
    ran = cli("doctor", "--model", "net:small_cnn")
    assert ran.code == 130 and ran.err == "stopped. Nothing is left to go on from: the same command begins anew.\n"
