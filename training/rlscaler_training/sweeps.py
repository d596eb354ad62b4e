"""What a sweep tries: the file that asks for it, and the ranges that are searched where the file names none.

    learner: ppo-fast            # or rule: growth-quantile
    trials: 16
    settings: {steps: 1000000}   # of every trial
    search:                      # left out: the ranges of SPACES, or a rule's own
      rate: {low: 1.0e-4, high: 1.0e-2, log: true}
      hidden: {choices: [[32, 32], [64, 64]]}

A sweep is one budget for whatever is tuned: learners and rules are judged by the same score on the same draws.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from rlscaler.errors import UserError
from rlscaler.policies import RULES
from rlscaler.yaml_nodes import YamlError, documents, require_small
from rlscaler_training import hyper
from rlscaler_training.asked import STANDARD, Asked, ranges
from rlscaler_training.commands import LEARNERS

OFFLINE = "offline"
"""The learner that has no world to be swept in."""


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers from `low` to `high`; log: drawn on a logarithmic scale; whole: rounded."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """One of some values."""

    values: tuple[Any, ...]


Space = dict[str, Span | Choices]
_WIDTHS = Choices(([32, 32], [64, 64], [128, 128]))

SPACES: dict[str, Space] = {
    "q-learning": {
        "gamma": Span(0.8, 0.97),
        "lookahead": Choices((3, 6, 12)),
        "rate": Span(0.02, 0.5, log=True),
        "epsilon_share": Span(0.2, 0.8),
        "double": Choices((False, True)),
    },
    "dqn": {
        "rate": Span(5e-5, 2e-3, log=True),
        "gamma": Span(0.8, 0.97),
        "lookahead": Choices((3, 6, 12)),
        "gradient_steps": Choices((1, 2, 4)),
        "target_every": Choices((500, 2000, 8000)),
        "hidden": _WIDTHS,
    },
    "ppo": {
        "rate": Span(1e-4, 3e-3, log=True),
        "gamma": Span(0.8, 0.97),
        "smoothing": Span(0.8, 0.99),
        "clip_range": Span(0.1, 0.3),
        "entropy": Span(1e-4, 3e-2, log=True),
        "epochs": Choices((3, 5, 10)),
        "hidden": _WIDTHS,
    },
    "ppo-fast": {
        "rate": Span(1e-4, 3e-3, log=True),
        "gamma": Span(0.8, 0.97),
        "trace": Span(0.8, 0.99),
        "clip": Span(0.1, 0.3),
        "entropy": Span(1e-4, 3e-2, log=True),
        "epochs": Choices((2, 4, 8)),
        "hidden": _WIDTHS,
    },
    "bdq": {
        "rate": Span(5e-5, 2e-3, log=True),
        "gamma": Span(0.8, 0.97),
        "lookahead": Choices((3, 6, 12)),
        "batch": Choices((128, 256, 512)),
        "target_every": Choices((250, 500, 1000)),
        "trunk": Choices(([64], [128], [128, 64])),
    },
    "apg": {
        "rate": Span(5e-4, 1e-2, log=True),
        "decay": Span(1e-5, 1e-2, log=True),
        "batch": Choices((24, 48, 96)),
        "dropout": Span(0.0, 0.3),
        "hidden": Choices(([48, 48], [96, 96], [128, 128])),
    },
    "evolve": {
        "sigma": Span(0.01, 0.1, log=True),
        "rate": Span(0.002, 0.05, log=True),
        "pairs": Choices((16, 32, 64)),
        "decay": Span(1e-4, 1e-2, log=True),
    },
}
"""What is searched of each learner, around its defaults."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a file asks for.

    learner, rule: what is tuned, one of them. trials: how many, the defaults among them. parallel: at once. grace:
    share of a trial before which none is stopped. reduction: one of so many goes on at each rung (ASHA). settings: of
    every trial. search: what is drawn. The rest is as `rlscaler train` has it.
    """

    learner: str = ""
    rule: str = ""
    trials: int = hyper.setting(16, 2, 10_000, "Trials, the one with the defaults among them.")
    parallel: int = hyper.setting(2, 1, 1024, "Trials at once, of one processor each.")
    grace: float = hyper.setting(0.1, 0.01, 1.0, "Share of a trial before which none is stopped.")
    reduction: float = hyper.setting(3.0, 1.1, 100.0, "One of so many goes on at each rung (ASHA, arXiv 1810.05934).")
    seed: int = hyper.setting(0, 0, 2**31, "Seed of what is drawn, and of every trial.")
    hours: float = hyper.setting(8.0, 1.0, 336.0, "Load of each source.")
    scenarios: tuple[str, ...] = ()
    traces: str = ""
    validate: tuple[str, ...] = ()
    worlds: str = STANDARD
    settings: dict[str, Any] = field(default_factory=dict)
    search: Space = field(default_factory=dict)

    @property
    def tuned(self) -> str:
        """The learner's or the rule's name."""
        return self.learner or self.rule

    def asked(self) -> Asked:
        """Return the sweep's load as `rlscaler train` is asked for it. Raises UserError."""
        return Asked(self.scenarios, self.traces or None, self.hours, self.seed, self.tuned,
                     validate=self.validate, worlds=ranges(self.worlds))  # fmt: skip

    def config(self, drawn: Mapping[str, Any]) -> Any:
        """Return a learner's settings for one trial. Raises UserError."""
        return hyper.read(_config(self.learner), None, {**self.settings, **drawn})

    def constants(self, drawn: Mapping[str, Any]) -> dict[str, float]:
        """Return a rule's constants for one trial."""
        return {name: float(value) for name, value in {**self.settings, **drawn}.items()}

    def told(self) -> dict[str, Any]:
        """Return what a folder keeps of it, JSON-ready; equal for equal sweeps."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


def _config(learner: str) -> Any:
    return import_module(f"rlscaler_training.{LEARNERS[learner][0]}").Config


def read(path: str | Path) -> Sweep:
    """Return what a YAML (or JSON) file asks for. Raises UserError naming the file, the key and what is expected."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        for root in documents(text):
            require_small(root)
        told = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read: {reason}") from error
    except (yaml.YAMLError, YamlError) as error:
        raise UserError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(told, dict):
        raise UserError(f"{path}: holds a {type(told).__name__}; expected keys such as 'learner: ppo-fast'")
    try:
        return checked(told)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def checked(told: Mapping[str, Any]) -> Sweep:
    """Return what these keys ask for. Raises UserError."""
    known = {each.name: each for each in fields(Sweep)}
    if unknown := [name for name in told if name not in known]:
        raise UserError(f"no key is called {unknown[0]!r}; expected some of {', '.join(known)}")
    values = {name: value for name, value in told.items() if value is not None}
    learner, rule = values.pop("learner", ""), values.pop("rule", "")
    if bool(learner) == bool(rule):
        raise UserError("expected one of 'learner: NAME' and 'rule: NAME'")
    learners = [name for name in LEARNERS if name != OFFLINE]
    if learner and learner not in learners:
        raise UserError(f"learner is {learner!r}; expected one of {', '.join(learners)}")
    tunable = [name for name, kind in RULES.items() if kind.PARAMETERS]
    if rule and rule not in tunable:
        raise UserError(f"rule is {rule!r}; expected one of {', '.join(tunable)}")
    settings = _mapping("settings", values.pop("settings", {}))
    search = _mapping("search", values.pop("search", {}))
    for name in ("scenarios", "validate"):
        if name in values:
            values[name] = _words(name, values[name])
    for name in ("traces", "worlds"):
        if not isinstance(values.get(name, ""), str):
            raise UserError(f"{name} is {values[name]!r}; expected a name or a path")
    found = hyper.read(Sweep, None, {name: value for name, value in values.items() if name in _NUMBERS})
    ranged = _searched(learner, rule, settings, search)
    rest = {name: value for name, value in values.items() if name not in _NUMBERS}
    return Sweep(**{**_numbers(found), **rest}, learner=learner, rule=rule, settings=settings, search=ranged)


