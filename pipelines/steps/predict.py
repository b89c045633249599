"""Prediction: videos in, rows out; many are shared out over Ray."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from actors.errors import MediaError, UserError, nearest
from actors.storage import Storage
from pipelines.cli.model_settings import PredictSettings
from pipelines.data.media import media_below
from pipelines.report.predictions import (
    SHOWN,
    check_output,
    in_words,
    predictions_table,
    write_predictions,
)
from pipelines.steps.console import Console
from pipelines.steps.fingerprint import fingerprint

if TYPE_CHECKING:
    from trainers.prediction import PredictionRow

TABLES = (".csv", ".parquet")


def predict(
    inputs: Sequence[str], settings: PredictSettings, console: Console
) -> list[PredictionRow]:
    """Predicts, shows and writes; one row per video, in the order of the inputs.

    Raises:
        UserError: an input that does not exist, no such model, an output that can't be written.
    """
    check_output(settings.output, embeddings=settings.embeddings)
    if settings.refinement is not None and not Path(settings.refinement).is_file():
        raise UserError(f"--refinement {settings.refinement} does not exist; give a file that "
                        "pipelines/refine.py wrote")  # fmt: skip
    paths = find_videos(inputs)
    model = find_model(settings)
    with console.stage("predict", total=len(paths), unit="videos") as progress:
        predicted = predict_paths(
            model, paths, settings, on_row=lambda done: progress.update(done, len(paths))
        )
    rows = [row if settings.embeddings else {**row, "embedding": []} for row in predicted]
    if settings.output:
        write_predictions(rows, Path(settings.output), embeddings=settings.embeddings)
    console.rich.print(predictions_table(rows[:SHOWN]))
    console.say(in_words(rows, settings.output), markup=False)
    return rows


def find_videos(inputs: Sequence[str]) -> list[str]:
    """The videos that files, folders and manifests name, each path once, in order.

    Raises:
        UserError: an input that does not exist; a folder without media; a manifest that can't be
            read or has no column ``path``.
    """
    if not inputs:
        raise UserError("no videos; give files, a folder, or a .csv or .parquet table with a path")
    paths: list[str] = []
    for text in inputs:
        place = Path(text).expanduser()
        if not place.exists():
            raise UserError(f"{text} does not exist; give videos, a folder or a table of paths")
        if place.is_dir():
            found = [str(place / name) for name in media_below(place)]
            if not found:
                raise UserError(f"{text} has no video or sound files; give another folder")
            paths += found
        elif place.suffix.lower() in TABLES:
            paths += _listed(place)
        else:
            paths.append(str(place))
    return list(dict.fromkeys(paths))


def _listed(table: Path) -> list[str]:
    """The column ``path`` of a table; relative paths are relative to the table's folder."""
    try:
        if table.suffix.lower() == ".parquet":
            content = pq.read_table(table)
        else:
            content = pyarrow.csv.read_csv(table)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{table} can't be read as a table: {error}") from error
    if "path" not in content.column_names:
        columns = content.column_names
        raise UserError(
            f"{table} has no column 'path'; it has {', '.join(columns)}{nearest('path', columns)}"
        )
    return [str(table.parent / str(path)) for path in content["path"].to_pylist() if path]


def find_model(settings: PredictSettings) -> Storage:
    """The folder of the model, fetched from the registry if it is there.

    Raises:
        UserError: there is no such model.
    """
    if settings.model.startswith(("models:", "runs:")):
        from pipelines.tracking.registry import download
        from pipelines.tracking.runs import Tracker

        tracker = Tracker(settings.tracking, Storage(settings.storage))
        tracker.reach()
        return download(tracker, settings.model)
    return Storage(settings.model)


def predict_paths(
    model: Storage,
    paths: Sequence[str],
    settings: PredictSettings,
    *,
    on_row: Any = lambda done: None,
) -> list[PredictionRow]:
    """A row per path, in order; many are shared out by Ray, a few are done in this process."""
    from trainers.prediction import ClipPredictor, empty_row

    if len(paths) >= settings.share_out_from:
        return _predict_shared(model, paths, settings, on_row)
    predictor = ClipPredictor(
        model,
        top=settings.top,
        device=settings.device,
        precision=settings.precision,
        refinement=_refinement(settings),
    )
    rows = []
    for done, path in enumerate(paths, start=1):
        try:
            rows.append(predictor({"path": path}))
        except MediaError as error:
            rows.append(empty_row(predictor.predictor, path, str(error)))
        on_row(done)
    return rows


def _predict_shared(
    model: Storage, paths: Sequence[str], settings: PredictSettings, on_row: Any
) -> list[PredictionRow]:
    """Through a pool of actors; what an interrupted job had done is not done again."""
    import ray

    from actors.artifact import artifact_name
    from actors.pool.run import PoolResources, run_pool
    from pipelines.steps.cluster import ray_session
    from pipelines.steps.opening import quiet_libraries
    from pipelines.tracking.registry import digest
    from trainers.model_files import from_files, read_files
    from trainers.prediction import ClipPredictor, empty_row

    files, refinement = read_files(model), _refinement(settings)
    if refinement is not None:
        # Here, not first in every actor: a refinement that does not fit is the user's mistake.
        ClipPredictor(model, top=settings.top, device="cpu", refinement=refinement)
    mark = digest(files if refinement is None else {**files, "--refinement": refinement})
    precision = f"-{settings.precision}" if settings.precision else ""
    folder = Storage(settings.storage).join("predict", f"{mark}-{settings.top}{precision}")
    copy = folder.join("model")
    for name, content in reversed(files.items()):
        if not copy.exists(name):
            copy.write_bytes(name, content)
    tasks = [{"id": p, "name": artifact_name(_stamp(p)), "path": p} for p in absolute(paths)]
    quiet_libraries()
    with nullcontext() if ray.is_initialized() else ray_session():
        ledger = run_pool(
            tasks,
            partial(
                ClipPredictor,
                copy,
                top=settings.top,
                device=settings.device,
                precision=settings.precision,
                refinement=refinement,
            ),
            storage=folder,
            resources=PoolResources.for_cluster(gpus_per_actor=settings.gpus),
            on_row=lambda done, total, row: on_row(done),
            artifacts=False,
        )
    predictor = from_files(files)
    return [
        {**entry["facts"], "path": path}
        if entry["ok"]
        else empty_row(predictor, path, f"{entry['kind']}: {entry['message']}")
        for path, entry in zip(paths, ledger, strict=True)
    ]


def _refinement(settings: PredictSettings) -> bytes | None:
    """Content of the file, which is known to hold a refinement.

    Raises:
        UserError: it does not.
    """
    if settings.refinement is None:
        return None
    from trainers.refinement.fitted import FittedRefinement

    content = Path(settings.refinement).read_bytes()
    FittedRefinement.from_bytes(content, where=settings.refinement)
    return content


def absolute(paths: Iterable[str]) -> list[str]:
    """Paths as another process finds them."""
    return [str(Path(path).absolute()) for path in paths]


def _stamp(path: str) -> str:
    """Names this very content of this file: what was predicted of an older one does not count."""
    file = Path(path)
    state = file.stat() if file.exists() else None
    seen = [state.st_size, state.st_mtime_ns] if state else None
    return f"{file.stem}-{fingerprint(str(file), seen)}"
