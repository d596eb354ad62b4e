"""The command `rlscaler train`: a learner by name, from load to an artifact that the autoscaler serves."""

import re
from collections.abc import Callable, Collection
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from rlscaler.errors import UserError
from rlscaler.ranges import FiniteRange
from rlscaler_training import own_past_command, remote_rollouts
from rlscaler_training.asked import LEGACY, ROOT, STANDARD, Asked, begun, ranges, world_of
from rlscaler_training.carrying_out import Training, carry_out, progress

if TYPE_CHECKING:
    from rlscaler_training.launching import Job
    from rlscaler_training.legacy import Legacy
    from rlscaler_training.loads import Pools
    from rlscaler_training.preferences import Preferences
    from rlscaler_training.runs import Run

LEARNERS: dict[str, tuple[str, str]] = {
    "q-learning": ("q_learning", "Tabular Q-learning over readable states, in a minute or so."),
    "dqn": ("dqn", "Deep Q-network, by stable-baselines3."),
    "ppo": ("ppo", "Proximal policy optimisation, by stable-baselines3."),
    "ppo-fast": ("ppo_fast", "Proximal policy optimisation on the vectorised world, with masks."),
    "bdq": ("bdq", "Branching dueling Q-network: headroom, and how long to keep replicas."),
    "apg": ("apg", "Analytic policy gradient: straight down the gradient of the score."),
    "evolve": ("evolve", "Evolution strategies straight on the score."),
    "offline": ("offline", "Conservative Q-learning from a log of decisions, such as the operator writes."),
}
"""Learner -> its module in this package, imported when it is asked for, and its line of help."""