_NUMBERS = ("trials", "parallel", "grace", "reduction", "seed", "hours")


def _numbers(found: Sweep) -> dict[str, Any]:
    return {name: getattr(found, name) for name in _NUMBERS}


def _mapping(name: str, told: Any) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise UserError(f"{name} is {told!r}; expected names with values")
    return {str(key).replace("-", "_"): value for key, value in told.items()}


def _words(name: str, told: Any) -> tuple[str, ...]:
    if not isinstance(told, list) or not all(isinstance(each, str) for each in told):
        raise UserError(f"{name} is {told!r}; expected a list of names")
    return tuple(told)


def _searched(learner: str, rule: str, settings: dict[str, Any], search: dict[str, Any]) -> Space:
    """Return what is searched, every end of it held against what the learner or the rule takes. Raises UserError."""
    usual = SPACES[learner] if learner else _own(rule)
    found = {name: _range(name, value) for name, value in search.items()} or usual
    found = {name: value for name, value in found.items() if name not in settings}
    if not found:
        raise UserError("settings fix all that would be searched; leave one out, or name another under search")
    _require_known(learner, rule, (*found, *settings))
    for name, value in settings.items():
        _take(learner, rule, name, value, settings)
    for name, value in found.items():
        for end in value.values if isinstance(value, Choices) else (value.low, value.high):
            _take(learner, rule, name, end, settings)
    if learner:  # a number that has to be whole is drawn so
        known = {each.name: each.default for each in fields(_config(learner))}
        found = {
            name: Span(value.low, value.high, value.log, True)
            if isinstance(value, Span) and type(known[name]) is int
            else value
            for name, value in found.items()
        }
    for name, value in found.items():
        if isinstance(value, Span) and value.whole and math.ceil(value.low) > math.floor(value.high):
            raise UserError(f"search.{name} is {value.low:g} to {value.high:g}; expected a whole number between them")
    return found


