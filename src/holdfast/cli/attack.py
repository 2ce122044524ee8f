"""``holdfast attack``."""

from __future__ import annotations

import json as json_
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from holdfast.cli.subject import Subject, load
from holdfast.cli.terminal import terminal
from holdfast.foundation import units


def attack(
    subject: Subject = Subject(),  # noqa: B008 - frozen
    *,
    attack: str = "apgd",
    set: Annotated[list[str] | None, Parameter(negative="")] = None,
    threat: str | None = None,
    eps: str | None = None,
    slots: int | None = None,
    out: Path,
    json: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False,
) -> int:
    """Write adversarial images: one attack on every image.

    The same command goes on where a stopped one was.

    holdfast attack --model net:small_cnn --weights my.safetensors --eps 0.1 --attack pgd --out adversarial.npz

    Parameters
    ----------
    attack
        Which attack; see "holdfast list attack".
    set
        An option of the attack, as key=value. Repeat for more.
    threat
        What an adversary may do: linf (the default), l2, l1, l0, patch, spatial; see "holdfast list threat".
    eps
        The radius: 8/255, 0.5; for l0 a number of pixels, for patch 5px, for spatial 30deg.
    slots
        How many searches run at once; chosen by the images' size unless given.
    out
        NAME.npz, NAME.safetensors, or a folder for PNG files (rounded to 8 bits). All can be given to --data again, but
        .safetensors.
    json
        Print the figures as JSON.
    quiet
        Show no progress.
    """
    config = subject.configured({"threat": threat, "eps": eps, "slots": slots})
    from holdfast.audit.config import option
    from holdfast.audit.craft import craft
    from holdfast.cli.subject import allowed
    from holdfast.foundation import registry
    from holdfast.foundation.errors import UnknownName

    within = allowed(config)
    given = dict(option(text) for text in set or [])
    kind = registry.load("attack", attack)
    for key in given:
        if key not in kind.__dataclass_fields__:
            raise UnknownName.among(f"option of the attack {attack}", key, kind.__dataclass_fields__)
    chosen = kind(**given)
    chosen.check(within)
    model, source = load(config)
    progress = terminal(stderr=True)

    def watch(done: int, total: int) -> None:
        progress.print(f"{attack}: {done:,} of {total:,} images", markup=False)

    made = craft(
        model,
        source,
        chosen,
        threat=within,
        out=out,
        seed=config.seed,
        slots=config.slots,
        watch=None if quiet else watch,
    )
    if json:
        print(json_.dumps(asdict(made)))
        return 0
    console = terminal()
    far = "" if made.distance is None else f", at a median distance of {made.distance:.4g}"
    console.print(
        f"{made.n:,} images, {made.right:,} classified correctly; {made.fooled:,} of those fooled by {attack} within "
        f"{within.name} {units.show(within.eps)}{far}",
        markup=False,
    )
    if made.rounded is not None and made.rounded < made.fooled:
        console.print(
            f"rounded to 8 bits, {made.rounded:,} of these still fool within the radius: write .npz to keep all",
            markup=False,
        )
    console.print(f"{made.forwards:,} forwards, {made.backwards:,} gradients. Written: {out}", markup=False)
    return 0
