"""Recorded meta-gradients are those of the eager engine; what cannot be recorded is refused."""

from __future__ import annotations

import copy
import pickle
import shutil

import pytest
import torch
from torch import Tensor, nn

from innerloop import Batch, Method, Task, methods
from innerloop.core.types import Params
from innerloop.engine.tape import Tape
from innerloop.estimate import Adjoint, FiniteDifference, FirstOrder, ForwardOverReverse, Unrolled
from innerloop.learn import GradientLearner
from innerloop.models import Conv4
from innerloop.objective import Fit, Query, Situation
from innerloop.scope import Only
from innerloop.solve import GradientDescent, PerLayerPerStep


def perceptron(*extra: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), *extra, nn.Linear(5, 2)).double()


def pictures() -> nn.Module:
    torch.manual_seed(0)
    return Conv4(2, size=8, filters=3, blocks=2, pool="max").double()


def draw(*shape: int, tasks: int = 3, seed: int = 0) -> Task:
    g = torch.Generator().manual_seed(seed)

    def batch(n: int) -> Batch:
        x = torch.randn(tasks, n, *shape, generator=g, dtype=torch.float64)
        return Batch(x, torch.arange(n).remainder(2).expand(tasks, n).contiguous())

    return Task(batch(4), batch(6))


def same(a: Method, b: Method, tasks: Task) -> None:
    found, expected = a.meta_gradient(tasks), b.meta_gradient(tasks)
    torch.testing.assert_close(found.grads, expected.grads, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.loss, expected.loss)
    assert found.stats.keys() == expected.stats.keys()
    torch.testing.assert_close(found.stats, expected.stats)


COMPOSITIONS = {
    "one step": dict(steps=1),
    "sweep": dict(steps=3),
    "replayed": dict(steps=3, estimator=Adjoint(store_every=2)),
    "truncated": dict(steps=3, estimator=Adjoint(last=1)),
    "unrolled": dict(steps=2, estimator=Unrolled()),
    "forward": dict(steps=2, estimator=Adjoint(ForwardOverReverse())),
    "difference": dict(steps=2, estimator=Adjoint(FiniteDifference())),
    "rates": dict(steps=2, lr=PerLayerPerStep(0.1)),
    "no steps": dict(steps=0),
    "many steps": dict(steps=9),
    "many steps, replayed": dict(steps=9, estimator=Adjoint(store_every=3)),
    "many steps, truncated": dict(steps=9, estimator=Adjoint(last=2)),
    "many steps, first order": dict(steps=9, estimator=FirstOrder()),
    "many steps of the head": dict(steps=9, scope=Only("2.*")),
}


@pytest.mark.parametrize("chunk", ["auto", 1, 2])
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_record_repeats_the_eager_engine(name: str, chunk: int | str) -> None:
    settings = {"lr": 0.1, "chunk": chunk, **COMPOSITIONS[name]}
    eager, traced = (methods.maml(perceptron(), **copy.deepcopy(settings)) for _ in range(2))
    traced.use("traced")
    for seed in range(3):  # the first call records, the others replay on other tasks
        same(traced, eager, draw(3, seed=seed))


def test_a_record_of_many_steps_is_no_longer_than_of_few() -> None:
    def operations(steps: int) -> int:
        method = methods.maml(perceptron(), lr=0.1, steps=steps).use("traced")
        method.meta_gradient(draw(3))
        (record,) = method._recorder._records.values()
        return record.operations

    assert operations(30) == operations(10)


def test_zeros_that_are_written_into_are_not_dropped() -> None:
    def into(x: Tensor) -> list[Tensor]:
        zeros = torch.zeros_like(x)
        plain, kept = x + torch.zeros_like(x), x + zeros
        zeros += 1.0
        kept *= 2.0
        return [plain, kept, zeros, x * 1.0]

    x = torch.arange(3.0)
    tape = Tape(into, x)
    torch.testing.assert_close(tape(x), into(x))


def test_a_sum_with_zeros_is_kept_where_its_other_half_is_written_into() -> None:
    def into(x: Tensor) -> list[Tensor]:
        half, seen = x * 2.0, x * 3.0
        view = seen.view(3, 1)
        kept, too = half + torch.zeros_like(half), seen + torch.zeros_like(seen)
        half *= 5.0
        view += 7.0
        return [kept, too, half, seen]

    x = torch.arange(3.0)
    tape = Tape(into, x)
    torch.testing.assert_close(tape(x), into(x))


def test_a_result_that_is_read_later_is_not_written_over() -> None:
    def function(x: Tensor) -> list[Tensor]:
        kept, lost = x * 2.0, x * 3.0
        return [torch.relu(kept) + kept, torch.relu(lost), torch.relu(x) + x]

    x = torch.tensor([-1.0, 2.0])
    tape = Tape(function, x)
    for _ in range(2):
        torch.testing.assert_close(tape(x), function(x))
    torch.testing.assert_close(x, torch.tensor([-1.0, 2.0]))


