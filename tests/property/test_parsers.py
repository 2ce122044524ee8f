"""Every parser of what a user hands in: whatever the bytes, an answer or an error that a user can act on, nothing else."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save
from safetensors.torch import save_file

from holdfast.audit.config import build, option
from holdfast.data.decode import decode
from holdfast.data.load import load
from holdfast.foundation import toml, units
from holdfast.foundation.errors import BadFile, BadValue, HoldfastError
from holdfast.models.load import load as load_model
from holdfast.records.lines import repaired, whole
from holdfast.records.schema import Record

short = settings(max_examples=60, deadline=None)


def answer(call: Callable[[], Any], kind: type[HoldfastError] = HoldfastError) -> Any:
    """What the call gives, or None where it raises that kind of error, which then says what to do."""
    try:
        return call()
    except kind as error:
        assert error.message and error.hint
        return None


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with some changed, cut off, or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(("change", "cut", "insert", "remove")))
        if how == "change":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif how == "cut":
            del data[place:]
        elif how == "insert":
            data[place:place] = draw(st.binary(max_size=20))
        else:
            del data[place : place + draw(st.integers(1, 40))]
    return bytes(data)


def png(mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (9, 7), 100 if mode == "L" else (10, 20, 30)).save(file, "PNG")
    return file.getvalue()


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 20, 200)).save(file, "JPEG")
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, images=np.zeros((3, 1, 8, 8), np.uint8), labels=np.arange(3))
    return file.getvalue()


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"[-+]?[0-9.e]{0,9}/?[-+0-9.e]{0,9}(px|deg)?", fullmatch=True))
def test_a_radius(text: str) -> None:
    for unit in ("", "px", "deg"):
        value = answer(lambda unit=unit: units.parse(text, unit=unit), BadValue)
        assert value is None or (0 <= value < math.inf)


@given(st.text(max_size=20) | st.from_regex(r"[-+0-9.e]{0,9}(s|min|h)?", fullmatch=True))
def test_a_time(text: str) -> None:
    value = answer(lambda: units.seconds(text), BadValue)
    assert value is None or 0 < value < math.inf


@given(st.text(max_size=60))
def test_a_setting(text: str) -> None:
    toml.value(text)
    answer(lambda: option(text), BadValue)


@pytest.mark.parametrize("text", ["[" * 20_000, "{a=" * 20_000, "9" * 20_000, "1979-99-99", "\x00", '"\\ud800"'])
def test_a_setting_made_to_hurt(text: str) -> None:
    toml.value(text)
    answer(lambda: option(f"key={text}"), BadValue)


@pytest.mark.parametrize("text", ["a = " + "[" * 20_000, "a = " + "9" * 20_000, "a = \x00"])
def test_a_configuration_made_to_hurt(text: str, tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadFile):
        build(tmp_path / "audit.toml", {})


@settings(max_examples=150, deadline=None)
@given(
    damaged(b'model = "net:small_cnn"\neps = "8/255"\ncurve = [0.1, "2/255"]\nlimit = 20\n[options]\nwidth = 4\n')
    | st.binary()
)
def test_a_configuration(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "audit.toml")
        path.write_bytes(data)
        answer(lambda: build(path, {}))


LINE = Record(
    id=3, stage="pgd", eps=0.1, label=1, fooled=True, predicted=2, margin=-0.5, value=0.5, distance=0.1, steps=3, forwards=4,
    backwards=3,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(damaged(3 * (LINE.model_dump_json(exclude_none=True).encode() + b"\n")))
def test_records(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.jsonl")
        path.write_bytes(data)
        answer(lambda: list(whole(path, Record)), BadFile)
        assert path.read_bytes() == data
        kept = answer(lambda: list(repaired(path, Record)), BadFile)
        assert data.startswith(path.read_bytes())
        if kept is not None:
            assert list(whole(path, Record)) == kept


@short
@given(st.sampled_from([png(), png("RGB"), jpeg()]).flatmap(damaged) | st.binary(max_size=60))
def test_an_image(data: bytes) -> None:
    pixels = answer(lambda: decode(data, channels=3, where="it"))
    assert pixels is None or (pixels.dtype == np.uint8 and pixels.shape[0] == 3)


@short
@given(damaged(npz()))
def test_an_archive_of_arrays(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "set.npz")
        path.write_bytes(data)
        source = answer(lambda: load(path))
        assert source is None or answer(lambda: source.take(source.ids)) is None or len(source) > 0


@short
@given(damaged((0x00000803).to_bytes(4, "big") + b"".join(each.to_bytes(4, "big") for each in (2, 8, 8)) + bytes(128)))
def test_an_idx_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t10k-images-idx3-ubyte").write_bytes(data)
        Path(folder, "t10k-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x02\x01\x00")
        source = answer(lambda: load(folder))
        assert source is None or source.take(source.ids).images.shape[0] == len(source)


@short
@given(damaged(save({"weight": np.zeros((2, 3), np.float32), "bias": np.zeros(2, np.float32)})))
def test_weights(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.safetensors")
        path.write_bytes(data)
        answer(lambda: load_model("net:small_cnn", weights=path, shape=(1, 32, 32)))


def test_weights_that_announce_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for header in (2**63 - 1, 2**40, 10**8 + 1):
        path.write_bytes(header.to_bytes(8, "little") + b'{"weight":{}}')
        with pytest.raises(BadFile):
            load_model("net:small_cnn", weights=path, shape=(1, 32, 32))
    save_file({"weight": torch.zeros(1)}, path, metadata={"mean": "nan", "std": "0"})
    with pytest.raises(HoldfastError):
        load_model("net:small_cnn", weights=path, shape=(1, 32, 32))
