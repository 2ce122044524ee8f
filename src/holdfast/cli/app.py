"""The commands, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from holdfast import __version__
from holdfast.cli.audit import audit
from holdfast.cli.demo import demo
from holdfast.cli.doctor import doctor
from holdfast.cli.list import list_
from holdfast.cli.plan import plan
from holdfast.cli.report import report
from holdfast.cli.verify import verify
from holdfast.foundation.errors import HoldfastError, Incomplete

_HELP = """How robust is your image classifier, how to make it robust, and why it is or is not.

Exit codes: 0 fine, 1 below the gate, 2 bad input, 3 the number is not to be believed, 4 incomplete.
"""


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit code."""
    problems = Console(stderr=True, highlight=False, soft_wrap=True)
    app = App(
        name="holdfast",
        help=_HELP,
        version=__version__,
        suppress_keyboard_interrupt=False,
        help_format="plaintext",
        console=Console(highlight=False),
        error_console=problems,
    )
    for command in (demo, audit, verify, doctor, plan, report):
        app.command(command)
    app.command(list_, name="list")
    try:
        return (
            app(
                arguments,
                exit_on_error=False,
                print_error=True,
                result_action="return_value",
            )
            or 0
        )
    except CycloptsError:
        return HoldfastError.exit_code
    except HoldfastError as error:
        problems.print("[bold red]error:[/bold red] ", end="")
        problems.print(error.message, markup=False)
        problems.print("[bold]hint:[/bold]  ", end="")
        problems.print(error.hint, markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        problems.print("stopped. What is finished is kept: run the same command again to go on.", markup=False)
        return Incomplete.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nothing is left to say, and nobody to say it to
        return 0
