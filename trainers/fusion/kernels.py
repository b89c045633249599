"""χ² kernels between clips' features, scaled by their mean distance, and clips that lack streams.

k(x, y) = exp(-χ²(x, y) / A) with χ²(x, y) = Σ_d (x_d - y_d)² / (x_d + y_d), where 0 / 0 is 0,
and A the mean of χ² over the training clips (Zhang et al., IJCV 2007).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from actors.flow.compiling import compiled
from trainers.fusion.method import Bools, Floats
from trainers.table import Table

BLOCK = 64
"""Clips of the second argument that stay in the cache while the first ones pass."""


@compiled()
def _distances(
    x: NDArray[np.float32], y: NDArray[np.float32], out: NDArray[np.float32], block: int
) -> None:
    tiny = np.float32(1e-30)
    for start in range(0, y.shape[0], block):
        stop = min(start + block, y.shape[0])
        for i in range(x.shape[0]):
            for j in range(start, stop):
                total = np.float32(0)
                for d in range(x.shape[1]):
                    # The tiny addend makes 0 / 0 zero, and vanishes beside anything else.
                    difference = x[i, d] - y[j, d]
                    total += difference * difference / (x[i, d] + y[j, d] + tiny)
                out[i, j] = total


def chi2_distances(x: Floats, y: Floats, *, threads: int = 1) -> NDArray[np.float32]:
    """(N, M) χ² distances of (N, D) and (M, D) features that are not negative.

    Raises:
        ValueError: widths that differ, a negative or infinite feature, NaN.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features of {x.shape} and {y.shape} have no common width")
    for values in (x, y):
        if values.size and not (values.min() >= 0 and values.max() < np.inf):
            raise ValueError(f"χ² needs features of 0 or more; the least is {values.min()}")
    left, right = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(y, np.float32)
    out = np.empty((len(x), len(y)), np.float32)
    with ThreadPoolExecutor(threads) as pool:
        parts = np.array_split(np.arange(len(x)), threads)
        done = [
            pool.submit(_distances, left[p[0] : p[-1] + 1], right, out[p[0] : p[-1] + 1], BLOCK)
            for p in parts
            if len(p)
        ]
        for one in done:
            one.result()
    return out


class Chi2Kernel:
    """The kernel of one feature, its scale and its shift taken from the training clips.

    A dimension that is negative in training (networks without a ReLU at that layer) is shifted so
    that its least training value is 0; values of new clips below that count as 0.

    Args:
        training: (n, D) features of the clips that have the stream.
        threads: that share the distances.
    """

    def __init__(self, training: Floats, *, threads: int = 1) -> None:
        self.threads = threads
        self.shift = np.minimum(training.min(0), 0.0)
        self.training = self._positive(training)
        distances = chi2_distances(self.training, self.training, threads=threads)
        self.scale = float(distances.mean(dtype=np.float64)) or 1.0
        self.gram: NDArray[np.float32] = np.exp(-distances / np.float32(self.scale))
        """(n, n) between the training clips."""

    def __call__(self, features: Floats) -> NDArray[np.float32]:
        """(N, n) between new clips and the training clips."""
        distances = chi2_distances(self._positive(features), self.training, threads=self.threads)
        return np.exp(-distances / np.float32(self.scale))

    def _positive(self, features: Floats) -> Floats:
        return np.maximum(features - self.shift, 0.0)


class ClipKernels:
    """One kernel per stream between clips that may lack some of them.

    Two clips are compared by the streams that both have. With n_i streams of S at clip i the
    kernel of a stream is p_i p_j k(i, j) S / √(n_i n_j), p being presence: a clip that has fewer
    streams weighs those it has by so much more. Each stays positive semi-definite, their mean has
    the diagonal 1, and where nothing is absent they are the plain kernels.
    """

    def __init__(self, clips: Table, *, threads: int = 1) -> None:
        self.kernels = {
            name: Chi2Kernel(values[clips.present[name]], threads=threads)
            for name, values in clips.features.items()
        }
        self.weights = _weights(clips)
        self.there = clips.there

    def training(self) -> NDArray[np.float32]:
        """(S, n, n) between the training clips."""
        out = np.zeros((len(self.kernels), *[len(self.there)] * 2), np.float32)
        for s, kernel in enumerate(self.kernels.values()):
            rows = np.flatnonzero(self.there[:, s])
            out[s][np.ix_(rows, rows)] = kernel.gram
        return out * self.weights[:, None] * self.weights

    def between(self, clips: Table) -> NDArray[np.float32]:
        """(S, N, n) between clips and the training clips."""
        out = np.zeros((len(self.kernels), len(clips), len(self.there)), np.float32)
        for s, (name, kernel) in enumerate(self.kernels.items()):
            rows, columns = clips.present[name], np.flatnonzero(self.there[:, s])
            if rows.any():
                found = kernel(clips.features[name][rows])
                out[s][np.ix_(np.flatnonzero(rows), columns)] = found
        return out * _weights(clips)[:, None] * self.weights


def _weights(clips: Table) -> NDArray[np.float32]:
    """(N,) √(S / n_i)."""
    there: Bools = clips.there
    return np.sqrt(there.shape[1] / there.sum(1)).astype(np.float32)
