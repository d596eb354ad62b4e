"""Hyper-parameters: one declaration makes the default, the flag, the file's key and the mistake's message."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from rlscaler.errors import UserError
from rlscaler_training.hyper import choice, flags, read, setting, structure, switch


def pairs(value: Any) -> dict[str, int]:
    """Return a dict of whole numbers."""
    return {str(name): int(number) for name, number in value.items()}


@dataclass(frozen=True, slots=True)
class Config:
    steps: int = setting(10, 1, 100, "Steps.")
    rate: float = setting(0.5, 0.0, 1.0, "Rate (somebody 1992).")
    hidden: tuple[int, ...] = setting((96, 96), 1, 4096, "Widths.")
    kind: str = choice("hard", ("hard", "soft"), "Kind.")
    double: bool = switch(True, "Two.")
    bins: dict[str, int] = structure(lambda: {"a": 1}, pairs, "an object of whole numbers", "Bins.")


@click.command()
@flags(Config)
@click.option("--config", "file")
def command(file: str | None, **given: Any) -> None:
    """Print the settings."""
    click.echo(repr(read(Config, file, given)))


def said(*arguments: str) -> str:
    """Return what the command prints."""
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    return result.output


def test_flags_have_the_defaults_of_the_fields() -> None:
    """Help shows each with its default; without any the defaults stand."""
    assert said().strip() == repr(Config())
    told = " ".join(said("--help").split())
    for text in ("--steps INTEGER", "[default: 10]", "--rate FLOAT", "--kind [hard|soft]", "--double / --no-double",
                 "Rate (somebody 1992).", "--hidden N,N,...", "[default: 96, 96]"):  # fmt: skip
        assert text in told


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    """Each setting comes from the nearest place that says it."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"steps": 7, "rate": 0, "hidden": [8], "bins": {"b": 2}, "double": False}))
    found = said("--config", str(file), "--steps", "9", "--kind", "soft", "--hidden", "32,16")
    assert found.strip() == repr(Config(9, 0.0, (32, 16), "soft", False, {"b": 2}))


WRONG: list[tuple[Any, str]] = [
    ("{", "cannot be read as JSON"),
    ([1], "holds a list; expected an object"),
    ({"step": 1}, "no setting is called 'step'; expected one of steps, rate"),
    ({"steps": 0}, "steps is 0; expected a whole number from 1 to 100"),
    ({"steps": 1.5}, "steps is 1.5; expected a whole number"),
    ({"steps": True}, "steps is True; expected a whole number"),
    ({"steps": 10**400}, "0; expected a whole number from 1 to 100"),
    ({"rate": -(10**400)}, "0; expected a number from 0 to 1"),
    ("9" * 5000, "cannot be read as JSON"),
    ("[" * 100_000, "cannot be read as JSON"),
    ({"rate": "fast"}, "rate is 'fast'; expected a number from 0 to 1"),
    ({"rate": float("nan")}, "rate is nan"),
    ({"hidden": []}, "hidden is []; expected numbers, such as 96, 96"),
    ({"hidden": [0.5]}, "hidden is 0.5; expected a whole number from 1 to 4,096"),
    ({"hidden": "8,x"}, "hidden is 'x'; expected a whole number"),
    ({"kind": "medium"}, "kind is 'medium'; expected one of hard, soft"),
    ({"double": 1}, "double is 1; expected true or false"),
    ({"bins": [1]}, "bins is [1]; expected an object of whole numbers"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    """File, setting, value, and what is expected."""
    file = tmp_path / "settings.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError) as mistake:
        read(Config, file, {})
    assert str(mistake.value).startswith(f"{file}: ")
    assert message in str(mistake.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the path."""
    with pytest.raises(UserError, match=r"none\.json: no such file; expected a JSON object of settings$"):
        read(Config, tmp_path / "none.json", {})


def test_a_mistake_in_a_flag_is_named() -> None:
    """Without a file's name."""
    with pytest.raises(UserError) as mistake:
        read(Config, None, {"steps": 101})
    assert str(mistake.value) == "steps is 101; expected a whole number from 1 to 100"
