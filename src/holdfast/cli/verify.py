"""``holdfast verify``."""

from __future__ import annotations

import json as json_
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.subject import Subject, load
from holdfast.cli.terminal import terminal


def verify(
    run: Path,
    subject: Subject = Subject(),  # noqa: B008 - frozen
    *,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Replay every adversarial image of a run: inside the set, and misclassified, by one forward each.

    The model and the data are those that the run names, unless given. Code of yours (module:factory) is only run when you
    name it here again.

    holdfast verify runs/my_run

    Parameters
    ----------
    run
        The folder of a finished run.
    json
        Print the outcome as JSON on stdout, and nothing else there.
    """
    from holdfast.audit.verify import verify as replay
    from holdfast.foundation.errors import BadFile, BadValue, Unbelievable
    from holdfast.records import conditions, sequences
    from holdfast.records.store import RUN, read_info

    if not (run / RUN).exists() and any((run / part).is_dir() for part in (conditions.FOLDER, sequences.FOLDER)):
        raise BadFile(
            f"{run} holds no adversarial images, only answers to corrupted or perturbed ones",
            hint="run the same audit again with another --out: the numbers must be the same",
        )
    request = dict(read_info(run).request)
    for word in ("trust_code", "download"):  # given on this command line or not at all
        request.pop(word, None)
    if subject.model is None and not str(request.get("model", "")).startswith("net:"):
        again = ["holdfast", "verify", str(run), "--model", str(request.get("model", "MODEL"))]
        raise BadValue(
            f"the run's model is {request.get('model', 'a Python object')!r}, which is read or run only when you name it",
            hint=f"name it again: {shlex.join(again)}",
        )
    for name, theirs in (("model", ("weights", "normalise", "options")), ("data", ("split", "size", "limit"))):
        named = getattr(subject, name)
        if named is not None and named != request.get(name):  # another one: what belonged to the run's does not fit it
            request = {key: value for key, value in request.items() if key not in theirs}
    config = subject.configured(request)
    model, source = load(config)
    verified = replay(run, model, source)
    console = terminal(stderr=json)
    if json:
        print(json_.dumps(asdict(verified)))
    console.print(
        f"{verified.upheld} of {verified.points} adversarial images are upheld; the run claims {verified.claimed}"
    )
    for sample, reason in verified.refuted[:10]:
        console.print(f"  sample {sample} {reason}", markup=False)
    if not verified.good:
        raise Unbelievable(
            f"{len(verified.refuted)} of {verified.points} points are refuted; {verified.claimed} samples are claimed as "
            f"broken and {verified.found} have a point",
            hint="run the audit again in a new folder, on the machine and versions that you verify on",
        )
    return 0
