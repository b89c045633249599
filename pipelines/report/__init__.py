"""The report of a run: one self-contained HTML page, its figures as JSON and as a terminal table."""

from pipelines.report.data import (
    DataSummary,
    ExampleClip,
    MethodResult,
    ReportData,
    StageTiming,
    report_json,
)

__all__ = [
    "DataSummary",
    "ExampleClip",
    "MethodResult",
    "ReportData",
    "StageTiming",
    "report_json",
]
