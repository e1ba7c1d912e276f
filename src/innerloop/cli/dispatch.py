"""Which function does what a command asks for.

Each is imported when its command runs, so that `innerloop --help` does not wait for torch.
"""

from __future__ import annotations

from typing import assert_never

from . import commands
from .commands import Command
from .overrides import Overrides


def execute(command: Command, overrides: Overrides) -> None:
    """Run a command with the settings that were typed beside it."""
    match command:
        case commands.Train():
            from .training import train

            train(command, overrides)
        case commands.Evaluate():
            from .scoring import evaluate_run

            evaluate_run(command, overrides)
        case commands.Compare():
            from .scoring import compare_runs

            compare_runs(command, overrides)
        case commands.Report():
            from .scoring import report_run

            report_run(command, overrides)
        case commands.Adapt():
            from .adapting import adapt

            adapt(command, overrides)
        case commands.CheckGradient():
            from .checking import check

            check(command, overrides)
        case commands.Reproduce():
            from .reproducing import reproduce

            reproduce(command, overrides)
        case commands.Demo():
            from .demo import demo

            demo(command.run, overrides)
        case commands.Prepare():
            from .preparing import prepare

            prepare(command)
        case commands.Recipes():
            from .listing import list_recipes

            list_recipes(command.family)
        case commands.Schema():
            from .listing import print_schema

            print_schema(command.out)
        case commands.Cite():
            from .citing import cite

            cite(command.run)
        case _:
            assert_never(command)
