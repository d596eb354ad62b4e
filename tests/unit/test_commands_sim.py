"""The simulator's commands on what people get wrong: exit 2, a sentence that helps, and nothing left behind."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from command_line import WEB, mistakes, run, stand_in
from rlscaler.artifact import Artifact, save
from rlscaler.observation import SCHEMA
from rlscaler_sim import patterns, scenario_file, scenarios, tuner, world
from rlscaler_sim.commands import Seconds


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with everything in it that the cases name."""
    stand_in(tmp_path, monkeypatch)
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(text)
    Path("empty").mkdir()
    table("old.rlz", observation_schema="0")
    table("kind.rlz", kind="oracle")
    table("bins.rlz", parameters={"bins": [["no_such_field", [0.0]]]})
    return tmp_path


def table(path: str, **changed: Any) -> None:
    """Save a small table with some of its manifest changed."""
    manifest = {
        "name": "mine",
        "kind": "q-table",
        "observation_schema": SCHEMA,
        "action_scheme": "headroom",
        "parameters": {"bins": [["trend", [0.0]]]},
    }
    save(Artifact(manifest | changed, {"values": np.zeros((2, 11))}), path)


def csv(values: Sequence[Any], step: float = 60.0) -> bytes:
    return ("t,rate\n" + "".join(f"{step * i:g},{v}\n" for i, v in enumerate(values))).encode()


TEXT = Path(WEB).read_text()
FILES = {
    "field.yaml": TEXT.replace("  mode: Shadow", "  replicas: 3\n  mode: Shadow").encode(),
    "bounds.yaml": TEXT.replace("maxReplicas: 100", "maxReplicas: 1").encode(),
    "latency.yaml": TEXT.replace("latency: 500ms", "latency: 100ms").encode(),
    "policy.yaml": TEXT.replace("name: default", "name: nobody").encode(),
    "two.yaml": (
        TEXT + "---\n" + TEXT.replace("name: web", "name: api").replace("name: default", "name: missing")
    ).encode(),
    "binary.yaml": b"\x89PNG\r\n\x1a\n\x00\x00\xff\xff",
    "empty.yaml": b"",
    "empty.csv": b"",
    "order.csv": b"t,rate\n0,1\n120,2\n60,3\n",
    "words.csv": csv([1, 2, "many", 4]),
    "negative.csv": csv([1, 2, -3, 4]),
    "infinite.csv": csv([1, 2, "inf", 4]),
    "short.csv": csv([5, 6], step=3.0),
    "gap.csv": csv(["", *[3] * 40], step=60.0),
    "one.csv": b"t,rate\n0,1\n",
    "binary.csv": b"\x00\x01\x02\xff",
    "damaged.csv.gz": b"\x1f\x8b\x08\x00not gzip",
    "load.csv": csv([20, 40, 30] * 10),
    "again/load.csv": csv([20, 40, 30] * 10),
    "folder/one.csv": csv([20, 40, 30] * 10),
    "folder/two.csv": csv([10, 40, 30] * 10),
    "there.txt": b"kept",
    "damaged.rlz": b"PK\x03\x04 and no more",
}

