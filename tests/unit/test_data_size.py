"""Images of different sizes made alike: the pixels, the readers, the fingerprints, and an audit of a mixed folder."""

import io
import json
import shutil
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from holdfast.audit.config import build
from holdfast.comparison.matching import _again
from holdfast.data.ahead import Ahead, workers_for
from holdfast.data.decode import decode
from holdfast.data.load import load
from holdfast.data.size import parsed
from holdfast.foundation.errors import BadData, BadValue
from holdfast.records.store import read_info

DRAW = np.random.default_rng(0)
SIZES = {"portrait": (60, 40), "landscape": (40, 60), "tiny": (9, 7), "fitting": (16, 16), "large": (130, 90)}
PHOTOS = {name: Image.fromarray(DRAW.integers(0, 256, (*size, 3), dtype=np.uint8)) for name, size in SIZES.items()}
LABELS = {"landscape": 0, "portrait": 0, "fitting": 1, "large": 1, "tiny": 1}
"""In the order in which a folder lists them."""
NET = ("--option", "width=2", "--option", "hidden=4")


def png(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format="PNG")
    return buffer.getvalue()


def chw(photo: Image.Image) -> np.ndarray:
    return np.asarray(photo).transpose(2, 0, 1)


def write_folder(root: Path) -> Path:
    for name, label in LABELS.items():
        (root / "01"[label]).mkdir(parents=True, exist_ok=True)
        PHOTOS[name].save(root / "01"[label] / f"{name}.png")
    return root


def write_parquet(path: Path) -> Path:
    table = {"image": [{"bytes": png(PHOTOS[name])} for name in LABELS], "label": list(LABELS.values())}
    pq.write_table(pa.table(table), path)
    return path


def write_shard(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, label in LABELS.items():
            for ending, data in (("png", png(PHOTOS[name])), ("cls", str(label).encode())):
                head = tarfile.TarInfo(f"{name}.{ending}")
                head.size = len(data)
                tar.addfile(head, io.BytesIO(data))
    return path


def write_all(root: Path) -> list[Path]:
    return [write_folder(root / "photos"), write_parquet(root / "x.parquet"), write_shard(root / "x.tar")]


@pytest.mark.parametrize(
    ("name", "size", "to", "corner"),  # to: width and height; corner: left and upper
    [
        ("portrait", (16, 16), (18, 27), (1, 6)),
        ("landscape", (16, 16), (27, 18), (6, 1)),
        ("tiny", (16, 16), (18, 23), (1, 4)),
        ("fitting", (16, 16), (18, 18), (1, 1)),
        ("landscape", (8, 24), (27, 18), (2, 5)),
        ("portrait", (8, 24), (27, 40), (2, 16)),
        ("large", (224, 224), (256, 369), (16, 72)),
    ],
)
def test_pixels_are_those_of_resizing_and_cutting(name, size, to, corner) -> None:
    resized = PHOTOS[name].resize(to, Image.Resampling.BILINEAR)
    wanted = resized.crop((*corner, corner[0] + size[1], corner[1] + size[0]))
    assert np.array_equal(decode(png(PHOTOS[name]), channels=3, where="x", size=size), chw(wanted))


def test_what_has_the_side_already_is_only_cut() -> None:
    photo = Image.fromarray(DRAW.integers(0, 256, (256, 300, 3), dtype=np.uint8))
    found = decode(png(photo), channels=3, where="x", size=(224, 224))
    assert np.array_equal(found, chw(photo)[:, 16:240, 38:262])


def test_every_reader_gives_the_same(tmp_path: Path) -> None:
    places = write_all(tmp_path)
    wanted = np.stack([decode(png(PHOTOS[name]), channels=3, where="x", size=(20, 16)) for name in LABELS])
    for place in places:
        source = load(place, size="20x16")
        batch = source.take(source.ids)
        assert source.shape == (3, 20, 16) and source.class_names == ("0", "1")
        assert np.array_equal(batch.images, wanted) and batch.labels.tolist() == [*LABELS.values()]
    assert np.array_equal(load(places[0], size=(20, 16), limit=2, seed=1).take([2, 4]).images, wanted[[2, 4]])


def test_ahead_gives_the_same(tmp_path: Path) -> None:
    source = load(write_folder(tmp_path), size=72)
    assert workers_for(source) >= 1
    with Ahead(source, workers=2) as ahead:
        ahead.expect(source.ids)
        assert np.array_equal(ahead.take(source.ids).images, source.take(source.ids).images)


def test_without_a_size_the_error_names_the_remedy(tmp_path: Path) -> None:
    for place in write_all(tmp_path):
        with pytest.raises(
            BadData, match=r"(landscape|sample 0).*\(40, 60\), .*(portrait|sample 1).*\(60, 40\)"
        ) as caught:
            load(place)
        assert "--size 224" in caught.value.hint


def test_the_fingerprint_tells_sizes_apart(tmp_path: Path) -> None:
    for place in write_all(tmp_path):
        marks = [load(place, size=size).fingerprint() for size in (16, 17, "16x17", (17, 16))]
        assert len(set(marks)) == 4 and load(place, size="16x16").fingerprint() == marks[0]
    alike = tmp_path / "alike" / "a"
    alike.mkdir(parents=True)
    PHOTOS["fitting"].save(alike / "0.png")
    bare, sized = load(alike.parent), load(alike.parent, size=16)  # that size already: cut all the same
    assert bare.fingerprint() != sized.fingerprint() and not np.array_equal(bare.take([0])[0], sized.take([0])[0])


def test_sizes_that_are_understood() -> None:
    assert parsed(224) == parsed("224") == parsed("224x224") == parsed((224, 224)) == parsed([224]) == (224, 224)
    assert parsed(" 7x9 ") == (7, 9) and parsed(np.int64(5)) == (5, 5)


@pytest.mark.parametrize(
    "size", [0, -1, True, 2.5, 5000, "", "large", "0x7", "7x", "1x2x3", "7 x 9", (1, 2, 3), (), "٧"]
)
def test_sizes_that_are_refused(size, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="size is "):
        load(tmp_path, size=size)
    if isinstance(size, str):
        with pytest.raises(BadValue, match="size is "):
            build(None, {"model": "net:small_cnn", "size": size})


def test_a_number_in_a_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('model = "net:small_cnn"\nsize = 224\n')
    assert build(tmp_path / "a.toml", {}).size == "224"


def test_what_is_not_decoded_here_has_no_size(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1])
    for given in ("digits", tmp_path / "x.npz", (images, [0, 1]), load("digits")):
        with pytest.raises(BadValue, match="size is 16x16"):
            load(given, size=16)


