"""Stacked LSTMs that say a class at every step of a feature sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actors.errors import UserError


class PeepholeLSTM(nn.Module):
    """One LSTM layer whose gates see the cell (Jiang et al., section III-B).

    i_t = s(W_xi x_t + W_hi h_t-1 + w_ci * c_t-1 + b_i), f_t likewise,
    c_t = f_t c_t-1 + i_t tanh(W_xc x_t + W_hc h_t-1 + b_c),
    o_t = s(W_xo x_t + W_ho h_t-1 + w_co * c_t + b_o),  h_t = o_t tanh(c_t).

    The weights from the cell are diagonal, as in Graves (2013), from whom the equations are taken.

    Args:
        input_size: width of x.
        hidden_size: width of h and c.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        bound = hidden_size**-0.5

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))

        # Rows in PyTorch's order of gates: input, forget, cell, output.
        self.weight_input = uniform(4 * hidden_size, input_size)
        self.weight_hidden = uniform(4 * hidden_size, hidden_size)
        self.weight_cell = uniform(3, hidden_size)  # input, forget, output
        self.bias = uniform(4 * hidden_size)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(N, T, input_size) -> hidden states (N, T, hidden_size) and the last (h, c)."""
        inputs = nn.functional.linear(x, self.weight_input, self.bias)
        h = x.new_zeros(x.shape[0], self.weight_hidden.shape[1])
        c = torch.zeros_like(h)
        see_i, see_f, see_o = self.weight_cell
        hidden = []
        for step in inputs.unbind(1):
            i, f, g, o = (step + h @ self.weight_hidden.T).chunk(4, 1)
            c_before = c
            c = torch.sigmoid(f + see_f * c_before) * c_before
            c = c + torch.sigmoid(i + see_i * c_before) * torch.tanh(g)
            h = torch.sigmoid(o + see_o * c) * torch.tanh(c)
            hidden.append(h)
        return torch.stack(hidden, 1), (h, c)


class SequenceNetwork(nn.Module):
    """Stacked LSTM layers and a classifier at every step.

    Sequences are padded at their ends. A step depends on the steps before it only, so what stands
    in the padding changes nothing at the valid ones.

    Args:
        feature_dim: width of the features, F.
        n_classes: classes, C.
        hidden: units of each layer, from the input up.
        cell: ``lstm`` or ``peephole``.
        dropout: share of units dropped between layers and before the classifier.
        input_dropout: share of the standardized features dropped in training.
        input_noise: standard deviation of the Gaussian noise added to standardized features in
            training, half its variance common to all steps of a clip.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        feature_dim: int,
        n_classes: int,
        *,
        hidden: Sequence[int] = (1024, 512),
        cell: str = "lstm",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if cell not in ("lstm", "peephole"):
            raise UserError(f"cell must be lstm or peephole, not {cell!r}")
        self.feature_dim = feature_dim
        self.description: dict[str, Any] = {
            "kind": "sequence",
            "feature_dim": feature_dim,
            "n_classes": n_classes,
            "hidden": list(hidden),
            "cell": cell,
            "dropout": dropout,
            "input_dropout": input_dropout,
            "input_noise": input_noise,
        }
        # Features are standardized by these, taken from the training clips.
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))
        widths = [feature_dim, *hidden]
        self.layers = nn.ModuleList(
            nn.LSTM(a, b, batch_first=True) if cell == "lstm" else PeepholeLSTM(a, b)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.input_dropout = nn.Dropout(input_dropout)
        self.input_noise = input_noise
        self.classifier = nn.Linear(widths[-1], n_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, T, C) at every step of features (N, T, F)."""
        x = self.input_dropout((features - self.mean) * self.scale)
        if self.training and self.input_noise:
            x = x + self._noise(x)
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        return self.classifier(x)

    def _noise(self, x: Tensor) -> Tensor:
        """A network that saw the clips in training left marks of each in its features; noise
        covers them, as nothing like them is in new clips."""
        common = torch.randn_like(x[:, :1])
        return self.input_noise * 0.5**0.5 * (common + torch.randn_like(x))


def last_step(logits: Tensor, lengths: Tensor) -> Tensor:
    """The last valid step's logits.

    Args:
        logits: (N, T, C).
        lengths: (N,) int, valid steps of each sequence, at least 1.

    Returns:
        (N, C).
    """
    return logits[torch.arange(len(logits), device=logits.device), lengths.to(logits.device) - 1]
