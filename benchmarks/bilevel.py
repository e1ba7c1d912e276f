"""Three bilevel problems: wrong labels, weight decay, distilled images, beside the usual ways.

1. Wrong labels: 20 Omniglot characters, 40 % of the training labels changed to another one,
   uniformly. One weight per training example is learned on a few clean drawings.
2. Weight decay: ridge regression on scikit-learn's diabetes table with all products of two columns;
   one decay, and one per group of columns, against grids.
3. Distilled images: one or two learned images per character, from which fresh networks learn five.

Run: INNERLOOP_DATA=FOLDER python benchmarks/bilevel.py      (about 8 minutes; resumable)
"""

from __future__ import annotations

import itertools
import math
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from bench import RUNS, heading, table, takes_no_options, write
from scipy.stats import t as student
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from innerloop import Batch, Method, Task, bilevel
from innerloop.data.images.omniglot import read_omniglot
from innerloop.data.pool import scaled
from innerloop.estimate import Adjoint, Implicit
from innerloop.solve import GradientDescent, Momentum, NewtonCG

SEEDS = (0, 1, 2)
SPLITS = range(10)
Found = dict[str, dict[str, list[float]]]
"""What was measured: row, column, one value per seed."""


def interval(values: list[float], factor: float = 1.0, digits: int = 1) -> str:
    """Mean ± 95 % interval over the seeds by Student's t."""
    n = len(values)
    half = student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    return f"{factor * np.mean(values):.{digits}f} ± {factor * half:.{digits}f}"


def timed(found: Found, row: str, run: Callable[[], dict[str, float]]) -> None:
    """Put a run's numbers into a row, with the seconds that it took."""
    began = time.perf_counter()
    for column, value in run().items():
        found[row][column].append(value)
    found[row]["seconds"].append(time.perf_counter() - began)


def empty() -> Found:
    return defaultdict(lambda: defaultdict(list))


def train_hyper(method: Method, hyper: nn.Module, tasks: Task, steps: int, lr: float) -> None:
    """Adam on the outer parameters."""
    optimizer = torch.optim.Adam(hyper.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        method.loss(tasks).backward()
        optimizer.step()


def one_task(x: Tensor, y: Tensor) -> Batch:
    return Batch(x.unsqueeze(0), y.unsqueeze(0))


class Characters(NamedTuple):
    """Images (characters, 20 drawings, 196) in [0, 1], 14 x 14 pixels."""

    images: Tensor

    @classmethod
    def read(cls) -> Characters:
        pool = read_omniglot().pool
        images = scaled(pool.images[pool.rows])
        return cls(avg_pool2d(images, 2).reshape(pool.n_classes, 20, 196))

    def some(self, count: int, seed: int) -> Tensor:
        """That many characters, their drawings in random order: (count, 20, 196)."""
        numbers = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.images), generator=numbers)[:count]
        order = torch.randperm(20, generator=numbers)
        return self.images[chosen][:, order]


# 1. Wrong labels ---------------------------------------------------------------------------------

WAY, TRAIN, CLEAN = 20, 12, 3
WRONG = 0.4
RATE, STEPS, OUTER = 0.3, 100, 60


class Flipped(NamedTuple):
    """Training drawings with labels of which some are wrong, a few clean ones, held-out ones."""

    x: Tensor
    y: Tensor
    wrong: Tensor
    clean_x: Tensor
    clean_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def draw(cls, characters: Characters, seed: int) -> Flipped:
        images = characters.some(WAY, seed)
        parts = images.split([TRAIN, CLEAN, 20 - TRAIN - CLEAN], 1)
        x, clean_x, test_x = (part.flatten(0, 1) for part in parts)
        true, clean_y, test_y = (
            torch.arange(WAY).repeat_interleave(part.shape[1]) for part in parts
        )
        numbers = torch.Generator().manual_seed(1000 + seed)
        wrong = torch.zeros(len(true), dtype=torch.bool)
        chosen = torch.randperm(len(true), generator=numbers)[: round(WRONG * len(true))]
        wrong[chosen] = True
        away = torch.randint(1, WAY, (len(true),), generator=numbers)
        return cls(
            x,
            torch.where(wrong, (true + away) % WAY, true),
            wrong,
            clean_x,
            clean_y,
            test_x,
            test_y,
        )

    @property
    def true(self) -> Tensor:
        return torch.arange(WAY).repeat_interleave(TRAIN)


