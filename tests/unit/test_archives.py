"""Files that were made to run code, to unpack without end, or to leave their place: refused, and nothing is run."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.data.load import load as load_data
from holdfast.foundation.errors import BadFile, HoldfastError
from holdfast.models import archive, weights
from holdfast.models.load import load

SHAPE = (1, 6, 6)
PROGRAM, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A small classifier as torch.export.save writes it, its batch free."""
    skip_where_exports_are_pickles()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)).eval()
        nn.init.normal_(net[0].weight)  # else few units are on
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    sizes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.rand(2, *SHAPE),), dynamic_shapes=sizes), path)
    return path


def skip_where_exports_are_pickles() -> None:
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 9):
        pytest.skip("torch exports by pickle before version 2.9")


class Payload:
    """What a pickle may hold: unpickled, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as held:
        return {name.partition("/")[2]: held.read(name) for name in held.namelist()}


def written(path: Path, members: dict[str, bytes], top: str = "net", how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as made:
        for name, data in members.items():
            made.writestr(f"{top}/{name}" if top else name, data)
    return path


def saved(held: object) -> bytes:
    into = io.BytesIO()
    torch.save(held, into)
    return into.getvalue()


def changed(data: bytes, change) -> bytes:
    held = json.loads(data)
    change(held)
    return json.dumps(held).encode()


def test_an_archive_answers_as_the_net_that_was_exported(exported, tmp_path) -> None:
    model, x = load(exported), torch.rand(5, *SHAPE)
    assert (model.shape, model.classes, model.parameters) == (SHAPE, 3, 2 * 9 + 2 + 4 + 96 + 3)
    theirs = torch.export.load(exported).module()
    assert torch.equal(model(x), theirs(x))
    x.requires_grad_()
    (ours,) = torch.autograd.grad(model(x).square().sum(), x)
    (wanted,) = torch.autograd.grad(theirs(x).square().sum(), x)
    assert torch.equal(ours, wanted) and ours.abs().sum() > 0
    copied = written(tmp_path / "copy.pt2", contents(exported))
    assert load(copied).fingerprint == model.fingerprint
    relu = contents(exported)
    relu[PROGRAM] = relu[PROGRAM].replace(b"torch.ops.aten.relu.default", b"torch.ops.aten.sigmoid.default")
    assert load(written(tmp_path / "other.pt2", relu)).fingerprint != model.fingerprint


def test_an_archive_is_audited_by_its_name(exported, tmp_path, cli) -> None:
    rng = np.random.default_rng(0)
    data = tmp_path / "images.npz"
    np.savez(data, images=rng.integers(0, 256, (9, 1, 8, 8), np.uint8), labels=np.arange(9) % 3)
    asked = ("--model", exported, "--data", data, "--eps", "0.3", "--plan", "sweep", "--out", tmp_path / "run")
    ran = cli("audit", *asked, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["backwards"] > 0 and told["robust_accuracy"]["value"] <= told["clean_accuracy"]["value"]
    assert "resized to 6x6" in ran.err
    assert cli("verify", tmp_path / "run", "--model", exported).code == 0


def test_an_archive_of_one_batch_size_takes_others(tmp_path) -> None:
    skip_where_exports_are_pickles()
    net, path = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval(), tmp_path / "fixed.pt2"
    torch.export.save(torch.export.export(net, (torch.rand(4, *SHAPE),)), path)
    model, x = load(path), torch.rand(6, *SHAPE)
    assert torch.allclose(model(x), net(x), atol=1e-6) and model(x[:0]).shape == (0, 3)


def hostile(kind: str, members: dict[str, bytes], target: Path) -> None:
    """Makes the members of an archive run something where they are read as torch reads them."""
    evil = pickle.dumps(Payload(target))
    if kind == "sample inputs":
        members[SAMPLES] = saved(((Payload(target),), {}))
    elif kind == "plain pickle":
        members[SAMPLES] = evil
    elif kind == "weights":
        members["data/weights/weight_0"] = saved(Payload(target))
        members[WEIGHTS] = changed(members[WEIGHTS], lambda held: held["config"]["0.weight"].update(use_pickle=True))
    elif kind == "old weights":
        members["data/weights/model.pt"] = saved(Payload(target))
    elif kind == "old constants":
        members["data/constants/model.pt"] = saved(Payload(target))
    elif kind in ("custom_obj", "opaque_obj"):
        members[f"data/constants/{kind}_0"] = evil
        told = {"path_name": f"{kind}_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        members[CONSTANTS] = json.dumps({"config": {"it": told}}).encode()
    elif kind == "native code":
        members["data/aotinductor/model/model.so"] = b"\x7fELF"
    elif kind == "old format":
        for name in list(members):
            del members[name]
        members |= {"serialized_exported_program.json": b"{}", "serialized_state_dict.pt": saved(Payload(target))}
    elif kind == "bytecode":
        members["models/model.pyc"] = b"x"


@pytest.mark.parametrize("kind", [
    "sample inputs", "plain pickle", "weights", "old weights", "old constants", "custom_obj", "opaque_obj", "native code",
    "old format", "bytecode",
])  # fmt: skip
def test_members_that_torch_would_run_are_refused(exported, tmp_path, kind) -> None:
    members, target = contents(exported), tmp_path / "created"
    hostile(kind, members, target)
    with pytest.raises(BadFile, match="refused"):
        load(written(tmp_path / "evil.pt2", members))
    assert not target.exists()


@pytest.mark.parametrize("called", [
    "torch.ops.aten.save.default", "torch.ops.aten.from_file.default", "torch.serialization.os.system", "torch.hub.load",
    "torch.ops.aten.set_.source_Storage", "torch.ops.aten.manual_seed.default", "torch.ops.aten.__class__.default",
    "torch.ops.aten._sparse_coo_tensor_unsafe.default", "torch.ops.prim.Print.default", "_operator.attrgetter",
    "math.__loader__", "#ext:run", "torch.ops.aten.relu.__init__", "builtins.eval", "torch.ops.aten.warn.default",
])  # fmt: skip
def test_only_operators_of_tensors_and_numbers_are_called(exported, tmp_path, called) -> None:
    members = contents(exported)
    members[PROGRAM] = members[PROGRAM].replace(b"torch.ops.aten.relu.default", called.encode())
    with pytest.raises(BadFile, match="not among the operators"):
        load(written(tmp_path / "evil.pt2", members))


def test_texts_of_a_program_are_never_evaluated(exported, tmp_path) -> None:
    """Torch's loader gives sizes to sympy's eval, names to the code of a module, and guards to exec; here none is used."""
    members, target = contents(exported), tmp_path / "created"
    code = f"__import__('pathlib').Path({str(target)!r}).touch()"

    def change(held) -> None:
        held["guards_code"] = [code]
        graph = held["graph_module"]["graph"]
        for value in graph["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code

    members[PROGRAM] = changed(members[PROGRAM], change).replace(
        b'"name": "relu"', json.dumps({"name": code})[1:-1].encode()
    )
    model = load(written(tmp_path / "odd.pt2", members))
    assert model.classes == 3 and not target.exists()


@pytest.mark.parametrize("change", [
    lambda held: held["config"]["0.weight"]["tensor_meta"].update(sizes=[{"as_int": 10**9}]),
    lambda held: held["config"]["0.weight"]["tensor_meta"].update(storage_offset={"as_int": 10**6}),
    lambda held: held["config"]["0.weight"]["tensor_meta"].update(strides=[{"as_int": 10**9}] * 4),
    lambda held: held["config"]["0.weight"]["tensor_meta"].update(sizes=[{"as_int": -1}] * 4),
    lambda held: held["config"]["0.weight"]["tensor_meta"].update(dtype=99),
    lambda held: held["config"]["0.weight"].update(path_name="../../models/model.json"),
    lambda held: held["config"].pop("0.weight"),
    lambda held: held.clear(),
])  # fmt: skip
def test_weights_that_do_not_lie_in_their_bytes_are_refused(exported, tmp_path, change) -> None:
    members = contents(exported)
    members[WEIGHTS] = changed(members[WEIGHTS], change)
    with pytest.raises(BadFile):
        load(written(tmp_path / "evil.pt2", members))


@pytest.mark.parametrize(
    "name", ["../outside", "/absolute", "net/../../outside", "net//twice", "net\\back", "net/./here"]
)
def test_names_that_leave_an_archive_are_refused(exported, tmp_path, name) -> None:
    path = written(tmp_path / "evil.pt2", contents(exported))
    with zipfile.ZipFile(path, "a") as made:
        made.writestr(name, b"x")
    with pytest.raises(BadFile, match="a member of the name"):
        archive.members(path)
    assert not (tmp_path / "outside").exists() and not (tmp_path.parent / "outside").exists()


def test_archives_that_are_not_as_torch_writes_them_are_refused(exported, tmp_path) -> None:
    members, path = contents(exported), tmp_path / "evil.pt2"
    with pytest.raises(BadFile, match="unpacks"):
        load(written(path, {**members, "extra/bomb": bytes(10**6)}, how=zipfile.ZIP_DEFLATED))
    with pytest.raises(BadFile, match="top folders"):
        load(written(path, {**{f"net/{name}": data for name, data in members.items()}, "more/x": b""}, top=""))
    twice = written(path, members)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(twice, "a") as made:
        made.writestr(f"net/{PROGRAM}", b"{}")
    with pytest.raises(BadFile, match="2 members of the name"):
        load(twice)
    with zipfile.ZipFile(written(path, members), "a") as made:
        made.writestr(f"net/{PROGRAM.upper()}", b"{}")  # torch's reader does not look at the case
    with pytest.raises(BadFile, match="2 members of the name"):
        load(path)
    path.write_bytes(b"#!/bin/sh\n" + exported.read_bytes())
    with pytest.raises(BadFile, match="begin"):
        load(path)
    whole = bytearray(exported.read_bytes())
    place = whole.index(b"archive_format")
    whole[place + 20 :] = bytes(byte ^ 1 for byte in whole[place + 20 :])
    path.write_bytes(whole)
    with pytest.raises(BadFile):
        load(path)


def overlapping(path: Path, copies: int) -> Path:
    """A zip archive whose directory names the same bytes under many names: it unpacks to `copies` times its size."""
    written(path, {"a": bytes(10**5)})
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    (start,) = struct.unpack("<I", data[end + 16 : end + 20])
    entry = data[start:end]
    entries = b"".join(entry.replace(b"net/a", b"net/%c" % (97 + n)) for n in range(copies))
    tail = bytearray(data[end:])
    tail[8:12], tail[12:16] = struct.pack("<HH", copies, copies), struct.pack("<I", len(entries))
    path.write_bytes(data[:start] + entries + tail)
    return path


def test_overlapping_members_are_refused(tmp_path) -> None:
    with pytest.raises(BadFile, match=r"longer than|cannot be read"):
        archive.members(overlapping(tmp_path / "bomb.pt2", 20))


def test_bombs_among_weights_and_data_are_refused(tmp_path) -> None:
    held = saved({"a": torch.zeros(10)})
    with zipfile.ZipFile(io.BytesIO(held)) as given:
        members = {name.partition("/")[2]: given.read(name) for name in given.namelist()}
    members["data/0"] = bytes(10**6)
    with pytest.raises(BadFile, match="unpacks"):
        weights.read(written(tmp_path / "bomb.pt", members, top="archive", how=zipfile.ZIP_DEFLATED))
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118)
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000000000, 3, 32, 32), }"
    npy = header + text.ljust(117) + b"\n"
    written(tmp_path / "bomb.npz", {"images.npy": npy, "labels.npy": npy}, top="")
    with pytest.raises(BadFile):
        load_data(tmp_path / "bomb.npz")


def test_objects_in_an_npz_are_refused(tmp_path) -> None:
    target = tmp_path / "created"
    objects = np.empty(1, dtype=object)
    objects[0] = Payload(target)
    for key in ("images", "class_names"):
        arrays = {"images": np.zeros((1, 1, 8, 8), np.uint8), "labels": np.zeros(1, np.int64), key: objects}
        np.savez(tmp_path / "evil.npz", **arrays)
        with pytest.raises(BadFile, match="pickled"):
            load_data(tmp_path / "evil.npz")
    assert not target.exists()


@pytest.mark.parametrize("data", [
    struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 2**32) + b"{}", struct.pack("<Q", 20) + b"{'not': json}".ljust(20),
    struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 4) + b"{}", b"\x00" * 7, struct.pack("<Q", 60000) + b"[" * 60000,
    struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[99999999],"data_offsets":[0,8]}}'.ljust(62) + bytes(8),
])  # fmt: skip
def test_headers_of_safetensors_that_lie_are_refused(tmp_path, data) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(BadFile, match="safetensors"):
        weights.read(tmp_path / "w.safetensors")


def test_torchscript_runs_only_where_it_is_trusted(tmp_path) -> None:
    """Its programs write files, already while they are loaded: that is why."""
    target, path = tmp_path / "created", tmp_path / "net.ts"
    code = (
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x: torch.Tensor):\n        return x.flatten(1)[:, :3]\n"
        "    @torch.jit.export\n"
        "    def __getstate__(self):\n        return (torch.zeros(1), self.training)\n"
        "    @torch.jit.export\n"
        "    def __setstate__(self, state: tuple[torch.Tensor, bool]):\n"
        f"        torch.save(state[0], {str(target)!r})\n        self.training = state[1]\n"
    )
    (tmp_path / "scripted_net.py").write_text(code)  # TorchScript reads the source
    namespace = _imported(tmp_path / "scripted_net.py")
    with warnings.catch_warnings():  # torch says in one way or another, by its version, that TorchScript is old
        warnings.simplefilter("ignore")
        torch.jit.script(namespace.Net()).save(str(path))
    target.unlink(missing_ok=True)
    with pytest.raises(BadFile, match="write files") as caught:
        load(str(path), shape=SHAPE)
    assert "--trust-code" in caught.value.hint and not target.exists()
    assert load(str(path), shape=SHAPE, trust_code=True).classes == 3 and target.exists()


def _imported(path: Path):
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 2000),
)
def test_a_damaged_archive_is_loaded_or_refused(exported, tmp_path, edits, cut) -> None:
    data = bytearray(exported.read_bytes())
    for place, byte in edits:
        data[place % len(data)] = byte
    path = tmp_path / "fuzzed.pt2"
    path.write_bytes(data[: len(data) - cut if cut < 50 else len(data)])
    _loaded_or_refused(path)


_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from(["torch.ops.aten.relu.default", "conv2d", "input", "as_tensor", "as_ints", "as_device", "user_input"]),
)  # fmt: skip
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_graph_with_anything_in_it_is_loaded_or_refused(exported, tmp_path, data) -> None:
    members = contents(exported)
    name = data.draw(st.sampled_from([PROGRAM, WEIGHTS, CONSTANTS]))
    held = json.loads(members[name])
    at = held
    for _ in range(data.draw(st.integers(1, 8))):
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not (isinstance(at[key], (dict, list)) and at[key]):
            break
        last, at = (at, key), at[key]
    else:
        at, key = last
    at[key] = data.draw(_JSON)
    members[name] = json.dumps(held).encode()
    _loaded_or_refused(written(tmp_path / "fuzzed.pt2", members))


def _loaded_or_refused(path: Path) -> None:
    try:
        assert load(path.as_posix(), shape=SHAPE).classes >= 2
    except HoldfastError as error:
        assert error.hint
