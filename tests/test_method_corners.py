"""Corners in which a meta-gradient could go wrong in silence, each against a plain reference."""

from __future__ import annotations

import copy
import logging
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from innerloop import Batch, Method, Task, methods, scope
from innerloop.core.contract import Cotangents, Estimator, Point, View
from innerloop.core.types import Params
from innerloop.estimate import Adjoint, FiniteDifference, Unrolled
from innerloop.learn import GradientLearner
from innerloop.objective import Proximal, Query, Regulariser
from innerloop.solve import Adam, GradientDescent, PerLayer, Solver

CLASSES = 3


def net(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), *middle, nn.Tanh(), nn.Linear(4, CLASSES)).double()


def draw(tasks: int = 3, shape: tuple[int, ...] = (2,)) -> Task:
    torch.manual_seed(1)
    y = torch.stack([torch.randperm(6) % CLASSES for _ in range(tasks)])
    x, q = torch.randn(2, tasks, 6, *shape, dtype=torch.float64)
    return Task(Batch(x, y), Batch(q, y))


def gradient(method: Method, tasks: Task) -> Tensor:
    torch.manual_seed(2)
    return torch.cat([g.flatten() for g in method.meta_gradient(tasks).grads.values()])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("steps", [5, 16, 17, 36])
def test_truncation_does_not_depend_on_which_states_are_kept(steps: int) -> None:
    tasks = draw()

    def truncated(last: int | None, every: int | None) -> Tensor:
        learner = GradientLearner(net(), GradientDescent(0.4, steps))
        return gradient(
            Method(learner, Query(), Adjoint(last=last, store_every=every), name="m"), tasks
        )

    for last in (None, 0, 1, 3, 5, 10):
        reference = truncated(last, 1)
        for every in (None, 2, 3, 4):
            close(truncated(last, every), reference)
    assert not torch.allclose(truncated(1, None), truncated(0, None), rtol=1e-3)
    learner = GradientLearner(net(), GradientDescent(0.4, steps))
    close(truncated(None, None), gradient(Method(learner, Query(), Unrolled(), name="m"), tasks))


def test_truncation_counts_from_where_a_tolerance_ended_the_loop() -> None:
    tasks = draw(1)

    def truncated(last: int | None, every: int | None = None) -> Tensor:
        solver = GradientDescent(0.5, 400, tolerance=0.02)
        learner = GradientLearner(net(), solver, inner=["cross_entropy", Proximal(1.0)])
        return gradient(
            Method(learner, Query(), Adjoint(last=last, store_every=every), name="m"), tasks
        )

    close(truncated(50), truncated(None, 1))
    assert not torch.allclose(truncated(1), truncated(0), rtol=1e-3)


class Held(GradientDescent):
    """Gradient descent within a box, without a vjp of its own."""

    def step(self, hyper: Params, point: Point, view: View) -> Point:
        t, phi, state = super().step(hyper, point, view)
        return Point(t, {k: v.clamp(-0.3, 0.3) for k, v in phi.items()}, state)

    def pull(self, hyper: Params, point: Point, view: View, lam: Params, mu: Params) -> Cotangents:
        return Solver.pull(self, hyper, point, view, lam, mu)

    def pull_constant(self, lam: Params, mu: Params) -> None:
        return None


def test_a_solver_may_step_as_it_likes() -> None:
    def found(estimator: Estimator) -> Tensor:
        return gradient(
            Method(GradientLearner(net(), Held(0.5, 3)), Query(), estimator, name="m"), draw()
        )

    close(found(Adjoint()), found(Unrolled()))


def test_inference_mode_adapts_all_the_same() -> None:
    method, tasks = methods.maml(net(), lr=0.3, steps=2), draw()
    expected = method.query_outputs(tasks)
    with torch.inference_mode():
        outputs = method.query_outputs(tasks)
        made_here = Task(*(Batch(b.x + 0, b.y + 0) for b in tasks))
        close(method.query_outputs(made_here).clone(), expected)
        module = method.adapt(made_here.support.x[0], made_here.support.y[0])
    close(outputs.clone(), expected)
    close(module(tasks.query.x[0]).detach(), expected[-1, 0])