def weighted(model: nn.Module, batch: Batch, hyper: nn.Module) -> Tensor:
    """The mean loss of the training examples, each times its weight."""
    losses = cross_entropy(model(batch.x), batch.y, reduction="none")
    return (hyper["logit"].sigmoid() * losses).mean()


def fit(model: nn.Module, batch: Batch) -> Tensor:
    return cross_entropy(model(batch.x), batch.y)


def classifier(x: Tensor, y: Tensor, weight: Tensor, seed: int) -> nn.Module:
    """The classifier that each row is judged by: the inner run, from a fresh draw."""
    torch.manual_seed(2000 + seed)
    model = nn.Linear(196, WAY)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (weight * cross_entropy(model(x), y, reduction="none")).mean().backward()
        optimizer.step()
    return model


def judged(data: Flipped, weight: Tensor, seed: int, *, clean: bool = False) -> dict[str, float]:
    """Held-out accuracy of the classifier trained with these weights; with the clean drawings too.

    Weights are divided by their mean: only which examples count more is asked for, not how long
    one trains.
    """
    x, y = data.x, data.y
    if clean:
        x, y = torch.cat([x, data.clean_x]), torch.cat([y, data.clean_y])
        weight = torch.cat([weight, torch.ones(len(data.clean_y))])
    model = classifier(x, y, weight / weight.mean(), seed)
    right = model(data.test_x).argmax(-1) == data.test_y
    return {"with" if clean else "without": right.double().mean().item()}


def both(data: Flipped, weight: Tensor, seed: int) -> dict[str, float]:
    return judged(data, weight, seed) | judged(data, weight, seed, clean=True)


def learned_weights(data: Flipped, seed: int, way: str) -> dict[str, float]:
    """Weights of the training examples by one of the estimators."""
    torch.manual_seed(seed)
    logits = nn.ParameterDict({"logit": nn.Parameter(torch.zeros(len(data.y)))})
    tasks = Task(one_task(data.x, data.y), one_task(data.clean_x, data.clean_y))
    pieces = {"inner": weighted, "outer": fit}
    if way == "one step":
        method = bilevel(
            nn.Linear(196, WAY), logits, solver=GradientDescent(RATE, 1), start="carried", **pieces
        )
        outer, lr = OUTER * STEPS // 4, 0.1  # a quarter of the inner steps of the other rows
    else:
        solver = Momentum(RATE, STEPS)
        estimator = Adjoint(last=1) if way == "last" else Adjoint(store_every=1)
        method = bilevel(nn.Linear(196, WAY), logits, solver=solver, estimator=estimator, **pieces)
        outer, lr = OUTER, 0.3
    train_hyper(method, logits, tasks, outer, lr)
    weight = logits["logit"].detach().sigmoid()
    auc = roc_auc_score(data.wrong.numpy(), -weight.numpy())
    return {"auc": auc, **both(data, weight, seed)}


def logistic(data: Flipped) -> dict[str, float]:
    """scikit-learn on the labels as they are, its strength chosen on the clean drawings."""

    def scored(x: Tensor, y: Tensor, strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=300).fit(x.numpy(), y.numpy())

    grid = (0.001, 0.01, 0.1, 1.0, 10.0)
    clean = data.clean_x.numpy(), data.clean_y.numpy()
    best = max(grid, key=lambda c: scored(data.x, data.y, c).score(*clean))
    x, y = torch.cat([data.x, data.clean_x]), torch.cat([data.y, data.clean_y])
    test = data.test_x.numpy(), data.test_y.numpy()
    alike = scored(data.x, data.y, best).score(*test), scored(x, y, best).score(*test)
    return {"without": alike[0], "with": alike[1]}


