"""The table of a benchmark in a document: put between its markers, and nothing else there is touched."""

from pathlib import Path

import click
import pytest

from rlscaler_training.bench_document import rewrite

PAGE = "# Speed\n\n<!-- bench: made by make bench-it -->\n{}<!-- /bench -->\n\nWhat it says.\n"


def test_the_table_alone_is_made_anew(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text(PAGE.format("| old |\n"))
    rewrite(page, "bench-it", "| new |\n")
    assert page.read_text() == PAGE.format("| new |\n")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("# Speed\n", id="none"),
        pytest.param(PAGE.replace("bench-it", "bench-that"), id="of another benchmark"),
        pytest.param(PAGE.replace("<!-- /bench -->", ""), id="no end"),
        pytest.param("<!-- /bench -->\n" + PAGE.replace("<!-- /bench -->", ""), id="the end before the start"),
    ],
)
def test_a_page_without_the_markers_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    page = tmp_path / "speed.md"
    page.write_text(text)
    with pytest.raises(click.ClickException, match=r"speed\.md: there are no markers of the table"):
        rewrite(page, "bench-it", "| new |\n")
    assert page.read_text() == text
