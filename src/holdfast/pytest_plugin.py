"""A pytest plugin for teams that test their models: the fixture ``robustness``.

It is loaded by its entry point, at the start of every pytest session of an environment that has holdfast: so nothing is
imported here that takes time.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from holdfast.models.model import Model
    from holdfast.records.schema import Finding, Summary

FOLDER = "holdfast_folder"
"""The setting of pytest's configuration that names the folder of the audits."""


@dataclass(frozen=True)
class Robustness:
    """The outcome of an audit in a test; ``folder``: the whole run, which ``holdfast report`` and ``compare`` read."""

    summary: Summary
    folder: Path

    @property
    def clean_accuracy(self) -> float:
        """The share of clean images classified correctly."""
        return self.summary.clean_accuracy.value

    @property
    def robust_accuracy(self) -> float:
        """The share that no attack broke within ``eps``: an upper bound of the truth."""
        return self.summary.robust_accuracy.value

    @property
    def doubts(self) -> tuple[Finding, ...]:
        """Reasons not to believe the numbers. Each is a warning of the test, too."""
        return self.summary.warnings


class DoubtedRobustness(UserWarning):
    """A check of an audit doubts its robust accuracy."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declares the setting."""
    parser.addini(FOLDER, "where the fixture robustness keeps its audits; in pytest's cache unless given", default="")


@pytest.fixture(scope="session")
def robustness(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Robustness]:
    """Measures how robust a model is, once: an audit of the same model, images and question is read from its folder.

    ``robustness(model, data, eps="8/255")`` takes what `holdfast.audit` takes as model and data, and the keywords ``threat``
    (a name, ``"linf"`` unless given), ``plan``, ``seed``, ``limit`` and ``curve``. A plain function as the model is audited
    each time, as nothing tells whether it has changed. ``pytest --cache-clear`` forgets all.
    """
    given = pytestconfig.getini(FOLDER)
    cache = getattr(pytestconfig, "cache", None)  # pytest sets it only where its own plugin is loaded
    if given:
        kept = pytestconfig.rootpath / given
    else:
        kept = cache.mkdir("holdfast") if cache is not None else tmp_path_factory.mktemp("holdfast")
    return measuring(kept, tmp_path_factory.mktemp("holdfast-fresh"))


def measuring(kept: Path, fresh: Path) -> Callable[..., Robustness]:
    """What the fixture gives: audits in the folder ``kept``, those that cannot be told apart in ``fresh``."""

    def measure(
        model: Any,
        data: Any,
        *,
        eps: float | str,
        threat: str = "linf",
        plan: str = "fast",
        seed: int = 0,
        limit: int | None = None,
        curve: Sequence[float | str] = (),
    ) -> Robustness:
        from holdfast.audit.api import audit
        from holdfast.data.load import load as load_data
        from holdfast.foundation import registry
        from holdfast.models.load import load as load_model
        from holdfast.models.model import Model
        from holdfast.records.store import SUMMARY, read_summary

        allowed = registry.load("threat", threat)(eps)
        source = load_data(data, limit=limit, seed=seed)
        loaded = model if isinstance(model, Model) else load_model(model, shape=source.shape)
        question = repr((allowed.name, allowed.eps, plan, seed, tuple(map(str, curve)), source.fingerprint()))
        key = _key(loaded, question)
        folder = (fresh / str(len(list(fresh.iterdir())))) if key is None else kept / key
        with _alone(folder):
            if not (folder / SUMMARY).exists():
                audit(loaded, source, threat=allowed, plan=plan, seed=seed, curve=curve, out=folder)
        found = Robustness(read_summary(folder), folder)
        for doubt in found.doubts:
            warnings.warn(f"{doubt.check}: {doubt.saw}. {doubt.means}", DoubtedRobustness, stacklevel=2)
        return found

    return measure


def _key(model: Model, question: str) -> str | None:
    """What names an audit: the weights, the code of the layers' classes, the question, our version; None: nothing does."""
    from torch import nn

    from holdfast import __version__

    module = model.module
    if not isinstance(module, nn.Module):
        return None
    try:
        code = "".join(sorted(set(_code(module))))
    except (OSError, TypeError):  # a class without a source, made in a console
        return None
    return hashlib.sha256("\n".join((__version__, model.fingerprint, code, question)).encode()).hexdigest()[:32]


def _code(module: nn.Module) -> Iterator[str]:
    """The source of the classes of all layers that are not torch's own."""
    for layer in module.modules():
        if not type(layer).__module__.startswith("torch."):
            yield inspect.getsource(type(layer))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While one of several processes of a test session makes this audit, the others wait, and read it then."""
    import fcntl  # not on Windows, where sessions that do not ask for the fixture go on

    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
