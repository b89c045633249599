"""M-DBM: a multimodal deep Boltzmann machine with a discriminative layer on top.

The machine (`boltzmann`) is trained without labels. The discriminative layer is a linear one on the
joint layer's mean-field probabilities, fitted by cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax, softmax

from trainers.fit.folds import Fold
from trainers.fusion.boltzmann import DBMSettings, fit_machine
from trainers.fusion.method import Bools, Floats, Method, Standardizer
from trainers.table import Table

STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
"""Grid of the discriminative layer's weight decay, the strongest first."""


class MultimodalDBM(Method):
    """The machine and its discriminative layer.

    Args:
        settings: of the machine; its defaults without any.
        strengths: grid of the discriminative layer's weight decay.
    """

    absence = "its visible units are inferred by the mean field"

    def __init__(
        self,
        settings: DBMSettings | None = None,
        *,
        strengths: Sequence[float] = STRENGTHS,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.settings, self.strengths = settings or DBMSettings(), tuple(strengths)

    def _fit(self, clips: Table) -> None:
        self.standardize = Standardizer(clips)
        visible, there = self._arrays(clips)
        self.machine = fit_machine(visible, there, self.settings, seed=self.seed)
        joint = self.representation(clips)
        # The joint layer's units differ in how much they vary from clip to clip.
        self.center, self.spread = joint.mean(0), np.maximum(joint.std(0), 1e-3)
        inputs = (joint - self.center) / self.spread
        targets = clips.targets.dense(np.float64)

        def held_out(strength: float, parts: list[Fold]) -> Floats:
            scores = np.zeros(targets.shape)
            for train, held in parts:
                layer = self._layer(inputs[train], targets[train], strength)
                scores[held] = layer(inputs[held])
            return scores

        strength, _ = self._choose(clips, self.strengths, held_out)
        self.layer = self._layer(inputs, targets, strength)
        self.chosen["strength"] = strength

    def representation(self, clips: Table) -> Floats:
        """(N, joint) mean-field probabilities of the joint layer."""
        visible, there = self._arrays(clips)
        return self.machine.infer(visible, there, self.settings.mean_field_steps).joint

    def _scores(self, clips: Table) -> Floats:
        return self.layer((self.representation(clips) - self.center) / self.spread)

    def _arrays(self, clips: Table) -> tuple[list[Floats], list[Bools]]:
        return list(self.standardize(clips).values()), list(clips.present.values())

    def _layer(self, inputs: Floats, targets: Floats, strength: float) -> LinearLayer:
        return LinearLayer.fit(inputs, targets, strength, multi_label=self.multi_label)


@dataclass(frozen=True)
class LinearLayer:
    """Softmax, or multi-label sigmoid, regression."""

    weights: Floats
    """(D, C)."""
    bias: Floats
    """(C,)."""
    multi_label: bool

    def __call__(self, inputs: Floats) -> Floats:
        logits = inputs @ self.weights + self.bias
        return expit(logits) if self.multi_label else softmax(logits, axis=1)

    @classmethod
    def fit(
        cls, inputs: Floats, targets: Floats, strength: float, *, multi_label: bool
    ) -> LinearLayer:
        """Least mean cross-entropy plus strength/2 of the weights' squares."""
        n, width = inputs.shape
        classes = targets.shape[1]

        def loss(vector: Floats) -> tuple[float, Floats]:
            weights, bias = vector[:-classes].reshape(width, classes), vector[-classes:]
            logits = inputs @ weights + bias
            if multi_label:
                chance = targets * log_expit(logits) + (1 - targets) * log_expit(-logits)
                slope = (expit(logits) - targets) / n
            else:
                chance = targets * log_softmax(logits, axis=1)
                slope = (softmax(logits, axis=1) - targets) / n
            # The biases get a faint share, so that a class without any clip stays finite.
            value = -chance.sum() / n + strength / 2 * (weights**2).sum() + 5e-5 * (bias**2).sum()
            gradient = inputs.T @ slope + strength * weights
            return value, np.concatenate([gradient.ravel(), slope.sum(0) + 1e-4 * bias])

        start = np.zeros(width * classes + classes)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
        return cls(found[:-classes].reshape(width, classes), found[-classes:], multi_label)
