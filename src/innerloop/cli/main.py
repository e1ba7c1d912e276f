"""The entry point: one function per command, errors of ours without a traceback.

Commands import what they need when they run, so that `innerloop --help` does not wait for torch.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from ..train.interrupt import Interrupted
from .commands import COMMANDS, SETTINGS
from .overrides import divide

USAGE = 2
FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0, 2 for a mistake of ours, 128 + n for a signal)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    rest, settings = divide([w for w in words if w != "--debug"])
    SETTINGS.set(settings)
    errors = Console(stderr=True, soft_wrap=True)
    logging.basicConfig(
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_time=False, show_path=False)],
    )
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="innerloop",
            description="Learn from many small tasks how to learn a new one from few examples. "
            "Every command shows its errors in full with --debug.",
            args=rest,
            config=(tyro.conf.FlagCreatePairsOff,),
            sort_subcommands=False,
        )
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        errors.print(Text("stopped", "yellow"))
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError) as error:
        if debug:
            traceback.print_exception(error)
        rank = os.environ.get("RANK", "0") if "TORCHELASTIC_RUN_ID" in os.environ else "0"
        place = "" if rank == "0" else f"rank {rank}: "
        errors.print(Text(f"{place}error: ", "bold red").append(Text(str(error), "red")))
        return USAGE
    except Interrupted as stop:
        errors.print(Text(str(stop), "yellow"))
        return 128 + stop.signum
    return 0
