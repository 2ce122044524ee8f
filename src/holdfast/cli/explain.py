"""``holdfast explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from rich.table import Table

from holdfast.cli.subject import Subject, allowed, load
from holdfast.cli.terminal import terminal

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.source import Source
    from holdfast.models.model import Model
    from holdfast.probes.mixup_theory import Mixing, MixupTheory
    from holdfast.threats.threat import Threat

explain = App(
    name="explain", help="Ask why a model is robust or is not: a figure and its numbers.", help_format="plaintext"
)

LIMIT = 100
"""How many images are taken unless another number is asked for."""


@explain.command
def mixup(
    subject: Subject = Subject(),  # noqa: B008 - frozen
    *,
    pool: str | None = None,
    pool_per_class: int = 100,
    threat: str | None = None,
    eps: str = "8/255",
    steps: int = 10,
    lam: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    num_draws: int = 30,
    out: Path = Path("mixup"),
) -> int:
    """What the theory of mixup inference says of a model: its figure 2, and the numbers.

    For each lam, of images that are right when clean and wrong when attacked by PGD: the probabilities of the true and the
    predicted class after mixing, whether they move as repair needs (RIC), by how much more the confidence of adversarial
    images falls (detection gap), and what is repaired at last (recovered). RIC is a direction, not a recovery.

    holdfast explain mixup --model net:small_cnn --weights my.safetensors --data digits --pool digits:train --eps 0.1

    Parameters
    ----------
    pool
        The partners: training images, a name or a path; its train part where there is one.
    pool_per_class
        How many of them of each class.
    threat
        What an adversary may do: linf (the default), l2 or l1.
    eps
        The radius.
    steps
        Of PGD; the paper takes 10.
    lam
        The image's shares in a mixture, in [0, 1]; 0 to 1 in tenths unless given.
    num_draws
        Mixtures of each image.
    out
        The folder for figure.svg, figure.png and table.csv.
    """
    from holdfast.foundation.errors import BadValue

    if pool is None:
        raise BadValue("no pool is given", hint="give --pool with training images, for example --pool digits:train")
    config = subject.configured({"threat": threat, "eps": eps, "limit": LIMIT})
    from holdfast.cli.defences import pool_of
    from holdfast.probes.mixup_theory import GRID, mixup_theory
    from holdfast.records.files import storing, write_atomic
    from holdfast.report.charts import save_png, svg
    from holdfast.report.mixup import as_csv, figure

    within = allowed(config)
    partners = pool_of(pool, pool_per_class, config.seed)
    model, source = load(config)
    x0, x, y = attacked(model, source, within, steps, config.seed)
    partners.check_apart(x0.cpu())
    found = mixup_theory(
        model.module, x0, x, y, partners, lam=tuple(lam) if lam else GRID, num_draws=num_draws, seed=config.seed
    )
    with storing(out):
        out.mkdir(parents=True, exist_ok=True)
        chart = figure(found)
        write_atomic(out / "table.csv", [as_csv(found)])
        write_atomic(out / "figure.svg", [svg(chart).encode()])
        save_png(chart, out / "figure.png")
    console = terminal()
    console.width = max(console.width, 110)  # cells stay whole in a narrow terminal
    for name, mixing in (("MI-PL, partners of the predicted class", found.pl), ("MI-OL, of the others", found.ol)):
        console.print(f"{name}:", markup=False)
        console.print(_table(found, mixing))
    console.print(
        f"{found.n} of {found.given} images, right when clean and wrong after PGD of {steps} steps at {within.name} "
        f"{eps}; {found.draws} mixtures of each with images of {partners.source} ({partners.fingerprint}). Without mixing "
        f"F_y is {found.clean.value:.2f} when clean, {found.y.value:.2f} when attacked, and F_yhat {found.yhat.value:.2f}.",
        markup=False,
    )
    console.print(f"Written: {out}, figure.svg, figure.png and table.csv", markup=False)
    return 0


def attacked(model: Model, source: Source, threat: Threat, steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The images, their points after PGD to its last step, and their labels."""
    import numpy as np
    import torch

    from holdfast import keys
    from holdfast.ascent.frozen import frozen
    from holdfast.ascent.inner import worst
    from holdfast.ascent.state import Rows
    from holdfast.attacks.pgd import PGD
    from holdfast.audit.feed import tensors
    from holdfast.audit.run import look
    from holdfast.models.doctor import raise_errors

    attack = PGD(steps=steps)
    attack.check(threat)
    raise_errors(look(model, source).findings)
    x0, y = tensors(source, np.asarray(source.ids), dtype=model.dtype, device=model.device)
    ids = torch.from_numpy(np.ascontiguousarray(source.ids)).to(model.device)
    key = keys.fold(keys.root(seed, device=model.device), ids)
    with frozen(model.module):
        rows = Rows(x0, y, torch.full_like(y, -1), key, threat)
        return x0, threat.project(x0, worst(attack, model, rows)), y


def _table(theory: MixupTheory, mixing: Mixing) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    heads = (
        "lam",
        "F_y clean",
        "F_y",
        "F_yhat",
        "change of F_y",
        "of F_yhat",
        "RIC",
        "detection gap",
        "margin",
        "recovered",
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for place, lam in enumerate(theory.lam):
        shares = (mixing.clean, mixing.y, mixing.yhat)
        changes = (mixing.delta_y, mixing.delta_yhat)
        table.add_row(
            f"{lam:g}",
            *(f"{each[place].value:.2f}" for each in shares),
            *(f"{each[place].value:+.2f}" for each in changes),
            "" if lam == 1 else "holds" if mixing.improves[place] else "fails",  # at 1 nothing moves but the rounding
            f"{mixing.detection_gap[place].value:+.2f}",
            f"{mixing.margin[place].value:+.2f}",
            f"{100 * mixing.recovered[place].value:.0f} %",
        )
    return table
