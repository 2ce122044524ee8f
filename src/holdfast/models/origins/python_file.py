"""A Python file that is no module of the environment."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar

from holdfast.foundation.errors import BadFile, BadModel, BadValue, UnknownName
from holdfast.foundation.registry import register
from holdfast.models.factory import called
from holdfast.models.origin import Asked, Found


@register
class PythonFile:
    """FILE.py:FACTORY, only with --trust-code: the file is run, wherever it lies.

    your_module:factory needs no such word: it can name nothing but what is installed or lies in the current folder.
    """

    written: ClassVar[str] = "FILE.py:FACTORY"
    weights: ClassVar[bool] = True
    publishes: ClassVar[bool] = False

    @staticmethod
    def recognises(given: str) -> bool:
        return given.endswith(".py") or given.rpartition(":")[0].endswith(".py")

    @staticmethod
    def open(given: str, asked: Asked) -> Found:
        file, colon, name = given.rpartition(":") if not given.endswith(".py") else (given, "", "")
        if not colon:
            raise BadValue(
                f"{given!r} names no factory", hint=f"write {given}:NAME of a function that returns an nn.Module"
            )
        path = Path(file)
        if not path.is_file():
            raise BadFile(f"there is no file {file!r}", hint="check the path")
        if not asked.trust_code:
            raise BadFile(f"{file} is code, which would run", hint="read it, and add --trust-code if it may run")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # it may raise anything, or exit
            raise BadModel(f"{file} cannot be run: {type(error).__name__}: {error}", hint="repair it") from error
        factory = getattr(module, name, None)
        if not callable(factory):
            functions = [one for one, value in vars(module).items() if callable(value)]
            raise UnknownName.among(f"factory in {file}", name, functions)
        return Found(called(factory, given, dict(asked.options)), given)
