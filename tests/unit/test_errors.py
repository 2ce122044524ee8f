"""Every error says what to do next, and survives the way to another process."""

import copy
import pickle

import pytest

from holdfast.foundation import errors
from holdfast.foundation.errors import HoldfastError, UnknownName

KINDS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, HoldfastError)]


@pytest.mark.parametrize("kind", KINDS)
def test_message_hint_and_exit_code(kind: type[HoldfastError]) -> None:
    error = kind("what was given", hint="do this")
    assert str(error) == "what was given\n  hint: do this"
    assert f"{kind.__name__} " in f"{errors.__doc__} "
    line = next(
        line for line in (errors.__doc__ or "").splitlines() if f" {kind.__name__} " in f" {line.strip('├└─ ')} "
    )
    assert f"exit code {kind.exit_code}" in line


@pytest.mark.parametrize("kind", KINDS)
def test_pickles_and_copies(kind: type[HoldfastError]) -> None:
    error = kind("given", hint="do")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(other), other.message, other.hint) == (kind, "given", "do")


def test_hint_is_required() -> None:
    with pytest.raises(TypeError):
        HoldfastError("no hint")  # type: ignore[call-arg]


def test_near_names_come_first() -> None:
    error = UnknownName.among("attack", "PDG", {"pgd", "apgd", "square"})
    assert "unknown attack 'PDG'" in error.message
    assert "did you mean" in error.hint and "pgd" in error.hint and "square" in error.hint


def test_far_names_are_listed() -> None:
    assert UnknownName.among("attack", "zzz", ["b", "a"]).hint == "choose one of: a, b"
