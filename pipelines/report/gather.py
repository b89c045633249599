"""Gathers what a job knows into the report: one HTML page, one JSON file, a table, MLflow."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from actors.artifact import ArtifactReader
from actors.flow import dequantize
from actors.media.sampling import uniform_positions
from actors.storage import Storage
from actors.streams import AUDIO, MOTION, SPATIAL
from pipelines.data.demo_clues import CLUES, VISIBLE, ceilings, clue_agreement
from pipelines.evaluate import VALIDATION_SCORES, Evaluated
from pipelines.extract import ExtractedClip, Extraction
from pipelines.report import (
    DataSummary,
    ExampleClip,
    MethodResult,
    ReportData,
    figure_files,
    methods_table,
    render_html,
    report_json,
)
from pipelines.steps.caching import plain
from pipelines.steps.job import Job, groups_in_words
from pipelines.tracking.provenance import versions
from pipelines.train import TrainedStream
from pipelines.tune import SEARCH_FOLDER, Tuned
from trainers.evaluation import MethodFigures, SystemScores, confusions, per_class_ap
from trainers.refinement.fitted import METHODS
from trainers.targets import Targets

FIGURES = ("accuracy", "mean_class_accuracy", "map", "hit5", "n")
"""What MLflow keeps of a method."""
EXAMPLES = 6
EXAMPLE_FRAMES = 4

LABELS = {
    "spatial_cnn": "Spatial CNN",
    "motion_cnn": "Motion CNN",
    "audio_cnn": "Audio CNN",
    "spatial_lstm": "Spatial LSTM",
    "motion_lstm": "Motion LSTM",
    "fusion": "Regularized fusion",
    "hybrid": "Hybrid (mean of LSTMs and fusion)",
    "refined_confusion": "Hybrid + contextual refinement",
    "refined_dasd": "Hybrid + DASD",
    "refined_learned": "Hybrid + learned refinement",
}


def report(
    job: Job,
    extraction: Extraction,
    trained: Mapping[str, TrainedStream],
    tuned: Tuned,
    evaluated: Evaluated,
    promotion: Mapping[str, Any] | None = None,
) -> ReportData:
    """Writes the report beside the run's tables, logs it, and prints the summary."""
    data = _gather(job, extraction, trained, tuned, evaluated, promotion or {})
    page, figures = render_html(data), report_json(data)
    job.files.write_bytes("report.html", page.encode())
    job.files.write_json("report.json", figures)
    if job.settings.report is not None:
        target = Path(job.settings.report).absolute()
        Storage(target.parent).write_json(target.name, figures)
    _log(job, data, page)
    _print_summary(job, data)
    return data


def _log(job: Job, data: ReportData, page: str) -> None:
    if job.run.finished and all(stage.cached for stage in data.stages):
        return
    job.run.log_text("report/report.html", page)
    for name, svg in figure_files(data).items():
        job.run.log_text(f"figures/{name}.svg", svg)
    metrics = {
        f"{method.name}.{key}": getattr(method, key) for method in data.methods for key in FIGURES
    }
    chosen = next((method for method in data.methods if method.chosen), None)
    if chosen is not None:
        metrics |= {f"refined.{key}": getattr(chosen, key) for key in FIGURES}
    job.run.log_metrics({name: value for name, value in metrics.items() if value is not None})
    job.run.log_table("rejected", job.files.read_table("rejected.parquet"))


def _print_summary(job: Job, data: ReportData) -> None:
    job.console.rich.print()
    job.console.rich.print(methods_table(data))
    job.console.say(f"\nrefinement  {data.refinement}", markup=False)
    if len({video.group for video in job.manifest.split("val")}) > 1:  # pipelines/refine.py's least
        job.console.say(f"            scores to try others on: {job.files.path(VALIDATION_SCORES)}")
    job.console.say(f"report      {job.files.path('report.html')}")
    if data.rejected:
        table = job.files.path("rejected.parquet")
        job.console.say(f"rejected    {len(data.rejected)} videos, listed in {table}")
    job.console.say(f"MLflow      {data.mlflow['ui_command']}")
    if data.mlflow["tensorboard_command"]:
        job.console.say(f"TensorBoard {data.mlflow['tensorboard_command']}")


