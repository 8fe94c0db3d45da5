"""Own the page of a comparison: one HTML file that needs nothing else, for any screen, light or dark.

Knows nothing of how its numbers were found. It holds no script and loads nothing; whatever comes from a run is escaped.
"""

from __future__ import annotations

import html as escaping
import math
import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from dlwp import __version__
from dlwp.comparing import curves, verdict
from dlwp.comparing.curves import Axis
from dlwp.comparing.groups import Groups, is_share
from dlwp.comparing.verdict import Pair, Scale

MOST_CURVES = 8
MOST_BESIDE = 4
"""Settings that stand beside one another as columns, and whose curves have bands."""

_STYLE = """
:root{color-scheme:light dark;--ground:#fbfaf8;--card:#fff;--ink:#1d1f23;--soft:#62666f;--rule:#e5e3de;--good:#1f7a4d;
--bad:#b3432b;--c0:#73777f;--c1:#2563c9;--c2:#c2571a;--c3:#1d8062;--c4:#8a4bb8;--c5:#b8860b;--c6:#c23a6b;--c7:#2b8a9e}
@media (prefers-color-scheme:dark){:root{--ground:#15171a;--card:#1c1f23;--ink:#e9e7e2;--soft:#9ba0a9;--rule:#30343a;
--good:#5cc48d;--bad:#ef8a6f;--c0:#9aa0aa;--c1:#6fa3f7;--c2:#f0955a;--c3:#58c2a0;--c4:#c193ea;--c5:#dcb347;--c6:#f0809f;
--c7:#67c3d6}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
.over{color:var(--soft);font-size:.875rem;margin:0 0 .75rem;overflow-wrap:anywhere}
h1{font-size:clamp(1.35rem,1rem + 1.6vw,2rem);line-height:1.25;font-weight:620;letter-spacing:-.012em;margin:0 0 .75rem;
max-width:34em;overflow-wrap:anywhere;text-wrap:pretty}
h2{font-size:1rem;font-weight:620;margin:3rem 0 .25rem}
h3{font-size:.875rem;font-weight:560;margin:0 0 .5rem}
p{margin:.25rem 0 1rem;max-width:44em}
.soft{max-width:60em}
.soft,.note{color:var(--soft);font-size:.875rem}
ul{padding-left:1.1rem;margin:.5rem 0}li{margin:.35rem 0;overflow-wrap:anywhere}
.card{background:var(--card);border:1px solid var(--rule);border-radius:.6rem;padding:1rem 1.1rem}
.forest{display:grid;gap:1.1rem}
.forest .top{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1rem;margin-bottom:.3rem}
.forest .name{font-weight:560;overflow-wrap:anywhere}
.track{position:relative;height:1.4rem;border-radius:.3rem;background:color-mix(in srgb,var(--rule) 45%,transparent)}
.track i{position:absolute;top:0;bottom:0}
.zero{width:0;border-left:1.5px dashed var(--soft)}
.bar{top:calc(50% - 2px)!important;bottom:calc(50% - 2px)!important;border-radius:2px;background:currentColor;
opacity:.55}
.dot{width:.85rem;height:.85rem;margin-left:-.425rem;top:calc(50% - .425rem)!important;border-radius:50%;
background:currentColor;border:2px solid var(--card)}
.scale{position:relative;height:1.3rem;color:var(--soft);font-size:.8rem}
.scale span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.25rem;margin:.5rem 0 1rem;font-size:.875rem}
.legend span{display:flex;align-items:baseline;gap:.45rem;overflow-wrap:anywhere}
.legend b{flex:none;width:1rem;height:.25rem;border-radius:2px;background:currentColor;align-self:center}
.charts>:first-child:nth-last-child(odd){grid-column:1/-1}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem}
.plot{position:relative;height:13rem;margin:.2rem .4rem 2.4rem 3.4rem}
.plot svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.plot span{position:absolute;color:var(--soft);font-size:.78rem;line-height:1}
.plot .y{right:calc(100% + .5rem);transform:translateY(-50%);white-space:nowrap}
.plot .x{top:calc(100% + .5rem);transform:translateX(-50%)}
.plot .xname{top:calc(100% + 1.55rem);right:0}
.grid{stroke:var(--rule);stroke-width:1;vector-effect:non-scaling-stroke}
.line{fill:none;stroke:currentColor;stroke-width:2;vector-effect:non-scaling-stroke;stroke-linejoin:round;
stroke-linecap:round}
.band{fill:currentColor;opacity:.16;stroke:none}
.wide{overflow-x:auto;margin-top:.75rem}
table{border-collapse:collapse;width:100%;font-size:.875rem}
th,td{text-align:left;padding:.45rem 1.1rem .45rem 0;border-bottom:1px solid var(--rule);vertical-align:baseline}
th{color:var(--soft);font-weight:500;white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap}
td:last-child,th:last-child{padding-right:0}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
a{color:inherit;text-decoration-color:var(--soft);text-underline-offset:.2em;overflow-wrap:anywhere}
.wide+.note{margin-top:1rem}
.tag{font-size:.75rem;color:var(--soft);border:1px solid var(--rule);border-radius:1rem;padding:.05rem .5rem;
margin-left:.5rem;white-space:nowrap}
td a,td:first-child code{white-space:nowrap}
.rest{font-size:1.0625rem;color:var(--soft)}
@media (max-width:40rem){th,td{padding-right:.7rem}}
footer{margin-top:3rem;border-top:1px solid var(--rule);padding-top:1rem}
""" + "".join(f".c{index}{{color:var(--c{index})}}" for index in range(MOST_CURVES))


