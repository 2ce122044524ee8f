"""A module imports only from its own floor or from lower ones, and the rooms of floor 2 not from one another."""

import ast
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parents[2] / "src" / "holdfast"
FLOORS = [
    {"foundation"},
    {"threats", "losses", "keys", "ascent", "imaging"},
    {"attacks", "corruptions", "perturbations", "defences", "detectors", "objectives", "probes", "nets"},
    {"models", "data", "records"},
    {"audit", "training"},
    {"report", "experiments", "explain", "comparison", "gate", "card", "pytest_plugin", "cli", "__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imported(tree: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, inside functions and type-checking blocks too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            base = base if node.level else node.module or ""
            # `from holdfast import x` names a room; everything else is decided by the module alone.
            yield from ((node.lineno, f"{base}.{alias.name}" if base == "holdfast" else base) for alias in node.names)


def faults(path: Path, root: Path) -> Iterator[str]:
    parts = path.relative_to(root.parent).with_suffix("").parts
    room = parts[1]
    for line, name in imported(ast.parse(path.read_text(encoding="utf-8")), list(parts[:-1])):
        at = f"{path.relative_to(root.parent)}:{line}"
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top == "torch" and FLOOR.get(room) == 0:
            yield f"{at}: floor 0 imports torch"
        if top != "holdfast" or target == "__version__":
            continue
        if room not in FLOOR or target not in FLOOR:
            yield f"{at}: {room} or {target or 'the whole package'} is on no floor"
        elif FLOOR[target] > FLOOR[room]:
            yield f"{at}: {room} (floor {FLOOR[room]}) imports {target} (floor {FLOOR[target]})"
        elif FLOOR[room] == 2 == FLOOR[target] and room != target:
            yield f"{at}: {room} and {target} are neighbours on floor 2"


def test_imports_go_down() -> None:
    files = [path for path in sorted(SRC.rglob("*.py")) if path != SRC / "__init__.py"]
    assert files and not [fault for path in files for fault in faults(path, SRC)]


def test_the_test_finds_faults(tmp_path: Path) -> None:
    root = tmp_path / "holdfast"
    (root / "attacks").mkdir(parents=True)
    (root / "foundation").mkdir()
    (root / "attacks" / "x.py").write_text(
        "from ..audit import plans\nfrom holdfast import probes\nimport holdfast.data.load\n"
        "from holdfast.attacks.pgd import PGD\nfrom . import y\nfrom holdfast import __version__\n"
    )
    (root / "foundation" / "x.py").write_text("def f():\n    from torch.nn import Module\n    import holdfast.losses\n")
    assert [one.partition(": ")[0].rpartition(":")[2] for one in faults(root / "attacks" / "x.py", root)] == [
        "1",
        "2",
        "3",
    ]
    assert len(list(faults(root / "foundation" / "x.py", root))) == 2
