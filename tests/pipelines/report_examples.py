"""Reports of runs that did not take place: a demo, many classes, several labels, next to none."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from pipelines.report import (
    DataSummary,
    ExampleClip,
    MethodResult,
    ReportData,
    StageTiming,
    StreamPicture,
)

CLASSES = tuple(
    "-".join(parts)
    for parts in product(("disc", "square"), ("left", "right"), ("low", "high"), ("ab", "ba"))
)


def ramp(t: np.ndarray, best: float, seed: int) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    rise = best * (1 - np.exp(-t / t.max() * 5)) + rng.normal(0, 0.012, len(t))
    fall = 2.7 * np.exp(-t / t.max() * 4 * best) + rng.normal(0, 0.04, len(t)) ** 2 + 0.05
    return [
        {"step": float(s), "score": float(a), "loss": float(b)}
        for s, a, b in zip(t, rise.clip(0, 1), fall, strict=True)
    ]


def example(index: int, truth: str, guess: str, *, sound: bool = True) -> ExampleClip:
    """A bright thing that moves over a dull ground, a motion field and a chirp."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[0:120, 0:160]
    ground = 70 + 40 * np.sin(x / 19 + index) + 30 * np.cos(y / 23) + rng.normal(0, 4, (120, 160))
    frames = []
    for k in range(8):
        frame = np.dstack([ground * (0.8 + 0.1 * c) for c in range(3)])
        inside = np.hypot(x - 30 - 14 * k, y - 60) < 20
        frame[inside] = np.roll((230, 160, 40), index)
        frames.append(frame.clip(0, 255).astype(np.uint8))
    blob = np.exp(-(((x - 80) / 30) ** 2) - ((y - 60) / 26) ** 2)
    angle = index * 1.1
    flow = np.stack([3.5 * blob * np.cos(angle), 3.5 * blob * np.sin(angle)]).astype(np.float32)
    bands, t = np.mgrid[0:64, 0:200]
    chirp = 3 * np.exp(-((bands - 12 - t / 5) ** 2) / 8) + rng.normal(0, 0.25, bands.shape)
    others = [name for name in CLASSES if name != guess]
    systems = ("spatial_cnn", "motion_cnn", *(["audio_cnn"] if sound else []), "spatial_lstm")
    opinions = {
        system: [(others[3 * k], 0.41), (truth, 0.33), (others[k + 1], 0.12), (others[0], 0.01)]
        for k, system in enumerate(systems)
    }
    opinions |= {name: [(guess, 0.86), (others[2], 0.1)] for name in ("fusion", "hybrid")}
    return ExampleClip(
        id=f"{truth}/clip_{index:03d}.mp4",
        truth=(truth,),
        predicted=guess,
        probability=0.86,
        previews=[
            StreamPicture(
                kind="pictures", caption="frames", streams=["spatial"], picture=np.stack(frames)
            ),
            StreamPicture(kind="flow", caption="flow", streams=["motion"], picture=flow),
            StreamPicture(
                kind="heat",
                caption="spectrogram" if sound else "sound",
                streams=["audio"],
                picture=chirp if sound else None,
            ),
        ],
        opinions=opinions,
        shares={"spatial": 0.3, "motion": 0.42} | ({"audio": 0.28} if sound else {"motion": 0.7}),
    )


def methods(n: int = 160, sounding: int = 150) -> list[MethodResult]:
    rows = [
        ("spatial_cnn", "Spatial CNN", 0.119, 0.125, n, ""),
        ("motion_cnn", "Motion CNN", 0.113, 0.125, n, ""),
        ("audio_cnn", "Audio CNN", 0.112, 0.125, n, "all clips"),
        ("audio_cnn_sound", "Audio CNN", 0.12, 0.125, sounding, "clips that have sound"),
        ("spatial_lstm", "Spatial LSTM", 0.244, 0.25, n, ""),
        ("motion_lstm", "Motion LSTM", 0.231, 0.25, n, ""),
        ("fusion", "Fusion network", 0.9, 1.0, n, ""),
        ("hybrid", "Hybrid", 0.9625, 1.0, n, ""),
        ("refined", "Hybrid, refined", 0.96875, 1.0, n, ""),
    ]
    return [
        MethodResult(
            name=name,
            label=label,
            accuracy=accuracy,
            mean_class_accuracy=accuracy - 0.004,
            map=min(1.0, accuracy + 0.02),
            hit5=min(1.0, accuracy * 2.5),
            n=count,
            ceiling=ceiling,
            share_of_ceiling=accuracy / ceiling,
            note=note,
        )
        for name, label, accuracy, ceiling, count, note in rows
    ]


