"""Make what the Helm charts take from elsewhere: the CustomResourceDefinition, and the READMEs' tables of values.

``python scripts/chart.py`` writes them; a test holds them to what this makes.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rlscaler.crd import crd_yaml

CHARTS = Path(__file__).resolve().parent.parent / "charts"
START, END = "<!-- values: made by scripts/chart.py -->\n", "<!-- /values -->\n"
LONGEST = 80
"""Characters of a default that is shown as it is."""


class Value(NamedTuple):
    """A value that may be set: its path with dots, its default, and what values.yaml says of it."""

    path: str
    default: Any
    meaning: str


def values(text: str) -> Iterator[Value]:
    """Yield what values.yaml marks with a comment that begins with "# --", in its order."""
    content = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if marked := re.fullmatch(r"\s*# -- (.*)", line):
            comment = [marked[1]]
        elif comment and (more := re.fullmatch(r"\s*# (.*)", line)):
            comment.append(more[1])
        elif key := re.match(r"\s*([A-Za-z]\w*):", line):
            path = [*path[: indent // 2], key[1]]
            if comment:
                default = content
                for name in path:
                    default = default[name]
                yield Value(".".join(path), default, " ".join(comment))
            comment = []
        else:
            comment = []


def table(text: str) -> str:
    """Return the values as a Markdown table."""
    rows = ["| value | default | what it is |", "|---|---|---|"]
    for value in values(text):
        default = json.dumps(value.default, ensure_ascii=False)
        shown = f"`{default}`" if len(default) <= LONGEST else "see values.yaml"
        rows.append(f"| `{value.path}` | {shown} | {value.meaning} |")
    return "\n".join(rows) + "\n"


def made() -> dict[Path, str]:
    """Return the files that are made, with what they should hold."""
    found = {CHARTS / "rlscaler" / "files" / "crd.yaml": crd_yaml()}
    for readme in sorted(CHARTS.glob("*/README.md")):
        before, _, rest = readme.read_text().partition(START)
        _, _, after = rest.partition(END)
        values_table = table((readme.parent / "values.yaml").read_text())
        found[readme] = f"{before}{START}{values_table}{END}{after}"
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: chart.py")
    for path, text in made().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
