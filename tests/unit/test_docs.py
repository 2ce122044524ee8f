"""What the documentation says is there: links resolve, snippets run, commands and keys exist, every name is explained."""

import ast
import contextlib
import dataclasses
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from holdfast import losses
from holdfast.ascent import starts, steps
from holdfast.audit.config import AuditConfig, build
from holdfast.audit.outlines import OUTLINES
from holdfast.cli.app import run
from holdfast.cli.corruptions import Natural
from holdfast.foundation import errors, registry
from holdfast.records import conditions, schema, sequences
from holdfast.training import recipes
from holdfast.training.recipe import Recipe
from holdfast.training.watchdog import NO_NUMBER

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")), *DOCS]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(_text(page)) if found == language]


def _prose(page: Path) -> str:
    return FENCE.sub("", _text(page))


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _commands(page: Path) -> list[str]:
    """Every ``holdfast ...`` line of the page's shell blocks and of its inline code."""
    lines = [line for block in _blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines + re.findall(r"`([^`\n]+)`", _prose(page)) if line.startswith("holdfast ")]


@cache
def _options(*command: str) -> frozenset[str]:
    """The options that a command's own help names."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert run([*command, "--help"]) == 0, f"there is no command {' '.join(command)}"
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown.getvalue()))


@contextlib.contextmanager
def _imported(path: Path):
    """The module in a file outside the package, under its own name."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[path.stem]


def _batch(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    from holdfast.data.load import load

    source = load("digits", limit=n)
    images, labels = source.take(source.ids)
    return torch.from_numpy(images) / 255, torch.from_numpy(labels)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target}"
        assert found.is_relative_to(ROOT)
        if anchor:
            assert anchor in _anchors(found), f"{page.name}: {target}"


def test_every_page_is_in_the_index() -> None:
    for index in (page for page in DOCS if page.name == "index.md"):
        pages = [*index.parent.glob("*.md"), *index.parent.glob("*/index.md")]
        named = {page.relative_to(index.parent).as_posix() for page in pages if page != index}
        assert [page for page in sorted(named) if f"({page})" not in _text(index)] == []


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("python", "corruptions", "coming_from"))],
    ids=lambda page: page.name,
)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    """In a process of their own: an import that this file makes could hide one that the page forgot."""
    blocks = _blocks(page, "python")
    assert blocks
    (tmp_path / "page.py").write_text("\n".join(blocks), encoding="utf-8")
    command = [sys.executable, "-W", "error", "page.py"]
    one_core = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads that wait for a core that other tests have burn time
    done = subprocess.run(command, cwd=tmp_path, env=one_core, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_attack_in_contributing_runs(tmp_path: Path) -> None:
    (block,) = _blocks(ROOT / "CONTRIBUTING.md", "python")
    path = tmp_path / "random_sign.py"
    path.write_text(block, encoding="utf-8")
    x, y = _batch()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    with _imported(path) as module:
        attack = module.RandomSign(restarts=3)
        assert registry.name_of(attack) == "random_sign" and "Source:" in module.RandomSign.__doc__
        for name in attack.threats:
            threat = registry.load("threat", name)(4 if name == "l0" else 0.5)
            whole, parts = attack(net, x, y, threat=threat), attack(net, x, y, threat=threat, slots=3)
            assert torch.equal(whole.x, parts.x) and torch.equal(whole.fooled, net(whole.x).argmax(1) != y)
            assert float((whole.distance - threat.eps).max()) <= 1e-5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page: Path) -> None:
    for line in _commands(page):
        words = shlex.split(line.partition(" #")[0])
        command = words[1] if len(words) > 1 else ""
        if command == "--help":
            continue
        assert re.fullmatch(r"[a-z]+", command), line
        for word in words[2:]:
            if word.startswith("-"):
                assert word.partition("=")[0] in _options(command), f"{page.name}: {line}: {word}"


def test_commands_are_found() -> None:
    assert sum(len(_commands(page)) for page in PAGES) > 20
    assert "--eps" in _options("audit") and "--bogus" not in _options("audit")