def pruned(data: Flipped, seed: int) -> dict[str, float]:
    """Confident learning by hand: the 40 % of examples that cross-validation doubts most go out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class may have fewer members than folds
        model = LogisticRegression(C=0.1, max_iter=300)
        told = cross_val_predict(model, data.x.numpy(), data.y.numpy(), method="predict_proba")
    own = torch.from_numpy(told)[torch.arange(len(data.y)), data.y]
    doubted = own.argsort()[: round(WRONG * len(own))]
    weight = torch.ones(len(own)).index_fill(0, doubted, 0)
    auc = roc_auc_score(data.wrong.numpy(), -own.numpy())
    return {"auc": auc, **both(data, weight, seed)}


def clean_alone(data: Flipped, seed: int) -> dict[str, float]:
    model = classifier(data.clean_x, data.clean_y, torch.ones(len(data.clean_y)), seed)
    right = model(data.test_x).argmax(-1) == data.test_y
    return {"with": right.double().mean().item()}


def wrong_labels(characters: Characters) -> list[str]:
    found = empty()
    for seed in SEEDS:
        data = Flipped.draw(characters, seed)
        ones, right = torch.ones(len(data.y)), (~data.wrong).float()
        for row, way in (
            ("learned weights, exact through 100 steps", "exact"),
            ("learned weights, `Adjoint(last=1)`", "last"),
            ('learned weights, one step, start="carried"', "one step"),
        ):
            timed(found, row, lambda d=data, s=seed, w=way: learned_weights(d, s, w))
        timed(found, "all examples alike", lambda d=data, s=seed, w=ones: both(d, w, s))
        timed(found, "clean drawings alone", lambda d=data, s=seed: clean_alone(d, s))
        timed(found, "scikit-learn logistic regression", lambda d=data: logistic(d))
        timed(found, "the 40 % most doubted left out", lambda d=data, s=seed: pruned(d, s))
        timed(
            found,
            "wrong ones left out (upper bound)",
            lambda d=data, s=seed, w=right: both(d, w, s),
        )
    rows = [
        [
            row,
            interval(v["auc"], 1, 3) if "auc" in v else "–",
            interval(v["without"], 100) + " %" if "without" in v else "–",
            interval(v["with"], 100) + " %" if "with" in v else "–",
            f"{np.mean(v['seconds']):.1f} s",
        ]
        for row, v in found.items()
    ]
    header = ["trained with", "AUC of wrong labels", "held-out accuracy", "with the clean ones too"]
    facts = (
        f"{WAY} random characters of Omniglot, 14 x 14 pixels: {TRAIN} drawings each to train on, "
        f"{round(WRONG * WAY * TRAIN)} of {WAY * TRAIN} labels wrong, {CLEAN} clean ones each for "
        f"the outer loss, {20 - TRAIN - CLEAN} each held out ({WAY * (20 - TRAIN - CLEAN)}). A "
        f"linear classifier, {STEPS} steps of momentum 0.9 at rate {RATE}, all examples at each; "
        f"{OUTER} outer steps of Adam at 0.3 (one step: {OUTER * STEPS // 4} at 0.1, "
        "without momentum). Accuracies are of "
        "classifiers trained afterwards, on the training drawings with their weights, and on the "
        "clean ones in addition; logistic regression has its strength chosen on the clean ones."
    )
    return ["## 1. Wrong labels", "", facts, "", *table([*header, "time"], rows)]


# 2. Weight decay ---------------------------------------------------------------------------------

GRID = np.logspace(-4, 4, 13)
GROUP_GRID = np.logspace(-4, 4, 9)


class Regression(NamedTuple):
    """Standardised columns of the diabetes table, their squares and products, in groups."""

    x: np.ndarray
    y: np.ndarray
    group: np.ndarray
    parts: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def draw(cls, seed: int) -> Regression:
        x, y = load_diabetes(return_X_y=True)
        pairs = list(itertools.combinations_with_replacement(range(x.shape[1]), 2))
        products = np.stack([x[:, i] * x[:, j] for i, j in pairs], 1)
        group = np.array([0] * x.shape[1] + [1 if i == j else 2 for i, j in pairs])
        x = np.concatenate([x, products], 1)
        order = np.random.default_rng(seed).permutation(len(x))
        parts = order[:80], order[80:160], order[160:]
        mean, spread = x[parts[0]].mean(0), x[parts[0]].std(0)
        centre, scale = y[parts[0]].mean(), y[parts[0]].std()
        return cls((x - mean) / spread, (y - centre) / scale, group, parts)

    def error(self, decay: np.ndarray, part: int) -> float:
        """Mean squared error of ridge regression with one decay per column.

        A column divided by the root of its decay has decay 1. The loss is a mean, so the sum that
        scikit-learn descends is as many times larger.
        """
        train, judged = self.parts[0], self.parts[part]
        x = self.x / np.sqrt(decay)
        model = Ridge(alpha=len(train), fit_intercept=False).fit(x[train], self.y[train])
        return float(np.mean((model.predict(x[judged]) - self.y[judged]) ** 2))

    def told(self, decay: np.ndarray, fits: int) -> dict[str, float]:
        return {"validation": self.error(decay, 1), "test": self.error(decay, 2), "fits": fits}


def squares(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch.x) - batch.y).square().mean()


def penalised(group: Tensor) -> Callable[[nn.Module, Batch, nn.Module], Tensor]:
    """The mean squared error and decay_g ||w_g||^2 summed over groups g of columns."""

    def inner(model: nn.Module, batch: Batch, hyper: nn.Module) -> Tensor:
        decay = hyper["log"].exp()[group]
        return squares(model, batch) + (decay * model.weight.square()).sum()

    return inner


def learned_decay(data: Regression, groups: int, outer: int = 60) -> dict[str, float]:
    """By the implicit function theorem; the inner problem is solved to 1e-8 by Newton's method."""
    group = torch.from_numpy(data.group if groups > 1 else 0 * data.group)
    hyper = nn.ParameterDict({"log": nn.Parameter(torch.zeros(groups, dtype=torch.float64))})
    width = len(data.group)
    model = nn.Linear(width, 1, bias=False, dtype=torch.float64)
    method = bilevel(
        model,
        hyper,
        inner=penalised(group),
        outer=squares,
        solver=NewtonCG(20, cg_steps=width, tolerance=1e-8),
        estimator=Implicit(),
    )
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y).unsqueeze(-1)
    train, clean, _ = (one_task(x[p], y[p]) for p in data.parts)
    train_hyper(method, hyper, Task(train, clean), outer, lr=0.3)
    decay = hyper["log"].detach().exp()[group].numpy()
    return data.told(decay, outer)


