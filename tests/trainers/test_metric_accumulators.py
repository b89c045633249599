"""Measures of more scores than memory holds: their values, their memory and their files."""

import errno
import gc
import os
import pickle
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from trainers.metrics import measures as metrics
from trainers.metrics.accumulators import AveragePrecisions, GapAtK, Summary
from trainers.metrics.score_spill import RankedScores, Spill

SMALL = 20_000
"""Bytes."""


def drawn(n, c, seed=0, ties=False):
    random = np.random.default_rng(seed)
    scores = random.random((n, c))
    return (np.round(scores, 2) if ties else scores), random.random((n, c)) < 0.1


def fill(accumulator, scores, truth, order):
    for rows in order:
        accumulator.update(scores[rows], truth[rows])
    return accumulator


def files():
    """Open files without a name."""
    return sum(" (deleted)" in os.readlink(one) for one in Path("/proc/self/fd").iterdir()
               if one.is_symlink())  # fmt: skip


@pytest.mark.parametrize("ties", [False, True])
def test_on_disk_and_in_memory_give_one_value_whatever_the_batches(ties, tmp_path):
    scores, targets = drawn(900, 30, ties=ties)
    labels = np.random.default_rng(1).integers(30, size=900)
    random = np.random.default_rng(2)
    for several, truth in ((True, targets), (False, labels)):
        expected = metrics.summary(scores, truth, multi_label=several)
        for seed in range(3):
            random = np.random.default_rng(seed)
            order = np.array_split(random.permutation(900), [1, 7, 150, 151, 600])
            with Summary(30, several, memory=SMALL, folder=tmp_path) as one:
                fill(one, scores, truth, order[:3])
                with Summary(30, several, memory=SMALL) as two:
                    one.merge(fill(two, scores, truth, order[3:]))
                    assert two.precisions.compute().value > 0, "merging leaves the other whole"
                found = one.compute()
                assert found == pytest.approx(expected, abs=1e-12)
                assert found["map"] == expected["map"], "column by column: to the last bit"
                assert one.compute() == found


def test_memory_grows_by_one_class_of_the_videos_not_by_all():
    def peak(n, c):
        """Peak bytes of update and compute, and of what is held between them."""
        random = np.random.default_rng(0)
        tracemalloc.start()
        with (
            AveragePrecisions(c, memory=SMALL) as precisions,
            AveragePrecisions(c, k=5, memory=SMALL) as best,
            GapAtK(10, memory=SMALL) as gap,
        ):
            for _ in range(n // 50):
                scores, targets = random.random((50, c)), random.random((50, c)) < 0.1
                for one in (precisions, best, gap):
                    one.update(scores, targets)
            held = tracemalloc.get_traced_memory()[0]
            for one in (precisions, best, gap):
                one.compute()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held, found

    held, few = peak(300, 60)
    held_more, many = peak(3000, 60)
    # All scores of the larger set are 1.6 MB; of one class 27 kB, and a few copies while it ranks.
    assert held < 6 * SMALL and held_more < 6 * SMALL
    assert many < few + 3000 * 80 < 5e5


def test_files_go_with_what_made_them(tmp_path):
    scores, targets = drawn(300, 20)
    before = files()
    with GapAtK(20, memory=100, folder=tmp_path) as gap:
        gap.update(scores, targets)
        assert files() == before + 1
    assert files() == before
    with pytest.raises(ValueError, match="let go by close"):
        gap.compute()
    with pytest.raises(ValueError, match="let go by close"):
        gap.update(scores, targets)
    forgotten = AveragePrecisions(20, memory=100, folder=tmp_path).update(scores, targets)
    assert files() == before + 1
    del forgotten
    gc.collect()
    assert files() == before and not list(tmp_path.iterdir())
    small = AveragePrecisions(20).update(scores, targets)
    assert files() == before, "what fits makes no file"
    again = pickle.loads(pickle.dumps(small))  # noqa: S301  as Ray hands it over
    assert again.merge(small).compute().value == pytest.approx(
        metrics.mean_average_precision(np.tile(scores, (2, 1)), np.tile(targets, (2, 1))).value
    )
    with pytest.raises(TypeError, match="stay in their process"):
        pickle.dumps(AveragePrecisions(20, memory=100).update(scores, targets))


def test_a_full_disk_is_told():
    spill = Spill(folder="/a folder")

    class Full:
        def seek(self, *_):
            return 0

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    spill._file = Full()
    with pytest.raises(OSError, match="No space left on device: scores in /a folder; give"):
        spill.write(np.zeros(3))
    with pytest.raises(ValueError, match="at least 1 byte"):
        Spill(0)


MEASURES = [
    (lambda **kept: GapAtK(5, **kept), lambda s, t: metrics.gap_at_k(s, t, 5)),
    (
        lambda **kept: AveragePrecisions(20, **kept),
        lambda s, t: metrics.mean_average_precision(s, t).value,
    ),
]


def value(measure):
    found = measure.compute()
    return found if isinstance(found, float) else found.value


@pytest.mark.parametrize("make, expected", MEASURES)
@pytest.mark.parametrize("batches", [1, 2, 3])
def test_no_figure_after_scores_that_could_not_be_written(make, expected, batches, monkeypatch):
    scores, targets = drawn(300, 20)
    measure = make(memory=2_000)
    parts = np.array_split(np.arange(300), 3)
    fill(measure, scores, targets, parts[: batches - 1])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Spill, "write", full)
        with pytest.raises(OSError, match="No space left"):
            fill(measure, scores, targets, parts[batches - 1 :])
    for use in (
        measure.compute,
        lambda: measure.update(scores, targets),
        lambda: measure.merge(make().update(scores, targets)),
        lambda: make().update(scores, targets).merge(measure),
    ):
        with pytest.raises(ValueError, match="is lost.*No space left on device.*start again"):
            use()
    again = fill(make(memory=2_000), scores, targets, parts)
    assert value(again) == pytest.approx(expected(scores, targets), abs=1e-12)


