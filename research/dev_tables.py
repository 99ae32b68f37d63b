"""What `dev_quality` measured as text: of one weight file, or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]


def tables(report: Report) -> str:
    """All that is to be read of one weight file."""
    settings = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    title = f"{report['model']}  step {report['steps']}  {report['seconds']} s"
    parts = [title, settings, *_precision(report), *_davis(report["davis"])]
    return "\n".join([*parts, *_tracking(report["composites"]), *_errors(report)])


def _precision(report: Report) -> list[str]:
    lines = ["", f"{'':22}{'videos':>8}{'instances':>11}{'AP':>8}{'AP50':>8}{'AR10':>8}"]
    pictures, moving = report["pictures"], report["moving"]
    rows = {**pictures["sets"], "all pictures": pictures["all"]}
    if moving:
        rows |= {f"{name}, moving": row for name, row in moving["sets"].items()}
        rows["all moving"] = moving["all"]
    rows["composites"] = report["composites"]
    for name, row in rows.items():
        numbers = "".join(f"{row[key]:8.3f}" for key in ("AP", "AP50", "AR10"))
        lines.append(f"{name:22}{row['videos']:8}{row['instances']:11}{numbers}")
    for title, part in (
        ("pictures", pictures),
        ("moving clips", moving),
        ("composites", report["composites"]),
    ):
        if part:
            cells = [
                f"{name} {row['AP50']:.2f} ({row['instances']})"
                for name, row in part["classes"].items()
            ]
            lines += ["", f"AP50 in {title} (instances): {', '.join(cells)}"]
    return lines


def _davis(davis: Mapping[str, Any]) -> list[str]:
    heading = f"{'DAVIS':16}{'best J':>8}{'F':>7}{'> 0.5':>7}  {'class':26}{'top J':>8}{'F':>7}"
    lines = ["", f"{heading}  class"]
    for name, row in sorted(davis["sequences"].items(), key=lambda item: item[1]["merged"]):
        cells = {which: _named(row[which], known=row["known"]) for which in ("best", "top")}
        lines.append(
            f"{name:16}{row['best']['J']:8.3f}{row['best']['F']:7.3f}{row['followed']:7.2f}  "
            f"{cells['best']:26}{row['top']['J']:8.3f}{row['top']['F']:7.3f}  {cells['top']}"
            f"{'  [merged]' if row['merged'] else ''}"
        )
    for title in ("single", "merged"):
        mean = davis[title]
        lines.append(
            f"{'mean ' + title:16}{mean['best_J']:8.3f}{mean['best_F']:7.3f}"
            f"{mean['followed']:7.2f}  {mean['best_right'] + ' right':26}"
            f"{mean['top_J']:8.3f}{mean['top_F']:7.3f}  {mean['top_right']} right"
        )
    return lines


def _named(track: Mapping[str, Any], *, known: bool) -> str:
    verdict = ("" if track["right"] else " (wrong)") if known else " (-)"
    return f"{track['class']} {track['score']:.2f}{verdict}"


def _tracking(composites: Mapping[str, Any]) -> list[str]:
    measures = ("HOTA", "DetA", "AssA")
    heading = "".join(f"{name:>8}" for name in (*measures, "IDF1"))
    lines = ["", f"{'composites, tracks':22}{heading}  switches  gaps   as one class:"]
    lines[-1] += "".join(f"{name:>8}" for name in measures)
    for row in composites["tracking"]:
        numbers = "".join(f"{row[name]:8.3f}" for name in (*measures, "IDF1"))
        same = "".join(f"{row['one_class'][name]:8.3f}" for name in measures)
        counts = f"{row['switches']:10}{row['fragmentations']:6}"
        title = f"score >= {row['min_score']:g}"
        lines.append(f"{title:22}{numbers}{counts}{'':16}{same}")
    return lines


def _errors(report: Report) -> list[str]:
    """Of the predictions at the confidence of `predict`; of labelled ones, what was missed."""
    groups = report["errors"]
    kinds = [k for k in next(iter(groups.values())) if k not in ("labelled", "predicted", "right")]
    conf = report["settings"]["conf"]
    lines = ["", f"At confidence {conf:g} and IoU 0.5, in numbers:"]
    lines.append(f"{'':16}labelled predicted right  {'  '.join(kinds)}")
    for name, row in groups.items():
        cells = "  ".join(f"{row[kind]:{len(kind)}}" for kind in kinds)
        lines.append(f"{name:16}{row['labelled']:8}{row['predicted']:10}{row['right']:6}  {cells}")
    return lines


def sweep_tables(report: Report) -> str:
    """Precision / recall / F1 by confidence."""
    groups = report["sweep"]
    lines = ["", "conf " + "".join(f"{name:>22}" for name in groups)]
    lines.append("     " + f"{'P / R / F1':>22}" * len(groups))
    for rows in zip(*groups.values(), strict=True):
        cells = [f"{r['precision']:.2f} / {r['recall']:.2f} / {r['F1']:.3f}" for r in rows]
        lines.append(f"{rows[0]['conf']:<5}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


# --- several weight files -------------------------------------------------------------------------


def markdown(reports: Mapping[str, Report]) -> str:
    """A row for every weight file."""
    rows = {name: _row(report) for name, report in reports.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| weights | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, row in rows.items():
        cells = [row.get(column, "") for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(report: Report) -> dict[str, str]:
    settings, single = report["settings"], report["davis"]["single"]
    part = ", quick" if report["quick"] else ""
    row = {
        "size, T, stride": f"{settings['size']}, {settings['clip_length']}, "
        f"{settings['clip_stride']}{part}",
        "J best": f"{single['best_J']:.3f}",
        "F best": f"{single['best_F']:.3f}",
        "J top": f"{single['top_J']:.3f}",
        "F top": f"{single['top_F']:.3f}",
        "class": single["best_right"],
        "comp. AP50": f"{report['composites']['AP50']:.3f}",
        "AP": f"{report['composites']['AP']:.3f}",
    }
    for tracks in report["composites"]["tracking"]:
        at = f"@{tracks['min_score']:g}"
        row |= {f"{name} {at}": f"{tracks[name]:.3f}" for name in ("HOTA", "AssA", "DetA")}
        row[f"switches {at}"] = str(tracks["switches"])
    row |= _ap50(report["pictures"], "{}")
    if report["moving"]:
        row |= _ap50(report["moving"], "{}, moving")
    return row


def _ap50(part: Mapping[str, Any], title: str) -> dict[str, str]:
    sets: Sequence[tuple[str, Any]] = [*part["sets"].items(), ("all", part["all"])]
    return {title.format(name): f"{row['AP50']:.3f}" for name, row in sets}