def grid_search(data: Regression, groups: int) -> dict[str, float]:
    points = itertools.product(GRID if groups == 1 else GROUP_GRID, repeat=groups)
    index = data.group if groups > 1 else 0 * data.group
    decays = [np.array(point)[index] for point in points]
    return data.told(min(decays, key=lambda d: data.error(d, 1)), len(decays))


def weight_decay() -> list[str]:
    found = empty()
    for seed in SPLITS:
        data = Regression.draw(seed)
        for groups, name in ((1, "one decay"), (3, "one per group of columns")):
            timed(found, f"{name}, learned", lambda d=data, g=groups: learned_decay(d, g))
            timed(found, f"{name}, grid", lambda d=data, g=groups: grid_search(d, g))
        nothing = np.full(len(data.group), 1e-8)
        timed(found, "no decay", lambda d=data, n=nothing: d.told(n, 1))
    rows = [
        [
            row,
            interval(v["validation"], 1, 3),
            interval(v["test"], 1, 3),
            f"{v['fits'][0]:.0f}",
            f"{np.mean(v['seconds']):.2f} s",
        ]
        for row, v in found.items()
    ]
    differences = [
        interval(
            [
                a - b
                for a, b in zip(
                    found[f"{n}, learned"]["validation"],
                    found[f"{n}, grid"]["validation"],
                    strict=True,
                )
            ],
            1,
            4,
        )
        for n in ("one decay", "one per group of columns")
    ]
    facts = (
        "Ridge regression in float64: 10 columns of the diabetes table, their 10 squares and 45 "
        "products, standardised; 80 people to train on, 80 to choose by, 282 held out; errors in "
        f"units of the training variance, over {len(SPLITS)} random splits. Grids of "
        f"{len(GRID)} decays and of {len(GROUP_GRID)}^3, from 1e-4 to 1e4, fitted by scikit-learn. "
        "Learned: `Implicit()`, `NewtonCG` to a gradient norm of 1e-8, 60 steps of Adam at 0.3 "
        "from a decay of 1. Validation error learned minus grid, split by split: one decay "
        f"{differences[0]}, one per group {differences[1]}."
    )
    header = ["decay", "validation error", "held-out error", "fits", "time"]
    return ["## 2. Weight decay", "", facts, "", *table(header, rows)]


# 3. Distilled images -----------------------------------------------------------------------------

FIVE, LEARN, NET_STEPS, NETS = 5, 14, 20, 20
DISTIL = 250
RATES = (0.1, 0.3, 1.0, 3.0)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(196, 32), nn.Tanh(), nn.Linear(32, FIVE))


def imagined(model: nn.Module, batch: Batch, hyper: nn.Module) -> Tensor:
    """The loss of the learned images; the support set only says which labels they have."""
    return cross_entropy(model(hyper["images"]), batch.y)


def fresh_accuracy(x: Tensor, y: Tensor, test: Batch, rate: float, seed: int) -> float:
    """Mean accuracy of freshly drawn networks after the inner steps on these images."""
    found = []
    for i in range(NETS):
        torch.manual_seed(10_000 + 100 * seed + i)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        for _ in range(NET_STEPS):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        found.append((model(test.x).argmax(-1) == test.y).double().mean().item())
    return float(np.mean(found))


