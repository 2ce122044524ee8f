"""The commands, and how they end."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Literal

from cyclopts import App, CycloptsError, Group
from rich.console import Console

from holdfast import __version__
from holdfast.cli.attack import attack
from holdfast.cli.audit import audit
from holdfast.cli.card import card
from holdfast.cli.certify import certify
from holdfast.cli.compare import compare
from holdfast.cli.corrupt import corrupt
from holdfast.cli.demo import demo
from holdfast.cli.detect import detect
from holdfast.cli.doctor import doctor
from holdfast.cli.experiment import experiment
from holdfast.cli.explain import explain
from holdfast.cli.gate import gate
from holdfast.cli.index import index
from holdfast.cli.list import list_
from holdfast.cli.plan import plan
from holdfast.cli.report import report
from holdfast.cli.terminal import terminal
from holdfast.cli.theory import theory
from holdfast.cli.train import train
from holdfast.cli.verify import verify
from holdfast.foundation.errors import BadModel, BadValue, HoldfastError, Incomplete

_HELP = """How robust is your image classifier, how to make it robust, and why it is or is not.

Exit codes: 0 fine, 1 below the gate, 2 bad input, 3 the number is not to be believed, 4 incomplete. With --verbose, anywhere
in a command, an error shows where in the code it arose.
"""

VERBOSE = "--verbose"

_GO_ON = {"attack", "audit", "certify", "corrupt", "demo", "detect", "experiment", "explain", "train"}
"""The commands that write what they finish, and go on there when they are run again."""

_WRITTEN_FOR = 120
"""Columns that the lines of the docstrings need."""

_INTERRUPTED = 130
"""What a shell reports of a program that Ctrl-C ended: 128 + SIGINT."""

_READER_GONE = 141
"""What a shell reports of a program whose output nobody reads any more: 128 + SIGPIPE."""


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit code."""
    problems = terminal(stderr=True)
    verbose = VERBOSE in arguments
    arguments = [each for each in arguments if each != VERBOSE]
    warnings.filterwarnings("ignore", module=r"PIL\.")  # its remarks on metadata; the pixels decide
    page = terminal()
    narrow = page.is_terminal and page.width < _WRITTEN_FOR
    page.soft_wrap = not narrow
    app = App(
        name="holdfast",
        help=_flowing(_HELP) if narrow else _HELP,
        version=__version__,
        suppress_keyboard_interrupt=False,
        help_format="plaintext",
        group_parameters=Group("Parameters", sort_key=2),  # below what every command begins with: model and data
        console=page,
        error_console=problems,
    )
    for command in (
        demo,
        audit,
        train,
        experiment,
        attack,
        detect,
        certify,
        corrupt,
        verify,
        doctor,
        plan,
        report,
        index,
        theory,
        explain,
        compare,
        gate,
        card,
    ):
        app.command(command, help=_flowing(command.__doc__ or "") if narrow else None)
    app.command(list_, name="list", help=_flowing(list_.__doc__ or "") if narrow else None)

    def completion(shell: Literal["bash", "zsh", "fish", "powershell"]) -> int:
        """Print a script that teaches a shell to complete commands and options.

        holdfast completion bash > ~/.local/share/bash-completion/completions/holdfast

        Parameters
        ----------
        shell
            Which: bash, zsh, fish or powershell.
        """
        try:
            script = app.generate_completion(shell=shell)
        except ValueError:
            raise BadValue(
                f"the installed cyclopts writes no completion for {shell}",
                hint="install cyclopts 5 or newer, which needs Python 3.11",
            ) from None
        print(script)
        return 0

    app.command(completion)
    try:
        return (
            app(
                arguments,
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
            or 0
        )
    except CycloptsError as error:
        command = shlex.join(["holdfast", *(error.command_chain or ()), "--help"])
        return _told(problems, HoldfastError(str(error), hint=f"see {command}"))
    except HoldfastError as error:
        if verbose:
            problems.print_exception()
        return _told(problems, error)
    except KeyboardInterrupt:
        return _stopped(problems, arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more when it ends
        return _READER_GONE
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich's way to end; its code 1 would say "below the gate"
            return _READER_GONE
        what = f"the model's own code ended the program with sys.exit({stop.code!r})"
        return _told(problems, BadModel(what, hint="take that call out of its module and its factory"))


def _flowing(doc: str) -> str:
    """What a docstring says before its parameters, each paragraph on one line, for a terminal that wraps it anew."""
    about = inspect.cleandoc(doc).partition("\nParameters\n")[0]
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in about.split("\n\n"))


def _stopped(console: Console, arguments: Sequence[str]) -> int:
    """What Ctrl-C leaves, in words, and the exit code."""
    goes_on = next(iter(arguments), "") in _GO_ON
    if _first_to_tell():
        if goes_on:
            console.print("stopped. What is finished is kept: run the same command again to go on:", markup=False)
            console.print(f"  {shlex.join(['holdfast', *arguments])}", markup=False)
        else:
            console.print("stopped. Nothing is left to go on from: the same command begins anew.", markup=False)
    return Incomplete.exit_code if goes_on else _INTERRUPTED


def _told(console: Console, error: HoldfastError) -> int:
    if _first_to_tell():
        console.print("[bold red]error:[/bold red] ", end="")
        console.print(error.message, markup=False)
        console.print("[bold]hint:[/bold]  ", end="")
        console.print(error.hint, markup=False)
    return error.exit_code


def _first_to_tell() -> bool:
    """Whether what ends this process is still to be told, if torchrun started several."""
    from holdfast.audit import ranks

    return not ranks.launched() or ranks.first_to_tell()
