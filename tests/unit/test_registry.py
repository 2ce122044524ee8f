"""Components are found by name, without importing what was not asked for."""

import importlib.metadata
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.foundation import registry
from holdfast.foundation.errors import BadValue, UnknownName


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    yield
    registry._own.cache_clear()
    registry._foreign.cache_clear()


def _plug_in(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [importlib.metadata.EntryPoint(name, value, group) for name, value in points.items()]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry._foreign.cache_clear()


def test_own_components() -> None:
    assert {"digits", "npz", "folder", "idx", "parquet", "cifar_binary"} <= set(registry.names("data"))
    assert "load" not in registry.names("data")  # a file without @register is no component
    digits = registry.load("data", "digits")
    assert digits.__name__ == "Digits" and registry.name_of(digits) == registry.name_of(digits()) == "digits"
    entry = next(entry for entry in registry.entries("data") if entry.name == "digits")
    assert entry.summary == digits.__doc__.partition("\n")[0] and entry.origin == "holdfast"


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_component_loads_under_its_name(kind: str) -> None:
    assert registry.names(kind) == sorted(entry.name for entry in registry.entries(kind))
    for entry in registry.entries(kind):
        assert entry.summary
        assert registry.name_of(registry.load(kind, entry.name)) == entry.name


def test_did_you_mean() -> None:
    with pytest.raises(UnknownName, match=r"did you mean digits"):
        registry.load("data", "digit")


def test_listing_imports_neither_torch_nor_components() -> None:
    code = """
        import sys
        from holdfast.foundation import registry
        for kind in registry.KINDS:
            registry.entries(kind)
        assert "torch" not in sys.modules and "holdfast.data.digits" not in sys.modules
        import holdfast.data.load
        assert "torch" not in sys.modules and "pyarrow" not in sys.modules and "PIL" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    _plug_in(monkeypatch, counting="collections:Counter")
    assert "counting" in registry.names("data") and "digits" in registry.names("data")
    assert registry.load("data", "counting").__name__ == "Counter"
    entry = next(entry for entry in registry.entries("data") if entry.name == "counting")
    assert entry.origin == "collections"


def test_plug_in_cannot_replace_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    _plug_in(monkeypatch, digits="collections:Counter")
    assert registry.load("data", "digits").__name__ == "Digits"
    assert [entry.origin for entry in registry.entries("data") if entry.name == "digits"] == ["holdfast"]


@pytest.mark.parametrize("value", ["no_such_module:X", "collections:NoSuchThing", "broken_plug_in:X"])
def test_broken_plug_in_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
    (tmp_path / "broken_plug_in.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)
    _plug_in(monkeypatch, bad=value)
    assert "bad" in registry.names("data")
    with pytest.raises(BadValue, match=value.partition(":")[0]) as caught:
        registry.load("data", "bad")
    assert "digits" in caught.value.hint
