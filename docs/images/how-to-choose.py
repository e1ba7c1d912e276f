"""Draws how-to-choose.png, the picture of that page: python docs/images/how-to-choose.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from innerloop.report.plot import style

WIDTH, HEIGHT = 12.2, 8.6
BODY, SMALL = 10.5, 9.0

OBSTACLES = (
    ("the inner rate is unknown", "meta_sgd · alpha_maml", "rates are learned"),
    ("training is unsteady", "maml_plus_plus", "losses and rates at every step"),
    ("adaptation is too weak", "meta_curvature · meta_lstm", "many training tasks needed"),
    ("too slow, or the model is big", "anil · fomaml · reptile", "in this order"),
    ("tens of inner steps", "imaml · Adjoint(last=n)", "less of the path, or none, counts"),
    ("look beyond the last step", "bootstrapped", "more steps as a target"),
    ("few training tasks, overfits", "dropgrad · cavia", "noise, or less to adapt"),
    ("labels are shuffled between tasks", "zeroing · proto_maml", "the head's start"),
    ("no second derivative", "fomaml · sign_maml · hf_maml", "gradients only"),
    ("the inner step has no derivative", "es_maml", "function values only"),
    ("labelled data beside the tasks", "deml", "features learn from both"),
    ("the worst task counts", "TR-MAML", "tasks weighted by their loss"),
    ("is adaptation needed at all?", "nil · pretrained · scratch", "compare on the same tasks"),
)

ENGINES = (
    ("eager", "develop, dropout, tolerances, iMAML"),
    ("traced", "a CPU, a model that computes the same each time"),
    ("compiled", "long runs, small nets, a GPU; a C++ compiler"),
)


class Board:
    """Boxes and arrows on axes in inches, y downwards; text that leaves its box is an error."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self._fits: list[tuple[Text, float, float, float, float]] = []
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(HEIGHT, 0)
        axes.axis("off")

    def box(
        self, x: float, y: float, w: float, h: float, *, edge: str, face: str = "white"
    ) -> None:
        shape = FancyBboxPatch(
            (x, y), w, h, boxstyle="round,pad=0,rounding_size=0.09", ec=edge, fc=face, lw=1.3
        )
        self.axes.add_patch(shape)

    def write(
        self, x: float, y: float, text: str, room: tuple[float, float, float, float], **how: Any
    ) -> None:
        """`text` at (x, y) inside `room` = (left, top, right, bottom)."""
        how = {"ha": "center", "va": "center", "fontsize": BODY, "color": style.INK, **how}
        self._fits.append((self.axes.text(x, y, text, **how), *room))

    def question(self, x: float, y: float, w: float, h: float, text: str) -> None:
        self.box(x, y, w, h, edge=style.INK, face="#f4f4f4")
        self.write(x + w / 2, y + h / 2, text, (x, y, x + w, y + h))

    def answer(self, x: float, y: float, w: float, name: str, why: str, colour: str) -> None:
        """A method's name above one or two lines of reason: 0.64 or 0.83 high."""
        h = 0.64 + 0.19 * why.count("\n")
        self.box(x, y, w, h, edge=colour)
        room = (x, y, x + w, y + h)
        size = BODY if len(name) < 15 else SMALL
        bold = {"fontweight": "bold", "color": colour, "family": "monospace", "fontsize": size}
        self.write(x + w / 2, y + 0.2, name, room, **bold)
        small = {"fontsize": SMALL, "color": style.MUTED, "linespacing": 1.25}
        self.write(x + w / 2, y + (h + 0.33) / 2, why, room, **small)

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], text: str, dx: float = 0.08
    ) -> None:
        self.axes.annotate(
            "",
            xy=end,
            xytext=start,
            arrowprops={"arrowstyle": "-|>", "color": style.MUTED, "lw": 1.2, "shrinkA": 0},
        )
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        side = "left" if dx > 0 else "right"
        self.axes.text(x + dx, y, text, fontsize=SMALL, color=style.INK, va="center", ha=side)

    def check(self) -> None:
        """Raises ValueError for a text that is larger than its room."""
        self.axes.figure.canvas.draw()
        for text, left, top, right, bottom in self._fits:
            box = text.get_window_extent().transformed(self.axes.transData.inverted())
            low, high = sorted((box.y0, box.y1))
            inside = left <= box.x0 and box.x1 <= right and top <= low and high <= bottom
            if not inside:
                raise ValueError(f"{text.get_text()!r} does not fit into its box")


