"""The tables' rows on made clips, where what each must give is known."""

from dataclasses import replace

import numpy as np
import pytest
from made_clips import make

from pipelines.systems.hybrid_rows import Members
from pipelines.systems.hybrid_settings import HybridSettings
from pipelines.systems.hybrid_streams import default_streams
from pipelines.systems.hybrid_tables import DECAYS, PUBLISHED, rows
from pipelines.systems.rows import RowInputs
from trainers.ensemble import mean_scores
from trainers.evaluation import SystemScores, ensemble_scores
from trainers.refinement.confusion import confusion_refinement, refine
from trainers.settings import FusionSettings
from trainers.table import Table

pytestmark = pytest.mark.usefixtures("one_thread")

STREAMS, LSTMS = ("spatial", "motion", "audio"), ("spatial", "motion")
MEMBERS = Members.of(HybridSettings())
AVERAGED = ("spatial_lstm", "motion_lstm", "fusion")


def row_inputs(multi_label: bool = False) -> RowInputs:
    """Clips of three streams, of which the last is often absent."""
    made = make(90, noise=0.3, multi_label=multi_label)
    random = np.random.default_rng(5)
    n, classes = len(made), made.targets.n_classes
    features = {s: made.features[name] for s, name in zip(STREAMS, "aba", strict=True)}
    present = {s: np.ones(n, bool) for s in STREAMS} | {"audio": random.random(n) < 0.5}

    def system(there: np.ndarray) -> SystemScores:
        scores = random.dirichlet(np.ones(classes), n) + made.targets.dense()
        scores /= scores.sum(1, keepdims=True)
        return SystemScores(np.where(there[:, None], scores, 0), there)

    systems = {f"{s}_cnn": system(present[s]) for s in STREAMS}
    systems |= {f"{s}_lstm": system(present[s]) for s in LSTMS}
    systems["fusion"] = system(np.ones(n, bool))
    systems["hybrid"] = ensemble_scores(systems, AVERAGED)
    return RowInputs(
        table=Table.of(
            {name: v.astype(np.float32) for name, v in features.items()},
            present,
            made.targets,
            groups=made.groups.astype(str),
            splits=np.repeat(["train", "val", "test"], [50, 16, 24]),
        ),
        systems=systems,
        settings=FusionSettings(hidden=8, max_epochs=15),
        seed=0,
    )


def test_every_row_of_the_paper_is_there_and_has_its_figures() -> None:
    names = [row.name for row in rows(MEMBERS)]
    assert len(set(names)) == len(names) and len(names) == 25
    assert set(names) - set(PUBLISHED) == {"hybrid_learned"}  # ours
    assert [row.table for row in rows(MEMBERS)] == [1] * 9 + [2] * 12 + [3] * 4
    alone = Members.of(HybridSettings({"audio": default_streams()["audio"]}))
    few = {row.name for row in rows(alone)}
    assert few == {
        *("audio_cnn", "audio_svm", "svm_ef", "svm_lf", "svm_mkl", "nn_ef", "nn_lf", "m_dbm"),
        *("rdnn", "fusion_plain", "fusion", "hybrid", "hybrid_dasd"),
        *("hybrid_confusion", "hybrid_learned"),
    }


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("row", [r for r in rows(MEMBERS) if r.name != "m_dbm"])
def test_each_row_scores_every_test_clip(row, multi_label: bool) -> None:
    made = row_inputs(multi_label)
    outcome = row.compute(made)
    assert outcome.scores.shape == (24, made.table.targets.n_classes)
    assert (outcome.scores >= 0).all() and (outcome.scores <= 1 + 1e-9).all()
    if not multi_label:
        np.testing.assert_allclose(outcome.scores.sum(1), 1, atol=1e-5)
    assert row.absence


def test_networks_without_regularizers_choose_their_own_decay() -> None:
    known = {row.name: row for row in rows(MEMBERS)}
    made = row_inputs()
    grid = {made.settings.lambda1 * share for share in DECAYS}
    for name in ("fusion_plain", "nn_ef"):
        chosen = known[name].compute(made).chosen
        assert chosen["lambda1"] in grid and len(grid) == 3 and "cross_validated" in chosen
        assert chosen.get("lambda2", 0) == chosen.get("lambda3", 0) == 0
    # A decay that leaves nothing of the weights is not the one that is chosen.
    wild = replace(made, settings=replace(made.settings, lambda1=0.1, max_epochs=60))
    assert known["fusion_plain"].compute(wild).chosen["lambda1"] == pytest.approx(0.01)


def test_a_refined_ensemble_is_taken_from_the_job_or_left_as_it_is() -> None:
    made = row_inputs()
    row = {row.name: row for row in rows(MEMBERS)}["hybrid_learned"]
    test = made.table.rows("test")
    np.testing.assert_array_equal(
        row.compute(made).scores, ensemble_scores(made.systems, AVERAGED).scores[test]
    )
    other = made.systems["fusion"]
    with_it = replace(made, systems={**made.systems, "refined_learned": other})
    np.testing.assert_allclose(row.compute(with_it).scores, other.scores[test])


def test_mean_rows_leave_absent_systems_out() -> None:
    made = row_inputs()
    known = {row.name: row for row in rows(MEMBERS)}
    test = made.table.rows("test")
    names = ["spatial_cnn", "spatial_lstm", "motion_cnn", "motion_lstm", "audio_cnn"]
    expected = mean_scores(
        {name: made.systems[name].scores for name in names},
        {name: made.systems[name].present for name in names},
    )
    found = known["cnn_lstm_audio"].compute(made).scores
    np.testing.assert_allclose(found, expected[test])
    alone, there = known["audio_cnn"].compute(made).scores, made.table.present["audio"][test]
    prior = made.part("train").targets.shares()
    assert not there.all()
    np.testing.assert_allclose(alone[~there], np.broadcast_to(prior, alone[~there].shape))


def test_the_refined_row_is_the_refined_hybrid() -> None:
    made = row_inputs()
    hybrid = ensemble_scores(made.systems, AVERAGED).scores
    held, test = made.table.rows("val"), made.table.rows("test")
    matrix = confusion_refinement(hybrid[held], made.table.targets[held].classes())
    known = {row.name: row for row in rows(MEMBERS)}
    np.testing.assert_allclose(
        known["hybrid_confusion"].compute(made).scores,
        refine(hybrid[test], matrix, normalize=True),
    )
    np.testing.assert_allclose(known["hybrid"].compute(made).scores, hybrid[test])
