"""Ridge, logistic and support-vector heads: scikit-learn, central differences, hard inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn.functional import one_hot

from innerloop.heads import SVM, Fit, Head, Logistic, Ridge
from innerloop.heads.logistic import dual_newton, primal_newton
from innerloop.heads.ridge import primal, woodbury

SIZES = [(5, 5, 12), (15, 5, 4), (30, 3, 40), (12, 4, 12)]
"""(examples, classes, features): one shot, more examples than features, fewer, equal."""


def draw(n: int, classes: int, d: int, tasks: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    z = torch.randn(tasks, n, d, generator=generator, dtype=torch.float64)
    y = torch.stack([torch.randperm(n, generator=generator) % classes for _ in range(tasks)])
    return z + 0.7 * one_hot(y, d)[..., :d].double() if d >= classes else z, y


def fit(head: Head, z: Tensor, y: Tensor) -> Fit:
    head = head.double()
    return head.fit(dict(head.named_parameters()), z, one_hot(y))


def with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def close(found: Tensor, expected: object) -> None:
    reference = torch.as_tensor(expected, dtype=torch.float64)
    assert float((found.detach() - reference).norm() / reference.norm()) < 1e-6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"intercept": False, "average": False}])
def test_ridge_is_scikit_learns(size: tuple[int, int, int], options: dict[str, bool]) -> None:
    z, y = draw(*size)
    found = fit(Ridge(0.3, **options), z, y)
    for i in range(len(z)):
        x = z[i] if options else with_ones(z[i])
        alpha = 0.3 if options else 0.3 * len(x)
        model = SklearnRidge(alpha=alpha, fit_intercept=False, solver="svd").fit(x, one_hot(y[i]))
        ours = (
            found.weight[i] if options else torch.cat([found.weight[i], found.bias[i, :, None]], 1)
        )
        close(ours, model.coef_)
        assert not options or not found.bias.any()


@pytest.mark.parametrize("size", SIZES)
def test_logistic_is_scikit_learns_one_against_the_rest(size: tuple[int, int, int]) -> None:
    z, y = draw(*size)
    found = fit(Logistic(0.5, steps=20), z, y)
    assert found.stats["inner_gradient_norm"].max() < 1e-10
    for i in range(len(z)):
        for c in range(size[1]):
            model = LogisticRegression(
                C=1 / 0.5, fit_intercept=False, tol=1e-12, solver="newton-cholesky", max_iter=1000
            ).fit(with_ones(z[i]), (y[i] == c).int())
            close(torch.cat([found.weight[i, c], found.bias[i, c, None]]), model.coef_[0])


def test_two_classes_are_one_logistic_problem() -> None:
    z, y = draw(10, 2, 4)
    found = fit(Logistic(0.5, steps=20), z, y)
    for i in range(len(z)):
        model = LogisticRegression(
            C=1 / 0.5, fit_intercept=False, tol=1e-12, solver="newton-cholesky", max_iter=1000
        ).fit(with_ones(z[i]), y[i])
        logits = z[i] @ found.weight[i].T + found.bias[i]
        close(logits.softmax(1), model.predict_proba(with_ones(z[i])))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("c", [0.1, 1.0])
def test_the_svm_is_crammer_and_singers(size: tuple[int, int, int], c: float) -> None:
    """Weights, and the primal objective against the dual one that was solved."""
    z, y = draw(*size)
    found = fit(SVM(c, damping=1e-9), z, y)
    assert found.stats["inner_converged"].all()
    for i in range(len(z)):
        model = crammer_singer(c, z[i], y[i])
        close(found.weight[i], model.coef_)
        theirs, ours = (primal_objective(w, z[i], y[i], c) for w in (model.coef_, found.weight[i]))
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_damping_is_a_feature_of_its_own_for_every_example(size: tuple[int, int, int]) -> None:
    """Z Z^T + I is the kernel of [Z I]: MetaOptNet's own problem, by scikit-learn."""
    z, y = draw(*size)
    found = fit(SVM(0.1), z, y)
    for i in range(len(z)):
        wide = torch.cat([z[i], torch.eye(len(z[i]), dtype=torch.float64)], 1)
        close(found.weight[i], crammer_singer(0.1, wide, y[i]).coef_[:, : z.shape[2]])


def crammer_singer(c: float, x: Tensor, y: Tensor) -> LinearSVC:
    return LinearSVC(
        C=c,
        multi_class="crammer_singer",
        fit_intercept=False,
        tol=1e-13,
        max_iter=1_000_000,
        random_state=0,
    ).fit(x, y)


def primal_objective(w: object, x: Tensor, y: Tensor, c: float) -> float:
    w = torch.as_tensor(w, dtype=torch.float64)
    scores = x @ w.T
    right = one_hot(y).bool()
    margins = torch.where(right, 0.0, 1.0) + scores - scores[right].unsqueeze(1)
    return float(0.5 * w.square().sum() + c * margins.amax(1).sum())


