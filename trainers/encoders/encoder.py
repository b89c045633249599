"""An encoder: a network from one sample to a feature vector, and on to class logits."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from trainers.encoders.specification import InputSpecification


class Encoder(nn.Module):
    """A network in two parts: samples to features, features to logits.

    Args:
        body: (N, in_channels, h, w) -> (N, F), or maps that flatten to it.
        tail: (N, F) -> (N, C), its last layer is the classifier; None for an encoder that gives
            features alone.
        specification: what the body expects of its inputs.
        feature_dim: F; None: the width that the tail's first linear layer takes.

    Attributes:
        description: plain values to build the encoder again; `build_encoder` fills them in.
    """

    def __init__(
        self,
        body: nn.Module,
        tail: nn.Module | None,
        *,
        specification: InputSpecification = InputSpecification(),  # noqa: B008 - immutable
        feature_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.tail = tail
        self.specification = specification
        self.feature_dim = feature_dim or _width_of(tail)
        self.description: dict[str, Any] = {}
        self._still: list[nn.Module] = []

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C) of samples (N, in_channels, h, w).

        Raises:
            ValueError: the encoder has no tail.
        """
        if self.tail is None:
            raise ValueError("an encoder without a tail gives features alone: call features()")
        return self.tail(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """(N, F): the first fully connected layer's output after its nonlinearity (fc6), or what
        enters the classifier where that is the only one."""
        return self.body(x).flatten(1)

    def freeze(self) -> None:
        """No parameter is trained any more; the encoder stays in evaluation mode."""
        self._keep_still(list(self.modules()))
        self.requires_grad_(False)

    def train_from(self, layer: str) -> None:
        """Only the layer of this name and those after it are trained.

        The layers before it require no gradients, and stay in evaluation mode, so that the
        statistics of batch norms do not change.

        Args:
            layer: name of a module, such as ``classifier`` or ``body.classifier``.

        Raises:
            KeyError: there is no such layer.
        """
        name, first = self._find(layer)
        order = list(self.modules())
        before = order[: order.index(first)]
        ancestors = [self.get_submodule(name[:i]) for i, mark in enumerate(name) if mark == "."]
        for module in before:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self._keep_still([m for m in before if m not in ancestors and m is not self])

    def train(self, mode: bool = True) -> Encoder:
        """As in PyTorch; layers that are not trained stay in evaluation mode."""
        super().train(mode)
        for module in self._still:
            module.training = False
        return self

    def _keep_still(self, modules: list[nn.Module]) -> None:
        self._still = modules
        self.train(self.training)

    def _find(self, layer: str) -> tuple[str, nn.Module]:
        known = dict(self.named_modules())
        for name in (layer, f"body.{layer}", f"tail.{layer}"):
            if layer and name in known:
                return name, known[name]
        raise KeyError(layer)


def _width_of(tail: nn.Module | None) -> int:
    if tail is None:
        raise ValueError("an encoder without a tail needs feature_dim")
    return next(m.in_features for m in tail.modules() if isinstance(m, nn.Linear))