def counts(classes: int, per_class: int, share: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    odds = np.full((classes, classes), (1 - share) / classes)
    odds[np.arange(classes), (np.arange(classes) + 1) % classes] += (1 - share) / 2
    np.fill_diagonal(odds, share)
    return np.stack([rng.multinomial(per_class, row / row.sum()) for row in odds])


def demo() -> ReportData:
    """What a run on the demo set looks like."""
    rng = np.random.default_rng(3)
    choices = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
    trials = []
    for _ in range(24):
        l2 = float(rng.choice([0.0, 10 ** rng.uniform(-6, -1)], p=[0.2, 0.8]))
        l3 = float(rng.choice([rng.choice(choices), 10 ** rng.uniform(-6, -1)]))
        zero = min(1.0, (l2 * 40) ** 0.5)
        score = 0.93 - 0.5 * zero**2 - 0.1 * (l3 * 10) ** 0.5 + rng.normal(0, 0.008)
        trials.append(
            {"lambda2": l2, "lambda3": l3, "score": score, "zero_rows": zero, "zero_entries": 0.3}
        )
    trials.append({"lambda2": 0.5, "lambda3": 1e-6, "score": math.nan})
    best = max(trials[:-1], key=lambda trial: trial["score"])
    steps = np.arange(10.0, 401, 10)
    fits = {m.name: m.accuracy or 0 for m in methods() if m.name.endswith(("_cnn", "_lstm"))}
    after = rng.uniform(0.86, 1, 16)
    return ReportData(
        title="Demo set, all three streams",
        streams=("spatial", "motion", "audio"),
        joint="hybrid",
        command="pipelines/full.py --preset demo --report report.json",
        started="2026-03-01 14:05 UTC",
        seconds=214.3,
        machine="2 CPUs, 7.8 GiB of memory, no GPU, 1 node",
        versions={"multiclue": "0.1.0", "python": "3.11.2", "ray": "2.60.0", "torch": "2.13.0"},
        settings={
            "preset": "demo",
            "seed": 7,
            "extract": {"fps": None, "short_side": 64, "streams": ["spatial", "motion", "audio"]},
            "spatial": {"network": {"backbone": "vgg_small", "weights": None}, "crop": 56},
            "search": {"trials": 25, "folds": 3, "asha": True, "lambda2": [0.0, 1e-6, 0.1]},
        },
        data=DataSummary(
            name="demo",
            fingerprint="9f2c41d0a7be",
            clips={"train": 480, "val": 96, "test": 160},
            classes=CLASSES,
            absent={"spatial": 0, "motion": 3, "audio": 10},
        ),
        methods=methods(),
        confusion=counts(16, 10, 0.9),
        confusion_refined=counts(16, 10, 0.95, seed=1),
        ap_before=(after - rng.normal(0.015, 0.03, 16)).clip(0, 1),
        ap_after=after,
        curves={name: ramp(steps, 4 * top, k) for k, (name, top) in enumerate(fits.items())},
        trials=trials,
        best=best,
        stages=[
            StageTiming(name="demo videos", seconds=0.4, cached=True, items=740, unit="videos"),
            StageTiming(name="extract", seconds=71.2, items=740),
            StageTiming(name="fit spatial", seconds=48.0, items=16000, unit="samples"),
            StageTiming(name="fit motion", seconds=55.9, items=16000, unit="samples"),
            StageTiming(name="fit audio", seconds=30.2, items=8000, unit="samples"),
            StageTiming(name="embed", seconds=21.5, items=736),
            StageTiming(name="search", seconds=31.0, items=25, unit="trials"),
            StageTiming(name="evaluate", seconds=0.62, items=160),
        ],
        rejected=[
            {"id": "broken/zeros.mp4", "stage": "extract", "kind": "unreadable",
             "message": "no frame could be decoded: moov atom not found"},
            {"id": "broken/half.mp4", "stage": "extract", "kind": "unreadable",
             "message": "no frame could be decoded: invalid data"},
            {"id": "broken/empty.mp4", "stage": "extract", "kind": "empty",
             "message": "the file has no bytes"},
        ],
        examples=[
            example(1, CLASSES[1], CLASSES[1]),
            example(2, CLASSES[6], CLASSES[7]),
            example(3, CLASSES[12], CLASSES[12], sound=False),
        ],
        mlflow={
            "run_id": "4d1f0c2a9be14d3c",
            "model_version": 3,
            "promoted": True,
            "reason": "mAP 0.981 against 0.964 of version 2, 0.010 more than the margin asks for",
            "ui_command": "mlflow ui --backend-store-uri sqlite:////runs/mlflow.db",
            "tensorboard_command": "tensorboard --logdir /runs/search",
        },
    )  # fmt: skip


def many_classes() -> ReportData:
    """A hundred and one classes with long names, sound only."""
    names = tuple(f"{k:03d}_{'VeryLongActionName'[: 4 + k % 12]}" for k in range(101))
    rng = np.random.default_rng(5)
    return ReportData(
        title="A hundred and one sounds",
        streams=("audio",),
        joint="hybrid",
        command="pipelines/full.py --data sounds --format folders --streams audio",
        started="2026-03-02 09:00 UTC",
        data=DataSummary(
            name="sounds", fingerprint="77", clips={"train": 9000, "test": 3700}, classes=names
        ),
        methods=[
            MethodResult(name="audio_cnn", label="Audio CNN", accuracy=0.61, map=0.6, n=3700),
            MethodResult(name="hybrid", label="Hybrid", accuracy=0.66, map=0.64, n=3700),
        ],
        confusion=counts(101, 37, 0.66),
        ap_before=rng.uniform(0.2, 1, 101),
        curves={"audio_cnn": ramp(np.arange(1.0, 3000), 0.6, 1)},
        stages=[StageTiming(name="extract", seconds=4000, items=12700)],
        examples=[
            ExampleClip(
                id="a.wav", truth=names[0], predicted=names[1], probability=0.5,
                previews=[
                    StreamPicture(
                        kind="heat", caption="spectrogram", streams=["audio"],
                        picture=np.zeros((40, 90)),
                    ),
                    StreamPicture(
                        kind="pictures", caption="frames", streams=["spatial"], picture=None
                    ),
                    StreamPicture(kind="flow", caption="flow", streams=["motion"], picture=None),
                ],
                opinions={"audio_cnn": [(names[1], 0.5)]}, shares={"audio": 1.0},
            )
        ],
        rejected=[
            {"id": f"{k}.wav", "stage": "extract", "kind": "silent", "message": "no sound"}
            for k in range(1000)
        ],
    )  # fmt: skip


def multi_label() -> ReportData:
    """Several labels per clip: no accuracy, no confusion matrix."""
    return ReportData(
        title="Consumer videos",
        streams=("spatial",),
        joint="hybrid",
        command="pipelines/full.py --data ccv --format ccv",
        started="2026-03-02 09:00 UTC",
        data=DataSummary(
            name="ccv", fingerprint="1", clips={"test": 40}, classes=("cat", "dog"),
            multi_label=True,
        ),
        methods=[
            MethodResult(name="spatial_cnn", label="Spatial CNN", map=0.5, n=40),
            MethodResult(name="hybrid", label="Hybrid", map=0.75, accuracy=math.nan, n=40),
        ],
        ap_before=np.array([0.7, np.nan]),
        ap_after=np.array([0.75, np.nan]),
        examples=[
            ExampleClip(
                id="7", truth=("cat", "dog"), predicted="dog", probability=0.9,
                opinions={"hybrid": [("dog", 0.9), ("cat", 0.8)]}, shares={"spatial": 1.0},
            )
        ],
    )  # fmt: skip


def minimal() -> ReportData:
    return ReportData(
        title="Almost nothing",
        command="pipelines/evaluate.py",
        started="2026-03-02",
        data=DataSummary(name="few", fingerprint="0", clips={"test": 1}, classes=("a", "b")),
        methods=[MethodResult(name="fusion", label="Fusion", n=1)],
    )
