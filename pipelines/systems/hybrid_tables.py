"""The rows of the Hybrid paper's Tables I, II and III, each computed from one split's clips."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.systems.hybrid_rows import Members
from pipelines.systems.rows import RowInputs, RowResult, TableRow
from trainers.fusion.boltzmann import DBMSettings
from trainers.fusion.dbm import MultimodalDBM
from trainers.fusion.method import LateFusion, Method
from trainers.fusion.nn import EarlyFusionNetwork, FusionMethod
from trainers.fusion.rdnn import GRID, RDNN
from trainers.fusion.svm import COSTS, KernelSVM
from trainers.refinement.confusion import confusion_refinement, refine
from trainers.settings import FusionSettings

if TYPE_CHECKING:
    from pipelines.steps.step import Work
    from pipelines.systems.hybrid_settings import HybridSettings

DECAYS = (0.1, 1.0, 10.0)
"""Grid of the networks' lambda1, in parts of the fusion network's own."""


PRIOR = "such a clip gets the classes' shares of the training clips"
MEAN = "the mean is over the systems that the clip has"
SCALED = "the terms of the systems that the clip has are scaled up by those that it lacks"


def mean_of(*names: str) -> Callable[[RowInputs], RowResult]:
    """The plain mean of systems' scores; a clip that has none of them gets the prior."""

    def compute(inputs: RowInputs) -> RowResult:
        chosen = [inputs.systems[name] for name in names]
        there = np.stack([system.present for system in chosen])
        total = sum(np.where(s.present[:, None], s.scores, 0.0) for s in chosen)
        prior = inputs.part("train").targets.shares().astype(np.float32)
        counts = there.sum(0)[:, None]
        mean = np.where(counts > 0, total / np.maximum(counts, 1), prior)
        return RowResult(mean[inputs.table.rows("test")], {})

    return compute


def fitted(make: Callable[[RowInputs], Method]) -> Callable[[RowInputs], RowResult]:
    """An estimator fitted on the training clips."""

    def compute(inputs: RowInputs) -> RowResult:
        method = make(inputs).fit(inputs.part("train"))
        return RowResult(method.predict_scores(inputs.part("test")), method.chosen)

    return compute


def whole(inputs: RowInputs) -> RowResult:
    """The plain mean of both LSTMs' and the fusion network's scores (section III-D)."""
    scores = np.asarray(inputs.systems["hybrid"].scores, np.float64)
    return RowResult(scores[inputs.table.rows("test")], {})


def by_confusions(inputs: RowInputs) -> RowResult:
    """Contextual refinement as printed (Eq. 6 and 7); single-label scores are brought to sum 1."""
    scores, table = inputs.systems["hybrid"].scores, inputs.table
    held, test = table.rows("val"), table.rows("test")
    matrix = np.eye(scores.shape[1])
    if len(held):
        matrix = confusion_refinement(scores[held], table.targets[held].dense(int))
    return RowResult(refine(scores[test], matrix, normalize=not table.multi_label), {})


def refined(method: str) -> Callable[[RowInputs], RowResult]:
    """The ensemble refined as the job has it already; as it is where no clip was held out."""

    def compute(inputs: RowInputs) -> RowResult:
        name = f"refined_{method}"
        if name not in inputs.systems:
            return replace(whole(inputs), chosen={"note": "no validation clips to fit it on"})
        note = inputs.notes.get(method)
        return replace(mean_of(name)(inputs), chosen={"note": note} if note else {})

    return compute


WHOLES: Mapping[str, tuple[str, Callable[[RowInputs], RowResult]]] = {
    "hybrid": ("Hybrid", whole),
    "hybrid_dasd": ("Hybrid + DASD", refined("dasd")),
    "hybrid_confusion": ("Hybrid + contextual refinement", by_confusions),
    "hybrid_learned": ("Hybrid + learned refinement", refined("learned")),
}
"""Rows of Table III: name -> label, and how it is computed."""


def _networks(inputs: RowInputs) -> list[FusionSettings]:
    """Settings of networks without the fusion layer's regularizers, over the grid of lambda1."""
    own = replace(inputs.settings, lambda2=0.0, lambda3=0.0)
    return [replace(own, lambda1=own.lambda1 * share) for share in DECAYS]


def svm(*streams: str) -> Callable[[RowInputs], RowResult]:
    return fitted(lambda m: KernelSVM(streams=streams or None, seed=m.seed))


def svm_late(inputs: RowInputs) -> Method:
    return LateFusion(lambda s: KernelSVM(streams=[s], seed=inputs.seed), seed=inputs.seed)


def nn_early(inputs: RowInputs) -> Method:
    return EarlyFusionNetwork(_networks(inputs), validation=inputs.validation, seed=inputs.seed)


def nn_late(inputs: RowInputs) -> Method:
    held = inputs.validation

    def single(stream: str) -> Method:
        own = held if held is not None and held.present[stream].any() else None
        return EarlyFusionNetwork(
            _networks(inputs), validation=own, streams=[stream], seed=inputs.seed
        )

    return LateFusion(single, seed=inputs.seed)


def without_norms(inputs: RowInputs) -> Method:
    """The fusion network with lambda2 = lambda3 = 0, and a lambda1 of its own."""
    return FusionMethod(_networks(inputs), validation=inputs.validation, seed=inputs.seed)


