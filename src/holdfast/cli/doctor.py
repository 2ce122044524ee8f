"""``holdfast doctor``."""

from __future__ import annotations

import json as json_
import math
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.subject import Subject, load
from holdfast.cli.terminal import terminal


def doctor(subject: Subject = Subject(), *, json: Annotated[bool, Parameter(negative="")] = False) -> int:  # noqa: B008
    """Check whether a model is wired correctly: range, normalisation, logits, classes, mode, gradients.

    holdfast doctor --model net:small_cnn --weights my.safetensors --data digits

    Parameters
    ----------
    json
        Print the findings as JSON.
    """
    config = subject.configured()
    from holdfast.audit.preflight import look
    from holdfast.cli.show import show_findings

    model, source = load(config)
    findings, accuracy, n, _, _ = look(model, source)
    console = terminal()
    if json:
        print(
            json_.dumps(
                {
                    "accuracy": accuracy if math.isfinite(accuracy) else None,
                    "n": n,
                    "findings": [finding.model_dump() for finding in findings],
                }
            )
        )
    else:
        console.print(
            f"{model.name}: {model.parameters:,} parameters, {model.classes} classes, images {model.shape}",
            markup=False,
        )
        right = f"{100 * accuracy:.1f} % of {n} looked at are right" if math.isfinite(accuracy) else f"{n} looked at"
        console.print(f"{source.name}: {len(source):,} images; {right}", markup=False)
        show_findings(console, findings)
        if not findings:
            console.print("nothing to object to")
    return 2 if any(finding.level == "error" for finding in findings) else 0