compiles = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler named c++ here")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own


@compiles
@pytest.mark.parametrize("steps", [1, 9])
def test_compiled(steps: int) -> None:
    eager, compiled = (methods.maml(perceptron(), lr=0.1, steps=steps) for _ in range(2))
    compiled.use("compiled")
    for seed in range(2):
        same(compiled, eager, draw(3, seed=seed))


@compiles
def test_a_compiled_sum_keeps_its_factor() -> None:
    """Inductor makes addmm of a + alpha (b c), without alpha (torch 2.13)."""

    def function(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        written = a * 1.0
        written.add_(c @ b, alpha=0.3)
        return [
            torch.add(a, b @ c, alpha=-0.4),
            torch.sub(a, b @ c, alpha=3.0),
            torch.add(a * 2.0, b @ c, alpha=-0.4),  # written over its first argument
            written,
        ]

    inputs = [torch.arange(4.0).view(2, 2) + i for i in range(3)]
    tape = Tape(function, *inputs)
    tape.hasten(compiled=True)
    torch.testing.assert_close(tape(*inputs), function(*inputs))


@compiles
def test_a_tape_takes_inputs_that_lie_in_memory_in_another_way() -> None:
    def function(x: Tensor) -> list[Tensor]:
        return [x.t().contiguous().view(-1) + 1.0]

    tape = Tape(function, torch.arange(6.0).view(2, 3))
    tape.hasten(compiled=True)
    x = torch.arange(6.0).view(3, 2).t()
    torch.testing.assert_close(tape(x), function(x))


@pytest.mark.parametrize("threads", [1, 2])
def test_convolutions_one_task_after_another_and_in_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        eager = methods.maml(pictures(), lr=0.1, steps=2)
        traced = methods.maml(pictures(), lr=0.1, steps=2).use("traced")
        for seed in range(2):
            same(traced, eager, draw(1, 8, 8, tasks=5, seed=seed))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["fomaml", "anil", "boil", "meta_sgd", "cavia", "sign_maml"])
def test_other_methods(name: str) -> None:
    build = getattr(methods, name)
    settings = {} if name == "meta_sgd" else {"steps": 2}
    eager, traced = (build(perceptron(), lr=0.1, **settings) for _ in range(2))
    same(traced.use("traced"), eager, draw(3))


@pytest.mark.parametrize("steps", [2, 9])
def test_first_order_needs_no_second_derivatives(steps: int) -> None:
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centres = nn.Parameter(torch.randn(4, 5, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(x, self.centres, p=1.0)

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), Distances(), nn.Linear(4, 2)).double()

    eager, traced = (methods.fomaml(model(), lr=0.1, steps=steps, chunk=1) for _ in range(2))
    same(traced.use("traced"), eager, draw(3))
    with pytest.raises(NotImplementedError):
        methods.maml(model(), lr=0.1, steps=steps, chunk=1).meta_gradient(draw(3))


def test_an_outer_step_is_seen() -> None:
    method, tasks = methods.maml(perceptron(), lr=0.1, steps=1).use("traced"), draw(3)
    first = method.meta_gradient(tasks)
    with torch.no_grad():
        for name, p in method.named_parameters():
            p -= 0.5 * first.grads[name]
    assert method.meta_gradient(tasks).loss < first.loss
    fresh = methods.maml(method.learner.model, lr=0.1, steps=1)
    same(method, fresh, tasks)


def test_buffers_are_inputs_and_not_part_of_the_record() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.register_buffer("shift", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.shift

    torch.manual_seed(0)
    model = Shifted().double()
    method, tasks = methods.maml(model, lr=0.1, steps=1).use("traced"), draw(3)
    method.meta_gradient(tasks)
    model.shift += torch.tensor([0.0, 3.0], dtype=torch.float64)
    same(method, methods.maml(model, lr=0.1, steps=1), tasks)


def test_other_shapes_and_modes_are_recorded_anew() -> None:
    method = methods.maml(perceptron(nn.Dropout(0.5)), lr=0.1, steps=1).eval().use("traced")
    for tasks in (2, 3):
        same(method, methods.maml(method.learner.model, lr=0.1, steps=1), draw(3, tasks=tasks))
    with pytest.raises(ValueError, match=r"draws random numbers .* engine=\"eager\""):
        method.train().meta_gradient(draw(3))


def test_an_inner_loss_may_depend_on_the_step() -> None:
    class Tempered(Fit):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factors", torch.ones(9, dtype=torch.float64))

        def losses(self, hyper: Params, at: Situation) -> Tensor:
            return self.factors[at.t] * super().losses(hyper, at)

    def make() -> Method:
        learner = GradientLearner(perceptron(), GradientDescent(0.5, 9), inner=Tempered())
        return Method(learner, Query(), Adjoint())

    eager, traced = make(), make()
    same(traced.use("traced"), eager, draw(3))  # recorded while all steps are alike
    for method in (eager, traced):
        method.learner.inner[0].factors.copy_(torch.linspace(1.0, 0.0, 9))
    same(traced, eager, draw(3))


def test_another_type_of_weights_is_recorded_anew() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 2))
    method, (support, query) = methods.maml(model, lr=0.1, steps=2), draw(3)
    x = torch.arange(8).view(4, 2).expand(3, 4, 2) % 7
    tasks = Task(Batch(x, support.y), Batch(x.flip(1), query.y[:, :4]))
    method.use("traced").meta_gradient(tasks)
    method.double()
    same(method, methods.maml(model, lr=0.1, steps=2), tasks)


