"""The figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]


def markdown(figures: Figures) -> str:
    """One table per section that was measured."""
    parts = [f"Measured on {figures['data']}, {figures['cores']} cores, {figures['date']}."]
    if "cpu" in figures:
        parts += [_cpu(figures["cpu"]), _whole(figures["cpu"])]
    if "middlebury" in figures:
        parts.append(_middlebury(figures["middlebury"]))
    if "methods_pairs_per_s" in figures:
        parts.append(_methods(figures["methods_pairs_per_s"], figures.get("middlebury", {})))
    if "extraction" in figures:
        parts.append(_extraction(figures["extraction"]))
    if "cuda" in figures:
        parts.append(_cuda(figures["cuda"]))
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(show(cell) for cell in line) + " |" for line in lines)


def show(cell: Any) -> str:
    """Three significant digits; thousands apart; nothing for what was not measured."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _cpu(cpu: Figures) -> str:
    head = ["schedule", "threads", "pairs/s", "times OpenCV", "times OpenCV on the same schedule",
            "ns per pixel and iteration", "uint8 within 1 of OpenCV"]  # fmt: skip
    rows = []
    for name in ("exact", "fast"):
        for key in sorted(k for k in cpu[name] if k.startswith("threads_")):
            at = cpu[name][key]
            same = at.get("ratio_to_opencv_same_schedule", at["ratio_to_opencv"])
            rows.append([
                name, key.removeprefix("threads_"), at["pairs_per_s"], at["ratio_to_opencv"], same,
                at["ns_per_pixel_iteration"], percent(cpu[name]["uint8_within_1"]),
            ])  # fmt: skip
    for key, at in sorted((k, v) for k, v in cpu["opencv"].items() if k.startswith("threads_")):
        for name in ("exact", "fast"):
            how = "" if key == "threads_1" else f" ({at['parallel']})"
            measured = key == "threads_1" and name == "exact"
            ns = cpu["opencv"]["ns_per_pixel_iteration"] if measured else None
            rate = at[f"{name}_pairs_per_s"]
            threads = key.removeprefix("threads_")
            rows.append([f"OpenCV, {name}{how}", threads, rate, None, None, ns, None])
    return table(head, rows)


def _whole(cpu: Figures) -> str:
    names = {
        "threads_2_to_1": "two threads against one",
        "clip_to_pairs_threads_1": "a clip's frames together against pair by pair, one thread",
        "clip_to_pairs_threads_2": "a clip's frames together against pair by pair, two threads",
    }
    rows: list[list[Any]] = [
        [f"{text}, {schedule}", cpu[f"{schedule}_{key}"]]
        for key, text in names.items()
        for schedule in ("exact", "fast")
        if f"{schedule}_{key}" in cpu
    ]
    rows.append(["import in a fresh process, s", cpu["first_call_import_s"]])
    rows.append(["first call in it, s", cpu["first_call_s"]])
    return table(["figure", "reached"], rows)


def _middlebury(errors: Figures) -> str:
    pairs = list(next(iter(errors.values())))
    rows = [[name, *(error[pair] for pair in pairs)] for name, error in errors.items()]
    return table(["endpoint error, pixels", *pairs], rows)


def _methods(rates: Figures, errors: Figures) -> str:
    rows = [
        [name, rate, errors.get(name, {}).get("mean")]
        for name, rate in sorted(rates.items(), key=lambda item: -item[1])
    ]
    return table(["method, one thread", "pairs/s", "mean endpoint error, pixels"], rows)


def _extraction(found: Figures) -> str:
    rows = [
        [name, found[f"{name}_clips_per_s"], found.get(f"{name}_ratio_to_opencv")]
        for name in ("exact", "fast", "opencv")
    ]
    return table([f"extraction, {found['clips']} clips", "clips/s", "times OpenCV"], rows)


def _cuda(cuda: Figures) -> str:
    sizes = sorted(
        int(key.removeprefix("pairs_per_s_")) for key in cuda["exact"] if "pairs_per_s_" in key
    )
    rows = [
        [name, *(cuda[name][f"pairs_per_s_{size}"] for size in sizes),
         percent(cuda[name].get("uint8_within_1_of_cpu"))]
        for name in ("exact", "fast")
    ]  # fmt: skip
    head = [f"{cuda['device']}, pairs/s", *(f"{size} at once" for size in sizes),
            "uint8 within 1 of the CPU"]  # fmt: skip
    return table(head, rows)
