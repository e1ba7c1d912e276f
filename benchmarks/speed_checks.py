"""Targets of speed and memory beside the peers, and what was measured. Nothing is asserted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from speed_cells import Cell

PEERS = ("learn2learn", "higher", "torchopt")
EXACT = ("innerloop", "traced", "compiled")
FASTER = {"omni1": 2.0, "omni5": 1.6, "mini": 2.0, "deep": 1.4}
MEMORY = {"omni1": 1.0, "omni5": 1.0, "mini": 0.5, "deep": 0.35}
FLOOR = {"omni1": 1.6, "mini": 1.6}
PAPER_RUN = 60_000
"""Iterations of the paper's Omniglot runs (Finn et al. 2017, appendix A.1)."""


@dataclass
class Found:
    """What was measured on a row: cells by engine, ratios by pair, its floor in seconds.

    `reference_error` is the distance of the float64 reference from plain autograd, where taken.
    """

    row: str
    cells: dict[str, Cell] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Cell] = field(default_factory=dict)
    floor: float | None = None
    reference_error: float | None = None

    def good(self, *engines: str) -> list[str]:
        """Those of `engines` that were measured."""
        return [e for e in engines if "median" in self.cells.get(e, {})]

    def fastest_peer(self) -> str | None:
        return min(self.good(*PEERS), key=lambda e: self.cells[e]["median"], default=None)

    def slowest_peer(self) -> str | None:
        return max(self.good(*PEERS), key=lambda e: self.cells[e]["median"], default=None)

    def times_faster(self, engine: str, than: str) -> float:
        """How often `engine` runs in the time of `than`: timed in turns where that was done."""
        pair = self.pairs.get((engine, than), {})
        if "ratio" in pair:
            return float(pair["ratio"])
        return float(self.cells[than]["median"] / self.cells[engine]["median"])

    def best(self) -> str | None:
        """The fastest of innerloop's exact engines."""
        return min(self.good(*EXACT), key=lambda e: self.cells[e]["median"], default=None)


@dataclass(frozen=True)
class Check:
    """One line: `met` is None where something was not measured."""

    row: str
    what: str
    target: str
    measured: str
    met: bool | None


def checks(found: dict[str, Found], device: str) -> list[Check]:
    """All of them, in the order of the rows."""
    lines: list[Check] = []
    for name, row in found.items():
        lines += _sine(row) if name == "sine" else []
        lines += _beside_peers(row) if name in FASTER else []
        lines += _errors(row) if name == "sine" or name in FASTER else []
        lines += _first_order(row) if name == "deep" else []
        lines += _workers(row) if name == "omni1" and device == "cpu" else []
        lines += _gpu(row) if name == "omni1" and device == "cuda" else []
    return lines


def _absent(row: Found, what: str, target: str) -> Check:
    return Check(row.row, what, target, "not measured", None)


def _ratio(
    row: Found, engine: str, than: str | None, what: str, least: float, times: str = ""
) -> Check:
    """`engine` at least `least` times as fast as `than`."""
    target = times or f"≥ {least:g} x"
    if than is None or not row.good(engine) or not row.good(than):
        return _absent(row, what, target)
    ratio = row.times_faster(engine, than)
    shown = f"{1 / ratio:.2f} x its time" if times else f"{ratio:.2f} x {than}"
    return Check(row.row, what, target, f"{shown} ({engine})", ratio >= least)


def _sine(row: Found) -> Iterator[Check]:
    peer = row.fastest_peer()
    yield _ratio(row, "innerloop", peer, "speed, eager", 8)
    yield _ratio(row, "compiled", peer, "speed, compiled", 30)
    yield _ratio(row, "compiled", "jax", "time beside JAX", 1 / 1.2, "≤ 1.2 x")


def _beside_peers(row: Found) -> Iterator[Check]:
    engine, peer = row.best(), row.fastest_peer()
    if engine is None or peer is None:
        yield _absent(row, "speed", f"≥ {FASTER[row.row]:g} x")
        return
    yield _ratio(row, engine, peer, "speed", FASTER[row.row])
    yield _memory(row, engine, peer, MEMORY[row.row])
    if row.row in FLOOR and row.floor:
        times = row.cells[engine]["median"] / row.floor
        most = FLOOR[row.row]
        target = f"≤ {most:g} x"
        yield Check(
            row.row, "time over the floor", target, f"{times:.2f} x ({engine})", times <= most
        )


def _memory(row: Found, engine: str, than: str, most: float) -> Check:
    share = row.cells[engine]["memory"] / max(row.cells[than]["memory"], 1.0)
    shown = f"{share:.2f} x {than} ({engine})"
    return Check(row.row, "memory", f"≤ {most:g} x", shown, share <= most)


def _errors(row: Found) -> Iterator[Check]:
    peer = row.slowest_peer()
    for engine in row.good(*EXACT):
        if peer is None:
            yield _absent(row, "error", "≤ the slowest peer's")
            continue
        # To one digit: rounding differs from engine to engine, and is not what is compared.
        ours, theirs = (float(f"{row.cells[e]['error']:.0e}") for e in (engine, peer))
        target = f"≤ {theirs:.0e} (slowest peer: {peer})"
        yield Check(row.row, "error", target, f"{ours:.0e} ({engine})", ours <= theirs)


def _first_order(row: Found) -> Iterator[Check]:
    if not row.good("innerloop") or not row.good("fomaml"):
        yield _absent(row, "exact over first order", "≤ 3.3 x")
        return
    ratio = row.times_faster("fomaml", "innerloop")
    yield Check(
        row.row, "time over first order", "≤ 3.3 x", f"{ratio:.2f} x (innerloop)", ratio <= 3.3
    )
    share = row.cells["innerloop"]["memory"] / max(row.cells["fomaml"]["memory"], 1.0)
    shown = f"{share:.2f} x (innerloop)"
    yield Check(row.row, "memory over first order", "≤ 1.6 x", shown, share <= 1.6)


def _workers(row: Found) -> Iterator[Check]:
    yield _ratio(row, "workers", "innerloop", "2 workers beside 1 process", 1.0)


def _gpu(row: Found) -> Iterator[Check]:
    engine, peer = row.best(), row.fastest_peer()
    if engine is None:
        yield _absent(row, "the paper's run", "< 10 min")
        return
    yield _ratio(row, engine, peer, "speed", 20)
    minutes = PAPER_RUN * row.cells[engine]["median"] / 60
    shown = f"{minutes:.1f} min of meta-gradients ({engine})"
    yield Check(row.row, f"{PAPER_RUN} iterations", "< 10 min", shown, minutes < 10)