def _gather(
    job: Job,
    extraction: Extraction,
    trained: Mapping[str, TrainedStream],
    tuned: Tuned,
    evaluated: Evaluated,
    promotion: Mapping[str, Any],
) -> ReportData:
    test = tuned.inputs.table.rows("test")
    targets = tuned.inputs.table.targets[test]
    on_test = {name: system.part(test) for name, system in evaluated.scores.items()}
    classes, multi_label = job.manifest.classes, job.manifest.multi_label
    before = on_test["hybrid"]
    after = on_test["refined"] if chosen_row(evaluated) != "hybrid" else None
    search = tuned.search.facts
    return ReportData(
        title=f"{job.manifest.name}: hybrid video classifier",
        command=job.command,
        started=job.started.strftime("%Y-%m-%d %H:%M UTC"),
        data=_summary(job, extraction),
        methods=_methods(job, tuned, evaluated, on_test, targets),
        seconds=(datetime.now(UTC) - job.started).total_seconds(),
        machine=machine(),
        versions=versions(),
        settings=plain(job.settings),
        confusion=None if multi_label else confusions(before, targets),
        confusion_refined=None if multi_label or after is None else confusions(after, targets),
        ap_before=per_class_ap(before, targets, classes),
        ap_after=None if after is None else per_class_ap(after, targets, classes),
        refinement=_refinement_words(evaluated),
        curves=_curves(trained, tuned),
        trials=search["trials"],
        best={"lambda2": search["lambda2"], "lambda3": search["lambda3"]}
        | {"score": search["score"]}
        | {k: tuned.fusion.facts[k] for k in ("zero_rows", "zero_entries")},
        stages=job.timings,
        rejected=extraction.rejected,
        examples=_examples(job, extraction, tuned, evaluated),
        mlflow=_mlflow(job, tuned, evaluated, promotion),
    )


def _summary(job: Job, extraction: Extraction) -> DataSummary:
    return DataSummary(
        name=job.manifest.name,
        fingerprint=job.manifest.fingerprint[:16],
        clips={
            split: sum(clip.video.split == split for clip in extraction.clips)
            for split in ("train", "val", "test")
        },
        classes=job.manifest.classes,
        multi_label=job.manifest.multi_label,
        absent={
            stream: sum(stream not in clip.streams for clip in extraction.clips)
            for stream in job.settings.chosen_streams
        },
        groups=groups_in_words(job.manifest),
        warnings=job.warnings,
        notes=job.notes,
    )


def chosen_row(evaluated: Evaluated) -> str:
    """The row of the table that is registered: ``hybrid`` or a ``refined_METHOD``."""
    name = f"refined_{evaluated.choice['method']}"
    return name if name in evaluated.figures else "hybrid"


def _refinement_words(evaluated: Evaluated) -> str:
    choice = evaluated.choice
    note = choice["notes"].get(choice["method"])
    words = METHODS[choice["method"]] + (f" ({note})" if note else "")
    return f"{words}: {choice['reason']}"


def _methods(
    job: Job,
    tuned: Tuned,
    evaluated: Evaluated,
    on_test: Mapping[str, SystemScores],
    targets: Targets,
) -> list[MethodResult]:
    """One row per method; two for a stream that some test clips lack."""
    known = _ceilings(job, on_test, targets)
    rows = []
    for name, label in LABELS.items():
        if name not in evaluated.figures:
            continue
        figures, (ceiling, share) = evaluated.figures[name], known.get(name, (None, None))
        note = "" if figures.n == figures.n_all else "clips that have the stream"
        chosen = name == chosen_row(evaluated)
        row = _row(
            name,
            label,
            figures,
            ceiling=ceiling,
            share=share,
            note=note,
            classes=len(job.manifest.classes),
        )
        rows.append(replace(row, chosen=True, note="chosen") if chosen else row)
        if note and figures.accuracy_all is not None:
            rows.append(
                MethodResult(
                    name=f"{name}_all",
                    label=label,
                    n=figures.n_all,
                    accuracy=figures.accuracy_all,
                    note="all clips; one without the stream counts as wrong",
                )
            )
    return rows


def _row(
    name: str,
    label: str,
    figures: MethodFigures,
    *,
    ceiling: float | None,
    share: float | None,
    note: str,
    classes: int,
) -> MethodResult:
    measures = figures.measures
    return MethodResult(
        name=name,
        label=label,
        n=figures.n,
        accuracy=measures.get("accuracy"),
        mean_class_accuracy=measures.get("mean_class_accuracy"),
        map=measures.get("map"),
        # With five classes or fewer it is 100 % whatever is guessed.
        hit5=measures.get("hit_at_5") if classes > 5 else None,
        ceiling=ceiling,
        share_of_ceiling=share,
        note=note,
    )


def _ceilings(
    job: Job, on_test: Mapping[str, SystemScores], targets: Targets
) -> dict[str, tuple[float, float]]:
    """Method -> (ceiling, share of it reached); only the demo's ceilings are known."""
    classes = job.manifest.classes
    if job.settings.data is not None or not set(classes) <= set(CLUES):
        return {}
    true = [classes[i] for i in targets.classes()]
    found = {}
    for name, ceiling in ceilings().items():
        if name in on_test:
            predicted = [classes[i] for i in on_test[name].scores.argmax(1)]
            found[name] = (ceiling, clue_agreement(predicted, true, VISIBLE[name]))
    return found


