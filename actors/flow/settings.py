"""Settings of the TV-L1 optical flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from actors.errors import UserError

SMALLEST_SIDE = 16
"""Smallest height and width, in pixels, of frames and pyramid scales, as in OpenCV."""


@dataclass(frozen=True)
class TVL1:
    """Duality-based TV-L1 optical flow, with the parameters of OpenCV's ``DualTVL1OpticalFlow``.

    Sources: Zach, Pock and Bischof, "A duality based approach for realtime TV-L1 optical flow"
    (2007); Sánchez, Meinhardt-Llopis and Facciolo, IPOL 2013, whose symbols these are.

    Raises:
        UserError: a value is out of its range.
    """

    tau: float = 0.25
    """Step of the dual variables' ascent; stable up to 0.25. In `primal_dual` the primal step."""
    lambda_: float = 0.15
    """Weight of the data term for intensities of 0..255; a smaller one gives smoother fields."""
    theta: float = 0.3
    """Coupling of the data term's solution to the smooth one; smaller is tighter."""
    scales: int = 5
    """Largest number of pyramid scales; scales of less than 16 pixels on a side are left out."""
    warps: int = 5
    """Number of warps of the second frame per scale."""
    epsilon: float = 0.01
    """Stop rule of a warp: the mean squared change of the flow in an iteration is at most epsilon
    squared. 0: no stop rule."""
    inner_iterations: int = 30
    """Iterations per round; the median filter runs before each round."""
    outer_iterations: int = 10
    """Largest number of rounds per warp."""
    scale_step: float = 0.8
    """Size of a pyramid scale relative to the next finer one."""
    median_filtering: int = 0
    """Side of the median filter on the flow before each round, in pixels: 3, 5, or 0 for none."""
    solver: Literal["alternating", "primal_dual"] = "alternating"
    """Kind of iteration. `alternating`: a thresholding step, then a dual step (Zach et al., as in
    OpenCV). `primal_dual`: Chambolle and Pock's first-order primal-dual algorithm (2011, Algorithm
    1) for the same energy, with the dual variables passed from scale to scale; it needs about half
    as many iterations."""
    sigma: float = 0.8
    """Dual step in `primal_dual`, where `tau` is the primal step;
    converges for 8 tau sigma below 4/3 (Banert, Upadhyaya and Giselsson, "The Chambolle-Pock method
    converges weakly with theta > 1/2 and tau sigma ||L||^2 < 4 / (1 + 2 theta)", 2023). Unused in
    `alternating`."""
    cubic: float = -0.75
    """Free parameter of the warp's bicubic interpolation: -0.75 as in OpenCV on the CPU, -0.5 as in
    Keys (1981) and in OpenCV's CUDA version."""

    def __post_init__(self) -> None:
        for name in ("tau", "lambda_", "theta", "sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(
                    f"flow: {name} is {getattr(self, name)!r}; it must be above 0 and finite"
                )
        if not 0 <= self.epsilon < math.inf:
            raise UserError(f"flow: epsilon is {self.epsilon!r}; it must be 0 or above, and finite")
        self._check_solver()
        if not -1 <= self.cubic <= 0:
            raise UserError(f"flow: cubic is {self.cubic!r}; it must lie between -1 and 0")
        for name in ("scales", "warps", "inner_iterations", "outer_iterations"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"flow: {name} is {value!r}; it must be a whole number, at least 1")
        if not 0 < self.scale_step < 1:
            raise UserError(
                f"flow: scale_step is {self.scale_step!r}; it must lie between 0 and 1, such as 0.8"
            )
        if self.median_filtering not in (0, 3, 5):
            raise UserError(
                f"flow: median_filtering is {self.median_filtering!r}; choose 3, 5, or 0 for none"
            )

    def _check_solver(self) -> None:
        if self.solver not in ("alternating", "primal_dual"):
            raise UserError(
                f"flow: solver is {self.solver!r}; choose 'alternating' or 'primal_dual'"
            )
        step = 8 * self.tau * self.sigma
        if self.solver == "primal_dual" and not step < 4 / 3:
            raise UserError(
                f"flow: tau {self.tau} and sigma {self.sigma} are too large for primal_dual: "
                f"8 tau sigma is {step:.3g}; it must be below 4/3"
            )


SCHEDULES = {
    "exact": TVL1(),
    "fast": TVL1(
        solver="primal_dual",
        tau=0.19,
        sigma=0.865,
        lambda_=0.22,
        scale_step=0.75,
        scales=8,
        warps=2,
        epsilon=0.0,
        inner_iterations=13,
        outer_iterations=1,
        cubic=-0.7,
    ),
}
"""Settings by name. `exact`: OpenCV's without the median filter. `fast`: fewer, fixed iterations.

The endpoint error of `fast` on Middlebury's pairs is at most 4 % above OpenCV's with the settings
of `exact`, and half of it for large motion, because `fast` has three more scales.
"""