def html(groups: Groups, pairs: Sequence[Pair], scale: Scale, folder: Path, now: datetime) -> str:
    """Return the page.

    Args:
        groups, pairs, scale: what was compared and found.
        folder: in which the page will lie: its links to the runs are relative to that.
        now: when it was made.
    """
    parts = [
        _head(groups, pairs, scale),
        _forest(groups, pairs, scale),
        _charts(groups),
        _keys(groups),
        _results(groups, pairs, scale),
        _runs(groups, scale, folder),
        _reading(groups, pairs, now),
    ]
    title = _text(verdict.headline(groups, pairs, scale))
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<style>{_STYLE}</style></head>\n<body><main>\n{''.join(parts)}</main></body></html>\n"
    )


def _head(groups: Groups, pairs: Sequence[Pair], scale: Scale) -> str:
    count = sum(len(setting.trials) for setting in groups.settings)
    data = groups.settings[0].trials[0].row["settings"].get("data")
    of = f"{groups.num_samples:,} samples" if groups.num_samples else ""
    what = [str(data or ""), f"{groups.metric}{f' on {of}' if of else ''}"]
    what += [f"{len(groups.settings)} settings, {count} runs" if len(groups.settings) > 1 else f"{count} runs"]
    over = f'<p class="over">{_text(" · ".join(text for text in what if text))}</p>'
    if len(pairs) == 1:
        claim, rest = verdict.claim(groups, pairs[0], scale)
        return f'{over}<h1>{_unbroken(claim)}</h1><p class="rest">{_text(_capital(rest))}.</p>\n'
    listed = "".join(f"<li>{_text(sentence)}</li>" for sentence in verdict.sentences(groups, pairs, scale))
    return f"{over}<h1>{_unbroken(verdict.headline(groups, pairs, scale))}</h1><ul>{listed}</ul>\n"


