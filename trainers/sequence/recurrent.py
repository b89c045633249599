"""Stacked LSTMs with a classifier at every step of a feature sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.sequence.model import SequenceModel
from trainers.settings import SequenceSettings


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


class StackedLSTM(SequenceModel):
    """Stacked LSTM layers and a classifier at every step; a clip's logits are its last step's.

    Sequences are padded at their ends. A step depends on the steps before it only, so what stands
    in the padding changes nothing at the valid ones.

    Args:
        settings: ``model`` is ``lstm`` or ``peephole``; layers, dropout, input noise (half of its
            variance common to all steps of a clip).
        feature_dim: width of the features, F.
        n_classes: classes, C.
    """

    def __init__(self, settings: SequenceSettings, feature_dim: int, n_classes: int) -> None:
        super().__init__(feature_dim)
        widths = [feature_dim, *settings.hidden]
        peephole = settings.model == "peephole"
        self.layers = nn.ModuleList(
            PeepholeLSTM(a, b) if peephole else nn.LSTM(a, b, batch_first=True)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.input_dropout = nn.Dropout(settings.input_dropout)
        self.input_noise = settings.input_noise
        self.classifier = nn.Linear(widths[-1], n_classes)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `SequenceModel.forward`; the clip embedding is the last layer's state at the last
        valid step."""
        x = self.input_dropout(self.standardize(features))
        if self.training and self.input_noise:
            x = x + self._noise(x)
        for layer in self.layers:
            x = self.dropout(layer(x)[0])
        logits = self.classifier(x)
        return logits, last_step(logits, lengths), last_step(x, lengths)

    def _noise(self, x: Tensor) -> Tensor:
        """An encoder that saw the clips in training left marks of each in its features; noise
        covers them, as nothing like them is in new clips."""
        common = torch.randn_like(x[:, :1])
        return self.input_noise * 0.5**0.5 * (common + torch.randn_like(x))


def last_step(values: Tensor, lengths: Tensor) -> Tensor:
    """The values of the last valid step.

    Args:
        values: (N, T, C).
        lengths: (N,) int, valid steps of each sequence, at least 1.

    Returns:
        (N, C).
    """
    return values[torch.arange(len(values), device=values.device), lengths.to(values.device) - 1]
