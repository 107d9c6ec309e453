"""Small charts for report.html as SVG text: lines over time, bars of a distribution. matplotlib draws them.

Colours are names of the page's own (CSS variables), so one chart serves light and dark; texts stay texts.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it reports where it keeps its font cache

# placeholders that matplotlib accepts as colours; each becomes a CSS variable of the page
_COLOURS = {
    "#0a0b0c": "var(--ink)",
    "#1a1b1c": "var(--soft)",
    "#2a2b2c": "var(--line)",
    "#3a3b3c": "var(--bar)",
    "#4a4b4c": "var(--bad)",
}
_INK, _SOFT, _LINE, _BAR, _BAD = _COLOURS
_SIZE_INCHES = (4.4, 1.9)
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "captionmill",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": _LINE,
    "axes.axisbelow": True,
}


def over_time(minutes: Sequence[int], values: Sequence[float], unit: str, limit: float | None = None) -> str:
    """A line over time, as SVG.

    minutes: Unix minutes, one a value. unit: before each figure ("$"), or empty. limit: a level to compare with, in
    the unit of the values; None for none.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(unit)
        times: Any = [datetime.fromtimestamp(60 * minute, UTC) for minute in minutes]
        axes.fill_between(times, values, color=_BAR, alpha=0.15, linewidth=0)
        axes.plot(times, values, color=_BAR, linewidth=1.4, marker="." if len(times) == 1 else None)
        if limit is not None:
            axes.axhline(limit, color=_BAD, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(bottom=0, top=1.08 * max(*values, limit or 0, 1e-9))
        locator: Any = AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
        return _svg(figure)


def distribution(bars: Sequence[tuple[float, float, int]], is_whole: bool = False) -> str:
    """A bar chart, as SVG. bars: (from, to, count) of each bar. is_whole: the values are whole numbers."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("")
        lows = [low for low, _, _ in bars]
        widths = [max(high - low, 1e-12) for low, high, _ in bars]
        if len(bars) == 1 and bars[0][0] == bars[0][1]:
            widths = [max(0.2 * abs(lows[0]), 1e-9)]
            lows = [lows[0] - widths[0] / 2]
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.bar(lows, [count for _, _, count in bars], widths, align="edge", color=_BAR, linewidth=0)
        if len(lows) == 1:  # else one bar would fill the chart, and the axis would name values that cannot be
            axes.set_xlim(lows[0] - 3 * widths[0], lows[0] + 4 * widths[0])
            axes.set_xticks([lows[0] + widths[0] / 2])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=is_whole))
        axes.xaxis.set_major_formatter(_short(""))
        return _svg(figure)


def _axes(unit: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(_short(unit))
    return figure, axes


def _short(unit: str) -> FuncFormatter:
    """1,200 as 1.2k, because there is little room."""

    def text(value: float, _position: object) -> str:
        for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= size:
                return f"{unit}{value / size:.4g}{letter}"
        return f"{unit}{value:.4g}"

    return FuncFormatter(text)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]  # the XML header before it belongs to a separate file
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, variable)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"font: [^;\"]*?(\d+(?:\.\d+)?)px[^;\"]*", r"font: \1px system-ui, sans-serif", text)
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