DRY_RUN: dict[str, tuple[list[str], list[str]]] = {
    "unknown field": (["-f", "field.yaml"], ["field.yaml:12: spec.replicas", "unknown"]),
    "min above max": (
        ["-f", "bounds.yaml"],
        ["bounds.yaml:13: spec.minReplicas: 2 is above maxReplicas 1", "expected"],
    ),
    "latency below the service time": (["-f", "latency.yaml"], ["latency.yaml", "spec.objective.latency", "expected"]),
    "policy of the resource": (
        ["-f", "policy.yaml"],
        ["error: policy.yaml: spec.policy of shop/web: policy 'nobody' is unknown", "expected default"],
    ),
    "no such file": (["-f", "none.yaml"], ["none.yaml: no such file", "expected"]),
    "a folder for a file": (["-f", "empty"], ["empty: a folder", "expected"]),
    "no text": (["-f", "binary.yaml"], ["binary.yaml", "UTF-8"]),
    "nothing in it": (["-f", "empty.yaml"], ["empty.yaml: nothing in it", "expected"]),
    "for without a unit": (["--for", "15"], ["--for", "15 has no unit", "write 15s"]),
    "for of no duration": (["--for", "soon"], ["--for", "soon is not a duration", "expected"]),
    "for of a strange number": (["--for", "²d"], ["--for", "is not a duration", "expected"]),
    "for of nothing": (["--for", "0s"], ["--for 0s", "expected some time"]),
    "from beyond the end": (["--from", "30h"], ["--from 30h: working-day ends after 24h", "start earlier"]),
    "from beyond the end of a trace": (["--trace", "load.csv", "--from", "2h"], ["load: 0 s are left from 7200 s on"]),
    "unknown policy": (
        ["--policy", "nobody"],
        ["error: policy 'nobody' is unknown", "expected default, learned, static"],
    ),
    "no such artifact": (["--policy", "none.rlz"], ["none.rlz: no such artifact", "train one"]),
    "artifact of another schema": (
        ["--policy", "old.rlz"],
        ["old.rlz", "observation_schema", "'0'", f"expected '{SCHEMA}'"],
    ),
    "artifact of another kind": (["--policy", "kind.rlz"], ["kind.rlz", "'oracle'", "q-table"]),
    "artifact with a field that is not observed": (["--policy", "bins.rlz"], ["bins.rlz", "no_such_field", "expected"]),
    "damaged artifact": (["--policy", "damaged.rlz"], ["damaged.rlz", "expected"]),
    "text for an artifact": (["--policy", "there.txt"], ["there.txt", "expected"]),
    "unknown scenario": (
        ["--trace", "worknig-day"],
        ["--trace worknig-day: no scenario", "did you mean 'working-day'"],
    ),
    "unknown variant": (["--trace", "daily/slow"], ["--trace daily/slow", "slow-start"]),
    "bad expression": (["--trace", "daily(hours=3)"], ["--trace daily(hours=3)", "hours"]),
    "no such trace": (["--trace", "none.csv"], ["none.csv: cannot be read", "name a .csv"]),
    "empty trace": (["--trace", "empty.csv"], ["empty.csv: is empty", "expected rows"]),
    "trace out of order": (["--trace", "order.csv"], ["order.csv, line 4: time '60'", "expected rising times"]),
    "trace of words": (["--trace", "words.csv"], ["words.csv, line 4: value 'many'", "expected a number"]),
    "negative trace": (["--trace", "negative.csv"], ["negative.csv, line 4: value '-3'", "expected a number from 0"]),
    "infinite trace": (["--trace", "infinite.csv"], ["infinite.csv, line 4: value 'inf'", "expected a number from 0"]),
    "trace of one row": (["--trace", "one.csv"], ["one.csv: has one row only", "expected two or more"]),
    "binary trace": (["--trace", "binary.csv"], ["binary.csv", "expected a CSV file"]),
    "damaged trace": (["--trace", "damaged.csv.gz"], ["damaged.csv.gz: damaged gzip"]),
    "trace shorter than an interval": (["--trace", "short.csv"], ["short: 6 s are left", "one interval of 15 s"]),
    "a stretch without data": (
        ["--trace", "gap.csv", "--for", "45s"],
        ["gap: nothing is known from 0 to 45 s", "expected"],
    ),
    "unknown contender": (["--compare", "hpa,vpa"], ["--compare vpa: no such contender", "expected static"]),
    "no name": (["--compare", ","], ["--compare ,: no name", "expected names separated by commas, such as hpa,keda"]),
    "scale of nothing": (["--scale-to", "0"], ["--scale-to", "0 is out of range", "expected a number above 0"]),
    "negative scale": (["--scale-to", "-2"], ["--scale-to", "-2 is out of range", "expected a number above 0"]),
    "infinite scale": (["--scale-to", "inf"], ["--scale-to", "inf is out of range", "expected a number above 0"]),
    "scale of no number": (["--scale-to", "nan"], ["--scale-to", "nan is out of range", "expected a number above 0"]),
    "scale of a word": (["--scale-to", "much"], ["--scale-to", "'much' is not a valid float"]),
    "negative seed": (["--seed", "-1"], ["--seed", "-1 is not in the range"]),
    "unknown option": (["--speed", "9"], ["No such option", "--speed"]),
    "a page called a picture": (["--report", "x.png"], ["--report x.png: ends in .png", "a name that ends in .html"]),
    "a picture called another": (["--plot", "x.gif"], ["--plot x.gif: ends in .gif", "a name that ends in .png"]),
    "the second of two": (
        ["-f", "two.yaml", "--decisions", "out.jsonl"],
        ["two.yaml: spec.policy of shop/api: policy 'missing' is unknown", "expected"],
    ),
}
for option in ("--decisions", "--report", "--plot"):
    DRY_RUN |= {
        f"{option} in no folder": ([option, "none/out"], ["none/out: the folder", "none does not exist", "create it"]),
        f"{option} onto a folder": ([option, "empty"], ["empty is a folder", "expected the name of a file"]),
        f"{option} onto a read-only place": ([option, "/proc/out"], ["/proc/out cannot be written", "choose another"]),
        f"{option} below a file": ([option, "there.txt/out"], ["there.txt/out cannot be written", "choose another"]),
    }

