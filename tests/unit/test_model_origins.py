"""Models from where users have them: each a real small one of its kind, with random weights."""

from __future__ import annotations

import importlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.foundation import registry
from holdfast.foundation.errors import BadFile, BadModel, BadValue, UnknownName
from holdfast.models.load import load

SHAPE = (3, 16, 16)


def needs(*libraries: str) -> None:
    """Skips a test whose library cannot be imported here, with what the import said; "MODULE:NAME" is a part of one."""
    for library in libraries:
        module, _, name = library.partition(":")
        try:
            found = importlib.import_module(module)
            _ = getattr(found, name) if name else found
        except Exception as error:  # a torchvision of another torch fails with RuntimeError
            pytest.skip(f"{library} cannot be imported: {type(error).__name__}: {error}")


@pytest.fixture
def no_network(monkeypatch) -> Iterator[list[object]]:
    """Fails a test that asks for any connection."""
    asked: list[object] = []

    def refuse(self, address, *more):
        asked.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: refuse(None, where))
    yield asked
    assert asked == []


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Twelve random images of three classes."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=rng.integers(0, 256, (12, *SHAPE), np.uint8), labels=np.arange(12) % 3)
    return path


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        nn.init.normal_(net[3].weight)
    return net.eval()


def test_every_origin_says_how_it_is_written() -> None:
    names = registry.names("model")
    assert names == ["hf", "onnx", "pt2", "python_file", "timm", "torchscript", "torchvision"]
    with pytest.raises(BadValue) as caught:
        load("small_cnn", shape=SHAPE)
    assert all(registry.load("model", name).written in caught.value.hint for name in names)


# Hugging Face


@pytest.fixture
def vit(tmp_path) -> Path:
    needs("transformers:ViTForImageClassification")
    from transformers import ViTConfig, ViTForImageClassification

    names = dict(enumerate(["cat", "dog", "bird"]))
    size = {"image_size": 16, "patch_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ViTForImageClassification(
            ViTConfig(**size, intermediate_size=8, id2label=names, label2id={name: n for n, name in names.items()})
        )
    net.save_pretrained(tmp_path / "vit")
    processor = {"do_resize": True, "size": {"height": 16, "width": 16}, "do_rescale": True, "rescale_factor": 1 / 255}
    processor |= {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "vit"


def test_a_folder_of_hugging_face_brings_its_normalisation_and_names(vit, no_network) -> None:
    from transformers import ViTForImageClassification

    model, x = load(f"hf:{vit}"), torch.rand(2, *SHAPE)
    assert (model.name, model.shape, model.classes) == ("hf:vit", SHAPE, 3)
    assert model.class_names == ("cat", "dog", "bird") and model.differentiable
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ([0.5, 0.4, 0.3], [0.5, 0.25, 0.2]))
    wanted = ViTForImageClassification.from_pretrained(vit).eval()(pixel_values=(x - mean) / std).logits
    assert torch.allclose(model(x), wanted, atol=1e-5)
    larger = load(f"hf:{vit}", shape=(3, 40, 40), normalise="0.5/0.5")
    assert larger.declared == {"origin": "hf", "resize": "to 16x16", "normalise": "0.5/0.5"}
    assert larger.fingerprint != model.fingerprint and larger(torch.rand(2, 3, 40, 40)).shape == (2, 3)
    with pytest.raises(BadModel, match="3 channels and the images have 1"):
        load(f"hf:{vit}", shape=(1, 16, 16))


