"""A context vector that conditions a network (CAVIA): beside a layer's input, or as FiLM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .bias_transform import transform_bias
from .sharing import first_layer, layer_of, replaced, sharing_copy

_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_RISING = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.ELU, nn.Softplus)


class Contextual(nn.Module):
    """`model` with a parameter `context` of shape (size,) that enters the layers named in `layers`.

    A linear layer gets it beside its input: W x + V c + b, the layer of [x, c] (V as in a layer
    wider by `size`). A block (`nn.Sequential`) gets it by FiLM, in front of its activation:
    h <- gamma * h + beta, [gamma, beta] = F c + f, one pair per channel; a max-pool that follows
    the activation is moved in front of it, which changes nothing without FiLM. F is drawn
    Kaiming-uniform and f from U(-1/sqrt(size), 1/sqrt(size)), as in the authors' code: so gamma is
    near zero at first, not one.

    By default the context enters the first linear layer or, in a network with convolutions, the
    third block of `body` (the paper's choice for miniImageNet).

    Adapting `context` alone, from zero for every task, is CAVIA; the weights are then shared by all
    tasks. They are those of `model`, whose own layers stay as they are.

    Source: Zintgraf et al. 2019, section 3; FiLM's place and initial values from their code.
    """

    def __init__(self, model: nn.Module, size: int, *, layers: Sequence[str] | None = None) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a context needs a size of at least 1, got {size}")
        like = next(model.parameters())
        self.context = nn.Parameter(like.detach().new_zeros(size))
        self.model = sharing_copy(model)
        for name in _default(model) if layers is None else layers:
            layer = layer_of(self.model, name)
            if isinstance(layer, nn.Linear):
                transform_bias(layer, self.context)
            elif isinstance(layer, nn.Sequential):
                block = _modulated(name, layer, self.context)
                self.model = replaced(self.model, name, block)
            else:
                raise ValueError(
                    f"a context enters linear layers, or blocks (nn.Sequential) with an "
                    f"activation; `{name}` is a {type(layer).__name__}"
                )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class FiLM(nn.Module):
    """gamma * h + beta for maps (n, channels, ...), [gamma, beta] = linear(context)."""

    def __init__(self, context: nn.Parameter, channels: int) -> None:
        super().__init__()
        self.context = context
        self.linear = nn.Linear(
            len(context), 2 * channels, device=context.device, dtype=context.dtype
        )
        nn.init.kaiming_uniform_(self.linear.weight, nonlinearity="linear")

    def forward(self, h: Tensor) -> Tensor:
        gamma, beta = (
            v.reshape(-1, *[1] * (h.dim() - 2)) for v in self.linear(self.context).chunk(2)
        )
        return gamma * h + beta


def _default(model: nn.Module) -> list[str]:
    if not any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules()):
        return [first_layer(model, (nn.Linear,))]
    third = dict(model.named_modules()).get("body.2")
    if not isinstance(third, nn.Sequential):
        raise ValueError(
            f"which layers of {type(model).__name__} does the context enter? Name linear layers or "
            'blocks (nn.Sequential), e.g. layers=["body.2"]'
        )
    return ["body.2"]


def _modulated(name: str, block: nn.Sequential, context: nn.Parameter) -> nn.Sequential:
    """The block with FiLM in front of its first activation, under the same names."""
    layers = list(block.named_children())
    found = [i for i, (_, layer) in enumerate(layers) if isinstance(layer, _ACTIVATIONS)]
    channels = [
        width
        for _, layer in layers[: found[0] if found else 0]
        for width in (getattr(layer, "out_channels", None), getattr(layer, "out_features", None))
        if width is not None
    ]
    if not channels:
        raise ValueError(
            f"FiLM goes between a convolution or linear layer and an activation of one block, and "
            f"`{name}` has no such pair among its layers"
        )
    at = found[0]
    follows = at + 1 < len(layers) and isinstance(layers[at + 1][1], _POOLS)
    if follows and isinstance(layers[at][1], _RISING):
        layers[at], layers[at + 1] = layers[at + 1], layers[at]
        at += 1
    changed = nn.Sequential()
    for i, (child, layer) in enumerate(layers):
        if i == at:
            changed.add_module("film", FiLM(context, channels[-1]))
        changed.add_module(child, layer)
    return changed
