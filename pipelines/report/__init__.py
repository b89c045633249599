"""The report of a run: a self-contained HTML page, the same figures as JSON and for a terminal."""

from pipelines.report.data import (
    DataSummary,
    ExampleClip,
    MethodResult,
    ReportData,
    StageTiming,
    StreamPicture,
    report_json,
)
from pipelines.report.render import figure_files, render_html
from pipelines.report.terminal import methods_table

__all__ = [
    "DataSummary",
    "ExampleClip",
    "MethodResult",
    "StreamPicture",
    "ReportData",
    "StageTiming",
    "figure_files",
    "methods_table",
    "render_html",
    "report_json",
]
