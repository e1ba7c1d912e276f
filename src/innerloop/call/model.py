"""The model, called with per-task weights: the one place that knows `torch.func.vmap`.

Only a forward pass is ever mapped, and every derivative is taken outside of it: with a derivative
innermost, `vmap` differentiates the affine normalisation layers wrongly and in silence.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core import streams
from ..core.types import Params
from . import policy as norms
from . import slots as functional
from .copies import copied, refuse, sharing_copy
from .swap import swap
from .weight_norm import compose

log = logging.getLogger("innerloop")

_RECURRENT = (nn.RNNBase, nn.LSTMCell, nn.RNNCell)
_CONVOLUTION = nn.modules.conv._ConvNd
_BLOCKED = (torch.float32, torch.bfloat16)


@runtime_checkable
class FollowsProgress(Protocol):
    """A layer that changes over a training, such as a dropout rate that rises."""

    def at_progress(self, fraction: float) -> None:
        """Take what belongs to this fraction of the run, 0 to 1."""


class ModelCall:
    """`model` as a pure function of its weights, under a normalisation policy.

    Works on a private copy of the module tree that shares the parameters, so that the user's model
    is never written to: its buffers and its modes are the same before and after.
    """

    def __init__(self, model: nn.Module, norm: str | None):
        refuse(model)
        self._model = model
        self.policy = norms.choose(model, norm)
        self._copy = sharing_copy(model)
        governed = set(norms.apply(self._copy, self.policy))
        self.normalises = bool(governed)
        compose(self._copy)
        self._layers = swap(self._copy)
        self._slots = functional.slots(self._copy, functional.places(self._copy))
        self._buffered = any(True for _ in self._copy.buffers())
        self._modes = [
            (theirs, ours)
            for (name, theirs), ours in zip(
                model.named_modules(), self._copy.modules(), strict=True
            )
            if name not in governed
        ]
        self._trainable = [(p, p.requires_grad) for p in model.parameters()]
        self._support_norms = [m for m in self._copy.modules() if isinstance(m, norms.SupportNorm)]
        self._draws: dict[tuple[bool, ...], bool] = {}
        self._given: Params | None = None
        self.precision: torch.dtype | None = None
        self._following = [
            layer
            for tree in (model, self._copy)
            for layer in tree.modules()
            if isinstance(layer, FollowsProgress)
        ]
        self.follow_modes()
        self.unbatchable = next((w for m in model.modules() if (w := _unbatchable(m))), None)
        self.size = sum(p.numel() for p in model.parameters())
        self.convolutional = any(isinstance(m, _CONVOLUTION) for m in model.modules())

    @property
    def model(self) -> nn.Module:
        """The user's."""
        return self._model

    @property
    def batchable(self) -> bool:
        """Whether tasks can run together; `unbatchable` says why not."""
        return self.unbatchable is None

    def __call__(
        self, weights: Params, stacked: set[str], x: Any, stream: str, support: Any
    ) -> Any:
        """Outputs (T, n, ...) for x (T, n, ...).

        `weights` holds one row per task for the names in `stacked` and shared tensors otherwise.
        Random layers draw from the stream named `stream`, the same numbers every time and the same
        for every task of the batch. `support` is given where the policy `support` wants its
        statistics: it runs in front of x.
        """
        kept = next(v.dtype for v in weights.values() if v.is_floating_point())
        if self.precision is not None:
            weights = _cast(weights, self.precision)
            x = _cast({"": x}, self.precision)[""]
            support = None if support is None else _cast({"": support}, self.precision)[""]
        rows = None
        if support is not None and self.policy == "support" and self._support_norms:
            rows = support.shape[1]
            x = torch.cat([support, x], 1)
        for layer in self._support_norms:
            layer.rows, layer.total = rows, x.shape[1]
        if not self._draws_in(x):
            outputs = self._forward(weights, stacked, x, alone=len(x) == 1)
        else:
            # `vmap` may lay a tensor out differently and so fill its mask in another order: a
            # random model takes the same path for one task as for many.
            with streams.replay("model", stream, device=x.device):
                outputs = self._forward(weights, stacked, x, alone=not self.batchable)
        outputs = outputs if rows is None else outputs[:, rows:]
        return outputs if self.precision is None else outputs.to(kept)

    def _forward(self, weights: Params, stacked: set[str], x: Tensor, *, alone: bool) -> Tensor:
        buffers = self._own_buffers()
        closed = alone and all(forward_ad.unpack_dual(v).tangent is None for v in weights.values())
        for layer in self._layers:
            layer.alone = closed
        if alone:
            one = {k: v.squeeze(0) if k in stacked else v for k, v in weights.items()}
            return self._run(one | buffers, self.laid_out(x.squeeze(0))).unsqueeze(0)
        shared = buffers | {k: v for k, v in weights.items() if k not in stacked}
        names = [k for k in weights if k in stacked]

        def one_task(row: Tensor, *own: Tensor) -> Tensor:
            return self._run(shared | dict(zip(names, own, strict=True)), row)

        try:
            return vmap(one_task, randomness="same")(x, *(weights[k] for k in names))
        except RuntimeError as error:
            raise ValueError(
                f"{type(self._model).__name__} failed when {len(x)} tasks ran together: "
                f"{str(error).splitlines()[0]} If it cannot be batched over tasks, use chunk=1; "
                "innerloop.check(model, loss, example) names the layer"
            ) from error

    def _own_buffers(self) -> Params:
        """A model may write to its buffers; each call gets its own, so tasks never meet in them."""
        held = self.buffers() if self._given is None else self._given
        return _cast({k: v.clone() for k, v in held.items()}, self.precision)

    def buffers(self) -> Params:
        """The user's: `.to(device)` and `.double()` replace buffers, and the copy keeps the old."""
        if not self._buffered:
            return {}
        theirs = dict(self._model.named_buffers())
        return {k: theirs.get(k, v) for k, v in self._copy.named_buffers()}

    @contextlib.contextmanager
    def given_buffers(self, values: list[Tensor]) -> Iterator[None]:
        """Within the block the model's buffers are these."""
        self._given = dict(zip(self.buffers(), values, strict=True))
        try:
            yield
        finally:
            self._given = None

    def _run(self, tensors: Params, x: Tensor) -> Tensor:
        try:
            with functional.placed(self._slots, tensors):
                outputs = self._copy(x)
        except RuntimeError as error:
            if x.is_floating_point():
                raise
            dtype = next(v.dtype for v in tensors.values() if v.is_floating_point())
            raise ValueError(
                f"x is {x.dtype} and the model's weights are {dtype}, and the model failed: "
                f"{str(error).splitlines()[0]} Convert with x.to({dtype}) (and divide pixels by "
                "255)"
            ) from error
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"the model must return one tensor, it gave {type(outputs).__name__}; wrap it in "
                "a module whose forward returns the outputs only"
            )
        return outputs

    def _draws_in(self, x: Tensor) -> bool:
        """Whether the model draws random numbers in its present modes: tried once, then known."""
        if self.modes not in self._draws:
            with torch.no_grad(), streams.replay("model", "probe", device=x.device):
                before = _random_state(x.device)
                weights = _cast(dict(self._copy.named_parameters()), self.precision)
                self._run(weights | self._own_buffers(), x[0])
                self._draws[self.modes] = not torch.equal(before, _random_state(x.device))
        return self._draws[self.modes]

    @property
    def random(self) -> bool:
        """Whether the model is known to draw random numbers in its present modes."""
        return self._draws.get(self.modes, False)

    def follow_modes(self, training: bool = True) -> None:
        """Take over the user's train/eval flags; normalisation layers obey the policy instead.

        Unless `training`, all layers are in eval mode.

        Other changes of the model after the method was built are not seen: build it again.
        """
        if any(p.requires_grad != was for p, was in self._trainable):
            raise ValueError(
                "requires_grad of the model's parameters changed after the method was built; build "
                "the method again"
            )
        for theirs, ours in self._modes:
            ours.training = theirs.training and training
        self.modes = tuple(ours.training for _, ours in self._modes)

    def follow_progress(self, fraction: float) -> None:
        """Tell layers that change over a training how much of it is over, 0 to 1."""
        for layer in self._following:
            layer.at_progress(fraction)

    def laid_out(self, x: Tensor) -> Tensor:
        """Images and kernels with channels innermost, where CPU convolutions are fastest so."""
        if not self.convolutional or x.dim() != 4 or x.device.type != "cpu":
            return x
        return x.to(memory_format=torch.channels_last) if x.dtype in _BLOCKED else x

    def materialise(self, weights: Params, support: Tensor) -> nn.Module:
        """A plain copy of the model with these weights (one task), in eval mode.

        It follows the policy by itself: `batch` layers use their batch's statistics in any mode,
        `support` layers hold the support set's as running statistics.
        """
        model = copied(self._model, {})
        with torch.no_grad():
            for k, p in model.named_parameters():
                if k in weights:
                    p.copy_(weights[k])
            if self.policy == "support" and self._support_norms:
                # Without dropout, as the module that is handed out, which is in eval mode.
                self._copy.eval()
                for layer in self._support_norms:
                    layer.recording, layer.rows = True, None
                buffers = {k: v.clone() for k, v in self.buffers().items()}
                self._run(dict(model.named_parameters()) | buffers, support)
                for layer in self._support_norms:
                    layer.recording = False
                norms.freeze(model, self._copy)
        if self.policy == "batch":
            norms.apply(model, "batch")
        return model.eval()


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


def _cast(tensors: Params, dtype: torch.dtype | None) -> Params:
    if dtype is None:
        return tensors
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}


def _unbatchable(module: nn.Module) -> str | None:
    """Why `vmap` must not run this layer for several tasks at once."""
    if isinstance(module, _RECURRENT):
        return "recurrent layers have no batching rule"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None:
        return "an embedding's padding row keeps its gradient in all tasks but the first"
    return None


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
