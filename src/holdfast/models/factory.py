"""Finds and calls a function that builds a net."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from holdfast.foundation.errors import BadModel, BadValue, UnknownName


def imported(module_name: str, factory_name: str) -> Callable[..., object]:
    """A function of a module that is installed, or lies in the current folder, which is on the path for the import alone.

    Raises:
        BadModel: the module cannot be imported.
        UnknownName: it has no such function.
    """
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # importing runs the user's file, which may raise anything, or exit
        raise BadModel(
            f"{module_name!r} cannot be imported: {type(error).__name__}: {error}",
            hint=f"name a module of the current folder ({folder}) or of the environment, without .py",
        ) from error
    finally:
        sys.path.remove(folder)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise UnknownName.among(
            f"factory of {module_name}", factory_name, [name for name, value in vars(module).items() if callable(value)]
        )
    return factory


def called(factory: Callable[..., object], name: str, options: dict[str, Any]) -> nn.Module:
    """What a factory returns for some options.

    Raises:
        UnknownName: an option that it does not take.
        BadModel: it raises, or returns no ``nn.Module``.
    """
    if isinstance(factory, nn.Module):
        kind = type(factory).__name__
        raise BadModel(
            f"{name} is a {kind} that is built already, and a function or class that builds one is needed",
            hint=f"name its class, or write in that module: def build(): return {name.rpartition(':')[2]}",
        )
    known = inspect.signature(factory).parameters
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
        for option in options:
            if option not in known:
                raise UnknownName.among(f"option of {name}", option, known)
    wanted = [
        each.name
        for each in known.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    ]
    if missing := [each for each in wanted if each not in options]:
        raise BadModel(
            f"{name} cannot be called without {', '.join(missing)}",
            hint=f"give {' '.join(f'--option {each}=...' for each in missing)}, or defaults in its signature",
        )
    try:
        module = factory(**options)
    except BadValue:
        raise
    except Exception as error:  # the user's code, or one of our nets with an option of the wrong type
        raise BadModel(
            f"{name} raises when it is called with {options or 'no options'}: {type(error).__name__}: {error}",
            hint="check its options (--option key=value), or call it by hand in this folder with the same ones",
        ) from error
    if not isinstance(module, nn.Module):
        raise BadModel(
            f"{name} returns a {type(module).__name__}", hint="a factory returns an nn.Module; return that alone"
        )
    return module