def rows(members: Members) -> list[TableRow]:
    """All rows that these streams allow, in the order of the tables."""
    found = [*_table_1(members), *_table_2(members), *_table_3()]
    return [replace(row, published=PUBLISHED.get(row.name, (None, None))) for row in found]


def row_settings(settings: HybridSettings, work: Work) -> FusionSettings:
    """The fusion's settings, the found lambdas among them."""
    from pipelines.steps.fuse import fused_settings  # not in the workers that compute rows

    return fused_settings(work, settings.fusion)


def _table_1(members: Members) -> Iterator[TableRow]:
    encoders, sequences, pairs = members.encoders, members.sequences, members.pairs
    for s in members.streams:
        for row in [kind[s] for kind in (encoders, sequences) if s in kind]:
            yield TableRow(row, members.label(row, s), 1, PRIOR, mean_of(row))
    for s in pairs:
        both = mean_of(encoders[s], sequences[s])
        yield TableRow(f"{s}_cnn_lstm", members.pair_label([s]), 1, PRIOR, both)
    everything = [row for s in pairs for row in (encoders[s], sequences[s])]
    if len(pairs) > 1:
        yield TableRow("cnn_lstm", members.pair_label(pairs), 1, MEAN, mean_of(*everything))
    for s in encoders:
        if s not in pairs and pairs:
            label = f"{members.pair_label(pairs)} + {s.capitalize()}"
            yield TableRow(f"cnn_lstm_{s}", label, 1, MEAN, mean_of(*everything, encoders[s]))


def _table_2(members: Members) -> Iterator[TableRow]:
    for s in members.streams:
        yield TableRow(f"{s}_svm", f"{s.capitalize()} SVM", 2, PRIOR, svm(s), COSTS)
    early, late = KernelSVM.absence, LateFusion.absence
    mkl = fitted(lambda m: KernelSVM("mkl", seed=m.seed))
    yield TableRow("svm_ef", "SVM-EF", 2, early, svm(), COSTS)
    yield TableRow("svm_lf", "SVM-LF", 2, late, fitted(svm_late), COSTS)
    yield TableRow("svm_mkl", "SVM-MKL", 2, early, mkl, COSTS)
    yield TableRow("nn_ef", "NN-EF", 2, EarlyFusionNetwork.absence, fitted(nn_early), DECAYS)
    yield TableRow("nn_lf", "NN-LF", 2, late, fitted(nn_late), DECAYS)
    dbm = fitted(lambda m: MultimodalDBM(seed=m.seed))
    yield TableRow("m_dbm", "M-DBM", 2, MultimodalDBM.absence, dbm, DBMSettings())
    rdnn = fitted(lambda m: RDNN(_rdnn_grid(m), seed=m.seed))
    yield TableRow("rdnn", "RDNN", 2, RDNN.absence, rdnn, GRID)
    absence = FusionMethod.absence
    plain = fitted(without_norms)
    yield TableRow("fusion_plain", "Non-regularized fusion network", 2, absence, plain, DECAYS)
    label = members.fusion_label("fusion network")
    yield TableRow("fusion", label, 2, absence, mean_of("fusion"))


def _rdnn_grid(inputs: RowInputs) -> list[Any]:
    return [replace(settings, hidden=inputs.settings.hidden) for settings in GRID]


def _table_3() -> Iterator[TableRow]:
    for name, (label, compute) in WHOLES.items():
        yield TableRow(name, label, 3, SCALED if name == "hybrid_learned" else MEAN, compute)


PUBLISHED: Mapping[str, tuple[float, float]] = {
    "spatial_cnn": (0.801, 0.750),
    "spatial_lstm": (0.833, 0.433),
    "motion_cnn": (0.775, 0.589),
    "motion_lstm": (0.766, 0.547),
    "audio_cnn": (0.162, 0.215),
    "spatial_cnn_lstm": (0.840, 0.779),
    "motion_cnn_lstm": (0.814, 0.709),
    "cnn_lstm": (0.901, 0.817),
    "cnn_lstm_audio": (0.903, 0.824),
    "spatial_svm": (0.786, 0.744),
    "motion_svm": (0.782, 0.579),
    "audio_svm": (0.167, 0.221),
    "svm_ef": (0.869, 0.759),
    "svm_lf": (0.854, 0.751),
    "svm_mkl": (0.871, 0.756),
    "nn_ef": (0.866, 0.761),
    "nn_lf": (0.854, 0.754),
    "m_dbm": (0.870, 0.760),
    "rdnn": (0.884, 0.762),
    "fusion_plain": (0.872, 0.758),
    "fusion": (0.887, 0.767),
    "hybrid": (0.921, 0.840),
    "hybrid_dasd": (0.924, 0.842),
    "hybrid_confusion": (0.931, 0.845),
}
"""The paper's own figures: accuracy on UCF-101, mAP on CCV (Jiang et al., Tables I to III)."""


def compute_row(
    name: str, members: Members, inputs: RowInputs
) -> tuple[NDArray[np.float64], dict[str, Any], float]:
    """One row, on one thread: scores of the test clips, what it chose, seconds."""
    import torch

    torch.set_num_threads(1)
    row = next(row for row in rows(members) if row.name == name)
    begun = time.monotonic()
    outcome = row.compute(inputs)
    chosen = {key: _plain(value) for key, value in outcome.chosen.items()}
    return outcome.scores, chosen, time.monotonic() - begun


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