def _forest(groups: Groups, pairs: Sequence[Pair], scale: Scale) -> str:
    """Return the differences as points with their intervals, on one axis."""
    if not pairs:
        return ""
    bounds = [bound for pair in pairs for bound in (pair.difference.low, pair.difference.high) if math.isfinite(bound)]
    low, high = min(0.0, *bounds, *_values(pairs)), max(0.0, *bounds, *_values(pairs))
    margin = (high - low or 1.0) * 0.08
    axis = Axis.of(low - margin, high + margin, 5)
    rows = []
    for pair in pairs:
        one = pair.difference
        gain = one.value if groups.higher else -one.value
        kind = "open" if not pair.shown else "good" if gain > 0 else "bad"
        said = f"{scale.signed(one.value)}{' points' if scale.share else ''}"
        marks = f'<i class="zero" style="left:{_percent(axis, 0.0)}"></i>'
        if one.known:
            said += f" ({scale.signed(one.low)} to {scale.signed(one.high)})"
            width = 100 * (axis.share(one.high) - axis.share(one.low))
            marks += f'<i class="bar" style="left:{_percent(axis, one.low)};width:{width:.2f}%"></i>'
        else:
            said += ", no interval from one seed"
        marks += f'<i class="dot" style="left:{_percent(axis, one.value)}"></i>'
        top = f'<span class="name">{_text(pair.other.name)}</span><span class="{kind}">{_text(said)}</span>'
        rows.append(f'<div><div class="top">{top}</div><div class="track {kind}">{marks}</div></div>')
    ticks = "".join(
        f'<span style="left:{_percent(axis, tick)}">{_tick(tick, scale)}</span>'
        for tick in axis.ticks
        if 0.03 < axis.share(tick) < 0.97
    )
    unit = "points of " if scale.share else ""
    better = "right" if groups.higher else "left"
    said = f"{unit}{groups.metric}, against {pairs[0].baseline.name}; better is to the {better}, bars are 95% intervals"
    return (
        f'<h2>Difference</h2><p class="soft">{_text(_capital(said))}</p>\n<div class="card"><div class="forest">'
        f'{"".join(rows)}<div class="scale">{ticks}</div></div></div>\n'
    )


def _charts(groups: Groups) -> str:
    """Return the curves of the metric and of the losses, the settings over each other."""
    settings = groups.settings[:MOST_CURVES]
    leaf, banded = groups.metric.partition("/")[2], len(groups.settings) <= MOST_BESIDE
    drawn = []
    for quantity in dict.fromkeys([f"val/{leaf}", "val/loss", "train/loss"]):
        x_name, found = curves.curves_of(groups, settings, quantity)
        if any(len(curve.xs) > 1 for curve in found):
            plot = curves.drawing(found, x_name, _percent_text if is_share(quantity) else _number_text, banded=banded)
            drawn.append(f'<div class="card"><h3>{_text(quantity)}</h3>{plot}</div>')
    if not drawn:
        return ""
    names = "".join(
        f'<span><b class="c{index}"></b>{_text(setting.name)}</span>' for index, setting in enumerate(settings)
    )
    several = any(len(setting.trials) > 1 for setting in settings)
    said = "One seed each."
    if several:
        said = "Mean over the seeds" + ("; the band goes from the lowest to the highest of them." if banded else ".")
    if len(groups.settings) > MOST_CURVES:
        said += f" The first {MOST_CURVES} of {len(groups.settings)} settings."
    return (
        f'<h2>Curves</h2><p class="soft">{said}</p>\n<div class="legend">{names}</div>'
        f'<div class="charts">{"".join(drawn)}</div>\n'
    )


def _keys(groups: Groups) -> str:
    """Return the table of the keys that differ, and of what differs besides."""
    if not groups.keys and not groups.beside:
        return ""
    rows: list[str] = []
    if groups.keys:
        cells = [["", *(setting.name for setting in groups.settings)]]
        cells += [[key, *(setting.keys[key] for setting in groups.settings)] for key in groups.keys]
        if len(groups.settings) > MOST_BESIDE:
            cells = [list(row) for row in zip(*cells)]
        rows = [_cells("th", cells[0])]
        rows += [_cells("td", [f"<code>{_text(cell)}</code>" for cell in row], escaped=True) for row in cells[1:]]
    table = f'<div class="wide"><table>{"".join(rows)}</table></div>' if rows else ""
    beside = "".join(
        f'<li><code>{_text(name)}</code><span class="tag">machine or code</span> {_text(", ".join(values))}</li>'
        for name, values in groups.beside.items()
    )
    also = f'<p class="note">Differs among the runs as well, and is no setting:</p><ul>{beside}</ul>' if beside else ""
    return f"<h2>Keys that differ</h2>{table}{also}\n"