EVALUATE: dict[str, tuple[list[str], list[str]]] = {
    "no trace": ([], ["no trace is named", "give --trace FILE"]),
    "two of a name": (["--trace", "load.csv", "--trace", "again/load.csv"], ["two traces are called 'load'", "rename"]),
    "the same twice": (["--trace", "folder/one.csv", "--traces", "folder"], ["two traces are called 'one'", "rename"]),
    "unknown rule": (["--trace", "load.csv", "--rules", "hpa,vpa"], ["--rules vpa: no such rule", "expected static"]),
    "no rule": (["--trace", "load.csv", "--rules", ","], ["--rules ,: no name", "such as hpa,keda"]),
    "no such folder": (["--traces", "none"], ["none: no such folder", "name a folder"]),
    "a folder of nothing": (["--traces", "empty"], ["no trace is named", "give --trace FILE"]),
    "bad trace": (["--trace", "words.csv"], ["words.csv, line 4: value 'many'", "expected a number"]),
    "short trace": (["--trace", "short.csv"], ["short: 6 s are left", "one interval of 15 s"]),
    "unknown policy": (
        ["--trace", "load.csv", "--policy", "nobody"],
        ["policy 'nobody' is unknown", "expected default"],
    ),
    "old artifact": (["--trace", "load.csv", "--policy", "old.rlz"], ["old.rlz", "observation_schema"]),
    "no unit": (["--trace", "load.csv", "--for", "15"], ["--for", "15 has no unit", "write 15s"]),
    "no time": (["--trace", "load.csv", "--for", "0s"], ["duration is 0", "expected a number above 0"]),
    "no seeds": (["--trace", "load.csv", "--seeds", "0"], ["--seeds", "0 is not in the range"]),
    "long start-up": (["--trace", "load.csv", "--startup", "3h"], ["--startup 10800s", "expected at most 3600s"]),
    "scale": (["--trace", "load.csv", "--scale-to", "0"], ["--scale-to", "0 is out of range"]),
    "output in no folder": (
        ["--trace", "load.csv", "--output", "none/o.json"],
        ["none/o.json: the folder", "create it"],
    ),
}

TUNE: dict[str, tuple[list[str], list[str]]] = {
    "no such folder": (["--traces", "none", "--output", "o.json"], ["none: no such folder"]),
    "too few families": (["--traces", "folder", "--output", "o.json"], ["folder: 2 source families", "expected 3"]),
    "output in no folder": (
        ["--traces", "folder", "--output", "none/o.json"],
        ["none/o.json: the folder", "create it"],
    ),
    "no budget": (["--traces", "folder", "--output", "o.json", "--budget", "1"], ["--budget", "1 is not in the range"]),
    "no output": (["--traces", "folder"], ["Missing option '--output'"]),
}
CASES = {
    f"{command}: {name}": (command, *case)
    for command, cases in (("dry-run", DRY_RUN), ("evaluate", EVALUATE), ("tune", TUNE))
    for name, case in cases.items()
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("command", "arguments", "fragments"), CASES.values(), ids=CASES.keys())
def test_a_mistake_is_a_sentence_and_leaves_nothing_behind(
    folder: Path, command: str, arguments: list[str], fragments: list[str]
) -> None:
    before = contents(folder)
    usual = {"-f": WEB} | ({} if "--from" in arguments else {"--for": "5m"}) if command == "dry-run" else {}
    left_out = [word for pair in usual.items() if pair[0] not in arguments for word in pair]
    told = "\n".join(mistakes(run(command, "-q", *left_out, *arguments)))
    for fragment in fragments:
        assert fragment in told
    assert contents(folder) == before


