"""Files that say false things of themselves, and folders that lead elsewhere: told in a sentence, and nothing is written."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from report_fixture import write_run
from safetensors.torch import load_file, save_file
from torch import nn

from holdfast.audit.api import audit
from holdfast.audit.corrupted.overlap import overlap
from holdfast.audit.verify import verify
from holdfast.data.arrays import from_pair
from holdfast.data.check import MOST_CLASSES, check_images
from holdfast.data.load import load as load_data
from holdfast.data.released import open_released
from holdfast.explain.store import cases, portrayed
from holdfast.foundation.errors import BadData, BadFile, BadModel, StorageError
from holdfast.models.load import load
from holdfast.records.document import read_document
from holdfast.records.files import output_folder, write_atomic
from holdfast.records.schema import RunInfo
from holdfast.records.store import RECORDS, SESSIONS, Store, read_info
from holdfast.report.read import read
from holdfast.threats.linf import Linf

DEEP = "[" * 60_000
IMAGES, LABELS = np.zeros((2, 1, 8, 8), np.uint8), np.arange(2)


def test_a_label_that_would_make_millions_of_classes_is_refused(tmp_path) -> None:
    many = np.array([0, MOST_CLASSES])
    with pytest.raises(BadData, match="at most 1,048,576 classes"):
        from_pair(IMAGES, many)
    check_images(IMAGES, np.array([0, MOST_CLASSES - 1]), where="set")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"image": [b"x", b"x"], "label": many}), tmp_path / "test.parquet")
    with pytest.raises(BadData, match="at most 1,048,576 classes"):
        load_data(tmp_path / "test.parquet")
    with tarfile.open(tmp_path / "test.tar", "w") as tar:
        for name, data in (("0.png", b"x"), ("0.cls", b"%d" % MOST_CLASSES)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    with pytest.raises(BadData, match="at most 1,048,576 classes"):
        load_data(tmp_path / "test.tar")


def test_an_array_that_is_none_is_refused(tmp_path) -> None:
    np.savez(tmp_path / "set.npz", images=IMAGES)
    with zipfile.ZipFile(tmp_path / "set.npz", "a") as archive:
        archive.writestr("labels", b"no array")
    with pytest.raises(BadFile, match=r"set\.npz"):
        load_data(tmp_path / "set.npz")
    np.save(tmp_path / "labels.npy", np.array(3))
    np.save(tmp_path / "fog.npy", np.zeros((5, 8, 8, 3), np.uint8))
    with pytest.raises(BadData, match=r"labels\.npy is int64 of shape \(\)"):
        open_released(tmp_path)


def test_metadata_nested_without_end_say_nothing(tmp_path) -> None:
    net, path = nn.Linear(1, 1), tmp_path / "w.safetensors"
    save_file(net.state_dict(), path, metadata={"classes": DEEP})
    with pytest.raises(BadModel, match="do not belong"):
        load("net:small_cnn", weights=path, shape=(1, 32, 32))
    save_file(net.state_dict(), path, metadata={"mean": DEEP, "std": "1"})
    with pytest.raises((BadFile, BadModel)):
        load(nn.Sequential(nn.Flatten(), nn.Linear(1, 1)), weights=path, shape=(1, 1, 1))
    assert overlap({"operations": DEEP}, ["fog"]).declared is None
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    table = pyarrow.table({"image": [file.getvalue()] * 2, "label": LABELS}).replace_schema_metadata(
        {"huggingface": DEEP}
    )
    parquet.write_table(table, tmp_path / "test.parquet")
    assert load_data(tmp_path / "test.parquet").class_names == ("0", "1")


@pytest.mark.parametrize("told", [
    [], None, 3, {"image_mean": True, "image_std": [1]}, {"image_mean": [None], "image_std": [1]}, {"size": {"height": "x"}},
    {"image_mean": [0.5], "image_std": [0.5], "rescale_factor": 0}, {"rescale_factor": DEEP[:9]},
])  # fmt: skip
def test_a_processor_that_says_anything_is_refused_or_passed_over(told, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=3)
    with torch.random.fork_rng():
        transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told))
    try:
        assert load(f"hf:{tmp_path}", shape=(3, 16, 16)).classes == 3
    except BadModel as error:
        assert str(tmp_path) in error.message and error.hint


@pytest.mark.parametrize("change", [{"depths": [5000, 1]}, {"depths": [1] * 5000}, {"hidden_sizes": [2**40]}])
def test_a_configuration_that_asks_for_a_net_without_end_is_refused(change, tmp_path) -> None:
    pytest.importorskip("transformers")
    told = {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "label2id": {"a": 2**40},
        **change,
    }
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(BadModel, match=f"says {next(iter(change))} = .*as no image classifier has"):
        load(f"hf:{tmp_path}", shape=(3, 16, 16))


def test_a_model_that_claims_enormous_images_is_not_tried(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 100_000, 100_000])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Flatten", ["x"], ["y"])], "g", [x], [y])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(BadModel, match=r"images of shape \(3, 100000, 100000\)"):
        load(str(tmp_path / "m.onnx"))


def test_a_torch_with_a_broken_unpickler_is_given_no_pickle(tmp_path, monkeypatch) -> None:
    path = tmp_path / "w.pt"
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    torch.save(net.state_dict(), path)
    assert load(net, weights=path, shape=(1, 2, 2)).classes == 3
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1+cpu"))
    with pytest.raises(BadFile, match="CVE-2026-24747") as caught:
        load(net, weights=path, shape=(1, 2, 2))
    assert "2.10" in caught.value.hint and "safetensors" in caught.value.hint


@pytest.mark.parametrize("text", [
    DEEP, "[]", "null", "3", '"x"', '{"schema_version": "9"}', '{"schema_version": [1]}', '{"schema_version": NaN}', "",
])  # fmt: skip
def test_a_document_that_is_none_is_refused(text: str, tmp_path) -> None:
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadFile, match=r"run\.json cannot be read"):
        read_document(tmp_path / "run.json", RunInfo)


def test_numbers_that_are_none_are_refused(tmp_path) -> None:
    write_run(tmp_path, n=12, gallery=2)
    summary = json.loads((tmp_path / "summary.json").read_text())
    for value in (float("nan"), float("inf"), 1e308, -1, 2, 10**400):
        for part in ("value", "low", "n"):
            held = {**summary, "clean_accuracy": {**summary["clean_accuracy"], part: value}}
            if (part, value) in (("n", 2), ("n", -1)):
                continue
            (tmp_path / "summary.json").write_text(json.dumps(held))
            with pytest.raises(BadFile, match=r"summary\.json|records\.jsonl"):
                read(tmp_path)


@pytest.mark.parametrize("line", [
    "[]", "1", "{}", '{"started": 1, "seconds": "1 s"}', '{"started": NaN}', '{"started": []}', DEEP, "\xff",
])  # fmt: skip
def test_a_session_that_is_none_is_passed_over(line: str, tmp_path) -> None:
    write_run(tmp_path, n=12, gallery=None)
    for record in (tmp_path / RECORDS, tmp_path / "points.raw"):
        record.write_bytes(b"")
    (tmp_path / SESSIONS).write_bytes(line.encode("latin1") + b"\n" + b'{"started": 5.0, "seconds": 7.0}\n')
    store = Store(tmp_path, read_info(tmp_path))
    assert 7 <= store.finish(0) < 60
    store.close()


def test_what_is_written_does_not_land_elsewhere(tmp_path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / f".page.html.{os.getpid()}.tmp").symlink_to(victim)
    (out / "page.html").symlink_to(victim)
    write_atomic(out / "page.html", [b"page"])
    assert victim.read_bytes() == b"mine" and (out / "page.html").read_bytes() == b"page"
    assert [each.name for each in out.iterdir()] == ["page.html"]
    run = tmp_path / "run"
    write_run(run, n=12, gallery=None)
    info = read_info(run)
    for name in (RECORDS, SESSIONS, "points.raw"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(victim)
        with pytest.raises(StorageError, match="is a link"):
            Store(run, info)
        assert victim.read_bytes() == b"mine"
        (run / name).unlink()
    (tmp_path / "linked").symlink_to(run)
    output_folder(tmp_path / "linked")  # the folder itself is the user's own choice


def test_points_found_beyond_the_radius_uphold_nothing(tmp_path) -> None:
    """A run that claims to have broken images within its radius, and stores points of a larger one."""

    def sides(images: torch.Tensor) -> torch.Tensor:
        bright = images.flatten(1).mean(1, keepdim=True) - 0.5
        return torch.cat([-bright, bright], 1) * 9

    rng = np.random.default_rng(0)
    images = rng.uniform(0.3, 0.48, (6, 1, 4, 4)).astype(np.float32)
    source = from_pair(images, np.zeros(6, np.int64), class_names=("dark", "bright"))
    model, out = load(sides, shape=(1, 4, 4)), tmp_path / "run"
    found = audit(model, source, threat=Linf(0.3), plan="sweep", out=out)
    assert found.summary.robust_accuracy.value < 0.5 and verify(out, model, source).good
    points = load_file(out / "points.safetensors")
    save_file({**points, "eps": points["eps"] + 0.3}, out / "points.safetensors")
    forged = verify(out, model, source)
    assert not forged.good and "was searched within 0.6, the run within 0.3" in forged.refuted[0][1]
    for name, value in (("ids", points["ids"].float()), ("eps", points["eps"][:1]), ("points", points["points"][:, 0])):
        save_file({**points, name: value.contiguous()}, out / "points.safetensors")
        with pytest.raises(BadFile, match="other shapes"):
            verify(out, model, source)


def test_what_lies_beside_an_explanation_is_read_with_care(tmp_path) -> None:
    for line in (DEEP, "3", "null"):
        (tmp_path / "cases.jsonl").write_text(line + "\n")
        with pytest.raises(BadFile, match=r"cases\.jsonl"):
            cases(tmp_path)
    (tmp_path / "cases.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(BadFile, match=r"cases\.npz"):
        portrayed(tmp_path)


def test_the_library_asks_no_network_when_it_is_imported() -> None:
    """Not even what could ask is imported with it."""
    asking = {"requests", "urllib3", "httpx", "huggingface_hub", "transformers", "torch"}
    code = f"import sys, holdfast, holdfast.cli.app; print(*{asking!r} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
def test_no_command_asks_a_network_or_writes_beside_its_output(cli, tmp_path, monkeypatch) -> None:
    asked: list[object] = []

    def refuse(*where, **how):
        asked.append(where)
        raise OSError("no network here")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(6) % 3)
    net = ("--model", "net:small_cnn", "--data", "images.npz")
    for code, *asking in (
        (0, "doctor", *net),
        (0, "plan", *net, "--eps", "0.1", "--plan", "sweep"),
        (0, "audit", *net, "--eps", "0.1", "--plan", "sweep", "--corruptions", "fog", "--out", "out/run"),
        (0, "report", "out/run"),
        (0, "index", "out"),
        (0, "verify", "out/run"),
        (3, "gate", "out/run", "clean_accuracy >= 0"),
        (0, "card", "out/run", "--out", "out/card.md"),
        (0, "compare", "out/run", "out/run", "--out", "out/page.html"),
        (0, "corrupt", "--data", "images.npz", "--corruptions", "fog", "--out", "out/fog"),
        (0, "attack", *net, "--eps", "0.1", "--attack", "fgsm", "--out", "out/found.npz"),
        (2, "audit", "--model", "hf:google/vit-base-patch16-224", "--data", "images.npz", "--eps", "0.1"),
        (2, "doctor", "--model", "timm:resnet18", "--weights", "pretrained", "--data", "images.npz"),
        (2, "doctor", *net[:2], "--data", "hf:cifar10"),
        (2, "doctor", *net[:2], "--data", "https://example.com/images.npz"),
        (2, "doctor", "--model", "https://example.com/model.onnx", "--data", "images.npz"),
        (2, "doctor", *net, "--weights", "https://example.com/weights.pt"),
    ):
        assert cli(*asking).code == code, asking
    assert asked == [] and {each.name for each in tmp_path.iterdir()} == {"images.npz", "out"}