def _results(groups: Groups, pairs: Sequence[Pair], scale: Scale) -> str:
    from dlwp.comparing.listing import cells

    head, *rows = cells(groups, pairs, scale)
    lines = [_cells("th", head, first_left=True)] + [_cells("td", row, first_left=True) for row in rows]
    return f'<h2>Results</h2><div class="wide"><table>{"".join(lines)}</table></div>\n'


def _runs(groups: Groups, scale: Scale, folder: Path) -> str:
    rows = [_cells("th", ["setting", "seed", groups.metric, "step", "time", "folder"])]
    for setting in groups.settings:
        for trial in setting.trials:
            step, elapsed = trial.row["best_step"] or trial.row["step"], trial.row["elapsed_s"]
            cells = [
                _text(setting.name),
                _text(trial.seed),
                scale.value(trial.value),
                f"{step:,}" if isinstance(step, int) else "",
                f"{elapsed:,.0f} s" if isinstance(elapsed, int | float) else "",
                _link(trial.run, folder),
            ]
            rows.append(_cells("td", cells, escaped=True))
    left = "".join(f"<li>{_link(run, folder)}: {_text(why)}</li>" for run, why in groups.left_out.items())
    left = f'<p class="note">Left out:</p><ul>{left}</ul>' if left else ""
    notes = "".join(f'<p class="note">{_text(_capital(note))}.</p>' for note in groups.notes)
    return f'<h2>Runs</h2><div class="wide"><table>{"".join(rows)}</table></div>{left}{notes}\n'


def _reading(groups: Groups, pairs: Sequence[Pair], now: datetime) -> str:
    said = []
    known = [pair.difference for pair in pairs if pair.difference.known]
    if any(one.paired for one in known):
        said.append("Paired: the values of the same seed are subtracted from one another (Student's t).")
    if any(not one.paired for one in known):
        said.append("Where the seeds do not match, the means are compared (Welch's t).")
    if known and max(pair.comparisons for pair in pairs) > 1:
        said.append("Intervals are those of each comparison by itself; p and verdicts are corrected for all (Holm).")
    if known:
        said.append("An interval tells what other seeds may bring, not what other samples would.")
    made = f"Made by dlwp-compare of dlwp {__version__}, {now:%Y-%m-%d %H:%M}."
    return f'<footer class="soft"><p>{_text(" ".join([*said, made]))}</p></footer>\n'


# ---- words and numbers ----------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    return escaping.escape(str(value))


def _capital(sentence: str) -> str:
    """Return a sentence with a capital, unless it begins with a setting's name."""
    first = sentence.split(" ", 1)[0]
    return sentence if "=" in first or "/" in first else sentence[:1].upper() + sentence[1:]


def _unbroken(sentence: str) -> str:
    """Return a sentence as HTML in which no interval is broken at a line's end."""
    return re.sub(r"\([^()]{1,24}\)", lambda found: found[0].replace(" ", "\u00a0"), _text(_capital(sentence)))


def _cells(kind: str, cells: Iterable[str], *, escaped: bool = False, first_left: bool = False) -> str:
    """Return a row of a table; with `first_left` all but the first are numbers."""
    found = []
    for index, cell in enumerate(cells):
        mark = ' class="n"' if first_left and index else ""
        found.append(f"<{kind}{mark}>{cell if escaped else _text(cell)}</{kind}>")
    return f"<tr>{''.join(found)}</tr>"


def _link(run: str, folder: Path) -> str:
    """Return a link to a run's folder, as the page finds it."""
    target = quote(os.path.relpath(run, folder))
    return f'<a href="{_text(target)}/">{_text(run)}</a>'


def _percent(axis: Axis, value: float) -> str:
    return f"{100 * axis.share(value):.2f}%"


def _values(pairs: Sequence[Pair]) -> list[float]:
    return [pair.difference.value for pair in pairs]


def _tick(tick: float, scale: Scale) -> str:
    """Return a tick of the axis of differences: "+10"."""
    number = tick * (100 if scale.share else 1)
    return f"{number:+.4g}" if abs(number) > 1e-12 else "0"


def _percent_text(value: float) -> str:
    return f"{100 * value:.4g}%"


def _number_text(value: float) -> str:
    return f"{value:.4g}"
