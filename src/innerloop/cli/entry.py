"""The entry point: what was typed becomes a command, and every foreseeable error one line."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import tyro
from rich.logging import RichHandler

from .. import __version__
from ..train.interrupt import Interrupted
from .commands import COMMANDS, Command
from .console import say, terminal
from .dispatch import execute
from .overrides import CONFIGURED, Overrides, divide

USAGE = 2
FAILED = 1


def run(arguments: Sequence[str] | None) -> int:
    """Run one command; returns the exit code (0, 2 for a mistake of ours, 128 + n for a signal)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    errors = terminal(errors=True)
    logging.basicConfig(
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_time=False, show_path=False)],
    )
    try:
        command, overrides = parse([word for word in words if word != "--debug"])
        execute(command, overrides)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    except KeyboardInterrupt:
        say(errors, "stopped", "yellow")
        return 130
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Interrupted as stop:
        say(errors, stop, "yellow")
        return 128 + stop.signum
    except (ValueError, OSError, ImportError, RuntimeError, ArithmeticError, MemoryError) as error:
        if debug:
            traceback.print_exception(error)
        rank = os.environ.get("RANK", "0") if "TORCHELASTIC_RUN_ID" in os.environ else "0"
        place = "" if rank == "0" else f"rank {rank}: "
        say(errors, f"{place}error: {told(error)}", "red")
        return USAGE
    return 0


def parse(words: Sequence[str]) -> tuple[Command, Overrides]:
    """What was typed, as a command and the settings for its runs.

    Raises:
        SystemExit: help was asked for and shown, or tyro has said what is wrong.
        ValueError: an option that there is not, with what it may have meant.
    """
    if list(words[:1]) == ["--version"]:
        terminal().print(f"innerloop {__version__}")
        raise SystemExit(0)
    rest, overrides = divide(words)
    helps = bool({"--help", "-h"} & set(rest))
    if rest and rest[0] in CONFIGURED and not helps:
        _check_options(rest)
    try:
        table: dict[str, Callable[..., Any]] = dict(COMMANDS)
        command: Command = tyro.extras.subcommand_cli_from_dict(
            table,
            prog="innerloop",
            description="Learn from many small tasks how to learn a new one from few examples. "
            "Every command shows its errors in full with --debug; --version prints the version.",
            args=rest,
            config=(tyro.conf.FlagCreatePairsOff,),
            sort_subcommands=False,
        )
    except SystemExit as stop:
        if helps and not stop.code and rest[0] == "train":
            from .listing import print_settings

            print_settings()
        raise
    return command, overrides


def _check_options(words: Sequence[str]) -> None:
    known = [f.name for f in fields(COMMANDS[words[0]])]
    for word in words[1:]:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name and name not in known:
            from .listing import meant

            raise ValueError(f"innerloop {words[0]} has no option --{name}; {meant(name, known)}")


def told(error: BaseException) -> str:
    """An error in one line, with what can be done where the error itself does not say it."""
    text = " ".join(str(error).split()) if isinstance(error, RuntimeError) else str(error)
    if isinstance(error, MemoryError) or _out_of_memory(text):
        return (
            f"there is not enough memory for this{f' ({text[:200]})' if text else ''}. Ask for "
            "less: --train.meta_batch, --data.queries, --model.*, or --method.chunk 1"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        advice = "free some space, or write to another disk"
        return text if "free some" in text else f"{text}: {advice}"
    if isinstance(error, RuntimeError | ArithmeticError):
        kind = "" if type(error) is RuntimeError else f"{type(error).__name__}: "
        return f"{kind}{text[:600]} (--debug shows where)"
    return text


def _out_of_memory(text: str) -> bool:
    signs = ("out of memory", "not enough memory", "can't allocate memory", "Storage size calc")
    return any(sign in text for sign in signs)
