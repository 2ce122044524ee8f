"""``holdfast corrupt``."""

from __future__ import annotations

import json as json_
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.corruptions import Corrupted, asked_of
from holdfast.cli.subject import Images, pictured
from holdfast.cli.terminal import terminal
from holdfast.cli.watch import clock, watching_counts


def corrupt(
    images: Images = Images(),  # noqa: B008 - frozen
    corrupted: Corrupted = Corrupted(),  # noqa: B008 - frozen
    *,
    out: Path,
    layout: str = "arrays",
    image: int | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Write corrupted images, or show what they look like.

    The same command goes on where a stopped one was. An audit reads the set with --released.

    holdfast corrupt --data cifar10/test.parquet --corruptions fog snow --out cifar-c
    holdfast corrupt --data cifar10/test.parquet --out gallery.png

    Parameters
    ----------
    out
        A folder for the set; or NAME.png for one image under every corruption.
    layout
        arrays (CIFAR-10-C's: NAME.npy and labels.npy) or folders (ImageNet-C's: NAME/SEVERITY/CLASS/ID.png).
    image
        The id of the image that NAME.png shows; the first unless given.
    json
        Print what was written as JSON on stdout, and nothing else there.
    quiet
        Show no progress.
    """
    config = images.configured({"model": "none", "corruptions": ("all",)} | corrupted.given())
    source = pictured(config)
    asked = asked_of(config, source)
    console = terminal(stderr=json)
    written = {
        "out": str(out),
        "corruptions": asked.corruptions,
        "severities": asked.severities,
        "variant": asked.variant,
    }
    if out.suffix.lower() == ".png":
        import numpy as np

        from holdfast.audit.corrupted.write import one_image
        from holdfast.report.sheet import contact_sheet

        clean, rows = one_image(source, asked, int(np.asarray(source.ids)[0]) if image is None else image)
        contact_sheet(clean, rows, asked.severities, out)
        if json:
            print(json_.dumps(written | {"images": 1}))
        console.print(f"{len(rows)} corruptions, constants for {asked.variant} pixels. Written: {out}", markup=False)
        return 0
    from holdfast.audit.corrupted.write import write_set

    began = time.monotonic()
    with watching_counts(terminal(stderr=True), quiet=quiet) as watch:
        n = write_set(source, asked, out, layout=layout, watch=watch)
    if json:
        print(json_.dumps(written | {"images": n}))
    frost = f"; frost: {asked.frost}" if asked.frost else ""
    console.print(
        f"{n:,} images of {len(asked.corruptions)} corruptions, constants for {asked.variant} pixels{frost} "
        f"({clock(time.monotonic() - began)}). Written: {out}",
        markup=False,
    )
    return 0