def test_every_command_is_documented() -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        run(["--help"])
    commands = re.findall(r"^│ ([a-z]+) ", shown.getvalue(), re.MULTILINE)
    assert {"audit", "demo", "doctor", "list"} <= set(commands)
    used = {shlex.split(line)[1] for page in PAGES for line in _commands(page)}
    assert set(commands) - used == set()


def test_every_audit_option_and_key_is_documented() -> None:
    page = _text(ROOT / "docs" / "audit.md")
    missing = [one for one in _options("audit") if one.startswith("--") and f"`{one}`" not in page]
    assert missing in ([], ["--help"])
    assert [key for key in AuditConfig.model_fields if f"`{key}`" not in page] == []


def test_toml_blocks_are_configurations(tmp_path: Path) -> None:
    blocks = _blocks(ROOT / "docs" / "audit.md", "toml")
    assert blocks
    for block in blocks:
        (tmp_path / "audit.toml").write_text(block, encoding="utf-8")
        build(tmp_path / "audit.toml", {})


def test_every_name_is_documented() -> None:
    text = "".join(map(_text, DOCS))
    names = [name for kind in registry.KINDS for name in registry.names(kind)]
    names += [*OUTLINES, *losses.LOSSES, *starts.STARTS, *steps.SCHEDULES]
    assert [name for name in names if f"`{name}`" not in text and f'"{name}"' not in text] == []
    attacks = _text(ROOT / "docs" / "attacks.md")
    assert [name for name in registry.names("attack") if f"### {name}\n" not in attacks] == []


def test_every_attack_option_is_documented_with_its_default() -> None:
    page = _text(ROOT / "docs" / "attacks.md")
    for name in registry.names("attack"):
        section = page.partition(f"### {name}\n")[2].partition("\n#")[0]
        for option, value in registry.load("attack", name)().configuration().items():
            default = f'"{value}"' if isinstance(value, str) else str(value)
            shown = f"`{option}`" if value is None else f"`{option} = {default}`"
            assert shown in section, f"{name}: {shown}"


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        (schema.Summary, "summary.json"),
        (schema.CurvePoint, "summary.json"),
        (schema.StageSummary, "summary.json"),
        (schema.Rate, "summary.json"),
        (schema.Audited, "summary.json"),
        (schema.Distances, "summary.json"),
        (schema.Measured, "summary.json"),
        (schema.Failure, "summary.json"),
        (schema.Finding, "summary.json"),
        (schema.RunInfo, "run.json"),
        (schema.StageInfo, "run.json"),
        (schema.ModelInfo, "run.json"),
        (schema.DataInfo, "run.json"),
        (schema.Record, "records.jsonl"),
    ],
)
def test_the_schema_is_documented(kind: type[schema.Frozen], heading: str) -> None:
    section = _text(ROOT / "docs" / "audit.md").partition(f"### {heading}\n")[2].partition("\n### ")[0]
    assert [field for field in kind.model_fields if f"`{field}`" not in section] == []


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        (conditions.ConditionsInfo, "corruptions/run.json"),
        (conditions.Overlap, "corruptions/run.json"),
        (conditions.Outcomes, "corruptions/outcomes.jsonl"),
        (conditions.ConditionsSummary, "corruptions/summary.json"),
        (conditions.Cell, "corruptions/summary.json"),
        (conditions.Row, "corruptions/summary.json"),
        (conditions.Mean, "corruptions/summary.json"),
        (sequences.SequencesInfo, "perturbations/run.json"),
        (sequences.Sequences, "perturbations/outcomes.jsonl"),
        (sequences.SequencesSummary, "perturbations/summary.json"),
        (sequences.SequencesRow, "perturbations/summary.json"),
    ],
)
def test_the_schema_of_corruptions_is_documented(kind: type[schema.Frozen], heading: str) -> None:
    section = _text(ROOT / "docs" / "corruptions.md").partition(f"### {heading}\n")[2].partition("\n### ")[0]
    shared = _text(ROOT / "docs" / "corruptions.md") if kind in (conditions.Row, conditions.Cell) else section
    assert [field for field in kind.model_fields if f"`{field}`" not in shared] == []


