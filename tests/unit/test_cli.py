"""The command line: how commands are found, what help says without importing them, and how mistakes end."""

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from rlscaler.cli import EXTRAS, SECTIONS, root
from rlscaler.commands import print_table
from rlscaler.observation import FIELDS
from rlscaler.reasons import SENTENCES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS: dict[str, str] = PROJECT["entry-points"]["rlscaler.commands"]
WEB = str(ROOT / "examples" / "web.yaml")
LIBRARIES = r"\b(numpy|yaml|rich|torch|gymnasium|array_api_compat)\b"

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs commands, as a package manager records them, before all others."""

    def installed(commands: dict[str, str], name: str = "rlscaler") -> Path:
        info = tmp_path / f"{name}-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
        lines = (f"{command} = {target}" for command, target in commands.items())
        (info / "entry_points.txt").write_text("\n".join(["[rlscaler.commands]", *lines]))
        return tmp_path

    monkeypatch.syspath_prepend(str(tmp_path))
    return installed


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(root, arguments, prog_name="rlscaler", input=text)


def module(folder: Path, name: str, body: str) -> None:
    (folder / f"{name}.py").write_text(textwrap.dedent(body))


# --- finding commands


def test_help_lists_every_command_by_section_and_imports_none(install: Install) -> None:
    install(dict.fromkeys(COMMANDS, "no_such_module:command"))
    result = run("--help")
    assert result.exit_code == 0
    for title, helps in SECTIONS:
        assert f"{title}:\n" in result.output
        for name, text in helps.items():
            assert re.search(rf"^  {name} +{re.escape(text)}$", result.output, re.M), name
    assert result.output.count("rlscaler ") >= 3, "help teaches by two examples"


def test_every_command_of_the_project_has_a_help_line() -> None:
    assert {name for _, helps in SECTIONS for name in helps} == COMMANDS.keys()


def test_every_command_of_this_room_can_be_imported(install: Install) -> None:
    install(COMMANDS)
    for name, target in COMMANDS.items():
        if target.startswith("rlscaler.commands:"):
            assert run(name, "--help").exit_code == 0, name


def test_a_command_of_another_package_is_listed_with_its_origin(install: Install) -> None:
    install({"version": COMMANDS["version"]})
    install({"extra": "no_such_module:command"}, name="rlscaler-extra")
    output = run("--help").output
    assert re.search(r"Other packages:\n  extra +From rlscaler-extra\.", output)


def test_a_wrong_name_suggests_the_nearest(install: Install) -> None:
    install(COMMANDS)
    result = run("validat")
    assert result.exit_code == 2
    assert "no command 'validat'; did you mean 'validate'?" in result.stderr
    assert "no command 'qqq'; see rlscaler --help" in run("qqq").stderr


def test_without_an_installation_the_command_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlscaler.cli.found_commands", dict)
    result = run("version")
    assert result.exit_code == 2
    assert "rlscaler is not installed, so it has no commands; run pip install rlscaler" in result.stderr


def test_the_operators_of_completion_import_no_command(install: Install) -> None:
    install(dict.fromkeys(COMMANDS, "no_such_module:command"))
    complete = ShellComplete(root, {}, "rlscaler", "_RLSCALER_COMPLETE")
    assert [item.value for item in complete.get_completions([], "v")] == ["verify", "validate", "version"]
    assert [item.value for item in complete.get_completions([], "--h")] == ["--help"]


# --- how mistakes end


@pytest.mark.parametrize("missing", sorted(EXTRAS))
@pytest.mark.parametrize("when", ["loading", "running"])
def test_a_missing_extra_is_one_line(
    install: Install, monkeypatch: pytest.MonkeyPatch, missing: str, when: str
) -> None:
    name = f"needs_{missing}_{when}"
    folder = install({"train": f"{name}:command"})
    imports = f"import {missing}.inner"
    module(folder, name, f"""\
        import click
        {imports if when == "loading" else ""}
        @click.command()
        def command():
            {imports if when == "running" else "pass"}
        """)  # fmt: skip
    for loaded in [m for m in sys.modules if m.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, missing, None)
    result = run("train")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: 'train' needs {missing}: pip install 'rlscaler[{EXTRAS[missing]}]'\n"


def test_every_named_extra_exists() -> None:
    assert set(EXTRAS.values()) <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "no_such_module:command",
            "'tune' cannot be loaded: No module named 'no_such_module'; install rlscaler again",
        ),
        ("json:nothing", "'tune' cannot be loaded: json:nothing is no command; install rlscaler again"),
        ("json:dumps", "'tune' cannot be loaded: json:dumps is no command; install rlscaler again"),
    ],
    ids=["module", "attribute", "kind"],
)
def test_a_broken_entry_is_one_line(install: Install, target: str, message: str) -> None:
    install({"tune": target})
    result = run("tune")
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")


MISTAKES = {
    "user-error": ("raise UserError('a: wrong\\nb: wrong')", 2, "error: a: wrong\nerror: b: wrong\n"),
    "steers": ("raise UserError('a \x9b2J\u202e\a: wrong')", 2, "error: a ?2J??: wrong\n"),
    "interrupt": ("raise KeyboardInterrupt", 130, "interrupted\n"),
    "usage": ("raise click.UsageError('no')", 2, "Error: no\n"),
    "value": ("return 'a value is no exit code'", 0, ""),
    "exit": ("click.get_current_context().exit(3)", 3, ""),
}  # fmt: skip


def run_command_of(install: Install, name: str, body: str) -> Result:
    """Run a command of a new module whose function holds `body`."""
    folder = install({"tune": f"{name}:command"})
    module(folder, name, f"""\
        import click
        from rlscaler.errors import UserError
        @click.command()
        def command():
            {body}
        """)  # fmt: skip
    return run("tune")


@pytest.mark.parametrize(("body", "code", "ending"), MISTAKES.values(), ids=MISTAKES)
def test_how_a_command_ends(install: Install, body: str, code: int, ending: str) -> None:
    result = run_command_of(install, f"ends_{code}_{len(body)}", body)
    assert result.exit_code == code
    assert result.stderr.endswith(ending)
    assert "Traceback" not in result.output


@pytest.mark.parametrize("body", ["raise ValueError('a defect')", "import no_such_module"])
def test_a_defect_keeps_its_traceback(install: Install, body: str) -> None:
    result = run_command_of(install, f"defect_{len(body)}", body)
    assert isinstance(result.exception, (ValueError, ModuleNotFoundError))


def program(folder: Path, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    """Return the command line of a process that runs rlscaler with what was installed in `folder`."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from rlscaler.cli import main; main()"
    return [sys.executable, *options, "-c", code, *arguments]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "core")}


