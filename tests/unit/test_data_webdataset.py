"""Tar shards as webdataset writes them, whole and broken."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from holdfast.data.load import load
from holdfast.data.webdataset import WebDataset
from holdfast.foundation.errors import BadData, BadFile, UnknownName

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(10) % 4


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def pair(number: int) -> list[tuple[str, bytes]]:
    return [(f"{number:04}.png", encoded(PIXELS[number])), (f"{number:04}.cls", str(LABELS[number]).encode())]


def pairs(numbers: Iterable[int]) -> list[tuple[str, bytes]]:
    return [member for number in numbers for member in pair(number)]


def write(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            head = tarfile.TarInfo(name)
            head.size = len(data)
            tar.addfile(head, io.BytesIO(data))
    return path


def test_shards(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write(root / "b-001.tar", [("README.txt", b"read me"), *pairs(range(6, 10))])
    write(root / "a-000.tar", [("./x/._1.png", b"a Mac's note"), *pairs(range(6))])
    source = load(str(root))
    assert (len(source), source.shape, source.name) == (10, (3, 6, 5), "set")
    assert source.class_names == ("0", "1", "2", "3") and source.ids.tolist() == list(range(10))
    wanted = PIXELS.transpose(0, 3, 1, 2)
    for ids in (source.ids, source.ids[::-1], np.array([9, 0, 7, 7]), np.array([3])):
        images, labels = source.take(ids)
        assert (images == wanted[ids]).all() and (labels == LABELS[ids]).all()
    assert source.take([]).images.shape == (0, 3, 6, 5)
    assert sorted(one.name for one in root.iterdir()) == ["a-000.tar", "b-001.tar"]  # nothing was unpacked
    assert len(load(str(root / "a-*.tar"))) == len(load(root / "a-000.tar")) == 6
    (root / "classes.txt").write_text("cat\ndog\n\nowl\nfox\n")
    assert load(root).class_names == ("cat", "dog", "owl", "fox")
    (root / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(BadData, match="2 classes"):
        load(root)


def test_labels_in_json_and_names_with_dots(tmp_path: Path) -> None:
    jpeg = encoded(np.full((6, 5, 3), 90, np.uint8), "JPEG")
    members = [
        ("n01/7.JPEG", jpeg),
        ("n01/7.json", b'{"label": 2, "name": "x"}'),
        ("n02/7.seg.png", b"a mask"),
        ("n02/7.jpg", jpeg),
        ("n02/7.json", b"{}"),
        ("n02/7.cls", b" 1\n"),
    ]
    source = load(write(tmp_path / "one.tar", members))
    assert source.take([0, 1]).labels.tolist() == [2, 1]
    assert abs(source.take([1]).images.astype(int) - 90).max() < 3


def test_splits(tmp_path: Path) -> None:
    for name, count in (("x-train-00.tar", 6), ("x-validation-00.tar", 4)):
        write(tmp_path / "named" / name, pairs(range(count)))
    source = load(tmp_path / "named")
    assert len(source) == 4 and source.name == "named:validation" and len(load(tmp_path / "named", split="train")) == 6
    write(tmp_path / "folders" / "test" / "0.tar", pairs(range(3)))
    write(tmp_path / "folders" / "train" / "0.tar", pairs(range(5)))
    (tmp_path / "folders" / "some.names").write_text("a\nb\nc\nd\n")
    assert len(load(tmp_path / "folders")) == 3 and load(tmp_path / "folders").class_names == tuple("abcd")
    with pytest.raises(UnknownName, match="test, train"):
        load(tmp_path / "folders", split="other")


def test_fingerprint(tmp_path: Path) -> None:
    mark = load(write(tmp_path / "a.tar", pairs(range(4)))).fingerprint()
    assert load(write(tmp_path / "b.tar", pairs(range(4)))).fingerprint() == mark
    assert load(write(tmp_path / "c.tar", pairs([0, 1, 3, 2]))).fingerprint() != mark


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("7.png", b"?"), ("8.png", b"?"), ("8.cls", b"1")], r"sample /7 in .*bad\.tar has no \.cls or \.json"),
        ([("7.cls", b"1")], r"sample /7 in .*bad\.tar has 0 images"),
        ([("7.png", b"?"), ("7.jpg", b"?"), ("7.cls", b"1")], "has 2 images"),
        ([("7.png", b"?"), ("7.cls", b"cat")], r"7\.cls in .*bad\.tar holds b'cat', no label"),
        ([("7.png", b"?"), ("7.cls", b"-1")], r"7\.cls in .*bad\.tar gives the label -1"),
        ([("7.png", b"?"), ("7.cls", b"9" * 30)], "gives the label 999"),
        ([("7.png", b"?"), ("7.json", b'{"class": 3}')], r"7\.json in .*bad\.tar holds"),
        ([("7.png", b"?"), ("7.json", b'{"label": true}')], "gives the label True"),
        ([("7.png", b"?"), ("7.json", b"[" * 100_000)], "no label"),
        ([("7.png", b"?"), ("7.png", b"?"), ("7.cls", b"1")], r"holds 7\.png twice"),
        ([("7.png", b"?"), ("7.cls", b"1")], r"7\.png in .*bad\.tar is no image"),
        ([("7.png", b"?"), ("7.cls", b"1" * 2**21)], r"claims 2,097,152 bytes for a label"),
        ([("notes.txt", b"hello")], "hold no images"),
    ],
)
def test_bad_members(members: list, message: str, tmp_path: Path) -> None:
    with pytest.raises((BadData, BadFile), match=message):
        load(write(tmp_path / "bad.tar", members))


def test_links_and_bombs(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        path = tmp_path / "odd.tar"
        with tarfile.open(path, "w") as tar:
            head = tarfile.TarInfo("7.png")
            head.type, head.linkname = kind, "/etc/passwd"
            tar.addfile(head)
        with pytest.raises(BadFile, match=r"7\.png in .*odd\.tar is a link, a device or sparse"):
            load(path)
    path = tmp_path / "huge.tar"  # a hole on the disk, 65 MiB when read
    head = tarfile.TarInfo("7.png")
    head.size = 65 * 2**20
    label = tarfile.TarInfo("7.cls")
    label.size = 1
    with path.open("wb") as file:
        file.write(head.tobuf())
        file.seek(head.size, io.SEEK_CUR)
        file.write(label.tobuf() + b"1".ljust(10240, b"\0"))
    with pytest.raises(BadFile, match=r"7\.png in .*huge\.tar claims 68,157,440 bytes"):
        load(path)


def test_truncated_and_damaged(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.tar", pairs(range(3))).read_bytes()
    end = len(whole.rstrip(b"\0"))
    header = whole.index(b"0002.png")  # a member begins here: cut there, and tarfile alone would see a shorter archive
    for name, data in (
        ("within", whole[: header + 520]),
        ("at a member", whole[:header]),
        ("in the end", whole[: -(-end // 512) * 512]),
        ("flipped", whole[:header] + b"\xff" + whole[header + 1 :]),
        ("joined", whole + whole),
        ("text", b"no tar at all"),
        ("empty", b""),
    ):
        (tmp_path / f"{name}.tar").write_bytes(data)
        with pytest.raises(BadFile, match=f"{name}.tar"):
            load(tmp_path / f"{name}.tar")
    path = tmp_path / "pixels.tar"
    path.write_bytes(whole[: header + 530] + b"\xff" * 8 + whole[header + 538 :])
    with pytest.raises(BadFile, match=r"0002\.png in .*pixels\.tar"):
        load(path).take([0, 2])


def test_sizes_and_grey(tmp_path: Path) -> None:
    small = [("9.png", encoded(PIXELS[0, :4])), ("9.cls", b"0")]
    with pytest.raises(BadData, match=r"0000\.png in .*a\.tar has \(6, 5\), .* 9\.png in .*a\.tar has \(4, 5\)"):
        load(write(tmp_path / "a.tar", [*pair(0), *small]))
    grey = [("g.png", encoded(PIXELS[1, :, :, 0])), ("g.cls", b"0")]
    assert load(write(tmp_path / "b.tar", grey)).shape == (1, 6, 5)
    both = load(write(tmp_path / "c.tar", [*grey, *pair(0)]))
    assert both.shape == (3, 6, 5) and (both.take([0]).images == PIXELS[1, :, :, 0]).all()


def test_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="does not exist"):
        load(str(tmp_path / "none-*.tar"))
    source = load(write(tmp_path / "a.tar", pairs(range(2))))
    (tmp_path / "a.tar").unlink()
    with pytest.raises(BadFile, match="does not exist"):
        source.take([0])
    assert not WebDataset.recognises(tmp_path)