@pytest.mark.parametrize("n", [3, 6, 7, 20])
def test_both_forms_of_ridge_are_the_same(n: int) -> None:
    x, y = draw(n, 3, 6)
    target = one_hot(y).double()
    for lam in (1e-3, 1.0, 50.0):
        torch.testing.assert_close(
            primal(x, target, lam), woodbury(x, target, lam), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("n", [3, 6, 7, 20])
@pytest.mark.parametrize("steps", [1, 5])
def test_both_forms_of_newton_are_the_same(n: int, steps: int) -> None:
    x, y = draw(n, 3, 6)
    target = one_hot(y).double().transpose(1, 2)
    for lam in (0.1, 50.0):
        torch.testing.assert_close(
            primal_newton(x, target, lam, steps),
            dual_newton(x, target, lam, steps),
            rtol=1e-9,
            atol=1e-11,
        )


def test_newton_is_the_papers_iteration() -> None:
    """w = X^T (X X^T + lam S^-1)^-1 z, z = eta + (y - mu) / s, as in the authors' code."""
    x, labels = draw(8, 3, 5)
    y = one_hot(labels).double().transpose(1, 2)
    lam = 0.8
    for i in range(len(x)):
        for c in range(3):
            w = torch.zeros(5, dtype=torch.float64)
            for _ in range(4):
                eta = x[i] @ w
                mu = torch.sigmoid(eta)
                s = mu * (1 - mu)
                system = x[i] @ x[i].T + lam * torch.diag(1 / s)
                w = x[i].T @ torch.linalg.solve(system, eta + (y[i, c] - mu) / s)
            torch.testing.assert_close(dual_newton(x, y, lam, 4)[i, c], w)


HEADS: dict[str, Callable[[], Head]] = {
    "ridge": lambda: Ridge(0.4),
    "ridge, fixed": lambda: Ridge(0.4, learned=False, intercept=False, average=False),
    "logistic, one step": lambda: Logistic(0.6, steps=1),
    "logistic": lambda: Logistic(0.6, steps=4),
    "svm": lambda: SVM(0.3),
}


@pytest.mark.parametrize("size", [(6, 3, 4), (5, 5, 8), (4, 2, 3)])
@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_central_differences(name: str, size: tuple[int, int, int]) -> None:
    z, y = draw(*size, tasks=2)
    head = HEADS[name]().double()
    names = [k for k, _ in head.named_parameters()]
    values = [p.detach().clone().requires_grad_() for _, p in head.named_parameters()]

    def value(z: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        found = head.fit(dict(zip(names, values, strict=True)), z, one_hot(y))
        return found.weight, found.bias

    assert torch.autograd.gradcheck(
        value, (z.requires_grad_(), *values), eps=1e-6, atol=1e-7, rtol=1e-6
    )


@pytest.mark.parametrize("name", HEADS)
def test_hard_features_give_finite_weights_and_gradients(name: str) -> None:
    """One shot, duplicates, no features at all, huge and tiny ones, confident examples."""
    y = torch.arange(10).expand(6, 10) % 5
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 10, 30, generator=generator)
    z[0] = z[0, :1]
    z[1] = 0
    z[2] *= 1e4
    z[3] *= 1e-6
    z[4] = 100 * one_hot(y[4], 30)
    z[5, 5:] = z[5, :5]
    z.requires_grad_()
    head = HEADS[name]()
    found = head.fit(dict(head.named_parameters()), z, one_hot(y))
    assert found.weight.dtype == torch.float32
    assert found.weight.isfinite().all()
    assert found.stats.get("inner_converged", torch.tensor(True)).all()
    (found.weight.square().sum() + found.bias.square().sum()).backward()
    assert z.grad is not None and z.grad.isfinite().all()
    right = (z @ found.weight.transpose(1, 2) + found.bias.unsqueeze(1)).argmax(2) == y
    assert right[4].all() and right[2].all()


@pytest.mark.parametrize("name", HEADS)
def test_order_of_examples_and_names_of_classes_do_not_matter(name: str) -> None:
    z, y = draw(10, 5, 6)
    found = fit(HEADS[name](), z, y)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    moved = fit(HEADS[name](), z[:, order], y[:, order])
    torch.testing.assert_close(moved.weight, found.weight, rtol=1e-8, atol=1e-10)
    renamed = torch.tensor([3, 0, 4, 1, 2])
    other = fit(HEADS[name](), z, renamed[y])
    torch.testing.assert_close(other.weight[:, renamed], found.weight, rtol=1e-8, atol=1e-10)


def test_ridge_fits_values() -> None:
    """With little regularisation, a linear function is found again."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 20, 3, generator=generator, dtype=torch.float64)
    w = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    head = Ridge(1e-9, learned=False)
    found = head.fit({}, z, z @ w.transpose(1, 2) + 2)
    torch.testing.assert_close(found.weight, w, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.bias, torch.full_like(found.bias, 2), rtol=1e-6, atol=1e-6)


def test_a_learned_strength_stays_positive() -> None:
    head = Ridge(1e-2)
    (name, value), *others = head.named_parameters()
    assert name == "lam.log" and not others
    with torch.no_grad():
        value -= 50
    assert 0 < float(head.lam.at({name: value.detach()})) < 1e-20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ridge(0.0), "expected a finite lam > 0, got lam=0.0"),
        (lambda: Ridge(float("nan")), "finite lam > 0"),
        (lambda: Logistic(-1.0), "lam=-1.0"),
        (lambda: Logistic(steps=0), "at least one Newton step, got steps=0"),
        (lambda: Logistic(steps=2.0), "got steps=2.0"),  # type: ignore[arg-type]
        (lambda: SVM(0.0), "expected a finite c > 0"),
        (lambda: SVM(damping=0.0), "expected a finite damping > 0"),
    ],
)
def test_refusals(make: Callable[[], Head], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