def test_every_option_of_corruptions_is_documented_on_their_page() -> None:
    page = _text(ROOT / "docs" / "corruptions.md")
    natural = {f"--{field.replace('_', '-')}" for field in Natural.__dataclass_fields__}
    assert len(natural) > 8 and [option for option in sorted(natural) if f"`{option}`" not in page] == []
    rooms = (ROOT / "src" / "holdfast" / "audit" / room for room in ("corrupted", "perturbed"))
    source = "".join(_text(file) for room in rooms for file in sorted(room.glob("*.py")))
    checks = re.findall(r'finding\(\s*"([^"]+)"', source)
    assert len(checks) > 6 and [check for check in checks if f"`{check}`" not in page] == []


def test_every_recipe_setting_and_option_of_train_is_documented() -> None:
    page = _text(ROOT / "docs" / "training.md")
    wanted = [
        *recipes.names(),
        *(field.name for field in dataclasses.fields(Recipe) if field.name not in ("objective", "threat")),
    ]
    assert len(wanted) > 15 and [name for name in wanted if f"`{name}`" not in page and f"--{name}" not in page] == []
    assert [one for one in _options("train") if one.startswith("--") and f"`{one}`" not in page] in ([], ["--help"])
    code = "".join(_text(ROOT / "src" / "holdfast" / "training" / f"{name}.py") for name in ("held_out", "watchdog"))
    checks = {NO_NUMBER, *re.findall(r'(?:_warning\(\s*|check=)"([^"]+)"', code)}
    assert len(checks) == 5 and [check for check in checks if f"`{check}`" not in page] == []


def test_every_check_is_documented() -> None:
    source = (ROOT / "src" / "holdfast" / "models" / "doctor.py").read_text(encoding="utf-8")
    found = set(re.findall(r'(?:_error|_warning|_note)\(\s*"([^"]+)"', source))
    found |= set(re.findall(r'^    name = "([^"]+)"', source, re.MULTILINE))
    assert len(found) > 10
    page = _text(ROOT / "docs" / "doctor.md")
    assert [check for check in sorted(found) if f"`{check}`" not in page] == []
    probed = (ROOT / "src" / "holdfast" / "audit" / "checks.py").read_text(encoding="utf-8")
    found = {*re.findall(r'_warning\(\s*"([^"]+)"', probed), *re.findall(r'(?:check|name) ?= ?"([^"]+)"', probed)}
    assert len(found) > 8
    page = _text(ROOT / "docs" / "checks.md")
    assert [check for check in sorted(found) if f"`{check}`" not in page] == []
    concluded = (ROOT / "src" / "holdfast" / "audit" / "conclude.py").read_text(encoding="utf-8")
    page = _text(ROOT / "docs" / "audit.md")
    assert [check for check in re.findall(r'check="([^"]+)"', concluded) if f"`{check}`" not in page] == []


def test_every_error_is_documented() -> None:
    page = _text(ROOT / "docs" / "python.md")
    kinds = [kind.__name__ for kind in errors.HoldfastError.__subclasses__()]
    assert kinds and [name for name in kinds if f"`{name}`" not in page] == []


def test_the_example_model_can_be_audited() -> None:
    from holdfast.audit.api import audit
    from holdfast.threats.linf import Linf

    with _imported(ROOT / "examples" / "own_model.py") as module:
        assert set(module.factory().state_dict()) == set(module.trained(epochs=1).state_dict())
        result = audit(module.trained(epochs=1), _batch(), threat=Linf("8/255"), plan="sweep")
    assert result.clean_accuracy > 0.5 and len(result.robust) == 8


def test_the_example_configuration_names_what_exists() -> None:
    config = build(ROOT / "examples" / "audit.toml", {})
    module, _, factory = config.model.partition(":")
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    functions = [node for node in ast.parse(_text(path)).body if isinstance(node, ast.FunctionDef)]
    (found,) = [node for node in functions if node.name == factory]
    assert set(config.options) <= {argument.arg for argument in found.args.args}
    assert config.plan in OUTLINES and config.data in registry.names("data")