class Learners(click.Group):
    """A group with a command for each learner; a learner's module is imported when its command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(LEARNERS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a learner."""
        return _command(cmd_name) if cmd_name in LEARNERS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the learners, without importing any."""
        with formatter.section("Learners"):
            formatter.write_dl([(name, about) for name, (_, about) in LEARNERS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the learners and options that begin with `incomplete`, without importing any."""
        found = [
            CompletionItem(name, help=about) for name, (_, about) in LEARNERS.items() if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def _own(command: Any) -> Any:
    """Add the options of `train --for`."""
    for option in reversed(own_past_command.OPTIONS):
        command = option(command)
    return command


@click.group(cls=Learners, invoke_without_command=True)
@_own
@click.pass_context
def train(context: click.Context, /, **given: Any) -> None:
    """Train a policy offline: by a learner, or the default policy on the past of one workload.

    \b
    Examples:
      rlscaler train q-learning --out first.rlz
      rlscaler dry-run -f examples/web.yaml --policy first.rlz
      rlscaler train ppo --resume runs/ppo-1
      rlscaler train --for web.json --out web.rlz
    """
    own = _given([parameter.name or "" for parameter in context.command.params])
    if context.invoked_subcommand is not None:
        if own:
            raise UserError(f"{own[0]} stands before {context.invoked_subcommand}; options of a learner go after it, "
                            "and --for PROFILE goes without one")  # fmt: skip
    elif given["profile"] is not None:
        own_past_command.fit(**given, progress=progress)
    elif own:
        raise UserError(f"{own[0]} is given without --for PROFILE and without a learner; "
                        "'rlscaler train --help' lists them")  # fmt: skip
    else:
        raise click.exceptions.NoArgsIsHelpError(context)


SHARED: tuple[Callable[[Any], Any], ...] = (
    click.option("--scenario", "scenarios", multiple=True, metavar="NAME|FILE", help="Load and world to train in, by "
                 "name or from a file ('rlscaler scenarios' lists and tells them); several times. Without --scenario "
                 "and --traces: eight patterns of different character."),
    click.option("--traces", type=click.Path(), metavar="FOLDER", help="Recorded load to train on; a third of the "
                 "source families is kept for validation."),
    click.option("--validate", multiple=True, metavar="FAMILY", help="Source family of --traces to keep for validation "
                 "instead of a third of them; several times."),
    click.option("--worlds", default=STANDARD, show_default=True, metavar="standard|randomised|FILE.json",
                 help="Train in the standard world, or in randomised ones beside it, further and further from it in "
                 "load, scale, noise, start-up, lag, capacity and failures; or in these with ranges of your own."),
    click.option("--hours", default=8.0, show_default=True, type=FiniteRange(1.0, 24.0 * 14),
                 help="Load of each source."),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of everything random."),
    click.option("--name", help="Name of the policy.  [default: the learner's]"),
    click.option("--device", "device_", default="auto", show_default=True, metavar="NAME",
                 help="auto, cpu, cuda or mps."),
    click.option("--config", "config_file", type=click.Path(), metavar="FILE.json",
                 help="Settings from a file; flags win."),
    click.option("--run", "folder", type=click.Path(), metavar="FOLDER",
                 help=f"Folder of the run, new or empty.  [default: {ROOT}/NAME-N, the first free number]"),
    click.option("--resume", type=click.Path(), metavar="FOLDER",
                 help="Go on with the run in this folder, with the settings that it was begun with."),
    click.option("--out", type=click.Path(), metavar="FILE.rlz",
                 help="Where a copy of the artifact goes; the run's folder has it in any case."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
)  # fmt: skip
"""The options of every learner."""
LOG = click.option("--decisions", "logs", multiple=True, type=click.Path(), metavar="FILE.jsonl",
                   help="Log to learn from, as 'rlscaler dry-run --decisions' and the operator write it; several "
                   "times.")  # fmt: skip
"""The option of a learner that has no world to try in."""
PREFERENCES = click.option("--preferences", type=click.Path(), metavar="FILE.jsonl",
                           help="Answers of 'rlscaler prefer': lean on what they tell is better; the options that "
                           "begin with --preference- say how.")  # fmt: skip
"""The option of a learner that listens to people."""
RANKS: tuple[Callable[[Any], Any], ...] = (
    click.option("--distributed", type=click.Choice(["ddp", "zero2"]), help="Train on several processes, each with a "
                 "share of the same batch: ddp averages gradients, zero2 splits the optimiser too (DeepSpeed)."),
    click.option("--ranks", type=click.IntRange(1, 1024), help="With --distributed: how many processes to start on "
                 "this machine; torchrun starts those of several."),
    click.option("--launcher", type=click.Choice(["here", "ray"]), default="here", show_default=True,
                 help="With --distributed: who starts the processes; ray: Ray Train, on this machine or at --address."),
)  # fmt: skip
"""The options of a learner that several processes can train."""
LOADS = ("scenarios", "traces", "hours", "validate", "worlds")
"""Options of the load, which `legacy` has its own of."""
FREE_TO_RESUME = ("resume", "out", "device_", "address", "as_json", "quiet", "distributed", "ranks", "launcher")
"""Options that may be given beside --resume."""


def _command(learner: str) -> click.Command:
    """Return the command of a learner: the shared options, and a flag for each of its settings."""
    module_name, about = LEARNERS[learner]
    module = import_module(f"rlscaler_training.{module_name}")
    from rlscaler_training import hyper

    def callback(**given: Any) -> None:
        _train(learner, module, given)

    callback.__doc__ = f"{about}\n\n{_paragraphs(module.__doc__)}"
    decorated: Any = hyper.flags(module.Config)(callback)
    if learner == "offline":
        decorated = LOG(decorated)
    if hasattr(module, "TAKES_PREFERENCES"):
        from rlscaler_training.preferences import Settings

        decorated = PREFERENCES(hyper.flags(Settings)(decorated))
    if hasattr(module, "SHARED_OUT"):
        for option in reversed(RANKS):
            decorated = option(decorated)
    if hasattr(module, "LEGACY"):
        decorated = _environment(module.LEGACY)(decorated)
    for option in reversed((*SHARED, *remote_rollouts.OPTIONS)):
        decorated = option(decorated)
    command: click.Command = click.command(learner, short_help=about)(decorated)
    return command


def _environment(defaults: dict[str, Any]) -> Callable[[Any], Any]:
    """Return the option of a learner that can learn in the environment of earlier work, too, with these defaults."""
    other = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in defaults.items() if name != "bins")
    about = (
        "Where it learns. legacy: the queue of adobe/gym-scaling, for comparison with published results; its policies "
        f"can be served nowhere else. Its defaults: {other}."
    )
    return click.option(
        "--environment", type=click.Choice([STANDARD, LEGACY]), default=STANDARD, show_default=True, help=about
    )


def _paragraphs(docstring: str | None) -> str:
    """Return a module's docstring without its title and its words to the reader of the file."""
    about = "\n\n".join((docstring or "").strip().split("\n\n")[1:])
    return re.sub(r"Read from top to bottom:[^.]*\.\s*", "", about).replace("`", "")


def _train(learner: str, module: Any, given: dict[str, Any]) -> None:
    """Train, or go on with a run, and tell what came of it. Raises UserError; exits with 130 after Ctrl-C."""
    from rlscaler_training import devices

    mode = given.get("distributed")
    if mode is not None:
        from rlscaler_training import launching

        prepare = partial(_job, learner, module, given)
        if given["launcher"] == "ray":
            from rlscaler_training import ray_launcher

            ray_launcher.launch(mode, given["ranks"], given["address"], learner, prepare, given["as_json"])
        else:
            launching.launch(mode, given["ranks"], given["device_"], learner, prepare)
        return
    if given.get("launcher", "here") != "here":
        raise UserError("--launcher ray is given without --distributed ddp or zero2; leave it out")
    if given.get("ranks") is not None:
        raise UserError(f"--ranks {given['ranks']} is given without --distributed ddp or zero2; leave it out")
    device = devices.device(given["device_"])
    run, config, asked, world, liked = _prepared(learner, module, given, device.why)
    training = Training(
        learner, module, run, config, asked, world, device, Path(given["out"]) if given["out"] else None,
        given["quiet"], given["as_json"], liked, remote_rollouts.workers(asked.workers, given["address"]),
    )  # fmt: skip
    carry_out(training)


def _prepared(
    learner: str, module: Any, given: dict[str, Any], device: str, check: Callable[[Any, Asked], None] | None = None
) -> "tuple[Run, Any, Asked, Pools | Legacy, Preferences | None]":
    """Return the run, begun or to go on with, its settings, what it was told, what is trained on and what people said.

    device: a line about it. check: takes settings and what is asked before anything is begun. Raises UserError.
    """
    from rlscaler_training import preferences

    out = Path(given["out"]) if given["out"] else None
    run: Run | None = None
    if given["resume"]:
        run, config, asked = _resumed(learner, module, given)
    else:
        config, asked = _asked(learner, module, given)
    if check is not None:
        check(config, asked)
    _require_place(out)
    world = world_of(asked)
    if run is None and hasattr(module, "require"):
        module.require(config, world.inputs.names)
    liked = preferences.of(asked.preferences, getattr(world, "trained_on", ()))
    if run is None:
        remote_rollouts.require(asked.workers)
        run = begun(learner, config, asked, given["folder"], device)
    return run, config, asked, world, liked


def _job(learner: str, module: Any, given: dict[str, Any], ranks: int) -> "Job":
    """Return what so many ranks are told, with their run begun. Raises UserError where they cannot share the work."""
    from rlscaler_training import launching

    mode, name = given["distributed"], module.SHARED_OUT

    def check(config: Any, asked: Asked) -> None:
        for option, found in (("--rollouts ray", asked.workers), ("--preferences", asked.preferences)):
            if found is not None:
                raise UserError(f"{option} is given with --distributed {mode}; expected one of them")
        launching.require_shared(name, getattr(config, name), ranks)

    run = _prepared(learner, module, given, f"{ranks} ranks, {mode}", check)[0]
    return launching.Job(
        learner=learner, settings=run.settings, asked=run.arguments, folder=str(run.folder), mode=mode,
        device=given["device_"], out=given["out"], as_json=given["as_json"], quiet=given["quiet"],
    )  # fmt: skip


def _asked(learner: str, module: Any, given: dict[str, Any]) -> tuple[Any, Asked]:
    """Return the settings and what else is asked for. Raises UserError."""
    from rlscaler.container import WORD
    from rlscaler_training import hyper

    name = given["name"] if given["name"] is not None else learner
    if not WORD.fullmatch(name):
        raise UserError(
            f"--name {name!r}: expected up to 128 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    environment = given.get("environment", STANDARD)
    if environment == LEGACY and (also := _given(LOADS)):
        raise UserError(f"{also[0]} is given with --environment legacy, which has one load of its own; leave one out")
    defaults = module.LEGACY if environment == LEGACY else {}
    config = hyper.read(module.Config, given["config_file"], _settings(module, given), defaults)
    logs = given.get("logs", ())
    if learner == "offline" and not logs:
        raise UserError("--decisions FILE.jsonl is missing; expected a log as 'rlscaler dry-run --decisions' writes it")
    for log in logs:
        if not Path(log).is_file():
            raise UserError(f"--decisions {log}: no such file")
    if learner == "offline" and given["worlds"] != STANDARD:
        raise UserError(f"--worlds {given['worlds']}: offline learns from a log and in no world; leave it out")
    return config, Asked(given["scenarios"], given["traces"], given["hours"], given["seed"], name, logs, environment,
                         given["validate"], ranges(given["worlds"]), _preferences(given),
                         remote_rollouts.asked(learner, given, _given(_of_workers(given))))  # fmt: skip


def _of_workers(given: dict[str, Any]) -> list[str]:
    """Return the options that go with --rollouts ray; where Ray starts the ranks, the address is theirs."""
    return [name for name in remote_rollouts.NAMES if name != "address" or given.get("launcher") != "ray"]


def _preferences(given: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a run keeps of the preferences that are asked for, None where none are. Raises UserError."""
    if "preferences" not in given:
        return None
    from rlscaler_training import hyper, preferences

    told = {each.name: given.get(each.name) for each in fields(preferences.Settings)}
    if given["preferences"] is None:
        if also := _given(list(told)):
            raise UserError(f"{also[0]} is given without --preferences FILE.jsonl, which 'rlscaler prefer' writes")
        return None
    return preferences.asked(given["preferences"], hyper.read(preferences.Settings, None, told))


def _settings(module: Any, given: dict[str, Any]) -> dict[str, Any]:
    return {each.name: given.get(each.name) for each in fields(module.Config)}


def _given(names: Collection[str]) -> list[str]:
    """Return the flags of those options that are given on the command line."""
    context = click.get_current_context()
    source = click.core.ParameterSource.COMMANDLINE
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(parameter.name) is source
    ]


def _resumed(learner: str, module: Any, given: dict[str, Any]) -> tuple["Run", Any, Asked]:
    """Return the run to go on with, its settings, and what it was told. Raises UserError."""
    from rlscaler_training import hyper, runs

    others = {parameter.name or "" for parameter in click.get_current_context().command.params}
    if also := _given(others - set(FREE_TO_RESUME)):
        raise UserError(f"{also[0]} is given with --resume; a run goes on with the settings that it was begun with")
    run = runs.resume(given["resume"])
    if run.algorithm != learner:
        raise UserError(f"{run.folder}: is a run of {run.algorithm}; go on with it by "
                        f"'rlscaler train {run.algorithm} --resume {run.folder}'")  # fmt: skip
    names = _settings(module, given)
    if unknown := sorted(set(run.settings) - set(names)):
        raise UserError(f"{run.folder}: no setting of {learner} is called {unknown[0]!r}; begin a new run")
    return run, hyper.read(module.Config, None, run.settings), Asked.of(run.arguments, run.folder)


def _require_place(out: Path | None) -> None:
    """Raise UserError unless the artifact can be written there."""
    from rlscaler.files import require_writable

    if out is not None:
        require_writable(out)