def test_a_sliver_is_refused_before_it_is_resized() -> None:
    sliver = Image.new("L", (20_000, 1))
    with pytest.raises(BadData, match=r"sliver is 1x20000 \(height, width\), and would be 256x5120000"):
        decode(png(sliver), channels=1, where="sliver", size=(224, 224))


def test_an_audit_of_a_mixed_folder(tmp_path: Path, cli, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("photos"))
    model = ("--model", "net:small_cnn", *NET, "--option", "classes=2")
    asked = ("audit", *model, "--data", "photos", "--eps", "0.5", "--plan", "sweep", "--out", "run", "-q")
    refused = cli(*asked)
    assert refused.code == 2 and "--size 224" in refused.err
    assert cli(*asked, "--size", 16, "--corruptions", "pixelate", "--severities", 1).code == 0
    info = read_info(Path("run"))
    assert info.data.shape == (3, 16, 16) and info.request["size"] == "16"
    assert _again(info, "run").fingerprint() == load("photos", size=16).fingerprint() == info.data.fingerprint
    other = cli(*asked, "--size", 20)
    assert other.code == 2 and "run holds another run" in other.err
    verified = cli("verify", "run", "--json")
    assert verified.code == 0 and json.loads(verified.out)["upheld"] > 0
    assert cli("verify", "run", "--size", 20).code == 2
    assert cli("plan", *model, "--data", "photos", "--size", 16, "--eps", "0.5", "--plan", "sweep").code == 0
    assert "(3, 16, 16)" in cli("doctor", *model, "--data", "photos", "--size", 16).out


def test_what_else_takes_a_size(tmp_path: Path, cli, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("photos/test"))
    shutil.copytree("photos/test", "photos/train")
    asked = ("--data", "photos", "--size", 16, "--corruptions", "pixelate", "--out", "c", "-q")
    assert cli("corrupt", *asked).code == 0
    assert np.load("c/pixelate.npy").shape == (25, 16, 16, 3)
    for number, copy in product(range(4), LABELS):
        PHOTOS[copy].save(f"photos/train/{LABELS[copy]}/{copy}{number}.png")
    fit = ("train", "--recipe", "standard", *NET, "--data", "photos", "--split", "train", "--size", 16, "--eps", "0.1")
    trained = cli(*fit, "--set", "epochs=1", "--no-audit", "--out", "t", "-q")
    assert trained.code == 0, trained.err
