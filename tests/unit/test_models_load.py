import json
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from holdfast.foundation.errors import BadFile, BadModel, BadValue, UnknownName
from holdfast.models.load import load
from holdfast.models.normalisation import PRESETS, parse
from holdfast.models.probe import probe
from holdfast.nets.normalise import Normalise
from holdfast.nets.small_cnn import SmallCNN

SHAPE = (1, 16, 16)
OPTIONS = {"width": 2, "hidden": 6}


def small(**options):
    torch.manual_seed(5)
    return SmallCNN(size=16, classes=4, **OPTIONS, **options)


def saved(path, net, metadata=None):
    save_file(net.state_dict(), path, metadata=metadata)
    return path


def restored(path, **more):
    return load("net:small_cnn", weights=path, shape=SHAPE, classes=4, options=OPTIONS, **more)


def same(model, net, x=None):
    x = torch.rand(3, *SHAPE) if x is None else x
    with torch.no_grad():
        return torch.allclose(model(x), net(x), atol=1e-6)


def test_a_registered_net_takes_its_options_from_the_images():
    rng = torch.get_rng_state()
    model = load("net:small_cnn", shape=SHAPE, classes=4, options=OPTIONS)
    assert (model.classes, model.shape, model.dtype) == (4, SHAPE, torch.float32)
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.fingerprint == load("net:small_cnn", shape=SHAPE, classes=4, options=OPTIONS).fingerprint
    info = model.info()
    assert (info.dtype, info.device, info.parameters) == ("float32", "cpu", model.parameters)
    assert model(torch.rand(3, *SHAPE)).shape == (3, 4)


def test_a_module_is_used_as_it_is_and_its_shape_is_found():
    net = small().train()
    model = load(net)
    assert model.module is net and net.training and all(each.requires_grad for each in net.parameters())
    assert (model.shape, model.classes) == (SHAPE, 4)
    net.features.eval()
    front = load(net, normalise="mnist", shape=SHAPE).module
    assert front.training and net.training and not net.features[0].training  # its modes are not touched either


def test_the_shape_is_found_by_trying():
    assert load(SmallCNN(size=28, width=2, hidden=4, channels=3)).shape == (3, 28, 28)
    with pytest.raises(BadModel, match="not known"):
        load(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)))


def test_functions_and_models_are_taken():
    model = load(lambda x: x.flatten(1)[:, :4], shape=SHAPE)
    assert (model.classes, model.parameters) == (4, 0)
    again = load(model, shape=(3, 8, 8))
    assert again.module is model.module and again.shape == (3, 8, 8)
    behind = load(model, normalise="0.5/0.25")
    assert behind.declared["normalise"] == "0.5/0.25" and behind.fingerprint != model.fingerprint
    with pytest.raises(BadValue, match="already"):
        load(behind, normalise="0.5/0.25")


