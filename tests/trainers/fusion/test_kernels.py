"""χ² kernels against scikit-learn's, and kernels between clips that lack streams."""

import numpy as np
import pytest
from made_clips import make, split
from sklearn.metrics.pairwise import additive_chi2_kernel, chi2_kernel

from trainers.fusion.kernels import Chi2Kernel, ClipKernels, chi2_distances

pytestmark = pytest.mark.usefixtures("one_thread")


def test_distances_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    x, y = random.random((130, 33)) * 5, random.random((71, 33))
    x[x < 1] = 0
    y[y < 0.3] = 0
    x[3] = y[5] = 0
    for threads in (1, 3):
        found = chi2_distances(x, y, threads=threads)
        np.testing.assert_allclose(found, -additive_chi2_kernel(x, y), rtol=1e-5, atol=1e-6)


def test_the_kernel_is_scikit_learns_at_the_mean_distance() -> None:
    made, new = split(make())
    kernel = Chi2Kernel(made.features["a"])
    mean = -additive_chi2_kernel(made.features["a"]).mean()
    assert kernel.scale == pytest.approx(mean, rel=1e-5)
    np.testing.assert_allclose(
        kernel(new.features["a"]),
        chi2_kernel(new.features["a"], made.features["a"], gamma=1 / mean),
        atol=1e-5,
    )
    np.testing.assert_allclose(kernel(made.features["a"]), kernel.gram, atol=1e-7)


def test_negative_features_are_shifted_by_the_training_clips() -> None:
    random = np.random.default_rng(1)
    x, y = random.standard_normal((20, 4)), random.standard_normal((7, 4))
    shift = np.minimum(x.min(0), 0)
    shifted = Chi2Kernel(x - shift)
    np.testing.assert_allclose(Chi2Kernel(x)(y), shifted(np.maximum(y - shift, 0)), atol=1e-6)
    with pytest.raises(ValueError, match="0 or more"):
        chi2_distances(x, y)


def test_clips_that_lack_streams_keep_kernels_positive_with_diagonal_one() -> None:
    made = make(40, absent=0.4)
    kernels = ClipKernels(made)
    grams = kernels.training().astype(float)
    for gram in grams:
        np.testing.assert_allclose(gram, gram.T)
        assert np.linalg.eigvalsh(gram).min() > -1e-5
    mean = grams.mean(0)
    np.testing.assert_allclose(np.diag(mean), 1, atol=1e-6)
    only_a = made.present["a"] & ~made.present["b"]
    only_b = made.present["b"] & ~made.present["a"]
    assert only_a.any() and only_b.any()
    assert not mean[np.ix_(only_a, only_b)].any()
    np.testing.assert_allclose(kernels.between(made), grams, atol=1e-6)
