"""One self-contained HTML page for a finished run."""

from omnirobust.jobs.report.page import build_report as build_report