def test_all_the_mistakes_of_a_file_are_told_at_once(folder: Path) -> None:
    text = TEXT.replace("interval: 15s", "interval: 15").replace("maxReplicas: 100", "maxReplicas: none")
    Path("bad.yaml").write_text(text)
    told = mistakes(run("dry-run", "-f", "bad.yaml"))
    assert [message.split(": ")[2] for message in told] == ["spec.maxReplicas", "spec.interval"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; /proc stands for it among the mistakes")
def test_a_file_that_may_not_be_written(folder: Path) -> None:
    Path("there.txt").chmod(0o400)
    assert "there.txt cannot be written" in mistakes(run("dry-run", "-f", WEB, "--decisions", "there.txt"))[0]
    assert Path("there.txt").read_bytes() == b"kept"


DURATIONS = {"90s": 90.0, "15m": 900.0, "1h30m": 5400.0, "36h": 129_600.0, "14d": 1_209_600.0, "0.5d": 43_200.0}


@pytest.mark.parametrize(("text", "seconds"), DURATIONS.items())
def test_durations_are_those_of_resources_and_days(text: str, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["15", "d", "1d12h", "-3d", "1,5h", "", "1e3s", "nan"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Seconds().convert(text, None, None)


# --- Ctrl-C


class Interrupt:
    """Stands in for `world.step`, and is interrupted at a call."""

    def __init__(self, at: int) -> None:
        self.left, self.step = at, world.step

    def __call__(self, *arguments: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.step(*arguments)


INTERRUPTED: dict[str, tuple[list[str], int, str]] = {
    "dry-run": (
        ["dry-run", "-f", WEB, "--for", "5m", "--decisions", "d.jsonl", "--report", "r.html", "--plot", "p.png"],
        8,
        "stopped while running, at step 7 of 20",
    ),
    "dry-run, the second of two": (
        ["dry-run", "-f", "pair.yaml", "--for", "5m", "--decisions", "d.jsonl", "--report", "r.html"],
        25,
        "stopped while running, at step 4 of 20",
    ),
    "dry-run, tuning": (
        ["dry-run", "-f", WEB, "--for", "5m", "--compare", "hpa-own", "--json"],
        3,
        "stopped while tuning hpa-own, at step 2 of 20",
    ),
    "evaluate": (
        ["evaluate", "--trace", "load.csv", "--seeds", "1", "--for", "5m", "--rules", "hpa", "--output", "o.json"],
        30,
        "stopped while running, at step 9 of 20",
    ),
    "tune": (
        ["tune", "--traces", "three", "--budget", "2", "--for", "5m", "--output", "o.json"],
        5,
        "stopped while tuning hpa-tuned, at step 4 of 20",
    ),
}


@pytest.mark.parametrize(("arguments", "at", "told"), INTERRUPTED.values(), ids=INTERRUPTED.keys())
def test_an_interruption_says_what_was_done_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], at: int, told: str
) -> None:
    Path("pair.yaml").write_text(TEXT + "---\n" + TEXT.replace("name: web", "name: api"))
    Path("three").mkdir()
    for name in ("one", "two", "three"):
        Path(f"three/{name}.csv").write_bytes(csv([20, 40, 30] * 10))
    before = contents(folder)
    monkeypatch.setattr(world, "step", Interrupt(at))
    result = run(*arguments)
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr == f"{told}; nothing was written\ninterrupted\n"
    assert contents(folder) == before


def test_an_interruption_before_anything_ran(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlscaler_sim.dry_run.realised", interrupted)
    result = run("dry-run", "-f", WEB)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


# --- evaluate


def test_an_evaluation_is_printed_and_written(folder: Path) -> None:
    arguments = ["evaluate", "--traces", "folder", "--seeds", "2", "--for", "20m", "-q", "--rules", "keda,static"]
    result = run(*arguments, "--output", "o.json")
    assert (result.exit_code, result.stderr) == (0, "")
    for word in ("2 headline traces of 2", "default", "keda", "static", "hpa-tuned", "hpa-own", "clairvoyant"):
        assert word in result.stdout
    assert "mpc" not in result.stdout
    written, told = json.loads(Path("o.json").read_text()), json.loads(run(*arguments, "--json").stdout)
    for found in (written, told):
        assert found.pop("elapsed_s") > 0.0
    assert written == told
    assert [t["trace"] for t in told["traces"]] == ["one", "two"]
    names = ["static", "hpa-tuned", "hpa-own", "hpa-own-target", "keda", "default", "clairvoyant"]
    assert [[c["name"] for c in t["contenders"]] for t in told["traces"]] == [names, names]
    assert told["world"] == {"startup": 60.0, "scale_to": 25.0, "seeds": 2, "seconds": 1200.0}
    assert told["command"] == (
        "rlscaler evaluate --policy default --traces FOLDER --rules keda,static --seeds 2 --for 20m --startup 60s"
    )


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("evaluate", ("--json",)), ("robustness", ("--conditions", "standard"))],
    ids=["evaluate", "robustness"],
)
def test_irregular_times_of_a_trace_are_said_once(folder: Path, command: str, arguments: Sequence[str]) -> None:
    rows = "".join(f"{60 * i + (7 if i % 10 == 3 else 0)},{20 + i}\n" for i in range(30))
    Path("folder/odd.csv").write_text("t,rate\n" + rows)
    result = run(command, "--traces", "folder", "--seeds", "2", "--for", "20m", "-q", "--rules", "keda", *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "note: odd: 6 of 29 steps are no multiple of 60 s; averaged onto buckets of 60 s\n"
    assert "averaged" not in result.stdout


def test_the_command_of_an_evaluation_makes_the_same_again(folder: Path) -> None:
    arguments = ["evaluate", "--trace", "load.csv", "--rules", "hpa", "--seeds", "1", "--for", "10m", "--scale-to", "7"]
    told = json.loads(run(*arguments, "--json").stdout)
    again = json.loads(run(*told["command"].split()[1:], "--json").stdout)
    assert {**again, "elapsed_s": 0.0} == {**told, "elapsed_s": 0.0}


def test_the_usual_evaluation_needs_no_more_than_a_trace(folder: Path) -> None:
    result = run("evaluate", "--trace", "load.csv", "--seeds", "1", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["world"]["seconds"] == 14 * 86400.0


def test_a_slower_start_costs_more(folder: Path) -> None:
    def best(startup: str) -> float:
        found = run("evaluate", "--trace", "load.csv", "--seeds", "1", "--rules", "hpa", "--startup", startup, "--json")
        contenders = json.loads(found.stdout)["traces"][0]["contenders"]
        return float(next(c["score"] for c in contenders if c["name"] == "clairvoyant"))

    assert best("0s") < best("60s") < best("300s")


# --- scenarios


def test_every_scenario_and_pattern_is_listed(folder: Path) -> None:
    result = run("scenarios")
    assert result.exit_code == 0
    shown = {text.split()[0].partition("(")[0] for text in result.stdout.splitlines() if text.startswith("  ")}
    assert shown == {*scenarios.names(), *patterns.PATTERNS, *scenario_file.WORLD_KEYS}


def test_scenarios_as_json(folder: Path) -> None:
    rows = json.loads(run("scenarios", "--json").stdout)
    assert [row["name"] for row in rows] == list(scenarios.names())
    assert {row["kind"] for row in rows} == {"load", "variant"}
    by_name = {row["name"]: row for row in rows}
    assert by_name["slow-start"]["world"] == {"startup": 300.0}
    assert by_name["flash-crowd"]["seconds"] == 4 * 3600.0


@pytest.mark.parametrize("name", scenarios.names())
def test_every_scenario_can_be_run(folder: Path, name: str) -> None:
    result = run("dry-run", "-f", WEB, "-q", "--json", "--trace", name, "--for", "2m", "--compare", "hpa")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["trace"]


# --- tune


def test_tuned_constants_are_written_with_the_command_that_makes_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "RULES", {"static": tuner.RULES["static"]})  # type: ignore[attr-defined]
    Path("folder/three.csv").write_bytes(csv([9, 40, 30] * 10))
    result = run("tune", "--traces", "folder", "--budget", "4", "--for", "5m", "--output", "o.json", "-q")
    assert (result.exit_code, result.stdout) == (0, "constants: o.json\n")
    found = json.loads(Path("o.json").read_text())
    assert set(found) == {"provenance", "constants", "folds"}
    assert set(found["constants"]) == {"hpa-tuned", "static"}
    assert len(found["folds"]) == 3
    words = found["provenance"]["command"].split()
    assert words[:2] == ["rlscaler", "tune"]
    assert Seconds().convert(words[words.index("--for") + 1], None, None) == 300.0


def test_a_rule_without_constants_is_not_tuned(folder: Path) -> None:
    result = run("tune", "--traces", "folder", "--output", "o.json", "--rule", "random")
    assert result.exit_code == 2
    assert "--rule 'random' is none that is tuned; expected hpa-tuned, static, threshold" in result.stderr
    assert not Path("o.json").exists()