def test_a_model_that_looks_at_values_is_refused() -> None:
    class Looks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2 if x.sum() > 0 else 1)

    torch.manual_seed(0)
    method = methods.maml(nn.Sequential(Looks(3, 2)).double(), lr=0.1, steps=1, chunk=1)
    with pytest.raises(ValueError, match="depends on values"):
        method.use("traced").meta_gradient(draw(3))


def test_a_model_that_changes_is_refused() -> None:
    class Counts(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counts.calls += 1
            return super().forward(x) * Counts.calls

    torch.manual_seed(0)
    method = methods.maml(nn.Sequential(Counts(3, 2)).double(), lr=0.1, steps=1, chunk=1)
    with pytest.raises(ValueError, match="something else when it is called a second time"):
        method.use("traced").meta_gradient(draw(3))


def test_what_cannot_be_recorded_says_why() -> None:
    for method, word in (
        (methods.protonet(perceptron()), "labels"),
        (methods.imaml(perceptron()), "tolerance"),
        (methods.es_maml(perceptron()), "random"),
        (methods.reptile(perceptron(), batch_size=2), "outlives the task"),
        (methods.dropgrad(perceptron()), "draws anew"),
        (methods.proto_maml(perceptron(), head="2"), "labels name classes"),
    ):
        with pytest.raises(ValueError, match=word):
            method.use("traced")
        method.meta_gradient(draw(3))  # it still runs as it did
    with pytest.raises(ValueError, match='unknown engine \'fast\'; use one of "eager", "traced"'):
        methods.maml(perceptron()).use("fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown precision"):
        methods.maml(perceptron()).use(precision="half")  # type: ignore[arg-type]


def test_labels_out_of_range_are_still_refused() -> None:
    method, tasks = methods.maml(perceptron(), lr=0.1, steps=1).use("traced"), draw(3)
    tasks.query.y[0, 0] = 7
    with pytest.raises(ValueError, match="labels run from 0 to 7"):
        method.meta_gradient(tasks)


def test_methods_with_records_can_be_copied_and_pickled() -> None:
    method, tasks = methods.maml(perceptron(), lr=0.1, steps=2).use("traced"), draw(3)
    method.meta_gradient(tasks)
    for other in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        same(other, method, tasks)


def test_bfloat16_is_near_and_keeps_the_weights_type() -> None:
    tasks = draw(3)
    exact = methods.maml(perceptron(), lr=0.1, steps=2).meta_gradient(tasks)
    method = methods.maml(perceptron(), lr=0.1, steps=2).use(precision="bfloat16")
    found = method.meta_gradient(tasks)
    a, b = (torch.cat([g.flatten() for g in m.grads.values()]) for m in (exact, found))
    assert b.dtype == torch.float64
    assert 1e-5 < (a - b).norm() / a.norm() < 0.1
    assert method.adapt(tasks.support.x[0], tasks.support.y[0])(tasks.query.x[0]).isfinite().all()


def test_evaluation_is_without_dropout() -> None:
    method = methods.maml(perceptron(nn.Dropout(0.5)), lr=0.1, steps=2)
    tasks = draw(3)
    assert torch.equal(method.query_outputs(tasks), method.query_outputs(tasks))
    losses = {float(method.meta_gradient(tasks).loss) for _ in range(3)}
    assert len(losses) == 3 and method.training


def test_values_read_in_python_are_noticed() -> None:
    class Reads(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 + len([v for v in x.flatten().tolist() if v > 0.7]))

    torch.manual_seed(0)
    method = methods.maml(nn.Sequential(Reads(3, 2)).double(), lr=0.1, steps=1, chunk=1)
    with pytest.raises(ValueError, match=r"reads values in Python|depends on values"):
        method.use("traced").meta_gradient(draw(3))