def test_a_factory_is_imported_from_the_current_folder_only_for_the_import(tmp_path, monkeypatch):
    (tmp_path / "their_nets.py").write_text(
        "from torch import nn\n"
        "def build(width=3):\n    return nn.Sequential(nn.Flatten(), nn.Linear(256, width))\n"
        "def broken():\n    raise OSError('no disk')\n"
        "def number():\n    return 3\n"
    )
    (tmp_path / "their_script.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    model = load("their_nets:build", shape=SHAPE, options={"width": 5})
    assert model.classes == 5 and model.name == "their_nets:build" and sys.path == path
    with pytest.raises(UnknownName, match="bild") as caught:
        load("their_nets:bild", shape=SHAPE)
    assert "build" in caught.value.hint
    with pytest.raises(UnknownName, match="wdth"):
        load("their_nets:build", shape=SHAPE, options={"wdth": 5})
    with pytest.raises(BadModel, match="no disk"):
        load("their_nets:broken", shape=SHAPE)
    with pytest.raises(BadModel, match="returns a int"):
        load("their_nets:number", shape=SHAPE)
    with pytest.raises(BadModel, match="SystemExit"):
        load("their_script:build", shape=SHAPE)
    with pytest.raises(BadModel, match="cannot be imported"):
        load("not_there_at_all:build", shape=SHAPE)
    assert sys.path == path
    del sys.modules["their_nets"]


@pytest.mark.parametrize("given, error", [
    ("small_cnn", BadValue), ("net:", BadValue), ("net:small_cn", UnknownName), (SmallCNN, BadModel), (3, BadModel),
])  # fmt: skip
def test_what_names_no_model_is_refused(given, error):
    with pytest.raises(error):
        load(given, shape=SHAPE)


def test_arguments_that_do_not_go_together_are_refused(tmp_path):
    path = saved(tmp_path / "w.safetensors", small())
    with pytest.raises(BadValue, match="options"):
        load(small(), shape=SHAPE, options={"width": 3})
    with pytest.raises(BadValue, match="no weights"):
        load(lambda x: x.flatten(1), shape=SHAPE, weights=path)
    with pytest.raises(BadModel, match="4 classes and 10"):
        load(small(), shape=SHAPE, classes=10)
    with pytest.raises(BadValue, match="channels"):
        load(small(), shape=SHAPE, normalise="cifar10")
    with pytest.raises(BadValue, match="shape"):
        load(small(), shape=(16, 16))
    with pytest.raises(BadValue, match="device"):
        load(small(), shape=SHAPE, device="abacus")


def test_safetensors_with_a_declared_normalisation(tmp_path):
    net = small()
    path = saved(tmp_path / "w.safetensors", net, {"mean": "0.1307", "std": "[0.3081]", "trained": "pgd"})
    model = restored(path)
    assert same(model, nn.Sequential(Normalise((0.1307,), (0.3081,)), net))
    assert model.declared == {"mean": "0.1307", "std": "[0.3081]", "trained": "pgd", "normalise": "0.1307/0.3081"}
    assert same(restored(path, normalise="0/1"), net)
    assert same(restored(path, normalise=((0.5,), (0.5,))), nn.Sequential(Normalise((0.5,), (0.5,)), net))
    for bad in ({"mean": "0.1"}, {"mean": "x", "std": "y"}, {"mean": "0.1,0.2", "std": "1"}):
        with pytest.raises(BadFile, match="declares"):
            restored(saved(tmp_path / "bad.safetensors", net, bad))


def test_a_net_that_was_trained_behind_its_own_normalisation_is_built_so(tmp_path):
    net = small(mean=(0.2,), std=(0.4,))
    model = restored(saved(tmp_path / "w.safetensors", net, {"mean": "0.2", "std": "0.4"}))
    assert same(model, net) and "normalise" not in model.declared


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
    lambda state: {"net": {f"module.{key}": value for key, value in state.items()}, "acc": 93.2},
    lambda state: {"model": {f"module._orig_mod.{key}": value for key, value in state.items()}},
])  # fmt: skip
@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt"])
def test_the_usual_wrappers_are_taken_off(tmp_path, wrap, ending):
    net = small()
    torch.save(wrap(net.state_dict()), tmp_path / f"w{ending}")
    assert same(restored(tmp_path / f"w{ending}"), net)


def test_weights_go_into_a_copy_of_a_users_module(tmp_path):
    net, other = small(), small()
    nn.init.ones_(other.head[1].weight)
    before = other.head[1].weight.clone()
    model = load(other, weights=saved(tmp_path / "w.safetensors", net), shape=SHAPE)
    assert same(model, net) and torch.equal(other.head[1].weight, before)


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