def test_a_reader_that_stops_reading_is_no_error(install: Install) -> None:
    folder = install({"flood": "flood:command"})
    module(folder, "flood", """\
        import click
        @click.command()
        def command():
            while True:
                click.echo("x" * 1000)
        """)  # fmt: skip
    with subprocess.Popen(
        program(folder, "flood"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode != 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("argument", ["version", "--help"])
def test_a_full_disk_below_the_output_is_a_sentence(install: Install, argument: str) -> None:
    command = program(install(COMMANDS), argument)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: the output cannot be written: No space left on device; make room there, or choose another place\n"
    )


def test_version_and_help_import_nothing_heavy(install: Install) -> None:
    folder = install(COMMANDS)
    for argument in ("version", "--help", "--version"):
        command = program(folder, argument, options=("-X", "importtime"))
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        assert "rlscaler.cli" in done.stderr
        assert re.findall(LIBRARIES, done.stderr) == [], argument


# --- version


def test_version(install: Install) -> None:
    install(COMMANDS)
    assert run("--version").output == "rlscaler 9.9\n"
    lines = run("version").output.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["rlscaler", "python", "numpy"]
    found = json.loads(run("version", "--json").output)
    assert found["rlscaler"] == "9.9"
    assert [f"{name} {number}" for name, number in found.items()] == lines


# --- validate


def test_validate_says_ok_for_each_resource(install: Install) -> None:
    install(COMMANDS)
    shop = str(ROOT / "examples" / "shop.yaml")
    result = run("validate", "-f", WEB, "-f", shop)
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == f"ok shop/web ({WEB}:2)"
    assert len(result.output.splitlines()) == 1 + Path(shop).read_text().count("kind: RLScaler")


def test_validate_reports_all_the_mistakes_of_all_the_files(install: Install, tmp_path: Path) -> None:
    install(COMMANDS)
    text = Path(WEB).read_text()
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace("interval: 15s", "interval: 15").replace("mode: Shadow", "mode: shadow"))
    result = run("validate", "-f", str(path), "-f", "missing.yaml", "-f", WEB)
    assert result.exit_code == 2
    assert result.stdout == f"ok shop/web ({WEB}:2)\n"
    assert result.stderr.splitlines() == [
        f"error: {path}:12: spec.mode: shadow is not known; expected one of Shadow, Active, Paused",
        f"error: {path}:15: spec.interval: 15 has no unit; write 15s if seconds are meant",
        "error: missing.yaml: no such file; expected a file of RLScaler resources",
    ]