def distilled(start: Tensor, y: Tensor, train: Batch, rate: float, seed: int) -> Tensor:
    torch.manual_seed(seed)
    images = nn.ParameterDict({"images": nn.Parameter(start.clone())})
    method = bilevel(
        network(),
        images,
        inner=imagined,
        outer=fit,
        solver=GradientDescent(rate, NET_STEPS),
        estimator=Adjoint(store_every=1),
    )
    tasks = Task(one_task(start, y), one_task(train.x, train.y))
    train_hyper(method, images, tasks, DISTIL, lr=0.02)
    return images["images"].detach()


def distillation(characters: Characters) -> list[str]:
    found = empty()
    for seed in SEEDS:
        drawings = characters.some(FIVE, 500 + seed)
        known, held = drawings.split([LEARN, 20 - LEARN], 1)
        train, test = (
            Batch(d.flatten(0, 1), torch.arange(FIVE).repeat_interleave(d.shape[1]))
            for d in (known, held)
        )

        def best(x: Tensor, y: Tensor, data: Batch = train, s: int = seed) -> float:
            """The rate that is best on the training drawings."""
            return max(RATES, key=lambda r: fresh_accuracy(x, y, data, r, 50 + s))

        def scored(x: Tensor, y: Tensor, t: Batch = test, s: int = seed) -> dict[str, float]:
            return {"accuracy": fresh_accuracy(x, y, t, best(x, y), s)}

        for n in (1, 2):
            y = torch.arange(FIVE).repeat_interleave(n)
            choices = [known[:, n * i : n * i + n].flatten(0, 1) for i in range(5)]
            each = "1 image" if n == 1 else "2 images"

            def learned(c=choices, y=y, t=train, s=seed, f=scored) -> dict[str, float]:
                return f(distilled(c[0], y, t, 0.3, s), y)

            def real(c=choices, y=y, f=scored) -> dict[str, float]:
                return {"accuracy": float(np.mean([f(x, y)["accuracy"] for x in c]))}

            timed(found, f"{each} per character, learned", learned)
            timed(found, f"{each} per character, real", real)
        timed(
            found,
            "1 image per character, mean of the drawings",
            lambda k=known, f=scored: f(k.mean(1), torch.arange(FIVE)),
        )
        timed(found, f"all {LEARN} drawings", lambda t=train, f=scored: f(t.x, t.y))
    rows = [
        [row, interval(v["accuracy"], 100) + " %", f"{np.mean(v['seconds']):.1f} s"]
        for row, v in found.items()
    ]
    facts = (
        f"{FIVE} random characters of Omniglot, 14 x 14 pixels, {LEARN} drawings each for the "
        f"outer loss, {20 - LEARN} held out; other characters for each seed. A fresh network "
        f"(196-32-{FIVE}, tanh) takes {NET_STEPS} steps of gradient descent on the images; each "
        f"row has the rate of 0.1, 0.3, 1 and 3 that is best on the training drawings; accuracy on "
        f"the held-out drawings over {NETS} networks. Learned from {DISTIL} outer steps of Adam at "
        "0.02, a new network at each, from the first real images, inner rate 0.3. Real images: "
        "five choices of them."
    )
    return ["## 3. Distilled images", "", facts, "", *table(["images", "accuracy", "time"], rows)]


def kept(name: str, part: Callable[[], list[str]]) -> list[str]:
    """The lines of a part, from runs/benchmarks/bilevel if it was complete before."""
    path = RUNS / "bilevel" / f"{name}.md"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(part()), encoding="utf-8")
    return path.read_text(encoding="utf-8").splitlines()


def main() -> None:
    takes_no_options(__doc__)
    torch.set_num_threads(1)
    try:
        characters = Characters.read()
    except FileNotFoundError as absent:
        sys.exit(f"Omniglot is needed; set INNERLOOP_DATA to the folder that holds it: {absent}")
    facts = (
        f"Seeds {', '.join(map(str, SEEDS))} in place of 0 alone, {len(SPLITS)} in the second "
        "part; ± is the 95 % interval over seeds by Student's t; times on one core."
    )
    lines = heading("Bilevel problems", "python benchmarks/bilevel.py", facts)
    for name, part in (
        ("labels", lambda: wrong_labels(characters)),
        ("decay", weight_decay),
        ("distilled", lambda: distillation(characters)),
    ):
        lines += [*kept(name, part), ""]
    write("bilevel.md", lines[:-1])


if __name__ == "__main__":
    main()
