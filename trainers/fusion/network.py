"""The regularized fusion network of the Hybrid paper (section III-C, Fig. 1), and its settings.

One 200-unit layer per feature, one 200-unit fusion layer over their outputs, then the classes::

    h_s = tanh(W_s x_s + b_s)                       for every stream s
    h   = tanh(W^E [h_spatial; h_motion; h_audio] + b)
    g   = softmax(V h + c)                          (multi-label: a sigmoid for each class)

The paper names no activation for these layers. With its learning rate of 0.7 and squared error,
sigmoid layers stay on a plateau for hundreds of epochs once there are many classes, while tanh
settles within tens; so tanh is the default. Outputs are probabilities, as the paper averages
"probabilities" with those of the LSTMs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from trainers.fusion.contract import FusionModel
from trainers.fusion.proximal import sparsity
from trainers.settings import FusionSettings
from trainers.targets import shown
from trainers.tensor_files import read_metadata

Array = Tensor | NDArray[Any]

ACTIVATIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid}
KEY = "fusion"
"""Of the metadata in which a file holds the network's shape and settings."""


class FusionNetwork(nn.Module, FusionModel):
    """The network; or several of one shape that are trained side by side, one per fold.

    All weights have a leading dimension M, the number of members: a batched product trains M small
    networks for little more than the price of one. A fitted network has one member.

    Args:
        widths: stream -> feature width, in the order in which W^E sees them.
        n_classes: C.
        settings: shape and behavior.
        multi_label: a sigmoid for each class instead of a softmax over them.
        members: M; all start from the same weights.
        seed: of those weights.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        n_classes: int,
        settings: FusionSettings,
        *,
        multi_label: bool = False,
        members: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("the fusion network needs at least one stream")
        self.widths, self.n_classes, self.members = dict(widths), n_classes, members
        self.settings, self.multi_label = settings, multi_label
        generator = torch.Generator().manual_seed(seed)

        def weight(rows: int, columns: int, gain: float = 1.0) -> nn.Parameter:
            bound = gain * (6 / (rows + columns)) ** 0.5  # Glorot and Bengio, 2010
            drawn = (torch.rand(1, rows, columns, generator=generator) * 2 - 1) * bound
            return nn.Parameter(drawn.repeat(members, 1, 1))

        def bias(columns: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(members, 1, columns))

        hidden = settings.hidden
        self.transform = nn.ParameterDict()
        self.transform_bias = nn.ParameterDict({name: bias(hidden) for name in widths})
        self.absent = nn.ParameterDict({name: bias(width) for name, width in widths.items()})
        self.absent.requires_grad_(settings.absent == "learned")
        for name, width in widths.items():
            # Standardized inputs have a norm of about 1 whatever their width (that keeps a learning
            # rate of 0.7 stable at 4,096 inputs), so their weights start larger by as much.
            self.transform[name] = weight(hidden, width, width**0.5 if settings.standardize else 1)
            self.register_buffer(f"mean_{name}", torch.zeros(members, 1, width))
            self.register_buffer(f"scale_{name}", torch.ones(members, 1, width))
        self.fusion = weight(hidden, hidden * len(widths))
        self.fusion_bias = bias(hidden)
        self.classes = weight(n_classes, hidden)
        self.classes_bias = bias(n_classes)

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that the network sees, in order."""
        return tuple(self.widths)

    def weights(self) -> list[nn.Parameter]:
        """The weight matrices that Phi covers: all of them, the fusion layer's included."""
        return [*self.transform.values(), self.fusion, self.classes]

    def standardize_by(
        self, features: Mapping[str, Tensor], rows: Iterable[Mapping[str, Tensor]]
    ) -> None:
        """Sets each member's statistics.

        Args:
            features: stream -> (N, D).
            rows: for each member, stream -> (n,) rows of the clips that train it and have the
                stream. A feature that never varies is only centered; the features of a stream
                that no such clip has are left as they are.
        """
        for member, streams in enumerate(rows):
            for name, which in streams.items():
                mean = self.get_buffer(f"mean_{name}")[member, 0]
                scale = self.get_buffer(f"scale_{name}")[member, 0]
                values = features[name][which].double()
                if not len(values):
                    mean.zero_()
                    scale.fill_(1)
                    continue
                spread = values.std(0, correction=0)
                spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
                mean.copy_(values.mean(0))
                scale.copy_(1 / (spread * values.shape[1] ** 0.5))

    def spread(self, name: str) -> Tensor:
        """(M, 1, D) standard deviation of a stream's features over the training clips."""
        return 1 / (self.get_buffer(f"scale_{name}") * self.widths[name] ** 0.5)

    def embed(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(M, B, hidden) unified representation of stream -> (M, B, D), stream -> (M, B) bool."""
        activation = ACTIVATIONS[self.settings.activation]
        hidden = []
        for name in self.widths:
            inputs = (features[name] - self.get_buffer(f"mean_{name}")) * self.get_buffer(
                f"scale_{name}"
            )
            inputs = torch.where(present[name][..., None], inputs, self.absent[name])
            weight, bias = self.transform[name], self.transform_bias[name]
            hidden.append(activation(torch.baddbmm(bias, inputs, weight.mT)))
        joined = torch.cat(hidden, dim=-1)
        return activation(torch.baddbmm(self.fusion_bias, joined, self.fusion.mT))

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """(M, B, C) class probabilities of stream -> (M, B, D), stream -> (M, B) bool."""
        return self.classify(self.embed(features, present))

    def classify(self, embedding: Tensor) -> Tensor:
        """(M, B, C) class probabilities of an (M, B, hidden) unified representation."""
        logits = torch.baddbmm(self.classes_bias, embedding, self.classes.mT)
        return torch.sigmoid(logits) if self.multi_label else torch.softmax(logits, dim=-1)

    @torch.no_grad()
    def scores(
        self, features: Mapping[str, Array], present: Mapping[str, Array]
    ) -> NDArray[np.float32]:
        """Class probabilities of clips.

        Args:
            features: stream -> (N, D) arrays or tensors; the rows of absent streams may hold
                anything.
            present: stream -> (N,) bool. Every clip has at least one stream.

        Returns:
            (N, C) float32; a softmax, or a sigmoid for each class of a multi-label network.

        Raises:
            ValueError: streams or widths other than those trained on, a clip without any stream,
                a feature that is not finite.
        """
        return self.scores_and_embeddings(features, present)[0]

    @torch.no_grad()
    def scores_and_embeddings(
        self, features: Mapping[str, Array], present: Mapping[str, Array]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `scores`, with the (N, hidden) float32 unified representations beside them."""
        if self.members != 1:
            raise ValueError(f"take one of the {self.members} members first")
        values, there = as_tensors(features), as_tensors(present)
        check_clips(values, there, self.widths)
        device = self.fusion.device
        scores, embeddings = [], []
        for start in range(0, len(there[self.streams[0]]), 1024):
            rows = slice(start, start + 1024)
            embedding = self.embed(
                {name: values[name][rows].to(device, torch.float32)[None] for name in self.widths},
                {name: there[name][rows].to(device)[None] for name in self.widths},
            )
            embeddings.append(embedding[0].cpu())
            scores.append(self.classify(embedding)[0].cpu())
        if not scores:
            empty = np.zeros((0, self.n_classes), np.float32)
            return empty, np.zeros((0, self.settings.hidden), np.float32)
        return torch.cat(scores).numpy(), torch.cat(embeddings).numpy()

    def sparsity(self) -> dict[str, float]:
        """``zero_rows`` and ``zero_entries``: shares of W^E that are exactly zero."""
        return sparsity(self.fusion.detach())

    def member(self, index: int) -> FusionNetwork:
        """A copy of one member as a network of its own."""
        tensors, meta = self.to_state()
        picked = {name: tensor[index : index + 1].clone() for name, tensor in tensors.items()}
        return FusionNetwork.from_state(picked, {**meta, "members": 1})

    def to_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors, and what JSON can hold of the rest."""
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()
        }
        return tensors, {
            "widths": self.widths,
            "n_classes": self.n_classes,
            "multi_label": self.multi_label,
            "members": self.members,
            "settings": asdict(self.settings),
        }

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> FusionNetwork:
        """The network that `to_state` took apart."""
        network = cls(
            meta["widths"],
            meta["n_classes"],
            FusionSettings(**meta["settings"]),
            multi_label=meta["multi_label"],
            members=meta["members"],
        )
        network.load_state_dict(dict(tensors))
        return network

    def to_bytes(self) -> bytes:
        """One safetensors file; its metadata holds the rest as JSON."""
        tensors, meta = self.to_state()
        return save(tensors, metadata={KEY: json.dumps(meta)})

    @classmethod
    def from_bytes(cls, content: bytes) -> FusionNetwork:
        """The network that `to_bytes` packed.

        Raises:
            ValueError: the content is no fusion network.
        """
        meta = read_metadata(content)
        if KEY not in meta:
            raise ValueError(f"not a fusion network: its metadata names {sorted(meta)}")
        return cls.from_state(load(content), json.loads(meta[KEY]))


def as_tensors(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Each of the arrays as a tensor, without a copy where there need be none."""
    return {name: torch.as_tensor(values) for name, values in arrays.items()}


def check_clips(
    features: Mapping[str, Tensor], present: Mapping[str, Tensor], widths: Mapping[str, int]
) -> None:
    """Raises ValueError where features and presence do not fit each other or the widths."""
    missing = [name for name in widths if name not in features or name not in present]
    if missing:
        raise ValueError(
            f"no features of {missing}; give every stream of {list(widths)}, absent or not"
        )
    count = len(present[next(iter(widths))])
    for name, width in widths.items():
        if tuple(features[name].shape) != (count, width):
            shape = tuple(features[name].shape)
            raise ValueError(f"features of {name!r} must be ({count}, {width}), got {shape}")
        if tuple(present[name].shape) != (count,) or present[name].dtype != torch.bool:
            raise ValueError(f"presence of {name!r} must be ({count},) bool")
        bad = ~torch.isfinite(features[name]).all(1) & present[name]
        if bad.any():
            rows = shown(bad.nonzero()[:, 0].tolist())
            raise ValueError(f"features of {name!r} hold NaN or infinity in rows {rows}")
    none = ~torch.stack([present[name] for name in widths]).any(0)
    if none.any():
        rows = shown(none.nonzero()[:, 0].tolist())
        raise ValueError(f"clips at rows {rows} have none of {list(widths)}")