HOSTILE = r"""apiVersion: rlscaler.io/v1alpha1
kind: RLScaler
metadata: {name: "web\a", !!float "\a\u202E": 1, annotations: {"\x9B": !!int "\a"}}
spec:
  maxReplicas: !!float "\a"
  interval: !!float "\x9B"
  scaleTargetRef: {apiVersion: !!float "\x9B", kind: "\a", name: !!int "\a"}
  metrics: {load: {query: "\a", match: {"\a": !!bool "\a"}}}
"""
"""Values that YAML lets a file name by escapes and that PyYAML takes for numbers or truths as they are tagged so."""


def test_a_file_cannot_steer_the_terminal(install: Install, tmp_path: Path) -> None:
    install(COMMANDS)
    (path := tmp_path / "web.yaml").write_text(HOSTILE)
    for arguments in (["validate", "-f", str(path)], ["validate", "-f", "no\a\x9bsuch\u202e"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert [line for line in result.stderr.split("\n") if not line.isprintable()] == []


@pytest.mark.parametrize("terminal", [True, False])
def test_a_cell_is_neither_markup_nor_steers_the_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rlscaler.commands._is_terminal", lambda: terminal)
    print_table("Models", ("model", "kind"), [("[/x]\a.rlz", "\x9b")])
    assert capsys.readouterr().out.splitlines()[-1].split() == ["[/x]?.rlz", "?"]


def test_validate_reads_the_standard_input_and_writes_json(install: Install) -> None:
    install(COMMANDS)
    text = Path(WEB).read_text()
    result = run("validate", "-f", "-", "--json", text=text)
    assert result.exit_code == 0
    resource = {"namespace": "shop", "name": "web", "file": "standard input", "line": 2}
    assert json.loads(result.stdout) == {"resources": [resource], "errors": []}
    result = run("validate", "-f", "-", "--json", text=text.replace("interval: 15s", "interval: 15"))
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "resources": [],
        "errors": ["standard input:15: spec.interval: 15 has no unit; write 15s if seconds are meant"],
    }


def test_validate_needs_a_file(install: Install) -> None:
    install(COMMANDS)
    result = run("validate")
    assert result.exit_code == 2
    assert "Missing option '-f' / '--file'" in result.stderr


# --- schema


def test_schema_shows_every_field_and_reason(install: Install) -> None:
    install(COMMANDS)
    lines = run("schema").output.splitlines()
    shown = {line.split("  ")[0].strip() for line in lines}
    assert shown >= {field.name for field in FIELDS} | {str(reason.name) for reason in SENTENCES}
    field = next(f for f in FIELDS if f.name == "backlog")
    line = next(line for line in lines if line.startswith("backlog "))
    assert re.split(" {2,}", line) == [
        field.name,
        field.group,
        field.unit,
        f"{field.low:g} to {field.high:g}",
        field.meaning,
    ]


def test_schema_as_json(install: Install) -> None:
    install(COMMANDS)
    found = json.loads(run("schema", "--json").output)
    assert [(f["name"], f["low"], f["high"]) for f in found["fields"]] == [(f.name, f.low, f.high) for f in FIELDS]
    assert {r["name"]: r["meaning"] for r in found["reasons"]} == {str(r.name): s for r, s in SENTENCES.items()}


def test_a_terminal_gets_a_table_of_its_width(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(COMMANDS)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("rlscaler.commands._is_terminal", lambda: True)
    lines = click.unstyle(run("schema").output).splitlines()
    assert max(len(line) for line in lines) <= 60
    assert sum(line.startswith("backlog ") for line in lines) == 1


# --- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(install: Install, shell: str) -> None:
    install(COMMANDS)
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_RLSCALER_COMPLETE={shell}_complete" in result.stdout


def test_completion_of_another_shell(install: Install) -> None:
    install(COMMANDS)
    result = run("completion", "csh")
    assert result.exit_code == 2
    assert "'csh' is not one of 'bash', 'zsh', 'fish'" in result.stderr
