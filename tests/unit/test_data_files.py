"""Folders of images, NumPy archives, CIFAR's binary version and MNIST's IDX files, whole and broken."""

import gzip
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from holdfast.data import npz
from holdfast.data.decode import decode
from holdfast.data.folder import Folder
from holdfast.data.load import load
from holdfast.foundation.errors import BadData, BadFile, BadValue, HoldfastError, UnknownName

DRAWS = np.random.default_rng(0)
GREY = DRAWS.integers(0, 256, (6, 5, 4), dtype=np.uint8)
COLOUR = DRAWS.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = np.array([0, 0, 0, 1, 1, 1], np.uint8)


def write_folder(root: Path, images: np.ndarray = COLOUR) -> Path:
    for number, (image, label) in enumerate(zip(images, LABELS)):
        folder = root / ("cat", "Dog")[1 - label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return root


def write_idx(folder: Path, prefix: str, *, packed: bool = False, style: str = "-images-idx3-ubyte") -> Path:
    opened: Callable = gzip.open if packed else open
    end = ".gz" if packed else ""
    path = folder / f"{prefix}{style}{end}"
    with opened(path, "wb") as file:
        file.write(b"\0\0\x08\x03" + struct.pack(">3I", *GREY.shape) + GREY.tobytes())
    name = f"{prefix}{style}{end}".replace("images", "labels").replace("idx3", "idx1")
    with opened(folder / name, "wb") as file:
        file.write(b"\0\0\x08\x01" + struct.pack(">I", len(LABELS)) + LABELS.tobytes())
    return path


def write_cifar(path: Path, *, num_labels: int = 1, n: int = 4, shift: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(shift).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    head = np.stack([np.arange(n, dtype=np.uint8) + shift] * num_labels, axis=1)
    path.write_bytes(np.concatenate([head, pixels.reshape(n, -1)], axis=1).tobytes())
    return pixels


def test_folder(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets")
    (root / ".hidden").mkdir()
    (root / "cat" / "notes.txt").write_text("not an image")
    source = load(str(root))
    assert source.class_names == ("Dog", "cat") and source.shape == (3, 5, 4) and source.name == "pets"
    images, labels = source.take(source.ids)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] and (images == COLOUR.transpose(0, 3, 1, 2)).all()
    assert (source.take([4, 1]).images == images[[4, 1]]).all() and len(source.take([]).images) == 0
    mark = source.fingerprint()
    assert load(root).fingerprint() == mark == load(write_folder(tmp_path / "elsewhere")).fingerprint()
    changed = COLOUR.copy()
    changed[5, 0, 0, 0] ^= 1
    assert load(write_folder(tmp_path / "other", changed)).fingerprint() != mark


def test_grey_folder(tmp_path: Path) -> None:
    root = write_folder(tmp_path, GREY)
    assert load(root).shape == (1, 5, 4) and (load(root).take([3]).images == GREY[3]).all()
    Image.fromarray(COLOUR[0]).save(root / "cat" / "9.png")
    source = load(root)
    assert source.shape == (3, 5, 4) and (source.take([0]).images == GREY[0]).all()


def test_folder_of_splits(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val", GREY)
    assert load(tmp_path).shape == (1, 5, 4) and load(tmp_path, split="train").shape == (3, 5, 4)
    assert load(tmp_path, split="train").name.endswith(":train")
    with pytest.raises(UnknownName, match="did you mean train"):
        load(tmp_path, split="tarin")
    with pytest.raises(BadValue, match="no folder of a split"):
        load(tmp_path / "val", split="test")


def test_folder_of_different_sizes(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    Image.fromarray(COLOUR[0, :4]).save(root / "cat" / "3.png")
    with pytest.raises(BadData, match=r"Dog/0\.png has \(5, 4\), .*cat/3\.png has \(4, 4\)"):
        load(root)
    source = Folder.open(root, size=(8, 6))
    assert (
        source.take(source.ids).images.shape == (6, 3, 8, 6)
        and source.fingerprint() != Folder.open(root, size=(8, 8)).fingerprint()
    )


def test_folder_that_changes_later(tmp_path: Path) -> None:
    source = load(write_folder(tmp_path))
    Image.fromarray(COLOUR[0, :4]).save(tmp_path / "cat" / "3.png")
    with pytest.raises(BadData, match="differ in size"):
        source.take([3])
    (tmp_path / "cat" / "3.png").unlink()
    with pytest.raises(BadFile, match="does not exist"):
        source.take([3])


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="an empty folder; looked for"):
        load(tmp_path)
    (tmp_path / "text").mkdir()
    with pytest.raises(BadFile, match="a folder with text; looked for"):
        load(tmp_path)
    Image.fromarray(GREY[0]).save(tmp_path / "a.png")
    with pytest.raises(BadFile, match="no class folders"):
        load(tmp_path)
    (tmp_path / "text" / "b.png").write_text("I am no image")
    with pytest.raises(BadFile, match=r"b\.png is no image"):
        load(tmp_path)
    (tmp_path / "zebra").mkdir()
    with pytest.raises(BadData, match="zebra holds no images"):
        load(tmp_path)


def test_broken_images(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    victim = root / "cat" / "4.png"
    data = victim.read_bytes()
    victim.write_bytes(data[:60])
    source = load(root)  # the head is whole
    with pytest.raises(BadFile, match=r"4\.png is damaged"):
        source.take([4])
    for name, kind in (("4.jpg", "JPEG"), ("4.bmp", "BMP"), ("4.gif", "GIF")):
        Image.fromarray(np.tile(COLOUR[4], (8, 8, 1))).save(tmp_path / name, format=kind)
        whole = (tmp_path / name).read_bytes()
        assert decode(whole, channels=3, where="x").shape == (3, 40, 32)
        with pytest.raises(BadFile):
            decode(whole[: len(whole) // 2], channels=3, where="x")


def test_bomb(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (10_000, 60_000):  # PIL warns of the first and refuses the second
        head = chunk(b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0))
        bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
        with pytest.raises(BadFile, match="too many pixels"):
            decode(bomb, channels=3, where="x")


def test_modes_of_images(tmp_path: Path) -> None:
    grey = Image.fromarray(GREY[0])
    for mode, channels in (("1", 1), ("LA", 1), ("L", 3), ("RGBA", 3), ("P", 3)):
        file = tmp_path / f"{mode}.png"
        grey.convert(mode).save(file)
        assert decode(file, channels=channels, where="x").shape == (channels, 5, 4)
    file = tmp_path / "t.png"
    grey.convert("P").save(file, transparency=bytes(range(256)))
    assert (decode(file, channels=3, where="x") == GREY[0]).all()
    Image.fromarray(COLOUR[0]).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert decode(tmp_path / "cmyk.jpg", channels=3, where="x").shape == (3, 5, 4)
    with pytest.raises(BadData, match="colour image"):
        decode(tmp_path / "RGBA.png", channels=1, where="x")
    Image.fromarray(GREY[0].astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(BadData, match="more than 8 bits"):
        decode(tmp_path / "deep.png", channels=1, where="x")
    with pytest.raises(BadFile, match="no image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", channels=1, where="x")


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "data"  # no ending: the content decides
    with path.open("wb") as file:
        np.savez_compressed(file, images=COLOUR, labels=LABELS, class_names=np.array(["a", "b"]))
    source = load(path)
    assert source.class_names == ("a", "b") and source.shape == (3, 5, 4)
    assert (source.take([2]).images[0] == COLOUR[2].transpose(2, 0, 1)).all()
    assert load(path).fingerprint() == source.fingerprint()
    np.savez(tmp_path / "keras.npz", x_train=GREY[:2], y_train=LABELS[:2], x_test=GREY, y_test=LABELS)
    assert len(load(tmp_path / "keras.npz")) == 6 and len(load(tmp_path / "keras.npz", split="train")) == 2
    with pytest.raises(UnknownName, match="test, train"):
        load(tmp_path / "keras.npz", split="other")
    np.savez(tmp_path / "x.npz", x=GREY[:, None] / 255, y=LABELS)
    assert load(tmp_path / "x.npz").take([1]).images.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREY}, r"holds the arrays x; looked for images\|x\|x_test"),
        ({}, "without NumPy arrays"),
        ({"x": GREY, "images": GREY, "y": LABELS}, "holds images, x, y"),
        ({"x": COLOUR[:, :3, :, :], "y": LABELS}, "first or last"),
        ({"x": GREY[:3], "y": LABELS}, "3 images and 6 labels"),
        ({"x": GREY, "y": LABELS, "class_names": np.array(["one"])}, "where there are 1 classes"),
        ({"x": np.array([object()] * 6), "y": LABELS}, "without pickled objects"),
        ({"x": GREY * 2.0, "y": LABELS}, "Divide them by 255"),
    ],
)
def test_npz_that_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    with pytest.raises((BadFile, BadData), match=message):
        load(path)


def test_npz_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=GREY, y=LABELS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(BadFile, match=r"cannot be read as an .npz"):
        load(path)
    path.write_bytes(whole.replace(GREY.tobytes(), bytes(GREY.size)))  # the checksum no longer fits
    with pytest.raises(BadFile, match=r"cannot be read as an .npz"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(BadFile, match="never read"):
        load(path)
    np.savez_compressed(path, x=np.zeros((200, 100, 100), np.uint8), y=np.zeros(200, int))
    assert len(load(path)) == 200
    monkeypatch.setattr(npz, "MAX_SURE", 2**20)
    with pytest.raises(BadFile, match="would unpack"):
        load(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("style", ["-images-idx3-ubyte", "-images.idx3-ubyte"])
def test_idx(tmp_path: Path, packed: bool, style: str) -> None:
    for prefix in ("train", "t10k"):
        write_idx(tmp_path, prefix, packed=packed, style=style)
    source = load(tmp_path)
    assert source.shape == (1, 5, 4) and source.name.endswith(":test") and source.class_names == ("0", "1")
    assert (source.take(source.ids).images[:, 0] == GREY).all() and (source.take(source.ids).labels == LABELS).all()
    assert load(tmp_path, split="train").fingerprint() == source.fingerprint()
    one = load(tmp_path / f"train{style}{'.gz' if packed else ''}")
    assert one.fingerprint() == source.fingerprint()
    with pytest.raises(UnknownName):
        load(tmp_path, split="val")


def test_idx_that_is_broken(tmp_path: Path) -> None:
    path = write_idx(tmp_path, "train")
    labels = tmp_path / "train-labels-idx1-ubyte"
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"x", whole[:10], b"\0\0\x08\x03" + b"\xff" * 12 + b"abc"):
        path.write_bytes(data)
        with pytest.raises(BadFile, match="train-images"):
            load(path)
    with pytest.raises(BadFile, match="holds labels"):
        load(labels)
    with pytest.raises(BadValue, match="no split"):
        load(path, split="train")
    path.write_bytes(whole)
    labels.write_bytes(labels.read_bytes()[:-2])
    with pytest.raises(BadFile, match=r"train-labels.*holds less"):
        load(path)
    labels.unlink()
    with pytest.raises(BadFile, match="no labels beside it"):
        load(path)
    with pytest.raises(BadFile, match="cannot be found"):
        load(path.rename(tmp_path / "pictures"))
    packed = write_idx(tmp_path, "t10k", packed=True)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(BadFile, match="t10k-images"):
        load(packed)


def test_cifar10(tmp_path: Path) -> None:
    parts = [write_cifar(tmp_path / f"data_batch_{number}.bin", shift=number) for number in range(1, 6)]
    test = write_cifar(tmp_path / "test_batch.bin")
    source, train = load(tmp_path), load(tmp_path, split="train")
    assert (len(source), len(train), source.shape) == (4, 20, (3, 32, 32)) and source.class_names[3] == "cat"
    assert (source.take([3, 0]).images == test[[3, 0]]).all() and source.take([3, 0]).labels.tolist() == [3, 0]
    assert (train.take([9, 2, 19]).images == np.concatenate(parts)[[9, 2, 19]]).all()
    mark = source.fingerprint()
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    one = load((tmp_path / "test_batch.bin").rename(tmp_path / "any_name.bin"))
    assert one.class_names == tuple("abcdefghij") and one.fingerprint() == mark
    (tmp_path / "batches.meta.txt").write_text("a")
    with pytest.raises(BadFile, match="1 names for 10"):
        load(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(BadFile, match="4 of CIFAR-10's 5"):
        load(tmp_path, split="train")


def test_cifar100(tmp_path: Path) -> None:
    pixels = write_cifar(tmp_path / "test.bin", num_labels=2, n=30)
    source = load(tmp_path)
    assert len(source.class_names) == 100 and (source.take([29]).images == pixels[29]).all()
    assert source.take([29]).labels.tolist() == [29]
    with pytest.raises(UnknownName, match=r"choose one of: test|did you mean test"):
        load(tmp_path, split="train")
    write_cifar(tmp_path / "test_batch.bin")
    with pytest.raises(BadFile, match="both CIFAR-10 and CIFAR-100"):
        load(tmp_path)


def test_cifar_that_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "test_batch.bin"
    for write in (
        lambda: path.write_bytes(bytes(5000)),
        lambda: path.write_bytes(b""),
        lambda: write_cifar(path, shift=20),
        lambda: write_cifar(path, num_labels=2, n=3),
    ):
        write()
        with pytest.raises(BadFile, match="no records of CIFAR-10"):
            load(tmp_path)
    with pytest.raises(BadValue, match="no split"):
        load(path, split="test")


def test_files_of_other_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    for data, message in (
        (b"", "an empty file; looked for"),
        (b"hello, I am text", r"begins with b'hello, I'; looked for: .*\.npz.*Parquet"),
        (pickle.dumps([1]), "never read"),
        (gzip.compress(b"hello"), "looked for"),
        (bytes(range(40)), "looked for"),
    ):
        for name in ("x.npz", "x.parquet", "x.gz", "x.bin"):
            path = tmp_path / name
            path.write_bytes(data)
            with pytest.raises(BadFile, match=message):
                load(path)
    with pytest.raises(BadFile, match="does not exist"):
        load(tmp_path / "missing.npz")
    with pytest.raises(BadFile, match="does not exist"):
        load(str(path / "below"))
    with pytest.raises(BadFile):
        load("a\0b/c")
    with pytest.raises(BadFile):
        load("a" * 5000 + "/b")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no mode bits stop
    with pytest.raises(BadFile, match="may not be read"):
        load(path)


def test_two_kinds_in_one_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_idx(tmp_path, "t10k")
    with pytest.raises(BadFile, match="2 ways"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["npz", "idx", "idx.gz", "cifar", "folder"])
def test_random_damage_never_escapes(tmp_path: Path, kind: str) -> None:
    """Whatever bytes change or are cut off, what comes out is a source or an error with a hint."""
    victim = given = tmp_path / "x.bin"
    if kind == "npz":
        np.savez_compressed(tmp_path / "x.npz", x=GREY, y=LABELS)
        victim = given = tmp_path / "x.npz"
    elif kind == "cifar":
        write_cifar(victim)
    elif kind == "folder":
        given = write_folder(tmp_path)
        victim = tmp_path / "cat" / "3.png"
    else:
        victim = given = write_idx(tmp_path, "t10k", packed=kind == "idx.gz")
    whole, draws, refused = victim.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        data[draws.integers(0, min(len(data), draws.choice([64, 10**9])), 4)] = draws.integers(0, 256, 4)
        victim.write_bytes(data.tobytes()[: draws.choice([len(data), draws.integers(0, len(data))], p=[0.7, 0.3])])
        try:
            source = load(given)
            source.take(source.ids)
            source.fingerprint()
        except HoldfastError as error:
            assert error.hint
            refused += 1
    assert refused > 10
