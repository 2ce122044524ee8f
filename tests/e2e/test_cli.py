"""The commands, as a user types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from holdfast import __version__
from holdfast.audit.outlines import OUTLINES
from holdfast.foundation import registry
from holdfast.records import store

COMMANDS = (
    "attack",
    "audit",
    "certify",
    "completion",
    "corrupt",
    "demo",
    "detect",
    "doctor",
    "experiment",
    "explain",
    "index",
    "list",
    "plan",
    "report",
    "theory",
    "train",
    "verify",
)
SMALL = ("--option", "width=4", "--option", "hidden=32")


@pytest.fixture
def net(digits_net: Path, tmp_path: Path, monkeypatch) -> tuple[str, ...]:
    """The options that name the trained net; the current folder is empty."""
    monkeypatch.chdir(tmp_path)
    return ("--model", "net:small_cnn", "--weights", str(digits_net), *SMALL)


@pytest.fixture
def run(net: tuple[str, ...], cli) -> Path:
    """A finished run of 40 digits."""
    assert cli("audit", *net, "--limit", 40, "--eps", "0.1", "--plan", "sweep", "--out", "run", "-q").code == 0
    return Path("run")


@pytest.mark.parametrize("arguments", [["--help"], ["audit", "--help"], ["list"], ["--version"], ["report", "--help"]])
def test_what_needs_no_torch_imports_none(arguments: list[str]) -> None:
    code = (
        "import sys; from holdfast.cli.app import run; code = run(sys.argv[1:]); "
        "heavy = {'torch', 'altair', 'sklearn', 'scipy', 'pandas', 'pyarrow'} & set(sys.modules); "
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout and not done.stderr


def test_help(cli) -> None:
    ran = cli("--help")
    assert ran.code == 0 and "Exit codes" in ran.out and not ran.err
    assert all(f" {command} " in ran.out for command in COMMANDS)
    assert cli().out == ran.out
    assert cli("--version").out.strip() == __version__


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_an_example_and_explains_every_option(command: str, cli) -> None:
    ran = cli(command, "--help")
    assert ran.code == 0 and not ran.err
    assert any(line.startswith(f"holdfast {command} ") for line in ran.out.splitlines()), "no example"
    for line in ran.out.splitlines():
        if line.startswith("│ --") or line.startswith("│ *"):
            assert len(line.strip("│ ").split("  ")) > 1, f"not explained: {line}"


@pytest.mark.parametrize("kind", registry.KINDS)
def test_list(kind: str, cli) -> None:
    ran = cli("list", kind)
    assert ran.code == 0 and not ran.err
    listed = [line.split()[1] for line in ran.out.splitlines() if line.startswith(f"{kind} ")]
    assert listed == registry.names(kind)


def test_list_names_every_kind(cli) -> None:
    told = {tuple(line.split()[:2]) for line in cli("list").out.splitlines()}
    assert {(kind, name) for kind in registry.KINDS for name in registry.names(kind)} <= told


def test_list_as_json(cli) -> None:
    told = json.loads(cli("list", "attack", "--json").out)
    assert [(each["kind"], each["name"]) for each in told] == [("attack", name) for name in registry.names("attack")]
    assert all(each["about"] for each in told)


@pytest.mark.parametrize(
    ("shell", "begins"), [("bash", "# Bash"), ("zsh", "#compdef holdfast"), ("fish", "#"), ("powershell", "")]
)
def test_completion(shell: str, begins: str, cli) -> None:
    ran = cli("completion", shell)
    if shell == "powershell" and version("cyclopts") < "5":
        assert ran.code == 2 and "cyclopts 5" in ran.err  # the last for Python 3.10 is older
        return
    assert ran.code == 0 and not ran.err and ran.out.startswith(begins)
    assert "corrupt" in ran.out and ("--strict-checks" in ran.out or "strict-checks" in ran.out)
    assert cli("completion", "tcsh").code == 2


def test_verbose_shows_where_an_error_arose(cli) -> None:
    quiet, verbose = cli("list", "atack"), cli("list", "atack", "--verbose")
    assert quiet.code == verbose.code == 2
    assert "Traceback" not in quiet.err and "Traceback" in verbose.err and verbose.err.endswith(quiet.err)


def test_list_plans(cli) -> None:
    out = cli("list", "plan").out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("plan ")] == list(OUTLINES)


def test_audit_says_the_verdict_and_writes_everything(net, cli) -> None:
    ran = cli(
        "audit", *net, "--limit", 40, "--eps", "0.1", "--plan", "quick", "--curve", "0.02", "0.05", "--out", "a/b"
    )
    assert ran.code == 0, ran.err
    folder = Path("a/b")
    assert {path.name for path in folder.iterdir()} == {
        *(store.RUN, store.RECORDS, store.SESSIONS, store.FINAL_POINTS, store.GALLERY, store.SUMMARY, store.REPORT)
    }
    summary = store.read_summary(folder)
    assert [point.eps for point in summary.curve] == [0.02, 0.05, 0.1]
    assert f"{100 * summary.robust_accuracy.value:.1f} %" in ran.out and "n = 40" in ran.out
    assert "report: a/b/report.html" in ran.out and "upper bound" in ran.out
    assert "clean: 40/40" in ran.err and "pgd at eps 0.1" in ran.err  # plain lines, as there is no terminal
    info = store.read_info(folder)
    assert info.command.startswith("holdfast") and info.request["curve"] == ["0.02", "0.05"]


def test_json_alone_goes_to_stdout(net, cli) -> None:
    ran = cli("audit", *net, "--limit", 40, "--eps", "0.1", "--plan", "sweep", "--out", "run", "--json")
    printed = json.loads(ran.out)
    assert printed == json.loads(Path("run/summary.json").read_text()) and "clean: 40/40" in ran.err
    again = cli("audit", *net, "--limit", 40, "--eps", "0.1", "--plan", "sweep", "--out", "run", "--json", "--quiet")
    assert json.loads(again.out) == printed and not again.err


def test_corruptions_and_perturbations_join_the_worst_case(net, cli) -> None:
    both = ("--corruptions", "fog", "pixelate", "--severities", 1, 5, "--perturbations", "tilt")
    ran = cli("audit", *net, "--limit", 40, "--eps", "0.1", "--plan", "sweep", *both, "--out", "run")
    assert ran.code == 0, ran.err
    assert re.search(r"^fog +\d", ran.out, re.M) and re.search(r"^tilt +\d", ran.out, re.M)
    assert "mean corruption error (not normalised), 2 corruptions" in ran.out and "robust accuracy, linf 0.1" in ran.out
    assert "corruptions: 200/200" in ran.err and "perturbations: 40/40" in ran.err
    page = Path("run/report.html").read_text()
    assert all(f'id="{section}"' in page for section in ("curve", "corruptions", "perturbations"))
    again = cli("audit", *net, "--limit", 40, "--eps", "0.1", "--plan", "sweep", *both, "--out", "run", "--json", "-q")
    assert set(json.loads(again.out)) == {"worst_case", "corruptions", "perturbations"} and not again.err


def test_corruptions_alone_need_no_radius(net, cli, digits_net) -> None:
    ran = cli("audit", *net, "--limit", 12, "--corruptions", "fog", "--severities", 3, "--quiet")
    assert ran.code == 0, ran.err
    assert [path.name for path in Path("runs").iterdir()] == ["digits-digits-corruptions"]
    assert "training unknown" in ran.out
    alone = cli("audit", *net, "--limit", 12, "--corruptions", "fog", "--severities", 3, "--out", "own", "--json", "-q")
    assert set(json.loads(alone.out)) == {"corruptions"}
    assert cli("report", "own", "runs/digits-digits-corruptions", "--out", "both.html").code == 0
    verified = cli("verify", "own")
    assert verified.code == 2 and "holds no adversarial images" in verified.err


def test_a_written_set_is_read_again_and_shown(net, cli) -> None:
    ran = cli("corrupt", "--data", "digits", "--limit", 12, "--corruptions", "fog", "--out", "set", "-q", "--json")
    assert json.loads(ran.out) == {
        "out": "set",
        "corruptions": ["fog"],
        "severities": [1, 2, 3, 4, 5],
        "variant": "32",
        "images": 60,  # 12 under each of five severities
    }
    made = cli("audit", *net, "--limit", 12, "--corruptions", "fog", "--out", "made", "--json", "-q")
    read = cli("audit", *net, "--limit", 12, "--released", "set", "--out", "read", "--json", "-q")
    assert json.loads(read.out)["corruptions"]["cells"] == json.loads(made.out)["corruptions"]["cells"]
    other = cli("audit", *net, "--limit", 30, "--released", "set", "--out", "other", "-q")
    assert other.code == 2 and "has 12 images a condition, and not the sample" in other.err
    ran = cli("corrupt", "--corruptions", "fog", "snow", "--out", "gallery.png")
    assert ran.code == 0 and "2 corruptions, constants for 32 pixels" in ran.out
    with Image.open("gallery.png") as sheet:
        assert sheet.width > sheet.height


def test_training_and_explaining_as_json(tmp_path: Path, monkeypatch, cli) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--set", "epochs=1", *SMALL, "--limit", 100, "--eps", "0.1", "-q")
    ran = cli(
        "train", "--recipe", "standard", "--net", "small_cnn", "--data", "digits:train", *small, "--out", "t", "--json"
    )
    told = json.loads(ran.out)
    assert ran.code == 0 and told["best"] == told["last"] and told["best"]["epoch"] == 1 and told["stopped"] == ""
    assert told["audits"] == [json.loads(Path("t/audit/summary.json").read_text())]

    model = ("--model", "net:small_cnn", "--weights", "t/best_robust.safetensors", *SMALL)
    asked = ("--probe", "frequencies", "--limit", 4, "--eps", "0.1", "--out", "why", "-q", "--json")
    ran = cli("explain", *model, "--data", "digits", *asked)
    told = json.loads(ran.out)
    assert ran.code == 0 and told["contradictions"] == [] and Path(told["report"]).exists()
    assert told["answers"]["frequencies"] == json.loads(Path("why/frequencies/answer.json").read_text())["found"]


def test_a_run_of_its_own_under_runs(net, cli, digits_net) -> None:
    assert cli("audit", *net, "--limit", 12, "--eps", "0.1", "--plan", "sweep", "--quiet").code == 0
    assert [path.name for path in Path("runs").iterdir()] == ["digits-digits-linf-0.1-sweep"]


def test_the_same_command_again_only_reads(run: Path, net, cli) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir() if path.name != store.REPORT}
    ran = cli("audit", *net, "--limit", 40, "--eps", "0.1", "--plan", "sweep", "--out", "run", "-q")
    assert ran.code == 0 and "report: run/report.html" in ran.out
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir() if path.name != store.REPORT}
    assert after == before


def test_a_toml_file_is_the_command_line(run: Path, net, cli, digits_net) -> None:
    Path("audit.toml").write_text(
        f'model = "net:small_cnn"\nweights = "{digits_net}"\neps = 0.1\nplan = "sweep"\nlimit = 40\nout = "other"\n'
        "[options]\nwidth = 4\nhidden = 32\n"
    )
    assert cli("audit", "--config", "audit.toml", "-q").code == 0
    assert Path("other/records.jsonl").read_bytes() == (run / "records.jsonl").read_bytes()
    assert Path("other/points.safetensors").read_bytes() == (run / "points.safetensors").read_bytes()
    again = cli("audit", "--config", "audit.toml", "--out", "run", "-q")  # the same run, and the command line wins
    assert again.code == 0, again.err
    told = cli("audit", "--config", "audit.toml", "--eps", "0.2", "-q")
    assert told.code == 2 and "other holds another run: its eps is 0.1, now it is 0.2" in told.err


def test_verify(run: Path, cli, net) -> None:
    ran = cli("verify", "run")
    points = len(store_points(run))
    assert ran.code == 0 and f"{points} of {points} adversarial images are upheld" in ran.out
    told = json.loads(cli("verify", "run", *net, "--json").out)
    assert told == {"points": points, "upheld": points, "refuted": [], "claimed": points, "found": points}
    assert cli("verify", "run", "--limit", 39).code == 2


def store_points(run: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(run / store.FINAL_POINTS)["points"]


def test_report_of_two_runs(run: Path, net, cli) -> None:
    assert cli("audit", *net, "--limit", 40, "--eps", "0.1", "--plan", "quick", "--out", "two", "-q").code == 0
    ran = cli("report", "run", "two", "--out", "pages/both.html")
    assert ran.code == 0 and ran.out.strip() == "report: pages/both.html"
    page = Path("pages/both.html").read_text()
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert "small_cnn" in page and "<svg" in page
    (run / store.REPORT).unlink()
    assert json.loads(cli("report", "run", "--json").out) == {"report": "run/report.html"}
    assert (run / store.REPORT).exists()


def test_doctor(net, cli) -> None:
    ran = cli("doctor", *net)
    assert ran.code == 0 and "10 classes" in ran.out and "looked at are right" in ran.out
    found = json.loads(cli("doctor", *net, "--json").out)
    assert found["accuracy"] > 0.9 and found["n"] >= 200
    assert not [finding for finding in found["findings"] if finding["level"] == "error"]


def test_doctor_finds_a_wrong_normalisation(net, cli) -> None:
    ran = cli("doctor", *net, "--normalise", "5/0.2")
    assert ran.code == 0
    assert "no normalisation in front" in ran.out and "pass --normalise 0/1" in ran.out
    found = json.loads(cli("doctor", *net, "--normalise", "5/0.2", "--json").out)
    assert found["accuracy"] < 0.5 and {finding["check"] for finding in found["findings"]} & {"clean accuracy"}


def test_plan(net, cli) -> None:
    ran = cli("plan", *net, "--eps", "0.1", "--plan", "thorough")
    assert ran.code == 0 and not Path("runs").exists()
    assert all(word in ran.out for word in ("clean", "pgd", "apgd-ce", "apgd-t", "500 images", "at most"))
    costs = {
        cost["stage"]: cost for cost in json.loads(cli("plan", *net, "--eps", "0.1", "--plan", "quick", "--json").out)
    }
    assert costs["clean"]["forwards"] == 500 and costs["pgd"]["backwards"] == 500 * 20
    assert costs["apgd-t"]["backwards"] == 500 * 3 * 50 and all(cost["seconds"] > 0 for cost in costs.values())
    ran = cli("plan", *net, "--corruptions", "fog", "contrast", "--severities", "2", "5")
    assert (
        ran.code == 0
        and "under 2 corruptions, severities 2, 5" in ran.out
        and "gradients" in ran.out
        and "sweep" not in ran.out
    )
    costs = json.loads(cli("plan", *net, "--corruptions", "fog", "--severities", "2", "--json").out)
    assert [(cost["stage"], cost["forwards"]) for cost in costs] == [("checks", 0), ("clean", 500), ("fog", 500)]


def folder(images: np.ndarray, labels: np.ndarray) -> str:
    for number, (pixels, label) in enumerate(zip(images, labels)):
        path = Path("data") / str(label) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0]).save(path)
    return "data"


def npz(images: np.ndarray, labels: np.ndarray) -> str:
    np.savez("data.npz", images=images, labels=labels)
    return "data.npz"


def parquet(images: np.ndarray, labels: np.ndarray) -> str:
    cells = [{"bytes": (Path("data") / f"{label}" / f"{i:02}.png").read_bytes()} for i, label in enumerate(labels)]
    pq.write_table(pa.table({"image": pa.array(cells), "label": pa.array(labels)}), "data.parquet", row_group_size=7)
    return "data.parquet"


def test_images_of_every_kind_give_the_same_numbers(net, cli, digits) -> None:
    images, labels = digits
    accuracies = []
    for make in (folder, npz, parquet):
        given = make(images, labels)
        ran = cli("audit", *net, "--data", given, "--eps", "0.05", "--plan", "sweep", "--out", f"of_{given}", "--json")
        assert ran.code == 0, ran.err
        summary = json.loads(ran.out)
        accuracies.append((summary["clean_accuracy"]["value"], summary["robust_accuracy"]["n"]))
        assert cli("verify", f"of_{given}").code == 0
    assert accuracies[0] == accuracies[1] == accuracies[2] and accuracies[0][0] > 0.9 and accuracies[0][1] == 40
    of_npz, of_parquet = (Path(f"of_data.{kind}/points.safetensors").read_bytes() for kind in ("npz", "parquet"))
    assert of_npz == of_parquet


def test_as_a_module(shell, tmp_path: Path) -> None:
    ran = shell("--version", cwd=tmp_path)
    assert ran == (0, f"{__version__}\n", "")
    assert shell("nonsense", cwd=tmp_path).code == 2


def test_a_reader_that_goes_away() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141 and "Traceback" not in told


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_tells_its_story(shell, tmp_path: Path) -> None:
    ran = shell("demo", "--out", "demo", cwd=tmp_path, timeout=1000)
    assert ran.code == 0, ran.err
    standard, robust = (store.read_summary(tmp_path / "demo" / name) for name in ("standard", "robust"))
    at = [{round(point.eps, 4): point.robust_accuracy.value for point in one.curve} for one in (standard, robust)]
    assert standard.clean_accuracy.value > 0.97 and at[0][0.15] < 0.05
    assert robust.clean_accuracy.value > 0.9 and at[1][0.15] > 0.5
    assert "report: " in ran.out and (tmp_path / "demo" / "report.html").stat().st_size > 20_000
    assert shell("demo", "--out", "demo", cwd=tmp_path, timeout=1000).code == 0  # a second time it only reads
