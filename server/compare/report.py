"""A comparison as table.md, table.json and report.html, which holds its pictures in itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from federation import durable
from federation.ledger.comparison import (
    Curve,
    Span,
    attacks_picture,
    curves_picture,
    differences_picture,
)
from strategies.compare.figures import Row, Table
from strategies.compare.trends import Verdict

COLUMNS = (
    *("arm", "lr", "loss ± sd", "worst part", "against {}", "95 % interval", "Holm p", "clear"),
    *(
        "lost",
        "MB up",
        "MB down",
        "server s/round",
        "epsilon",
        "hostile weight",
        "honest refused",
        "seeds",
    ),
)
NOTE = (
    "Differences are paired by seed; negative is better. Intervals: percentile bootstrap of the "
    "mean (10,000 resamples). p: Student's paired test, corrected by Holm over all {count} "
    "differences of this report. 'Clear' needs both: an interval without 0 and a corrected p below "
    "0.05. With few seeds the interval alone is too narrow."
)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:84rem;margin:2rem auto;padding:0 1rem;"
    "color:#222;background:#fff}table{border-collapse:collapse;display:block;overflow-x:auto;"
    "font-variant-numeric:tabular-nums;font-size:.85em}th,td{padding:.25rem .5rem;text-align:right;"
    "border-bottom:1px solid #ddd;white-space:nowrap}th:first-child,td:first-child{text-align:left}"
    ".yes{font-weight:600}.warn{background:#fff3cd;padding:.6rem 1rem}img{max-width:100%}"
)


def write_report(
    folder: Path,
    table: Table,
    *,
    about: Sequence[str] = (),
    left_out: Mapping[str, str] | None = None,
    verdicts: Sequence[Verdict] = (),
) -> None:
    """Write the three files into `folder`.

    Args:
        folder: of the comparison.
        table: what was found.
        about: sentences on top: model, data, machine.
        left_out: arm -> why it was not run.
        verdicts: of the orderings that were looked for.
    """
    left = dict(left_out or {})
    content = table.to_json() | {"about": list(about), "left_out": left}
    content["trends"] = [verdict_json(each) for each in verdicts]
    durable.write_text(folder / "table.json", json.dumps(content, indent=1, ensure_ascii=False))
    durable.write_text(folder / "table.md", markdown(table, about, left, verdicts))
    durable.write_text(folder / "report.html", html(table, about, left, verdicts))


def markdown(
    table: Table, about: Sequence[str], left: Mapping[str, str], verdicts: Sequence[Verdict]
) -> str:
    """The comparison as Markdown."""
    lines = ["# Strategies compared", "", *(f"- {line}" for line in about), ""]
    lines += [f"**Not fair:** {line}" for line in table.unfair]
    for panel, rows in table.panels().items():
        lines += [f"## {panel}", "", f"Start {rows[0].start:.4f}. {bytes_note(table, panel)}", ""]
        lines += _markdown_table(*_told(rows, table.baselines[panel]))
    matrix = attack_matrix(table)
    for place, losses in matrix.items():
        attacks = list(dict.fromkeys(kind for each in losses.values() for kind in each))
        lines += [f"## Attacks: {place}", ""]
        body = [[arm, *(_figure(e.get(kind)) for kind in attacks)] for arm, e in losses.items()]
        lines += _markdown_table(["loss of", *attacks], body)
    if verdicts:
        lines += ["## Orderings", ""]
        lines += _markdown_table(TREND_COLUMNS, [trend_cells(each) for each in verdicts])
    lines += (
        ["## Left out", "", *(f"- {arm}: {why}" for arm, why in left.items()), ""] if left else []
    )
    return "\n".join([*lines, _note(table), ""])


def html(
    table: Table, about: Sequence[str], left: Mapping[str, str], verdicts: Sequence[Verdict]
) -> str:
    """The comparison as one page that loads nothing."""
    parts = [f"<h1>Strategies compared</h1><ul>{''.join(f'<li>{escape(a)}' for a in about)}</ul>"]
    parts += [f"<p class=warn>Not fair: {escape(line)}</p>" for line in table.unfair]
    looks = {arm: at for at, arm in enumerate(dict.fromkeys(row.arm for row in table.rows))}
    for panel, rows in table.panels().items():
        intro = f"Start {rows[0].start:.4f}. {bytes_note(table, panel)}"
        parts.append(f"<h2>{escape(panel)}</h2><p>{escape(intro)}</p>")
        parts.append(_html_table(*_told(rows, table.baselines[panel])))
        curves = {row.arm: Curve(row.curve, looks[row.arm]) for row in rows}
        parts.append(_picture(curves_picture(curves), f"loss by round and by bytes: {panel}"))
        spans = {
            row.arm: Span(found.mean, found.low, found.high, found.is_clear)
            for row in rows
            if (found := row.difference) is not None
        }
        if spans:
            drawn = differences_picture(spans, table.baselines[panel])
            parts.append(_picture(drawn, f"differences to {table.baselines[panel]}: {panel}"))
    for place, losses in attack_matrix(table).items():
        parts.append(f"<h2>Attacks: {escape(place)}</h2>")
        parts.append(_picture(attacks_picture(losses), f"loss under attack: {place}"))
    if verdicts:
        parts.append("<h2>Orderings</h2>")
        parts.append(_html_table(TREND_COLUMNS, [trend_cells(each) for each in verdicts]))
    if left:
        items = "".join(f"<li>{escape(arm)}: {escape(why)}" for arm, why in left.items())
        parts.append(f"<h2>Left out</h2><ul>{items}</ul>")
    body = "\n".join([*parts, f"<p>{escape(_note(table))}</p>"])
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    return (
        f"<!doctype html><html lang=en><head>{head}<title>Strategies compared</title>"
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


TREND_COLUMNS = ("ordering", "source", "result", "difference", "95 % interval", "Holm p")


def trend_cells(verdict: Verdict) -> list[str]:
    """One verdict as texts."""
    found = verdict.difference
    start = [verdict.claim.says, verdict.claim.source, verdict.word]
    if found is None:
        return [*start, "", "", ""]
    interval = f"{found.low:+.4f} … {found.high:+.4f}"
    return [*start, f"{found.mean:+.4f}", interval, p_text(found.holm)]


def verdict_json(verdict: Verdict) -> dict[str, object]:
    """One verdict as plain values."""
    names = ("ordering", "source", "result", "difference", "interval", "holm")
    return dict(zip(names, trend_cells(verdict), strict=True))


def cells_of(row: Row) -> list[str]:
    """One row as texts, in the order of the columns."""
    found = row.difference
    told = ["", "", "", ""]
    if found is not None:
        told = [f"{found.mean:+.4f}", f"{found.low:+.4f} … {found.high:+.4f}", p_text(found.holm)]
        told.append("yes" if found.is_clear else "no")
    return [
        row.arm,
        f"{row.lr:g}",
        f"{row.loss:.4f} ± {row.sd:.4f}",
        f"{row.worst:.4f}",
        *told,
        "" if row.lost is None else f"{row.lost:.2g}",
        f"{row.up / 1e6:.3f}",
        f"{row.down / 1e6:.3f}",
        f"{row.server_s:.3f}",
        "" if row.epsilon is None else f"{row.epsilon:.3g}",
        "" if row.hostile_weight is None or row.attack == "none" else f"{row.hostile_weight:.2f}",
        f"{row.refused_honest:.2f}",
        str(row.seeds),
    ]


def p_text(p: float) -> str:
    """Return a p-value in two digits; below what f64 tells from 0, that."""
    return "< 1e-15" if p < 1e-15 else f"{p:.2g}"


def attack_matrix(table: Table) -> dict[str, dict[str, dict[str, float]]]:
    """Place -> arm -> attack -> loss, for places where somebody attacks."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.rows:
        place = row.panel.replace(f", attack {row.attack}", "")
        found.setdefault(place, {}).setdefault(row.arm, {})[row.attack] = row.loss
    return {
        place: arms
        for place, arms in found.items()
        if any(kind != "none" for each in arms.values() for kind in each)
    }


def bytes_note(table: Table, panel: str) -> str:
    """Whether the arms of a panel moved the same bytes, in words."""
    if table.alike[panel]:
        return "All arms moved the same bytes."
    return "Arms moved different bytes: see MB up and down."


def _told(rows: Sequence[Row], baseline: str) -> tuple[list[str], list[list[str]]]:
    """Columns of a panel that say something, and its rows."""
    texts = [cells_of(row) for row in rows]
    used = [at for at in range(len(COLUMNS)) if any(row[at] for row in texts)]
    columns = [COLUMNS[at].format(baseline) for at in used]
    return columns, [[row[at] for at in used] for row in texts]


def _note(table: Table) -> str:
    return NOTE.format(count=sum(row.difference is not None for row in table.rows))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [*("| " + " | ".join(cells) + " |" for cells in lines), ""]


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}" for row in rows)
    return f"<table><thead><tr>{head}<tbody>{body}</table>"


def _picture(png: bytes, says: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f"<p><img alt='{escape(says, quote=True)}' src='data:image/png;base64,{data}'></p>"
