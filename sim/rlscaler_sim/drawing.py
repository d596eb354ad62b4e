"""How every picture is drawn: in one style, with matplotlib's Agg canvas and no global state, as PNG.

A picture is made for a page at half its size: two pixels for each of a sharp screen's points.
"""

import io
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from rlscaler.errors import UserError

DPI = 200
"""Pixels per inch."""
TEXT, MUTED, GRID, LOAD = "#161b22", "#566071", "#e8ebef", "#d9dde3"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 6.5,
    "text.parse_math": False,
    "text.color": TEXT,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 2,
    "ytick.major.size": 0,
    "lines.solid_joinstyle": "miter",
}


def require() -> None:
    """Raise UserError where matplotlib is not installed; to be called before a long run that ends in a picture."""
    try:
        found = find_spec("matplotlib") is not None
    except ValueError:  # it was taken out of sys.modules
        found = False
    if not found:
        raise UserError("the picture needs matplotlib; install it with: pip install 'rlscaler[report]'")


def png(width: int, height: int, draw: Callable[[Any], None], style: Mapping[Any, Any] | None = None) -> bytes:
    """Return a picture of so many pixels as PNG. Raises UserError where matplotlib is not installed.

    draw: is given the figure. style: what differs from STYLE.
    """
    require()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with mpl.rc_context({**STYLE, **(style or {})}), warnings.catch_warnings():
        # names come from users; a letter that the font lacks is drawn as a box and is no reason to warn
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(out, format="png", metadata={"Software": "rlscaler"})
    return out.getvalue()
