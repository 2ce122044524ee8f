"""``holdfast index``."""

from __future__ import annotations

import json as json_
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.terminal import terminal


def index(folder: Path = Path("runs"), *, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Write a page of all runs in a folder: what each is and what came out, to filter, to sort, to compare.

    holdfast index runs

    Parameters
    ----------
    folder
        Where the runs lie; index.html is written into it.
    json
        Print the runs as JSON on stdout, and nothing else there.
    """
    from holdfast.report.index import lines, write_index

    page = write_index(folder)
    if json:
        print(
            json_.dumps(
                [{"folder": line.folder, "report": line.report, **asdict(line.entry)} for line in lines(folder)]
            )
        )
    else:
        terminal().print(f"index: {page}", markup=False)
    return 0
