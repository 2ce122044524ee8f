"""Memory does not grow with the number of images: peak RSS of whole audits, of 1 000 and of 10 000 or 20 000 of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

GROUP = 500
NET = '''
import torch
from torch import nn

def net():
    """A fixed linear classifier of 3x32x32 images with some classes much closer than others."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(3072, 10)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(10, 3072, generator=generator) / 8)
        layer.bias.copy_(-layer.weight.sum(1) / 2)
    return nn.Sequential(nn.Flatten(), layer)
'''
MEASURED = """
import resource, sys
from holdfast.cli.app import run
code = run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def images_of(n: int, net: torch.nn.Module) -> Iterator[tuple[list[bytes], list[int]]]:
    """Noisy colour images as PNG with the net's own labels, group by group."""
    draw = np.random.default_rng(0)
    for _ in range(n // GROUP):
        images = draw.integers(0, 256, (GROUP, 3, 32, 32), dtype=np.uint8)
        with torch.no_grad():
            labels = net(torch.from_numpy(images / np.float32(255))).argmax(1).tolist()
        cells = []
        for pixels in images:
            buffer = io.BytesIO()
            Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, format="PNG", compress_level=0)
            cells.append(buffer.getvalue())
        yield cells, labels


def write(path: Path, n: int, net: torch.nn.Module) -> None:
    """One Parquet file."""
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("label", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        for cells, labels in images_of(n, net):
            table = pa.table({"image": [{"bytes": cell} for cell in cells], "label": labels}, schema)
            writer.write_table(table, row_group_size=GROUP)


def write_shards(path: Path, n: int, net: torch.nn.Module) -> None:
    """Shards of 5 000 images at most."""
    path.mkdir()
    for number, (cells, labels) in enumerate(images_of(n, net)):
        with tarfile.open(path / f"{number * GROUP // 5000:03}.tar", "a") as tar:
            for row, (cell, label) in enumerate(zip(cells, labels)):
                for ending, data in (("png", cell), ("cls", str(label).encode())):
                    head = tarfile.TarInfo(f"{number * GROUP + row:06}.{ending}")
                    head.size = len(data)
                    tar.addfile(head, io.BytesIO(data))


def write_folder(path: Path, n: int, net: torch.nn.Module) -> None:
    """A folder for each class."""
    for number, (cells, labels) in enumerate(images_of(n, net)):
        for row, (cell, label) in enumerate(zip(cells, labels)):
            file = path / str(label) / f"{number * GROUP + row:06}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(cell)


def peak(folder: Path, data: str, plan: str, *more: str) -> int:
    """The peak RSS of an audit, in MiB."""
    asked = ["--eps", "1/255", "--plan", plan, "--out", f"{plan}_{data}", "--slots", "128", *more]
    summary, rss = measured(folder, data, asked)
    assert 0.2 < summary["robust_accuracy"]["value"] < 0.8, "both the broken and the unbroken should be many"
    return rss


def measured(folder: Path, data: str, asked: list[str]) -> tuple[dict, int]:
    """What an audit prints, and its peak RSS in MiB."""
    # glibc keeps freed blocks as it happens to, which differs by 40 MiB from run to run; large ones are given back at once.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    arguments = ["audit", "--model", "memory_net:net", "--data", data, *asked, "--json", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary, rss = done.stdout.splitlines()
    return json.loads(summary), int(rss)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("plan", "few", "many"), [("sweep", 1_000, 10_000), ("quick", 2_000, 6_000)])
def test_peak_memory(plan: str, few: int, many: int, tmp_path: Path, record_property, monkeypatch) -> None:
    (tmp_path / "memory_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    import memory_net

    peaks = {}
    for n in (few, many):
        write(tmp_path / f"{n}.parquet", n, memory_net.net())
        peaks[n] = peak(tmp_path, f"{n}.parquet", plan, "--curve", "0.5/255")
    record_property("peak RSS in MiB", peaks)
    print(plan, peaks)
    # 9 000 images of 3 072 bytes are 26 MiB. What is known of each sample is far below; the allocator's mood is some MiB.
    assert peaks[many] - peaks[few] < 26, peaks


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("written", [write_shards, write_folder])
def test_peak_memory_at_20_000(written, tmp_path: Path, record_property, monkeypatch) -> None:
    (tmp_path / "memory_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    import memory_net

    peaks = {}
    for n in (1_000, 20_000):
        written(tmp_path / f"of_{n}", n, memory_net.net())
        peaks[n] = peak(tmp_path, f"of_{n}", "sweep")
    record_property("peak RSS in MiB", peaks)
    print(written.__name__, peaks)
    # 19 000 images are 56 MiB of pixels.
    assert peaks[20_000] < 1.05 * peaks[1_000], peaks


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_peak_memory_under_75_conditions(tmp_path: Path, record_property, monkeypatch) -> None:
    (tmp_path / "memory_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    import memory_net

    peaks = {}
    for n in (500, 3_000):
        write_shards(tmp_path / f"of_{n}", n, memory_net.net())
        told, peaks[n] = measured(tmp_path, f"of_{n}", ["--corruptions", "test", "--out", f"weather_{n}"])
        assert len(told["corruptions"]["cells"]) == 75
    record_property("peak RSS in MiB", peaks)
    print("75 conditions", peaks)
    assert peaks[3_000] < 1.05 * peaks[500], peaks