def test_no_summary_after_scores_that_could_not_be_written(tmp_path):
    scores, targets = drawn(300, 20)
    for folder in ("precisions", "gap"):
        with Summary(20, True, memory=100, folder=tmp_path) as summary:
            getattr(summary, folder).kept.spill.folder = tmp_path / "missing"
            with pytest.raises(FileNotFoundError):
                summary.update(scores, targets)
            with pytest.raises(ValueError, match="is lost"):
                summary.compute()


@pytest.mark.parametrize("make, expected", MEASURES)
def test_what_fits_needs_no_file_even_to_be_computed(make, expected, tmp_path):
    scores, targets = drawn(300, 20, ties=True)
    nowhere = tmp_path / "missing"
    before = files()
    measure = make(folder=nowhere).update(scores[:100], targets[:100])
    for _ in range(2):
        found = value(measure)
        assert found == pytest.approx(expected(scores[:100], targets[:100]), abs=1e-12)
    assert files() == before and not nowhere.exists()
    other = pickle.loads(pickle.dumps(measure))  # noqa: S301  as Ray hands it over
    measure.update(scores[100:200], targets[100:200])
    other.update(scores[200:], targets[200:])
    whole = np.concatenate([scores[:200], scores[:100], scores[200:]])
    marks = np.concatenate([targets[:200], targets[:100], targets[200:]])
    assert value(measure.merge(other)) == pytest.approx(expected(whole, marks), abs=1e-12)
    assert files() == before


def test_the_example_of_the_documentation_gives_the_figures_of_all_clips():
    page = (Path(__file__).parents[2] / "docs" / "refinement.md").read_text()
    start = page.index("    from trainers.metrics.accumulators import")
    example = page[start : page.index("\n**", start)]
    scores, targets = drawn(90, 200)
    names = {"batches": zip(np.split(scores, 3), np.split(targets, 3), strict=True)}
    exec(textwrap.dedent(example), names)
    assert names["figures"] == pytest.approx(metrics.summary(scores, targets, multi_label=True))


def test_a_file_holds_as_many_bytes_as_is_told():
    scores, targets = drawn(300, 50)
    gap = GapAtK(20, memory=1).update(scores, targets)
    assert gap.kept.spill._file.seek(0, 2) == 300 * 20 * 24
    best = AveragePrecisions(50, 20, memory=1).update(scores, targets)
    assert best.kept.spill._file.seek(0, 2) == 300 * 20 * 9 + 51 * 8


def test_ranked_scores_come_best_first_with_equal_ones_in_one_step():
    random = np.random.default_rng(0)
    with RankedScores(memory=500) as ranked:
        scores = np.round(random.random(3000), 3)
        relevant = random.random(3000) < 0.3
        for part in np.array_split(np.arange(3000), 17):
            ranked.add(scores[part], relevant[part])
        steps = list(ranked.steps())
    assert len(steps) > 1
    values, seen, found = (np.concatenate(columns) for columns in zip(*steps, strict=True))
    assert (np.diff(values) < 0).all()
    for value, entries, marked in zip(values, seen, found, strict=True):
        assert entries == (scores == value).sum() and marked == relevant[scores == value].sum()


@pytest.mark.parametrize("measure", [GapAtK(memory=50), AveragePrecisions(4, memory=50)])
def test_labels_that_never_occur(measure):
    measure.update(np.random.default_rng(0).random((40, 4)), np.zeros((40, 4), int))
    if isinstance(measure, GapAtK):
        with pytest.raises(ValueError, match="at least one positive"):
            measure.compute()
    else:
        assert np.isnan(measure.compute().value) and len(measure.compute().left_out) == 4
