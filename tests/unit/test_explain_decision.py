"""`rlscaler explain --decision`: the rebuilt moment is the one that was, and its answers are what would have been.

The oracle is the autoscaler that made the log, forked at the decision: whatever is asked of the log is asked of it too.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import mistakes, run, working_in
from rlscaler import Autoscaler, Settings, Snapshot, tenured
from rlscaler.artifact import save
from rlscaler.behavior import DEFAULT, Behavior, ScalingPolicy, ScalingRules
from rlscaler.decision_log import found, read, when
from rlscaler.errors import UserError
from rlscaler.explained_decision import explanation, told
from rlscaler.memory import PARTS
from rlscaler.observation import NAMES
from rlscaler.policies import load_policy
from rlscaler.policy import Policy
from rlscaler.rows import taken
from rlscaler.settings import MetricLoss, Objective, compiled, joined
from rlscaler.stated import restated, stated
from rlscaler_operator.model import Key, PolicyInUse
from rlscaler_operator.recording import Batch, Lines
from rlscaler_sim import scenarios
from rlscaler_sim.dry_run import dry_run, found_scenario
from rlscaler_sim.run_record import write_decisions
from served_artifacts import network, table

BEGIN, INTERVAL, CAPACITY = 1_777_600_000.0, 15.0, 50.0
KEYS = (Key("shop", "web"), Key("shop", "api"))
SETTINGS = Settings(min_replicas=2, max_replicas=90, capacity_per_replica=CAPACITY, concurrency=4)
TICKS = 90


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with working_in(tmp_path_factory) as folder:
        yield folder


def load(tick: int, seed: int = 4) -> np.ndarray:
    """Return the load of both workloads at a tick, requests/s."""
    rng = np.random.default_rng([seed, tick + 10_000])
    swing = 1.0 + 0.6 * np.sin(2.0 * np.pi * np.array([tick / 60.0, tick / 45.0]))
    return np.asarray(CAPACITY * np.array([9.0, 14.0]) * swing * np.exp(0.05 * rng.standard_normal(2)))


@dataclass
class Kept:
    """A log, and the autoscaler that made it, just before its last decision, with the reading of that."""

    path: Path
    policy: Policy
    settings: Settings
    memory: Mapping[str, Any]
    reading: dict[str, np.ndarray]
    decided: list[np.ndarray]

    def asked(self, settings: Mapping[str, Any] | None = None, **reading: float) -> int:
        """Return what the first workload would have got with another reading and settings."""
        changed = replace(self.settings, **(settings or {}))
        scaler = Autoscaler(self.policy, joined([changed, changed]), 2)
        scaler.recall(scaler.rows, {part: taken(dict(self.memory[part]), np.arange(2)) for part in PARTS})
        return int(scaler.decide(Snapshot(**{**self.reading, **reading})).replicas[0])


def kept(
    path: Path,
    policy: Policy,
    name: str,
    *,
    settings: Settings = SETTINGS,
    before: int = 0,
    ticks: int = TICKS,
    at: Callable[[int], np.ndarray] = load,
    strip: tuple[str, ...] = (),
) -> Kept:
    """Write the log of two workloads as an operator does. before: ticks of past load, read back at its start."""
    scaler = Autoscaler(policy, joined([settings, settings]), 2)
    if before:
        past = np.arange(-before, 0)
        scaler.fill([0, 1], BEGIN + INTERVAL * past, np.stack([at(int(tick)) for tick in past], axis=1))
    mode = tenured.mode(policy)
    in_use = PolicyInUse(name, "sha256:0" if mode else "", tenure="" if mode == tenured.OFF else mode)
    lines = Lines()
    texts: list[str] = []
    decided: list[np.ndarray] = []
    current, ready = np.array([12.0, 20.0]), np.array([12.0, 20.0])
    rng = np.random.default_rng(1)
    memory: Mapping[str, Any] = {}
    reading: dict[str, Any] = {}
    for tick in range(ticks):
        ready = np.minimum(np.where(rng.random(2) < 0.4, current, ready), current)
        waits = np.maximum(0.0, at(tick) - CAPACITY * ready) * 8.0
        reading = {"time": BEGIN + INTERVAL * tick, "load": at(tick), "backlog": waits, "ready": ready,
                   "starting": current - ready, "desired": current}  # fmt: skip
        memory = scaler.memory(scaler.rows, PARTS)
        view = scaler.view(Snapshot(**reading))
        made = scaler.decide_on(view)
        texts += lines.made(Batch(KEYS, in_use, view, made))
        decided.append(made.replicas)
        current = made.replicas.astype(np.float64)
    texts += lines.rest()
    if strip:
        texts = [json.dumps({k: v for k, v in json.loads(text).items() if k not in strip}) + "\n" for text in texts]
    path.write_text("".join(texts))
    return Kept(path, policy, settings, memory, reading, decided)


def by_key(value: Mapping[str, Any], part: str = "asked") -> dict[str, Any]:
    return {each["key"]: each for each in value[part]}


def artifact(kind: str, folder: Path) -> str:
    path = folder / f"{kind}.rlz"
    save({"table": table, "network": lambda: network("correction")}[kind](), path)
    return str(path)


POLICIES = (
    "growth-quantile",
    "hpa",
    "keda",
    "kpa",
    "phpa",
    "threshold",
    "lcp",
    "mpc",
    "tenure",
    "learned",
    "default",
    "table",
    "network",
)


@pytest.mark.parametrize("name", POLICIES)
def test_the_rebuilt_moment_answers_as_the_one_that_was(name: str, tmp_path: Path) -> None:
    source = artifact(name, tmp_path) if name in ("table", "network") else name
    made = kept(tmp_path / "log.jsonl", load_policy(source), name)
    value = explanation(made.path, "last", workload="web", policy=source)
    assert value["replay"] | {"proposal": 0} == {
        "decisions": TICKS - 1, "alike": TICKS - 1, "exact": True, "proposal": 0, "missing": [],
        "replicas": int(made.decided[-1][0]),
    }  # fmt: skip
    asked = by_key(value)
    now, ready = float(made.reading["load"][0]), float(made.reading["ready"][0])
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert asked[f"load:{factor:g}"]["replicas"] == made.asked(load=factor * now), factor
    assert asked["backlog:10s"]["replicas"] == made.asked(backlog=10.0 * now)
    half = np.ceil(0.5 * ready)
    starting = float(made.reading["starting"][0]) + ready - half
    assert asked["ready:half"]["replicas"] == made.asked(ready=half, starting=starting)
    assert asked["guard:floor"]["replicas"] == made.asked({"floor": False})
    base = int(made.decided[-1][0])
    for way, sign in (("up", 1), ("down", -1)):
        if (near := value["next"][way]) is not None:
            assert made.asked(load=near["load"]) == near["replicas"]
            assert sign * (near["replicas"] - base) > 0
            assert sign * (made.asked(load=near["load"] * 0.99**sign) - base) <= 0, "it is the next one"


def test_a_log_that_begins_late_is_explained_by_what_it_says_was_seen(tmp_path: Path) -> None:
    """What a day before the log has left in the history is in the observation alone."""
    made = kept(tmp_path / "log.jsonl", load_policy("growth-quantile"), "growth-quantile", before=2000, ticks=30)
    value = explanation(made.path, "last", workload="web")
    assert value["replay"]["exact"]
    assert "experience" in value["replay"]["missing"]
    assert any("the log begins 7m15s before" in note for note in value["notes"])
    asked = by_key(value)
    now = float(made.reading["load"][0])
    assert asked["backlog:10s"]["replicas"] == made.asked(backlog=10.0 * now)
    for factor in (1.25, 2.0):  # another load may be of another class of trend, of whose past the log says nothing
        assert asked[f"load:{factor:g}"]["replicas"] == pytest.approx(made.asked(load=factor * now), rel=0.25)


@pytest.mark.parametrize("policy", ["default", "tenure"])
def test_load_that_comes_again_is_rebuilt_from_the_loads_of_the_log(tmp_path: Path, policy: str) -> None:
    """No observation tells of it."""

    def job(tick: int) -> np.ndarray:
        return load(0) + (CAPACITY * 15.0 if tick % 40 < 4 else 0.0) + 0.01 * (tick % 7)

    made = kept(tmp_path / "log.jsonl", load_policy(policy), policy, ticks=40 * 6 - 4, at=job)
    value = explanation(made.path, "last", workload="web")
    assert (value["replay"]["alike"], value["replay"]["exact"]) == (value["replay"]["decisions"], True)
    assert by_key(value, "inputs")["without:what came one period ago"]["moved"] != 0.0
    assert value["standing"]["candidates"][0]["name"] == "periodic"


def test_the_inputs_that_a_policy_does_not_read_move_nothing(tmp_path: Path) -> None:
    source = artifact("table", tmp_path)  # its bins are of trend and size; the scheme adds the cheapest headroom
    kept(tmp_path / "log.jsonl", load_policy(source), "small")
    inputs = by_key(explanation(tmp_path / "log.jsonl", "last", workload="web", policy=source), "inputs")
    for name in ("the time of day and week", "yesterday and last week", "how long it is known", "the hour before them"):
        assert inputs[f"without:{name}"]["moved"] == 0.0
    assert inputs["without:its own growth so far"]["moved"] != 0.0


def test_an_hpa_goes_by_the_present_reading_alone(tmp_path: Path) -> None:
    kept(tmp_path / "log.jsonl", load_policy("hpa"), "hpa")
    page = told(explanation(tmp_path / "log.jsonl", "last", workload="web"))
    assert "nothing of it: hpa goes by the present reading alone here." in page


def test_nobody_is_told_to_wait_or_not_where_no_backlog_was_read(tmp_path: Path) -> None:
    kept(tmp_path / "log.jsonl", load_policy("hpa"), "hpa")
    seen = told(explanation(tmp_path / "log.jsonl", "last", workload="web"))[2]
    assert seen.startswith("Seen    load that keeps")
    assert "waiting" not in seen


def test_what_the_guard_did_is_undone_rule_by_rule(tmp_path: Path) -> None:
    """The load has just fallen: `behavior` keeps replicas, and without it they would be gone."""
    settings = replace(SETTINGS, behavior=DEFAULT)
    falling = lambda tick: load(tick) * (1.0 if tick < 80 else 0.3)  # noqa: E731
    made = kept(tmp_path / "log.jsonl", load_policy("hpa"), "hpa", settings=settings, at=falling)
    value = explanation(made.path, "last", workload="web")
    assert value["recorded"]["reasons"] == ["ScaleDownStabilized"]
    freed = by_key(value)["guard:behavior"]
    assert freed["replicas"] == made.asked({"behavior": None}) < value["recorded"]["replicas"]
    assert freed["change"] == freed["replicas"] - value["recorded"]["replicas"]
    text = "\n".join(told(value))
    assert "spec.behavior been left out" in text
    assert "Guard   ScaleDownStabilized: A higher recommendation" in text


def test_a_share_of_late_requests_is_told_as_people_write_it(tmp_path: Path) -> None:
    kept(tmp_path / "log.jsonl", load_policy("hpa"), "hpa")
    value = explanation(tmp_path / "log.jsonl", "last", workload="web")
    value |= {"recorded": value["recorded"] | {"reasons": ["ObjectiveMissed"]}}
    for late, words in ((1.0, "100 %"), (0.0042, "0.42 %")):
        page = " ".join(told(value | {"missed": {"late": late, "spare": 2.0}}))
        assert f"ObjectiveMissed: {words} of the requests within" in page


def test_patience_is_undone_too(tmp_path: Path) -> None:
    falling = lambda tick: load(tick) * (1.0 if tick < TICKS - 1 else 0.3)  # noqa: E731
    made = kept(tmp_path / "log.jsonl", load_policy("erlang"), "erlang", at=falling)
    value = explanation(made.path, "last", workload="web")
    assert "Patience" in value["recorded"]["reasons"]
    assert by_key(value)["guard:patience"]["replicas"] == value["wish"] < value["recorded"]["replicas"]


def test_while_the_load_is_unknown_it_says_what_a_known_one_would_bring(tmp_path: Path) -> None:
    gone = lambda tick: load(tick) if tick < TICKS - 4 else np.array([np.nan, np.nan])  # noqa: E731
    made = kept(tmp_path / "log.jsonl", load_policy("growth-quantile"), "growth-quantile", at=gone)
    value = explanation(made.path, "last", workload="web")
    assert value["recorded"]["reasons"] == ["MetricsUnknown"]
    last = float(load(TICKS - 5)[0])
    known = by_key(value)["load:known"]
    assert known["replicas"] == made.asked(load=last)
    text = "\n".join(told(value))
    assert "load unknown" in text
    assert "had no answer" in text


@pytest.mark.parametrize(
    ("name", "objective", "price"), [("tenure", 99.9, 20.0), ("default", 99.9, 20.0), ("tenure", 99.999, 2000.0)]
)
def test_who_has_the_say_is_told(name: str, objective: float, price: float, tmp_path: Path) -> None:
    policy: Any = load_policy(name)
    settings = replace(SETTINGS, objective=Objective(target=objective))
    made = kept(tmp_path / "log.jsonl", policy, name, settings=settings, ticks=60)
    value = explanation(made.path, "last", workload="web")
    tenure = getattr(policy, "tenure", policy)
    weights = tenure.hedge.weights(np, {k: v[:1] for k, v in made.memory["policy"].items()}, price)[0]
    shares = {each["name"]: each["share"] for each in value["standing"]["candidates"]}
    names = [words for _, words in tenure.candidates]
    assert [shares[each] for each in names] == pytest.approx(weights.tolist(), abs=0.02)
    assert f"{value['standing']['candidates'][0]['name']} leads, on 14m of past: " in " ".join(told(value)[-4:])


@pytest.mark.parametrize("mode", tenured.MODES)
def test_a_log_says_whether_say_was_earned(mode: str, tmp_path: Path) -> None:
    made = kept(tmp_path / "log.jsonl", load_policy("default", tenure=mode), "default", ticks=40)
    value = explanation(made.path, "last", workload="web")
    assert value["replay"]["exact"]
    assert value["replay"]["alike"] == 39
    assert (value["standing"] is None) == (mode == tenured.OFF)


def test_a_dry_run_is_explained_exactly(tmp_path: Path) -> None:
    path = tmp_path / "dry.jsonl"
    _, _, made = dry_run(None, scenarios.get("spike"), policy="growth-quantile", compare=(), duration=2400.0,
                         keep_decisions=True)  # fmt: skip
    write_decisions(str(path), made)
    for at in (60, 100, len(made) - 1):
        value = explanation(path, str(made[at]["time"]))
        assert value["replay"]["exact"]
        assert value["replay"]["alike"] == value["replay"]["decisions"] == at
        assert value["replay"]["missing"] == []
        assert value["policy"] == "growth-quantile"


def test_a_dry_run_without_any_load_is_explained(tmp_path: Path) -> None:
    csv, log = tmp_path / "none.csv", tmp_path / "log.jsonl"
    csv.write_text("t_s,rate\n" + "".join(f"{60 * minute},0\n" for minute in range(30)))
    write_decisions(str(log), dry_run(None, found_scenario(str(csv)), policy="default", keep_decisions=True)[2])
    result = run("explain", "--decision", str(log))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "0 requests/s" in result.stdout


# --- the page


def test_the_page_fits_a_terminal_and_a_reader(tmp_path: Path) -> None:
    made = kept(tmp_path / "log.jsonl", load_policy("growth-quantile"), "growth-quantile")
    page = told(explanation(made.path, "last", workload="shop/web"))
    assert max(map(len, page)) <= 110
    assert 18 <= len(page) <= 40
    assert page[0].startswith(f"shop/web at {when(BEGIN + INTERVAL * (TICKS - 1))}: ")
    for label in ("Seen", "Wanted", "Guard", "Replay", "Had ...", "What moved it", "Next"):
        assert any(line.startswith(label) for line in page), label


def test_what_the_log_has_is_told_as_that_of_the_policy_that_decided(tmp_path: Path) -> None:
    path = kept(tmp_path / "log.jsonl", load_policy("growth-quantile"), "growth-quantile", ticks=20).path
    value = explanation(path, "last", workload="api", policy="static")
    assert (value["policy"], value["decided_by"]) == ("static", "growth-quantile")
    page = " ".join(" ".join(told(value)).split())
    assert "decided, policy growth-quantile (" in page
    assert "growth-quantile wanted" in page
    assert "static wanted" not in page
    assert "replayed by static, which the log does not say decided, this decision is" in page


def test_the_command_needs_no_cluster_and_prints_json(tmp_path: Path) -> None:
    path = kept(tmp_path / "log.jsonl", load_policy("growth-quantile"), "growth-quantile", ticks=20).path
    page = run("explain", "--decision", str(path), "--workload", "api")
    assert page.exit_code == 0, page.output
    assert page.stdout.startswith("shop/api at ")
    value = json.loads(run("explain", "--decision", str(path), "--workload", "api", "--json").stdout)
    assert value == explanation(path, "last", workload="api")
    assert run("explain", "--decision", str(path), "--workload", "api", "-o", "yaml").stdout.startswith("workload: ")


def test_it_loads_nothing_of_the_operator_extra(tmp_path: Path) -> None:
    path = kept(tmp_path / "log.jsonl", load_policy("growth-quantile"), "growth-quantile", ticks=4).path
    program = (
        "import sys; from rlscaler_operator.commands import explain\n"
        f"explain(['--decision', {str(path)!r}, '--workload', 'web'], standalone_mode=False)\n"
        "extra = {'kubernetes', 'kopf', 'aiohttp', 'prometheus_client', 'torch', 'yaml'} & set(sys.modules)\n"
        "assert not extra, extra"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# --- which decision


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return kept(folder / "log.jsonl", load_policy("growth-quantile"), "growth-quantile", ticks=12).path


FOURTH = BEGIN + 4 * INTERVAL
TIMES = {
    "iso": (when(FOURTH), 4),
    "iso without a zone is utc": (when(FOURTH)[:-1], 4),
    "iso of another zone": (when(FOURTH + 7200.0)[:-1] + "+02:00", 4),
    "unix": (f"{FOURTH:.0f}", 4),
    "half an interval beside it": (str(FOURTH + 7.0), 4),
    "a clock time": (when(FOURTH)[11:19], 4),
    "the last": ("last", 11),
}


@pytest.mark.parametrize(("at", "index"), TIMES.values(), ids=TIMES)
def test_a_time_finds_its_decision(small: Path, at: str, index: int) -> None:
    assert found(read(small, "web"), at) == index


def broken(line: int, text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        lines = path.read_text().splitlines()
        lines[line - 1] = text
        path.write_text("\n".join(lines) + "\n")

    return write


def changed(line: int, **fields: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        lines = path.read_text().splitlines()
        row = {key: value for key, value in (json.loads(lines[line - 1]) | fields).items() if value is not ...}
        path.write_text("\n".join([*lines[: line - 1], json.dumps(row), *lines[line:]]) + "\n")

    return write


def nothing(path: Path) -> None:
    path.write_text("")


MISTAKES: dict[str, tuple[Callable[[Path], Any], list[str], list[str]]] = {
    "no such time": (lambda _: None, ["--at", str(BEGIN + 52.0 + 3600.0)],
                     ["has no decision at", f"the nearest one is at {when(BEGIN + 11 * INTERVAL)}"]),
    "a hole": (lambda path: path.write_text("".join(path.read_text().splitlines(True)[:8] +
                                                    path.read_text().splitlines(True)[16:])),
               ["--at", str(BEGIN + 6 * INTERVAL)],
               [f"the nearest ones are at {when(BEGIN + 3 * INTERVAL)} and {when(BEGIN + 8 * INTERVAL)}"]),
    "before the clock went back": (lambda path: path.write_text(path.read_text() + path.read_text().splitlines()[12]),
                                   ["--at", str(BEGIN + 2 * INTERVAL)],
                                   ["has no decision at", "time goes back at line 25", "from there on"]),
    "a workload of a log that names none": (
        lambda path: path.write_text(path.read_text().replace('"workload"', '"was"')), [],
        ["--workload web: ", "names no workload", "leave it out"]),
    "no time": (lambda _: None, ["--at", "noon"], ["--at noon", "14:32", "last"]),
    "milliseconds": (lambda _: None, ["--at", "1777600000000"], ["expected seconds since 1970"]),
    "before all calendars": (lambda _: None, ["--at", "-99999999999"], ["expected seconds since 1970"]),
    "after all calendars": (lambda _: None, ["--at", "9999-12-31T23:59:59-12:00"], ["expected seconds since 1970"]),
    "no such workload": (lambda _: None, ["--workload", "shop/db"], ["--workload shop/db", "shop/web, shop/api"]),
    "several workloads": (lambda _: None, ["--workload", ""], ["shop/web, shop/api", "--workload"]),
    "an empty log": (nothing, [], ["holds no decision", "--decisions"]),
    "no json": (broken(3, '{"time": 1,'), [], ["line 3 is no decision", "no JSON"]),
    "not an object": (broken(3, "[1, 2]"), [], ["line 3 is no decision", "list, not an object"]),
    "no observation": (changed(5, observation=...), [], ["line 5 is no decision", "observation"]),
    "another schema": (changed(5, observation_schema="0"), [], ["line 5 has observation schema '0'", "expected '1'"]),
    "a text for a number": (changed(5, demand="many"), [], ["line 5 is no decision", "'many'"]),
    "a number beyond all bounds": (changed(5, demand=10**400), [], ["line 5 is no decision", "too large"]),
    "replicas without end": (changed(5, replicas=math.inf), [], ["line 5 is no decision", "infinity"]),
    "a time in milliseconds": (changed(5, time=1777600060000), ["--at", "14:32"],
                               ["line 5 is no decision", "time is 1.7776e+12"]),
    "a line without a bottom": (broken(3, "[" * 100_000), [], ["line 3 is no decision", "no JSON"]),
    "settings that are none": (changed(5, settings={"min_replicas": 9, "max_replicas": 2}), [],
                               ["line 5 is no decision", "max_replicas is 2"]),
    "a policy that is not here": (lambda path: path.write_text(path.read_text().replace("growth-quantile", "mine")), [],
                                  ["policy mine decided", "--policy FILE.rlz"]),
    "no policy": (lambda path: path.write_text(path.read_text().replace('"policy"', '"was"')), [],
                  ["does not say which policy decided", "--policy"]),
    "another policy that is none": (lambda _: None, ["--policy", "nosuch"], ["--policy nosuch", "expected default"]),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_sentence(
    small: Path, tmp_path: Path, spoil: Callable[[Path], Any], arguments: list[str], said: list[str]
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(small.read_text())
    spoil(path)
    options = dict(zip(["--workload", *arguments[::2]], ["web", *arguments[1::2]], strict=True))
    flat = [text for pair in options.items() if pair[1] for text in pair]
    (line,) = mistakes(run("explain", "--decision", str(path), *flat))
    for part in said:
        assert part in line


@pytest.mark.parametrize("arguments", [(), ("web", "--decision", "log.jsonl")])
def test_either_a_name_or_a_log_is_explained(arguments: tuple[str, ...]) -> None:
    (line,) = mistakes(run("explain", *arguments))
    assert "--decision FILE.jsonl" in line


def test_the_artifact_of_a_log_that_is_broken_is_not_told_to_be_missing(small: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.rlz").write_bytes(b"PK")
    path = tmp_path / "log.jsonl"
    path.write_text(small.read_text().replace('"growth-quantile"', json.dumps(str(tmp_path / "mine.rlz"))))
    (line,) = mistakes(run("explain", "--decision", str(path), "--workload", "web"))
    assert "decided, and that artifact cannot be used: " in line
    assert "not a readable zip" in line


def test_a_log_of_a_single_decision_begins_with_it(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(small.read_text().splitlines(keepends=True)[-2])
    notes = explanation(path, "last")["notes"]
    assert any(note.startswith("the log begins with this decision, and what was known") for note in notes)


def test_a_log_that_is_not_there() -> None:
    (line,) = mistakes(run("explain", "--decision", "nosuch.jsonl"))
    assert "nosuch.jsonl: cannot be read: No such file" in line


def test_a_last_line_that_is_cut_off_is_left_out(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(small.read_text()[:-100])
    log = read(path, "web")
    assert len(log.lines) == 12
    assert len(read(path, "api").lines) == 11
    assert any("line 24 is cut off" in note for note in log.notes)


def test_the_file_that_the_log_was_before_is_read_too(small: Path, tmp_path: Path) -> None:
    lines = small.read_text().splitlines(keepends=True)
    (tmp_path / "log.jsonl.1").write_text("".join(lines[:10]))
    (tmp_path / "log.jsonl").write_text("".join(lines[10:]))
    log = read(tmp_path / "log.jsonl", "web")
    assert [line.time for line in log.lines] == [line.time for line in read(small, "web").lines]


def test_a_log_whose_clock_went_back_is_read_from_there(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(small.read_text() * 2)
    log = read(path, "web")
    assert len(log.lines) == 12
    assert log.lines[0].number == 25
    assert any("time goes back at line 25" in note for note in log.notes)


# --- settings


def test_an_older_log_is_explained_with_what_it_shows_or_with_the_resource(tmp_path: Path) -> None:
    made = kept(tmp_path / "log.jsonl", load_policy("growth-quantile"), "growth-quantile", strip=("settings",))
    value = explanation(made.path, "last", workload="web")
    assert value["replay"]["exact"]
    assert any("does not tell the workload's settings" in note for note in value["notes"])
    now = float(made.reading["load"][0])
    assert by_key(value)["load:2"]["replicas"] == made.asked(load=2.0 * now)
    given = explanation(made.path, "last", workload="web", settings=lambda _: SETTINGS)
    assert given["seen"]["load"] == pytest.approx(now)
    assert given["notes"] == []


STATED = {
    "usual": Settings(),
    "a resource": SETTINGS,
    "nothing known": Settings(capacity_per_replica=np.nan, flap_budget=np.inf),
    "a target": Settings(objective=Objective(latency=2.0, target=99.0)),
    "a loss": Settings(loss=MetricLoss(after=60.0, action="ReplicasIfHigher", replicas=7), load_counts="Completions"),
    "kubernetes' behaviour": Settings(behavior=DEFAULT, floor=False),
    "another behaviour": Settings(
        behavior=Behavior(
            up=ScalingRules(30.0, "Min", (ScalingPolicy("Pods", 3, 60.0), ScalingPolicy("Percent", 20, 30.0)), 0.2),
            down=ScalingRules(600.0, "Disabled", (), 0.0),
        )
    ),
}


@pytest.mark.parametrize("settings", STATED.values(), ids=STATED)
def test_settings_come_back_as_they_were(settings: Settings) -> None:
    before = compiled(settings, 1)
    after = compiled(restated(json.loads(json.dumps(stated(before)))), 1)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-9, err_msg=name)


def test_settings_that_cannot_have_been_told_are_refused() -> None:
    with pytest.raises(ValueError, match="max_replicas"):
        restated({"min_replicas": 5, "max_replicas": 1})
    with pytest.raises((ValueError, TypeError, KeyError)):
        restated({"behavior": {"up": 1, "down": 1}})


def test_every_input_has_a_group() -> None:
    from rlscaler.counterfactuals import GROUPS
    from rlscaler.observation import LOAD_FIELDS

    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert {name for name in NAMES if name in {f.name for f in LOAD_FIELDS} and not name.startswith("ahead_")} | {
        "ahead", "again", "period",
    } == set(grouped)  # fmt: skip


def test_a_user_error_names_the_file_once(small: Path) -> None:
    with pytest.raises(UserError) as error:
        explanation(small, "1.0", workload="web")
    assert str(error.value).count(str(small)) == 1
