"""Other ways to find flow, each called for one pair at a time; only what can be imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.flow.settings import TVL1

Pair = NDArray[np.uint8]
Field = NDArray[np.float32]
Contender = Callable[[Pair], Field]
"""uint8 (2, H, W) gray, or (2, 3, H, W) RGB for RAFT, to float32 (2, H, W)."""


def opencv_tvl1(settings: TVL1) -> Contender:
    """OpenCV's DualTVL1OpticalFlow with these parameters; ours has its names for them.

    It knows alternating iterations only. For primal-dual settings it makes as many of its own, at
    its own time step.
    """
    import cv2

    tau = settings.tau if settings.solver == "alternating" else TVL1.tau

    def find(pair: Pair) -> Field:
        # A new one each time: a small image lowers a solver's number of scales for good.
        solver = cv2.optflow.DualTVL1OpticalFlow_create(
            tau=tau,
            lambda_=settings.lambda_,
            theta=settings.theta,
            nscales=settings.scales,
            warps=settings.warps,
            epsilon=settings.epsilon,
            innnerIterations=settings.inner_iterations,
            outerIterations=settings.outer_iterations,
            scaleStep=settings.scale_step,
            gamma=0.0,
            medianFiltering=max(1, settings.median_filtering),
            useInitialFlow=False,
        )
        return solver.calc(pair[0], pair[1], None).transpose(2, 0, 1)

    return find


def set_opencv_threads(threads: int) -> None:
    import cv2

    cv2.setNumThreads(threads)


def side_by_side(find: Contender, pairs: Sequence[Pair], threads: int) -> list[Field]:
    """Pairs shared out over threads; OpenCV and torch release the interpreter's lock."""
    if threads == 1:
        return [find(pair) for pair in pairs]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(find, pairs))


def importable(name: str) -> bool:
    """Whether a package is there."""
    from importlib.util import find_spec

    return find_spec(name) is not None


def others() -> dict[str, Contender]:
    """DIS, Farneback, scikit-image's TV-L1 and RAFT, as far as they are there."""
    found: dict[str, Contender] = {}
    if importable("cv2"):
        found |= _opencv_others()
    if importable("skimage"):
        found["scikit-image TV-L1"] = _skimage
    return found | _rafts()


def _opencv_others() -> dict[str, Contender]:
    import cv2

    found: dict[str, Contender] = {}
    for name in ("ultrafast", "fast", "medium"):
        preset = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{name.upper()}")

        def dis(pair: Pair, preset: int = preset) -> Field:
            return cv2.DISOpticalFlow_create(preset).calc(*pair, None).transpose(2, 0, 1)

        found[f"OpenCV DIS {name}"] = dis

    def farneback(pair: Pair) -> Field:
        return cv2.calcOpticalFlowFarneback(
            *pair, None, pyr_scale=0.5, levels=5, winsize=15, iterations=3, poly_n=5,
            poly_sigma=1.2, flags=0,
        ).transpose(2, 0, 1)  # fmt: skip

    return found | {"OpenCV Farneback": farneback}


def _skimage(pair: Pair) -> Field:
    """scikit-image's own parameters, which take intensities for 0..1; `pip install .[bench]`."""
    from skimage.registration import optical_flow_tvl1

    rows, columns = optical_flow_tvl1(pair[0] / 255.0, pair[1] / 255.0)
    return np.stack([columns, rows]).astype(np.float32)


def _rafts() -> dict[str, Contender]:
    """RAFT where its weights are in torchvision's cache; nothing is fetched."""
    if not importable("torchvision"):
        return {}
    from torchvision.models import optical_flow

    from actors.flow.choice import RAFT
    from actors.flow.raft import RAFTEngine
    from actors.weights import cached_file

    found: dict[str, Contender] = {}
    for size in ("small", "large"):
        weights: Any = getattr(optical_flow, f"Raft_{size.capitalize()}_Weights")
        if cached_file(weights.DEFAULT).is_file():
            engine = RAFTEngine(RAFT(size=size))  # type: ignore[arg-type]
            found[f"RAFT {size}"] = lambda pair, engine=engine: engine(pair)[0]
    return found
