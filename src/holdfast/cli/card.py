"""``holdfast card``."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.terminal import terminal


def card(
    run: Path,
    *,
    out: Path | None = None,
    name: str | None = None,
    dataset: str | None = None,
    license: str | None = None,
    claim: Path | None = None,
    field: Annotated[list[str] | None, Parameter(negative="")] = None,
) -> int:
    """Write a model card of a finished run, in Markdown with the metadata of Hugging Face's hub; a RobustBench claim, too.

    holdfast card runs/robust --out README.md --name team/robust-net --dataset cifar10

    Parameters
    ----------
    run
        The folder of a finished run.
    out
        The card, which must not be there yet; printed unless given.
    name
        What the model is called on the hub.
    dataset
        The id of the data on the hub.
    license
        The hub's identifier of the model's licence, such as apache-2.0.
    claim
        Write the run as RobustBench's JSON, too.
    field
        A field of the claim that only its owner knows, as key=value: link, name, authors, additional_data,
        number_forward_passes, dataset, venue, architecture, footnote. Repeat for more.
    """
    from holdfast.audit.config import option
    from holdfast.card.claim import claim as claimed
    from holdfast.card.hub import card as written
    from holdfast.card.measured import measured
    from holdfast.foundation.errors import BadValue, StorageError
    from holdfast.records.files import storing, write_atomic

    if field and claim is None:
        raise BadValue(
            "a field is given, and no claim is written", hint="give --claim claim.json, or leave --field out"
        )
    if out is not None and out.exists():  # a card that was edited by hand is not to be lost
        raise StorageError(f"{out} is there already", hint="give another --out, or print the card and paste from it")
    found = measured(run)
    text = written(found, name=name, dataset=dataset, licence=license)
    texts = [(out, text)]
    if claim is not None:
        fields = dict(option(each) for each in field or ())
        texts.append((claim, json_.dumps(claimed(found, fields), indent=2, ensure_ascii=False) + "\n"))
    console = terminal(stderr=out is None)
    for path, content in texts:
        if path is not None:
            with storing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, [content.encode("utf-8", errors="replace")])
            console.print(f"written: {path}", markup=False)
    if out is None:
        print(text, end="")
    return 0
