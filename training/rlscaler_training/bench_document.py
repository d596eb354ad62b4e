"""The table of a benchmark in a document: what stands between the two markers there that name its target of make."""

from pathlib import Path

import click

from rlscaler.files import write_text_atomically

END = "<!-- /bench -->\n"


def rewrite(document: Path, target: str, text: str) -> None:
    """Put the text, whole lines of Markdown, between the markers. Raises ClickException where there are none."""
    start = f"<!-- bench: made by make {target} -->\n"
    before, found, rest = document.read_text(encoding="utf-8").partition(start)
    if not found or END not in rest:
        raise click.ClickException(f"{document}: there are no markers of the table")
    write_text_atomically(document, before + start + text + END + rest.partition(END)[2])
