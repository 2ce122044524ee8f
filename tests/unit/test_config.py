"""What an audit is asked for in text."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.audit.config import AuditConfig, build, option
from holdfast.foundation.errors import BadFile, BadValue, UnknownName


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "audit.toml"
    path.write_text(text)
    return path


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = written(
        tmp_path, 'model = "net:small_cnn"\neps = 0.1\ncurve = [0.05, "8/255"]\nseed = 3\n[options]\nwidth = 4\n'
    )
    config = build(path, {"seed": 5, "plan": None, "data": "x.npz"})
    assert config == AuditConfig(
        model="net:small_cnn", data="x.npz", eps="0.1", curve=("0.05", "8/255"), seed=5, options={"width": 4}
    )
    assert (config.plan, config.threat, config.device) == ("fast", "linf", "cpu")


def test_what_it_dumps_builds_it_again() -> None:
    config = build(None, {"model": "a:b", "eps": "8/255", "options": {"k": [1, 2]}, "limit": 3})
    assert build(None, config.model_dump(mode="json", exclude_none=True)) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 0}, "limit is 0; it must be at least 1"),
        ({"slots": -3}, "slots is -3; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        ({"limit": "few"}, "limit is 'few'"),
        ({"curve": 3}, "curve is 3"),
        ({"options": "width"}, "options is 'width'"),
        ({"eps": [1]}, "eps is \\[1\\]"),
        ({"model": None}, "no model is given"),
    ],
)
def test_values_that_are_not_allowed(given: dict, message: str) -> None:
    with pytest.raises(BadValue, match=message) as raised:
        build(None, {"model": "net:small_cnn", **given})
    assert raised.value.hint


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no\.toml does not exist"):
        build(tmp_path / "no.toml", {})
    with pytest.raises(BadFile, match=r"cannot be read: Invalid value"):
        build(written(tmp_path, "model ="), {})
    (tmp_path / "audit.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadFile, match="cannot be read"):
        build(tmp_path / "audit.toml", {})
    with pytest.raises(UnknownName, match=r"unknown key in .*audit.toml 'wieghts'(.|\n)*did you mean weights"):
        build(written(tmp_path, 'wieghts = "x"'), {})


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ({"out": "my/run"}, "my/run"),
        ({"eps": "8/255"}, "runs/net_small_cnn-digits-linf-8_255-fast"),
        ({"weights": "w/a b.pt", "data": "/x/y.parquet", "threat": "l2", "eps": "0.5"}, "runs/a_b-y-l2-0.5-fast"),
    ],
)
def test_the_folder(config: dict, folder: str) -> None:
    assert AuditConfig(model="net:small_cnn", **config).folder == Path(folder)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=3", 3),
        ("k=0.5", 0.5),
        ("k=true", True),
        ("k=[1, 2]", [1, 2]),
        ("k=relu", "relu"),
        ('k="3"', "3"),
        ("k=a=b", "a=b"),
    ],
)
def test_an_option(text: str, value: object) -> None:
    assert option(text) == ("k", value)


@pytest.mark.parametrize("text", ["k", "", "=3", " = 3"])
def test_an_option_without_key_or_value(text: str) -> None:
    with pytest.raises(BadValue, match="no key=value"):
        option(text)