def test_a_folder_of_hugging_face_is_audited_by_its_name(vit, images, tmp_path, cli, no_network) -> None:
    asked = ("--model", f"hf:{vit}", "--data", images, "--eps", "8/255", "--plan", "sweep")
    ran = cli("audit", *asked, "--out", tmp_path / "run", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["backwards"] > 0 and "classes cat, dog, bird" in ran.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"]["declared"]["origin"] == "hf"


def test_a_processor_is_a_normalisation_of_pixels_between_0_and_1() -> None:
    from holdfast.models.origins.hf import _moments

    assert _moments({}) is None
    halved = _moments({"do_rescale": True, "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False})
    assert halved is not None and [each[0] for each in halved] == pytest.approx([0.5, 0.5])
    raw = _moments({"do_rescale": False, "image_mean": [127.5], "image_std": [51]})
    assert raw is not None and [each[0] for each in raw] == pytest.approx([0.5, 0.2])


def test_code_pickles_and_gaps_of_hugging_face_are_refused(vit, tmp_path, no_network) -> None:
    target, config = tmp_path / "created", json.loads((vit / "config.json").read_text())
    (vit / "own.py").write_text(f"open({str(target)!r}, 'w').close()\nclass Own: pass\n")
    own = {"AutoConfig": "own.Own", "AutoModelForImageClassification": "own.Own"}
    (vit / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    with pytest.raises(BadModel, match="code of its own") as caught:
        load(f"hf:{vit}")
    assert "--trust-code" in caught.value.hint and not target.exists()
    (vit / "config.json").write_text(json.dumps({**config, "id2label": {n: str(n) for n in range(7)}, "label2id": {}}))
    with pytest.raises(BadModel):
        load(f"hf:{vit}")
    (vit / "config.json").write_text(json.dumps(config))
    (vit / "model.safetensors").rename(vit / "pytorch_model.bin")
    with pytest.raises(BadModel, match="cannot be loaded") as caught:
        load(f"hf:{vit}")
    assert "never read" in caught.value.hint
    with pytest.raises(BadFile, match="no folder"):
        load(f"hf:{tmp_path / 'absent'}")
    with pytest.raises(BadModel, match="cannot be loaded") as caught:
        load("hf:nobody/nothing")
    assert "--download" in caught.value.hint


# timm and torchvision


def test_timm_brings_its_data_configuration(no_network) -> None:
    needs("timm")
    model = load("timm:test_resnet", shape=(3, 64, 64), options={"num_classes": 4})
    assert model.classes == 4 and model.declared["resize"] == "to 160x160" and "normalise" in model.declared
    assert load("timm:test_resnet", shape=(3, 160, 160)).declared.keys() == {"origin", "normalise"}
    with pytest.raises(UnknownName, match="test_resnt") as caught:
        load("timm:test_resnt", shape=SHAPE)
    assert "test_resnet" in caught.value.hint
    with pytest.raises(UnknownName):
        load("timm:hf-hub:owner/name", shape=SHAPE)
    with pytest.raises(BadModel) as caught:
        load("timm:test_resnet", weights="pretrained", shape=SHAPE)
    assert "--download" in caught.value.hint


def test_torchvision_is_named_and_fetches_nothing(tmp_path, monkeypatch, no_network) -> None:
    needs("torchvision")
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    name = "torchvision:shufflenet_v2_x0_5"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = load(name, shape=(3, 32, 32), options={"num_classes": 4})
    assert (model.classes, dict(model.declared)) == (4, {"origin": "torchvision"})
    with pytest.raises(BadFile, match="not fetched") as caught:
        load(name, weights="pretrained", shape=(3, 32, 32))
    assert "--download" in caught.value.hint
    with pytest.raises(UnknownName, match="resnet81"):
        load("torchvision:resnet81", shape=SHAPE)
    with pytest.raises(UnknownName, match="IMAGENET1K_V9"):
        load(f"{name}.IMAGENET1K_V9", shape=SHAPE)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    file = ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(shufflenet_v2_x0_5().state_dict(), cache / file)
    cached = load(f"{name}.IMAGENET1K_V1", weights="pretrained", shape=(3, 32, 32))
    assert cached.class_names[0] == "tench" and cached.declared["resize"] == "to 224x224"
    assert cached.declared["normalise"] == "0.485,0.456,0.406/0.229,0.224,0.225"


# ONNX


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory) -> Path:
    """The small net, its weights taken over node by node: exporting it would take seconds."""
    needs("onnx", "onnxruntime")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    net = small()
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["a"], strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "3.weight", "3.bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in state.items()],
    )
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
    return path


def test_onnx_answers_and_has_no_gradients(onnx_file, tmp_path) -> None:
    import onnx

    model, x = load(onnx_file), torch.rand(5, *SHAPE, requires_grad=True)
    assert (model.shape, model.classes, model.differentiable) == (SHAPE, 3, False)
    assert torch.allclose(model(x), small()(x), atol=1e-5) and not model(x).requires_grad
    onnx.save(
        onnx.load(onnx_file), tmp_path / "apart.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    apart = load(tmp_path / "apart.onnx")
    assert torch.allclose(apart(x), model(x)) and apart.fingerprint != model.fingerprint
    data = bytearray((tmp_path / "w.bin").read_bytes())
    data[3] ^= 1
    (tmp_path / "w.bin").write_bytes(data)
    assert load(tmp_path / "apart.onnx").fingerprint != apart.fingerprint


@pytest.mark.parametrize(
    "location",
    ["../outside.bin", "/etc/hostname", "w\\..\\outside.bin", "linked.bin", "linked/outside.bin", "absent.bin"],
)
def test_weights_outside_the_folder_of_an_onnx_file_are_refused(onnx_file, tmp_path, location) -> None:
    import onnx

    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(4096))
    (folder / "linked.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "linked").symlink_to(tmp_path)
    made = onnx.load(onnx_file)
    for tensor in made.graph.initializer:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.ClearField("raw_data")
    (folder / "evil.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(BadFile, match="no plain file in its own folder"):
        load(folder / "evil.onnx")


def test_files_that_are_no_onnx_are_refused(onnx_file, tmp_path) -> None:
    import onnx
    from onnx import helper

    for data in (b"", b"dear diary", onnx_file.read_bytes()[:200]):
        (tmp_path / "odd.onnx").write_bytes(data)
        with pytest.raises((BadFile, BadModel)):
            load(tmp_path / "odd.onnx", shape=SHAPE)
    made = onnx.load(onnx_file)
    made.graph.node.append(helper.make_node("Run", ["logits"], ["more"], domain="their.own"))
    (tmp_path / "odd.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(BadFile, match="cannot be read as ONNX"):
        load(tmp_path / "odd.onnx", shape=SHAPE)


def test_onnx_is_audited_by_the_black_box_plan_alone(onnx_file, images, tmp_path, cli) -> None:
    asked = ("audit", "--model", onnx_file, "--data", images, "--eps", "0.5", "--out", tmp_path / "run")
    refused = cli(*asked)
    assert refused.code == 2 and "--plan black-box" in refused.err
    ran = cli(*asked, "--plan", "black-box", "--limit", "6", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert told["backwards"] == 0 and told["forwards"] > 0 and "no gradients" in ran.err
    planned = cli("plan", *asked[1:-2], "--plan", "black-box", "--json")
    assert planned.code == 0 and [one["backwards"] for one in json.loads(planned.out)] == [0, 0, 0, 0], planned.err
    verified = cli("verify", tmp_path / "run", "--model", onnx_file)
    assert verified.code == 0, verified.err


# Files of code


def test_a_python_file_runs_only_where_it_is_trusted(tmp_path) -> None:
    target, path = tmp_path / "created", tmp_path / "their net.py"
    path.write_text(
        f"from torch import nn\nopen({str(target)!r}, 'w').close()\n"
        "def build(width=3):\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, width))\n"
    )
    with pytest.raises(BadFile, match="code") as caught:
        load(f"{path}:build", shape=SHAPE)
    assert "--trust-code" in caught.value.hint and not target.exists()
    assert load(f"{path}:build", shape=SHAPE, trust_code=True, options={"width": 5}).classes == 5 and target.exists()
    with pytest.raises(BadValue, match="names no factory"):
        load(path, shape=SHAPE, trust_code=True)
    with pytest.raises(UnknownName, match="bild"):
        load(f"{path}:bild", shape=SHAPE, trust_code=True)
    with pytest.raises(BadFile, match="no file"):
        load(f"{tmp_path / 'absent.py'}:build", shape=SHAPE, trust_code=True)


def test_the_word_for_code_is_given_on_the_command_line_alone(tmp_path, images, cli, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("their.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, 3))\n"
    )
    Path("audit.toml").write_text(
        f"model = 'their.py:net'\ndata = {str(images)!r}\neps = 0.1\nplan = 'sweep'\ntrust_code = true\n"
    )
    in_file = cli("audit", "--config", "audit.toml", "--out", "run")
    assert in_file.code == 2 and "cannot give that word" in in_file.err
    asked = ("--model", "their.py:net", "--data", images)
    assert cli("audit", *asked, "--eps", "0.1", "--plan", "sweep", "--out", "run", "--trust-code", "-q").code == 0
    assert "trust_code" not in Path("run/run.json").read_text().replace("--trust-code", "")
    info = json.loads(Path("run/run.json").read_text())
    info["request"]["trust_code"] = True  # a run that somebody else hands over
    Path("run/run.json").write_text(json.dumps(info))
    verified = cli("verify", "run", *asked)
    assert verified.code == 2 and "--trust-code" in verified.err
    assert cli("verify", "run", *asked, "--trust-code").code == 0


def test_weights_go_where_they_belong(tmp_path) -> None:
    with pytest.raises(BadValue, match="nobody publishes"):
        load("net:small_cnn", weights="pretrained", shape=(1, 32, 32))
    with pytest.raises(BadValue, match="brings its own weights"):
        load("some.pt2", weights="w.safetensors")
    torch.save(small().state_dict(), tmp_path / "w.pt")
    with pytest.raises(BadFile, match="no TorchScript") as caught:
        load(tmp_path / "w.pt")
    assert "--weights" in caught.value.hint


def test_classes_in_another_order_are_an_error(vit, tmp_path, cli) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("bird", "cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for n in range(3):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "set" / name / f"{n}.png")
    found = cli("doctor", "--model", f"hf:{vit}", "--data", tmp_path / "set", "--json")
    assert found.code == 2 and "class order" in [one["check"] for one in json.loads(found.out)["findings"]]