def test_a_detached_model_is_refused_and_an_unused_parameter_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Detached(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, CLASSES), nn.Linear(2, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(ValueError, match="does not depend on any adapted parameter"):
        methods.maml(Detached(2, CLASSES).double()).meta_gradient(draw())
    with caplog.at_level(logging.WARNING, "innerloop"):
        methods.maml(Half().double()).meta_gradient(draw())
    assert [r.message for r in caplog.records] == [
        "the meta-gradient does not reach model.unused.weight, model.unused.bias"
    ]


def test_a_regulariser_that_is_no_scalar_is_refused() -> None:
    learner = GradientLearner(
        net(),
        GradientDescent(0.1, 1),
        inner=["cross_entropy", Regulariser(lambda w: w["0.bias"].square())],
    )
    with pytest.raises(ValueError, match=r"regulariser gave shape \(4,\)"):
        Method(learner, Query(), Adjoint(), name="m").meta_gradient(draw())


class Sequence(nn.Module):
    """Normalises (n * 5, 4) rows, examples first."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.out = nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.into(x).reshape(-1, 4)).reshape(len(x), 5, 4)
        return self.out(h.tanh().mean(1))


def test_support_statistics_where_an_axis_is_folded_into_the_examples() -> None:
    torch.manual_seed(0)
    method, tasks = methods.maml(Sequence().double(), norm="support", steps=2), draw(1, (5, 2))
    module = method.adapt(tasks.support.x[0], tasks.support.y[0])
    close(module(tasks.query.x[0]).detach(), method.query_outputs(tasks)[-1, 0])


def test_support_statistics_with_dropout_and_with_one_layer_at_two_paths() -> None:
    tasks = draw(1)
    method = methods.maml(net(nn.BatchNorm1d(4), nn.Dropout(0.5)), norm="support")
    module = method.adapt(tasks.support.x[0], tasks.support.y[0])
    assert all(torch.isfinite(v).all() for v in module.state_dict().values())
    assert module(tasks.query.x[0]).shape == (6, CLASSES)
    norm = nn.BatchNorm1d(4)
    twice = methods.maml(net(norm, nn.Linear(4, 4), norm), norm="support", steps=2)
    assert twice.meta_gradient(tasks).loss.isfinite()
    with pytest.raises(ValueError, match=r"layer `1` normalises 2 times in a pass"):
        twice.adapt(tasks.support.x[0], tasks.support.y[0])


def test_embeddings_with_padding_run_task_by_task() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Linear(12, CLASSES))
    x = torch.randint(0, 7, (3, 6, 4))
    y = draw().support.y
    tasks = Task(Batch(x, y), Batch(x.flip(1), y))
    together, apart = (methods.maml(model.double(), chunk=c) for c in (3, 1))
    close(gradient(together, tasks), gradient(apart, tasks))


def test_integer_inputs_are_the_models_business() -> None:
    class OneHot(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.one_hot(x, 8).double())

    y = draw().support.y
    x = torch.randint(0, 8, (3, 6))
    batch = Batch(x, y)
    assert methods.maml(OneHot(8, CLASSES).double()).loss(Task(batch, batch)).isfinite()
    pixels = Batch(draw().support.x.byte(), y)
    with pytest.raises(ValueError, match=r"x is torch\.uint8.*divide pixels by 255"):
        methods.maml(net()).meta_gradient(Task(pixels, pixels))


def test_a_solver_keeps_what_it_has_learned() -> None:
    solver, model = GradientDescent(PerLayer(0.3), 2), net()
    first = GradientLearner(model, solver)
    with torch.no_grad():
        for p in solver.parameters():
            p.fill_(0.2)
    again = GradientLearner(model, solver, norm="batch")
    assert all((p == 0.2).all() for p in again.solver.parameters())
    assert [id(p) for p in first.parameters()] == [id(p) for p in again.parameters()]
    with pytest.raises(ValueError, match=r"already adapts.*copy\.deepcopy\(solver\)"):
        GradientLearner(nn.Linear(2, 2), solver)


def test_threads_take_turns() -> None:
    method, tasks = methods.maml(net(nn.BatchNorm1d(4)), lr=0.3, steps=2), draw()
    expected = gradient(method, tasks)
    found: list[Tensor] = []

    def work() -> None:
        for _ in range(5):
            grads = method.meta_gradient(tasks).grads
            found.append(torch.cat([g.flatten() for g in grads.values()]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20 and all(torch.equal(f, expected) for f in found)


def test_what_froze_after_building_is_said() -> None:
    model = net()
    method = methods.maml(model)
    model[0].weight.requires_grad_(False)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="build the method again"):
        method.meta_gradient(draw())


def test_the_head_of_a_parametrised_layer_is_the_whole_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), weight_norm(nn.Linear(4, CLASSES)))
    assert scope.last_layer(model) == "2.*"
    first, *_, last = methods.anil(model.double()).trajectory(draw().support)
    assert not torch.equal(first["2.bias"], last["2.bias"])


class Temperature(nn.Module):
    """Holds a parameter without axes, and one named as a dictionary's method."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.3))
        self.keys = nn.Parameter(torch.randn(2, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x @ self.keys)


def test_parameters_without_axes_and_with_awkward_names() -> None:
    torch.manual_seed(0)
    model, tasks = Temperature().double(), draw()

    def found(estimator: Estimator) -> Tensor:
        learner = GradientLearner(
            model,
            GradientDescent(PerLayer(0.2), 3, tolerance=1e-6),
            inner=["cross_entropy", Proximal(0.1)],
        )
        return gradient(Method(learner, Query(), estimator, name="m"), tasks)

    close(found(Adjoint()), found(Unrolled()))
    torch.testing.assert_close(
        found(Adjoint(FiniteDifference())), found(Unrolled()), rtol=1e-6, atol=1e-8
    )
    assert gradient(methods.imaml(model, steps=3), tasks).isfinite().all()
    assert gradient(methods.meta_sgd(model), tasks).isfinite().all()


def test_a_trajectory_obeys_the_chunk() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(2, 3, batch_first=True), nn.Linear(3, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.lstm(x)[0][:, -1])

    states = methods.maml(Last().double(), steps=2).trajectory(draw(3, (5, 2)).support)
    assert len(states) == 3 and all(v.shape[0] == 3 for v in states[-1].values())


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", nn.CrossEntropyLoss()])
def test_methods_can_be_pickled_and_copied(loss: object) -> None:
    method = methods.maml(net(nn.BatchNorm1d(4)), lr=0.2, steps=2, loss=loss)  # type: ignore[arg-type]
    tasks = draw()
    if loss == "mse":
        x = tasks.support.x
        y = torch.randn(3, 6, CLASSES, dtype=torch.float64)
        tasks = Task(Batch(x, y), Batch(x.flip(1), y))
    for other in (pickle.loads(pickle.dumps(method)), copy.deepcopy(method)):
        assert torch.equal(gradient(other, tasks), gradient(method, tasks))


def test_persistent_moments_are_handed_back_by_every_estimator_of_steps() -> None:
    learner = GradientLearner(net(), Adam(0.01, 2, persistent=True))
    swept = Method(learner, Query(), Adjoint(store_every=2)).meta_gradient(draw())
    unrolled = Method(learner, Query(), Unrolled()).meta_gradient(draw())
    assert set(swept.memory) == {f"state.{m}.{k}" for m in "mv" for k in learner.names}
    for k, v in unrolled.memory.items():
        close(swept.memory[k], v)
    with pytest.raises(ValueError, match="persistent=False or tolerance=None"):
        Adam(0.01, 2, persistent=True, tolerance=0.1)


def test_a_loss_with_weights_of_its_own_is_refused() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, out: Tensor, y: Tensor) -> Tensor:
            return self.weight * nn.functional.cross_entropy(out, y)

    with pytest.raises(ValueError, match="parameters of its own"):
        methods.maml(net(), loss=Weighted())


def test_backward_twice_is_refused() -> None:
    loss = methods.maml(net()).loss(draw())
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_nan_does_not_pass_for_convergence() -> None:
    method = methods.imaml(net(), steps=3, tolerance=0.1, lr=1e300)
    stats = method.meta_gradient(draw()).stats
    assert not stats["inner_converged"].any()