def _own(rule: str) -> Space:
    return {name: Span(each.low, each.high, each.log) for name, each in RULES[rule].PARAMETERS.items()}


def _require_known(learner: str, rule: str, asked: Sequence[str]) -> None:
    """Raise UserError unless the learner or the rule has all these settings."""
    names = [each.name for each in fields(_config(learner))] if learner else list(RULES[rule].PARAMETERS)
    if unknown := [name for name in asked if name not in names]:
        raise UserError(f"{learner or rule} has no setting {unknown[0]!r}; expected some of {', '.join(names)}")


def _take(learner: str, rule: str, name: str, value: Any, beside: Mapping[str, Any]) -> None:
    """Raise UserError unless the learner or the rule takes this value of a setting.

    beside: the settings of every trial, as some values of a learner fit together or not.
    """
    if learner:
        whole = type({each.name: each.default for each in fields(_config(learner))}[name]) is int
        rounded = round(value) if whole and isinstance(value, float) else value
        hyper.read(_config(learner), None, {**beside, name: rounded})
        return
    try:
        RULES[rule](**{name: float(value)})
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is {value!r}: {error}") from error


def _range(name: str, told: Any) -> Span | Choices:
    """Return a range as a file states it. Raises UserError."""
    where = f"search.{name} is {told!r}"
    if isinstance(told, dict) and set(told) == {"choices"} and isinstance(told["choices"], list) and told["choices"]:
        return Choices(tuple(told["choices"]))
    if isinstance(told, dict) and {"low", "high"} <= set(told) <= {"low", "high", "log"}:
        low, high, log = told["low"], told["high"], told.get("log", False)
        numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (low, high))
        if numbers and low < high and isinstance(log, bool) and (low > 0.0 or not log):
            return Span(float(low), float(high), log)
    raise UserError(f"{where}; expected {{low: NUMBER, high: NUMBER}} with low below high, with log: true if low is "
                    "above 0 and the scale is logarithmic, or {choices: [VALUE, ...]}")  # fmt: skip
