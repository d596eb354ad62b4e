"""What every page of this project is made of: scripts held to their hash, inert data, the contenders' colours.

A page is one file that asks nothing of the network. Its content security policy lets only the scripts run whose hash
it names, and data that holds users' names cannot leave its element.
"""

import base64
import hashlib
import json
import re
from importlib import resources
from typing import Any

from rlscaler.errors import UserError
from rlscaler_sim.palette import DARK, LIGHT


def plotly_source(what: str) -> str:
    """Return the source of plotly.js; what: the page that needs it. Raises UserError where plotly is missing."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise UserError(f"{what} needs plotly; install it with: pip install 'rlscaler[report]'") from error
    source: str = get_plotlyjs()
    return source


def section(template: str, title: str) -> str:
    """Return the section of a page's template whose heading has the id `title`. Raises KeyError where there is none."""
    found = re.search(rf'<section aria-labelledby="{re.escape(title)}".*?</section>', template, re.DOTALL)
    if found is None:
        raise KeyError(title)
    return found.group()


def inert(data: dict[str, Any]) -> str:
    """Return JSON that no name in it can leave: "<" is escaped, so that none closes the script element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def packaged(name: str, package: str = "rlscaler_sim") -> str:
    """Return the text of a file that a package brings along."""
    return resources.files(package).joinpath(name).read_text("utf-8")


def as_read(script: str) -> str:
    """Return a script with the line ends that a browser reads from HTML, which its hash is made of."""
    return script.replace("\r\n", "\n").replace("\r", "\n")


def csp_hash(script: str) -> str:
    """Return the source that lets exactly this script run (Content Security Policy level 3, 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def palette() -> str:
    """Return the contenders' colours as CSS variables that follow the theme."""
    colours = enumerate(zip(LIGHT, DARK, strict=True))
    return ":root{" + "".join(f"--c{i}:light-dark({light},{dark});" for i, (light, dark) in colours) + "}"