def tree(board: Board) -> None:
    """Where to start: the questions on the left."""
    heading(board, 0.15, "1   Where to start")
    board.question(1.9, 0.62, 3.2, 0.56, "What is a label?")
    board.arrow((2.6, 1.18), (1.85, 1.78), "a class", dx=-0.1)
    board.arrow((4.4, 1.18), (5.15, 1.78), "a number", dx=0.1)
    board.question(0.15, 1.8, 3.3, 0.72, "Could one set of features\nserve all tasks?")
    board.question(
        3.55, 1.8, 3.3, 0.72, "Do tasks differ in a few numbers\n(amplitude, style, speaker)?"
    )

    metric, solved, adapts = style.PURPLE, style.GREEN, style.BLUE
    columns = (
        (
            ("yes, or\nno idea", "protonet", "class means;\nany number of ways", metric),
            ("more than\none shot", "r2d2", "ridge head, solved;\nany number of ways", solved),
            ("rich features\n(ResNet)", "metaoptnet", "support vectors,\nby their KKT", solved),
        ),
        (
            ("no: inputs\nchange", "maml · boil", "all weights,\nor all but the head", adapts),
            ("it works:\nis less enough?", "anil", "the head alone;\nmuch cheaper", adapts),
            ("prototypes are\ngood already", "proto_maml", "gradient steps\nfrom there", adapts),
        ),
        (
            ("yes", "cavia", "a context vector;\nweights stay fixed", adapts),
            ("or: linear\nin features", "r2d2", 'loss="mse":\nridge, solved', solved),
        ),
        (
            ("no", "maml", "all weights,\n1 to 5 steps", adapts),
            ("one shot,\ncontrol", "bias_transformation", "biases learn\ndifferently", adapts),
        ),
    )
    for i, column in enumerate(columns):
        left, y = 0.15 + 1.7 * i, 2.52
        for condition, name, why, colour in column:
            board.arrow((left + 0.8, y), (left + 0.8, y + 0.57), condition)
            board.answer(left, y + 0.59, 1.6, name, why, colour)
            y += 0.59 + 0.83
    special(board, 3.55, 5.95, 3.3, 0.83)


def special(board: Board, x: float, y: float, w: float, h: float) -> None:
    """Two cases of classes that no arrow leads to."""
    board.box(x, y, w, h, edge=style.MUTED)
    room = (x, y, x + w, y + h)
    board.write(x + 0.1, y + 0.17, "classes, two special cases:", room, ha="left", fontsize=SMALL)
    cases = (
        ("lrd2", style.GREEN, "two classes, log-odds"),
        ("matching", style.PURPLE, "a class with several modes"),
    )
    for i, (name, colour, why) in enumerate(cases):
        middle = y + 0.41 + 0.24 * i
        bold = {"fontweight": "bold", "family": "monospace", "color": colour}
        board.write(x + 0.1, middle, name, room, ha="left", **bold)
        board.write(x + 1.0, middle, why, room, ha="left", fontsize=SMALL, color=style.MUTED)


def obstacles(board: Board) -> None:
    """What to change once MAML runs: the list on the right."""
    left, top, row = 7.15, 0.62, 0.475
    heading(board, left, "2   MAML runs: what is in the way?")
    for i, (when, names, why) in enumerate(OBSTACLES):
        y = top + i * row
        if i % 2 == 0:
            board.axes.axhspan(y, y + row, left / WIDTH, (WIDTH - 0.1) / WIDTH, fc="#f4f4f4")
        size = SMALL + 0.5
        room = (left, y, left + 2.45, y + row)
        board.write(left + 0.1, y + row / 2, when, room, ha="left", fontsize=size)
        x, room = left + 2.55, (left + 2.45, y, WIDTH - 0.1, y + row)
        bold = {"fontweight": "bold", "family": "monospace", "color": style.BLUE}
        board.write(x, y + 0.16, names, room, ha="left", fontsize=size, **bold)
        small = {"fontsize": SMALL - 0.5, "color": style.MUTED}
        board.write(x, y + 0.35, why, room, ha="left", **small)


def engines(board: Board) -> None:
    """How to execute it: the strip at the bottom."""
    heading(board, 0.15, "3   Which engine: the same gradient, method.use(…)", y=7.13)
    w = (WIDTH - 0.3 - 0.4) / 3
    for i, (name, when) in enumerate(ENGINES):
        board.answer(0.15 + i * (w + 0.2), 7.4, w, name, when, style.VERMILION)
    legend = (
        "Colour: adapts weights or a context (blue), solves for a head (green), adapts nothing "
        "(purple). Everything above the strip combines: any scope, solver and estimator."
    )
    board.axes.text(0.15, 8.35, legend, fontsize=SMALL, color=style.MUTED, va="center")


def heading(board: Board, x: float, text: str, y: float = 0.3) -> None:
    board.axes.text(x, y, text, fontsize=13, fontweight="bold", color=style.INK, va="center")


@style.styled
def main() -> None:
    drawn = style.figure(WIDTH, HEIGHT)
    drawn.set_layout_engine("none")
    board = Board(drawn.add_axes((0, 0, 1, 1)))
    tree(board)
    obstacles(board)
    engines(board)
    board.check()
    style.save(drawn, Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