def _curves(
    trained: Mapping[str, TrainedStream], tuned: Tuned
) -> dict[str, list[Mapping[str, float]]]:
    fits = {f"{stream}_cnn": fitted.cnn for stream, fitted in trained.items()}
    fits |= {f"{s}_lstm": fitted.lstm for s, fitted in trained.items() if fitted.lstm}
    curves = {
        name: [
            {**entry, "kept": 1.0} if entry["step"] == stage.facts["best_step"] else entry
            for entry in stage.facts["history"]
        ]
        for name, stage in fits.items()
    }
    return {**curves, "fusion": tuned.fusion.facts["history"]}


def _mlflow(
    job: Job, tuned: Tuned, evaluated: Evaluated, promotion: Mapping[str, Any]
) -> dict[str, Any]:
    curves = tuned.search.storage.join(SEARCH_FOLDER) if job.settings.search.trials else None
    return {
        "run_id": job.run.id,
        "model_version": evaluated.version,
        "promoted": promotion.get("promoted"),
        "reason": promotion.get("reason", ""),
        "ui_command": f"mlflow ui --backend-store-uri {job.tracker.uri}"
        if job.tracker.uri.startswith("sqlite")
        else job.tracker.uri,
        "tensorboard_command": f"tensorboard --logdir {curves.path()}" if curves else "",
    }


def _examples(
    job: Job, extraction: Extraction, tuned: Tuned, evaluated: Evaluated
) -> list[ExampleClip]:
    """Test clips spread evenly over the test split, wrong ones among them if there are any."""
    inputs, test = tuned.inputs, tuned.inputs.table.rows("test")
    if not len(test):
        return []
    refined = evaluated.scores["refined"].scores[test]
    right = inputs.table.targets[test].dense(bool)[np.arange(len(test)), refined.argmax(1)]
    wrong = test[~right]
    chosen = [int(row) for row in _spread(wrong, EXAMPLES // 3)]
    rest = [row for row in test if row not in chosen]
    chosen += [int(row) for row in _spread(rest, EXAMPLES - len(chosen))]
    return [_example(job, extraction, inputs.clips[row], row, evaluated) for row in sorted(chosen)]


def _spread(rows: Sequence[int] | NDArray[np.intp], count: int) -> list[int]:
    positions = uniform_positions(n=len(rows), count=min(count, len(rows))) if len(rows) else []
    return [rows[i] for i in positions]


def _example(
    job: Job, extraction: Extraction, clip: ExtractedClip, row: int, evaluated: Evaluated
) -> ExampleClip:
    reader = ArtifactReader.open(extraction.storage.path(clip.artifact))
    classes = job.manifest.classes
    opinions = {}
    last = chosen_row(evaluated)
    for name in LABELS:
        system = evaluated.scores.get(name)
        if system is None or not system.present[row]:
            continue
        if name.startswith("refined_") and name != last:
            continue
        best = np.argsort(-system.scores[row], kind="stable")[:3]
        opinions[name] = [(classes[i], float(system.scores[row, i])) for i in best]
    top, probability = opinions[last][0]
    sound = reader.spectrogram() if AUDIO in clip.streams else None
    return ExampleClip(
        id=clip.video.id,
        truth=clip.video.labels,
        predicted=top,
        probability=probability,
        frames=_frames(reader) if SPATIAL in clip.streams else None,
        flow=_flow(reader) if MOTION in clip.streams else None,
        spectrogram=None if sound is None else sound.numpy(),
        opinions=opinions,
    )


def _frames(reader: ArtifactReader) -> NDArray[np.uint8]:
    n = reader.n_frames
    positions = uniform_positions(n=n, count=min(EXAMPLE_FRAMES, n))
    return reader.frames(positions).permute(0, 2, 3, 1).numpy()


def _flow(reader: ArtifactReader) -> NDArray[np.float32]:
    """The field in the middle of the clip, in pixels."""
    bound = reader.metadata["flow_bound"]
    return np.asarray(dequantize(reader.flow([reader.n_flow // 2])[0].numpy(), bound))


def machine() -> str:
    """The driver's machine in a line."""
    memory = psutil.virtual_memory().total / 2**30
    text = f"{platform.machine()}, {os.cpu_count()} CPUs, {memory:.0f} GiB"
    import torch

    if torch.cuda.is_available():
        text += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return text
