"""The model, called with per-task weights: the one place that knows `torch.func.vmap`.

Only a forward pass is ever mapped, and every derivative is taken outside of it: with a derivative
innermost, `vmap` differentiates the affine normalisation layers wrongly and in silence.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.types import Params, T, Tree, concat, leaf, leaves, mapped, stack, to
from . import materialise as handing
from . import policy as norms
from . import randomness, trees
from .backward import dress_nodes
from .copies import refuse
from .dress import Dress
from .examine import examine
from .probe import PADDING, Findings
from .slots import Entry
from .survey import Built, Survey
from .swap import transformed

log = logging.getLogger("innerloop")

_RECURRENT = (nn.RNNBase, nn.LSTMCell, nn.RNNCell)
_CONVOLUTION = nn.modules.conv._ConvNd
_BLOCKED = (torch.float32, torch.bfloat16)
_KNOWN = 64
"""States of a model of which the findings are kept."""
_ABOUT_TYPES = re.compile(r"dtype|scalar type|not implemented for '(Byte|Char|Short|Int|Long)'")


@runtime_checkable
class FollowsProgress(Protocol):
    """A layer that changes over a training, such as a dropout rate that rises."""

    def at_progress(self, fraction: float) -> None:
        """Take what belongs to this fraction of the run, 0 to 1."""


class ModelCall:
    """`model` as a pure function of its weights, under a normalisation policy.

    The user's own module is called, with other tensors in its places for that time. Afterwards it
    is as before, whatever its forward pass wrote: buffers, modes, attributes. So each call starts
    from the model as the user left it, and sees what was changed since the last one.
    """

    def __init__(self, model: nn.Module, norm: str | None):
        refuse(model)
        self._model = model
        self.policy = norms.choose(model, norm)
        self._built = Built(model)
        self._survey: Survey | None = Survey(model, self.policy)
        self.normalises = self._survey.normalises
        self._training = True
        self._findings: dict[tuple[object, ...], Findings] = {}
        self._left: list[Dress] = []
        self.proven = False
        self._given: Params | None = None
        self.precision: torch.dtype | None = None
        self._following = [m for m in model.modules() if isinstance(m, FollowsProgress)]
        self.together_only = False
        """Fail where tasks cannot run together, in place of running them one after another."""
        self.unbatchable = next((w for m in model.modules() if (w := _unbatchable(m))), None)
        self.size = sum(p.numel() for p in model.parameters())
        self.convolutional = any(isinstance(m, _CONVOLUTION) for m in model.modules())

    def __getstate__(self) -> dict[str, Any]:
        """A copy looks its own model up."""
        return self.__dict__ | {"_survey": None, "_findings": {}, "_left": [], "proven": False}

    @property
    def survey(self) -> Survey:
        """What the model is made of, as last seen."""
        if self._survey is None:
            self._survey = Survey(self._model, self.policy)
        return self._survey

    @property
    def model(self) -> nn.Module:
        """The user's."""
        return self._model

    @property
    def batchable(self) -> bool:
        """Whether tasks can run together; `unbatchable` says why not."""
        return self.unbatchable is None

    @property
    def modes(self) -> tuple[object, ...]:
        """Equal for two states of the model that compute the same function of the weights."""
        return self.survey.modes if self._training else self.survey.quiet_modes

    @property
    def random(self) -> bool:
        """Whether the model is known to draw random numbers in its present modes."""
        return self._findings.get(self.modes, Findings()).draws

    def __call__(
        self, weights: Params, stacked: set[str], x: Tree, stream: str, support: Tree | None
    ) -> Tree:
        """Outputs (T, n, ...) for x (T, n, ...).

        x is a tensor, for `model(x)`, a tuple or list of them, for `model(*x)`, or a dictionary,
        for `model(**x)`; outputs are a tensor or a tree as `trees.outputs` says. `weights` holds
        one row per task for the names in `stacked` and shared tensors otherwise. Random layers draw
        from the stream named `stream`, the same numbers every time and the same for every task of
        the batch. `support` is given where the policy `support` wants its statistics: it runs in
        front of x.

        A model that cannot be batched over tasks runs them one after another, which is logged once.
        The first call in each state of the model is tried out beforehand (see `examine`).

        Raises ValueError for inputs that are no such tree, and where a number would be wrong.
        """
        survey = self.survey
        trees.check_inputs(x)
        kept = next((v.dtype for v in weights.values() if v.is_floating_point()), None)
        weights, x, support = map(self.in_precision, (weights, x, support))
        rows = None
        if support is not None and survey.supports:
            rows = leaf(support).shape[1]
            x = concat([support, x], 1)
        first = leaf(x)
        survey.rows.support, survey.rows.total = rows, first.shape[1]
        findings = self._known(x)
        several = len(first) > 1
        if (self.batchable and (several or findings.draws)) or (self.together_only and several):
            # `vmap` may lay a tensor out differently and so fill its mask in another order: a
            # random model takes the same path for one task as for many.
            outputs = self._together(weights, stacked, x, stream, findings)
        else:
            outputs = self._one_by_one(weights, stacked, x, stream, findings)
        if rows is not None:
            total = first.shape[1]
            outputs = mapped(
                lambda v: v[:, rows:] if v.dim() > 1 and v.shape[1] == total else v, outputs
            )
        return outputs if self.precision is None or kept is None else to(outputs, kept)

    def _together(
        self, weights: Params, stacked: set[str], x: Tree, stream: str, findings: Findings
    ) -> Tree:
        shared = self.own_buffers() | {k: v for k, v in weights.items() if k not in stacked}
        own = {k: v for k, v in weights.items() if k in stacked}

        def one_task(row: Tree, own: Params) -> Tree:
            return self.run(shared | own, row)

        try:
            with self._replayed(stream, x, findings):
                return vmap(one_task, randomness="same")(x, own)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if self.together_only:
                raise ValueError(
                    f"{type(self._model).__name__} failed when {len(leaf(x))} tasks ran "
                    f"together: {str(error).splitlines()[0]}"
                ) from error
            # If a task alone fails as well, what it raises is the plainer word.
            outputs = self._one_by_one(weights, stacked, x, stream, findings)
            self.unbatchable = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.warning(
                "%s cannot run several tasks at once, so they run one after another: %s",
                type(self._model).__name__,
                self.unbatchable,
            )
            return outputs

    def _one_by_one(
        self, weights: Params, stacked: set[str], x: Tree, stream: str, findings: Findings
    ) -> Tree:
        dual = any(forward_ad.unpack_dual(v).tangent is not None for v in weights.values())
        closed = not dual and not findings.differentiates
        found = []
        for i in range(len(leaf(x))):
            one = {k: _row(v, i) if k in stacked else v for k, v in weights.items()}
            row = mapped(lambda v: self.laid_out(_row(v, i)), x)  # noqa: B023
            with self._replayed(stream, x, findings):
                tensors = one | self.own_buffers()
                found.append(self.run(tensors, row, closed=closed, again=findings.again))
        if len(found) == 1:
            return mapped(lambda v: v.unsqueeze(0), found[0])
        return stack(found)

    def _replayed(
        self, stream: str, x: Tree, findings: Findings
    ) -> contextlib.AbstractContextManager[None]:
        if not findings.draws:
            return contextlib.nullcontext()
        device = leaf(x).device
        return randomness.replay(stream, device, self.survey.generators, foreign=findings.foreign)

    def run(
        self,
        tensors: Params,
        x: Tree,
        *,
        closed: bool = False,
        again: bool = False,
        extra: Sequence[Entry] = (),
    ) -> Tree:
        """Outputs (n, ...) of one task, with these weights and buffers in the model's places.

        `closed` takes the closed forms of second derivatives, `again` keeps the weights within
        reach of code that runs in the backward pass. `extra` is written into the model last.
        """
        dress = self.dress(tensors, closed=closed, extra=extra)
        args, kwargs = trees.arguments(x)
        try:
            with dress:
                outputs = trees.outputs(self._model(*args, **kwargs))
        except RuntimeError as error:
            self._blame_types(error, tensors, x)
            raise
        if again:
            inputs = [*tensors.values(), *leaves(x)]
            dress_nodes(leaves(outputs), inputs, dress)
        return outputs

    def try_out(self, weights: Params, x: Tree, extra: Sequence[Entry] = ()) -> Tree:
        """Outputs (n, ...) of one task in eval mode, by the batch's statistics where the policy
        is not `running`; `extra` is written into the model as well for that time."""
        was, self._training = self._training, False
        self.survey.rows.support = None
        device = leaf(x).device
        buffers = {k: v.clone() for k, v in self.buffers().items()}
        try:
            with randomness.replay("try out", device, self.survey.generators, foreign=True):
                return self.run(weights | buffers, x, extra=extra)
        finally:
            self._training = was

    def dress(self, tensors: Params, *, closed: bool = False, extra: Sequence[Entry] = ()) -> Dress:
        """What the model wears while it is called with these weights and buffers."""
        survey = self.survey
        entries = [(home, k, tensors[name]) for home, k, name in survey.slots if name in tensors]
        entries += survey.always
        if not self._training:
            entries += survey.quiet
        if closed:
            entries += survey.closed
        if survey.supports:
            rows = vars(survey.rows)
            entries += [(rows, k, v) for k, v in rows.items()]
        entries += extra
        return Dress(entries, [] if survey.inert else survey.modules, self._left)

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Around everything that calls the model and takes derivatives: afterwards the model is as
        it was, also where code of it raised in the middle of a backward pass."""
        try:
            yield
        finally:
            self._settle()

    def _settle(self) -> None:
        while self._left:
            self._left[-1].take_off()

    def _known(self, x: Tree) -> Findings:
        """What the model does in its present state: tried once, then known."""
        found = self._findings.get(self.modes)
        if found is not None:
            return found
        if transformed():  # the try-out takes derivatives, which would be those of the transform
            return Findings()
        alike = any(modes[:2] == self.modes[:2] for modes in self._findings)
        row = mapped(lambda v: self.laid_out(v[0]), x)
        found = examine(self, self._model, row, thorough=not alike)
        if len(self._findings) >= _KNOWN:
            self._findings.clear()
        self._findings[self.modes] = found
        self.unbatchable = self.unbatchable or found.unbatchable
        if found.writes and not alike:
            log.warning(
                "the forward pass of %s writes to the buffers %s: each call starts from the "
                "model's own, and what it writes is dropped, so meta-training never changes them",
                type(self._model).__name__,
                ", ".join(found.writes),
            )
        return found

    def in_precision(self, tree: T) -> T:
        """The tree with its real tensors in the precision that was asked for, if one was."""
        return tree if self.precision is None else to(tree, self.precision)

    def own_buffers(self) -> Params:
        """A model may write to its buffers; each call gets its own, so tasks never meet in them."""
        held = self.buffers() if self._given is None else self._given
        return self.in_precision({k: v.clone() for k, v in held.items()})

    def buffers(self) -> Params:
        """The user's, as far as the policy lets the model see them."""
        return self.survey.buffers()

    @contextlib.contextmanager
    def given_buffers(self, values: list[Tensor]) -> Iterator[None]:
        """Within the block the model's buffers are these."""
        self._given = dict(zip(self.buffers(), values, strict=True))
        try:
            yield
        finally:
            self._given = None

    def _blame_types(self, error: RuntimeError, tensors: Params, x: Tree) -> None:
        """Say what to type where integers meet layers that want numbers."""
        whole = [v for v in leaves(x) if not v.is_floating_point() and not v.is_complex()]
        pixels = [v for v in whole if v.dtype == torch.uint8]
        if not pixels and not (whole and _ABOUT_TYPES.search(str(error))):
            return
        dtype = next((v.dtype for v in tensors.values() if v.is_floating_point()), None)
        raise ValueError(
            f"x is {(pixels or whole)[0].dtype} and the model's weights are {dtype}, and the model "
            f"failed: {str(error).splitlines()[0]} Convert with x.to({dtype}) (and divide pixels "
            "by 255)"
        ) from error

    def follow_modes(self, training: bool = True) -> None:
        """Take over what the user's model is now; normalisation layers obey the policy instead.

        Unless `training`, all layers are in eval mode.

        Attributes, train/eval flags, hooks, and layers without parameters may change after the
        method was built. Raises ValueError, naming them, where parameters came or went, or a layer
        that holds some was replaced: solvers and optimisers know the old ones.
        """
        self._settle()
        if not self.survey.stands():
            self._built.refuse_changes(self._model)
            norms.choose(self._model, self.policy)
            self._survey, self.proven = Survey(self._model, self.policy), False
        if any(p.requires_grad != was for p, was in self.survey.trainable):
            self._built.refuse_changes(self._model)
        self._training = training

    def follow_progress(self, fraction: float) -> None:
        """Tell layers that change over a training how much of it is over, 0 to 1."""
        for layer in self._following:
            layer.at_progress(fraction)

    def laid_out(self, x: Tensor) -> Tensor:
        """Images and kernels with channels innermost, where CPU convolutions are fastest so."""
        if not self.convolutional or x.dim() != 4 or x.device.type != "cpu":
            return x
        return x.to(memory_format=torch.channels_last) if x.dtype in _BLOCKED else x

    def materialise(self, weights: Params, support: Tree) -> nn.Module:
        """A plain copy of the model with these weights (one task), in eval mode.

        See `innerloop.call.materialise`.
        """
        return handing.materialise(self, self._model, weights, support)


@contextlib.contextmanager
def differentiable_kernels(*, recurrent: bool = False) -> Iterator[None]:
    """Kernels that have second derivatives: attention by the math kernel, no fused fast paths.

    The fused attention kernels have no derivative of their backward pass, the encoder's fast path
    has none at all, and cuDNN's recurrent layers have no double backward: for `recurrent` models
    cuDNN is off.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    off = torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext()
    try:
        with sdpa_kernel(SDPBackend.MATH), off:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _row(v: Tensor, i: int) -> Tensor:
    """Row i. Of one row alone it is a view whose derivative costs nothing."""
    return v.squeeze(0) if len(v) == 1 else v[i]


def _unbatchable(module: nn.Module) -> str | None:
    """Why `vmap` must not run this layer for several tasks at once, where its type tells it before
    the first call."""
    if isinstance(module, _RECURRENT):
        return "recurrent layers have no batching rule"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
        return PADDING
    return None
