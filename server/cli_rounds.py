"""How a round's report is printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from server.cli_output import emit, table


def show_reports(reports: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print the reports of the rounds just run."""
    if as_json:
        emit(list(reports), as_json=True, text="")
        return
    for report in reports:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    outcome = report.get("outcome", {})
    before, after = report.get("version_before"), report.get("version_after")
    version = outcome.get("version")
    verdict = f"v{version} published" if version is not None else "nothing published"
    title = f"Round {report['round']}: {verdict} ({outcome.get('reason') or 'no reason given'})"
    rows = [("version", f"v{before} → v{after}")]
    rows += [
        ("merged", f"{m['node']}  weight {m['weight']:.3f}") for m in outcome.get("merged", [])
    ]
    rows += [
        ("refused", f"{r['node']}  {r['code']}: {r['detail']}") for r in outcome.get("refused", [])
    ]
    rows += [("lost", "  ".join(map(str, lost.values()))) for lost in report.get("lost", [])]
    rows += [
        ("deployed", "  ".join(f"{k}={v}" for k, v in receipt.items()))
        for receipt in report.get("deployed", [])
    ]
    seconds = {**report.get("seconds", {}), **outcome.get("seconds", {})}
    rows += [("seconds", "  ".join(f"{name} {took:.2f}" for name, took in seconds.items()))]
    table(title, ("what", "which"), rows)