@pytest.mark.parametrize("how", ["torch", "legacy", "plain", "inside"])
def test_a_pickle_with_code_is_refused_and_never_run(tmp_path, how):
    target, path = tmp_path / "created", tmp_path / "evil.pt"
    if how == "plain":
        path.write_bytes(pickle.dumps(Payload(target)))
    else:
        held = {"state_dict": small().state_dict(), "x": Payload(target)} if how == "inside" else Payload(target)
        torch.save(held, path, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(BadFile, match="pickle") as caught:
        restored(path)
    assert "refused" in str(caught.value) and "state_dict" in caught.value.hint
    assert "weights_only" not in str(caught.value)  # no advice to switch the protection off
    assert not target.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(small(), tmp_path / "w.pt")
    with pytest.raises(BadFile, match="refused"):
        restored(tmp_path / "w.pt")


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("kind", ["text", "empty", "zip", "torn", "folder", "missing", "bytes"])
def test_files_of_another_kind_are_refused(tmp_path, ending, kind):
    path = tmp_path / f"w{ending}"
    if kind == "folder":
        path.mkdir()
    elif kind == "torn":
        if ending == ".pt":
            torch.save(small().state_dict(), path)
        else:
            saved(path, small())
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("hello.txt", "hello")
    elif kind != "missing":
        path.write_bytes({"text": b"dear diary\n" * 9, "empty": b"", "bytes": bytes(range(256)) * 4}[kind])
    with pytest.raises(BadFile) as caught:
        restored(path)
    assert str(path) in caught.value.message and caught.value.hint


def test_other_endings_and_other_contents_are_refused(tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(BadFile, match="kind of weights"):
        restored(tmp_path / "w.onnx")
    for held in ([1, 2], {"a": 3}, {}, torch.zeros(3)):
        torch.save(held, tmp_path / "w.pt")
        with pytest.raises(BadFile, match="not the weights"):
            restored(tmp_path / "w.pt")


def test_weights_of_another_net_are_named(tmp_path):
    state = small().state_dict()
    state["head.9.weight"] = state.pop("head.3.weight")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BadModel, match=r"missing: head\.3\.weight; unexpected: head\.9\.weight"):
        restored(tmp_path / "w.safetensors")
    path = saved(tmp_path / "v.safetensors", SmallCNN(size=16, classes=7, **OPTIONS))
    with pytest.raises(BadModel, match=r"head\.3\.weight is \(7, 6\) in the file and \(4, 6\) in the net"):
        restored(path)


def test_the_fingerprint_is_stable_and_sees_weights_and_normalisation():
    code = (
        "from holdfast.models.load import load\n"
        f"print(load('net:small_cnn', shape={SHAPE}, classes=4, options={OPTIONS}).fingerprint)"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = load("net:small_cnn", shape=SHAPE, classes=4, options=OPTIONS)
    assert here.fingerprint == there and len(there) == 32
    net = small()
    marks = {load(net, shape=SHAPE).fingerprint, load(net, shape=SHAPE, normalise="mnist").fingerprint}
    marks.add(load(net, shape=SHAPE, normalise="0.13/0.3").fingerprint)
    with torch.no_grad():
        net.head[3].bias[0] += 1e-6
    marks.add(load(net, shape=SHAPE).fingerprint)
    assert len(marks) == 4
    assert load(net.train(), shape=SHAPE).fingerprint == load(net.eval(), shape=SHAPE).fingerprint
    assert len(load(small().bfloat16(), shape=SHAPE).fingerprint) == 32


@pytest.mark.parametrize(
    "given", ["cifar10", json.dumps([1]), "0.5", "a/b", "0.5,0.5/1", "", "cifar-11", ((1,), (2, 3)), (1, 2)]
)
def test_the_normalisation_parser(given):
    if given == "cifar10":
        assert parse(given) == PRESETS["cifar10"]
        assert parse(str(PRESETS["cifar10"])) == PRESETS["cifar10"]
        assert parse(((0.5,), (0.25,))) == parse("0.5/0.25")
    else:
        with pytest.raises((BadValue, UnknownName)):
            parse(given)


class Returns(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("function, said", [
    (lambda x: (x.flatten(1), x), "returns a tuple"),
    (lambda x: x, r"shape \(2, 1, 16, 16\)"),
    (lambda x: x.flatten(1)[:, :1], r"shape \(2, 1\)"),
    (lambda x: x.flatten(1)[:, :4].argmax(1), r"shape \(2,\)"),
    (lambda x: x.flatten(1)[:, :4].long(), "int64"),
    (lambda x: x.flatten(1)[:, :4] * float("nan"), "not all finite"),
    (lambda x: x.nonsense, "nonsense"),
])  # fmt: skip
def test_outputs_that_are_no_logits_are_explained(function, said):
    with pytest.raises(BadModel, match=said):
        probe(Returns(function), SHAPE)


def test_wrong_channels_sizes_dtypes_and_devices_are_told_apart():
    net = small()
    assert probe(net, SHAPE) == 4
    with pytest.raises(
        BadModel, match=r"1 \(grey\) channels and the images have 3 \(colour\); its own error: RuntimeError"
    ):
        probe(net, (3, 16, 16))
    with pytest.raises(BadModel, match=r"shape \(3, 32, 32\) and the images are \(3, 40, 40\)"):
        probe(SmallCNN(channels=3, width=2, hidden=4), (3, 40, 40))
    with pytest.raises(BadModel, match="float64"):
        probe(net.double(), SHAPE)
    assert probe(net, SHAPE, dtype=torch.float64) == 4
    with pytest.raises(BadModel, match="on meta and the images are on cpu"):
        probe(small().to("meta"), SHAPE)


def test_the_probe_leaves_everything_as_it_was():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten()).train()
    before, rng = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
    assert probe(net, SHAPE) == 256
    assert net.training and torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_weights_that_name_their_classes_need_no_option(tmp_path):
    net = SmallCNN(size=16, width=2, hidden=4, classes=3)
    given = {"shape": SHAPE, "options": {"width": 2, "hidden": 4}}
    for told, wanted in (('["a", "b", "c"]', 3), ("[]", None), ("{", None), ('"abc"', None)):
        save_file(net.state_dict(), tmp_path / "w.safetensors", metadata={"classes": told})
        if wanted:
            assert load("net:small_cnn", weights=tmp_path / "w.safetensors", **given).classes == wanted
        else:
            with pytest.raises(BadModel):
                load("net:small_cnn", weights=tmp_path / "w.safetensors", **given)
