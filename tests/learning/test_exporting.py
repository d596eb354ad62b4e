"""`rlscaler export`: an artifact of a checkpoint, ONNX of an artifact, and checkpoints that are none."""

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command_line import install, mistakes, run
from rlscaler.artifact import Artifact, dumps, load, save
from rlscaler.mlp import MlpPolicy
from rlscaler.policies import from_artifact
from rlscaler_training import checkpoints, finishing, ppo_fast
from rlscaler_training.checkpoints import CheckpointError
from rlscaler_training.loads import VALIDATION_ENVS
from served_artifacts import branching, network, table

EPISODE = 40
"""Decisions of the last evaluation in these tests."""
SHORT = ("--scenario", "spike", "--hours", "1", "--quiet")
RUNS = {
    "q-learning": ("--steps", "8", "--envs", "4", "--episode", "30", "--lookahead", "2", "--evaluate-every", "4",
                   "--checkpoint-every", "4"),
    "evolve": ("--generations", "2", "--evaluate-every", "1", "--pairs", "2", "--stretches", "4", "--decisions", "20"),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished run of each learner of RUNS."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finishing, "EPISODE", EPISODE)
        install(folder)
        patch.syspath_prepend(str(folder))
        patch.chdir(folder)
        for learner, settings in RUNS.items():
            result = run("train", learner, *SHORT, *settings)
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.setattr(finishing, "EPISODE", EPISODE)
    monkeypatch.syspath_prepend(str(trained))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: str | Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("learner", RUNS)
def test_the_last_checkpoint_gives_the_artifact_that_training_ended_with(folder: Path, learner: str) -> None:
    """To the bit, with the same scores and where it comes from; and nothing of the run changes."""
    source = f"runs/{learner}-1"
    before = contents(source)
    result = run("export", source, "--checkpoint", "latest", "--output", "a.rlz", "--json")
    assert result.exit_code == 0, result.output
    assert contents(source) == before
    told = json.loads(result.stdout)
    made, final = load("a.rlz"), load(f"{source}/policy.rlz")
    assert made.arrays.keys() == final.arrays.keys()
    for name, array in final.arrays.items():
        np.testing.assert_array_equal(made.arrays[name], array)
    assert made.manifest["scores"] == final.manifest["scores"] == told["scores"]
    lived = (made.manifest["scores"].get("export") or {}).get("episodes")
    assert (lived is None) is (learner == "q-learning"), "there is no network"
    assert lived is None or (lived["decisions"], lived["ties"]) == (EPISODE * VALIDATION_ENVS, 0)
    provenance = made.manifest["provenance"]
    step = {"q-learning": 8, "evolve": 2}[learner]
    assert provenance.pop("checkpoint") == {"name": f"{step:012d}", "step": step} | {}
    assert provenance == final.manifest["provenance"]
    assert told["digest"] == made.digest


def test_an_earlier_checkpoint_gives_what_was_best_until_then(folder: Path) -> None:
    """It is named after its step, lies in the run's folder, and a run that is not done has one as well."""
    Path("runs/q-learning-1/report.json").unlink()
    Path("runs/q-learning-1/policy.rlz").unlink()
    result = run("export", "runs/q-learning-1", "--checkpoint", "4")
    assert result.exit_code == 0, result.output
    assert "artifact:   runs/q-learning-1/q-learning-4.rlz" in result.output
    made = load("runs/q-learning-1/q-learning-4.rlz")
    assert made.manifest["provenance"]["checkpoint"]["step"] == 4
    assert made.manifest["provenance"]["config"]["steps"] == 8, "as it was asked for"
    held = torch.load("runs/q-learning-1/checkpoints/000000000004.pt", weights_only=True)
    np.testing.assert_array_equal(made.arrays["values"], held["state"]["learning"]["best"].numpy())
    assert run("verify", "runs/q-learning-1", "--no-scores").exit_code == 0


def test_a_checkpoint_of_another_device_is_not_trained_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the number of environments is left open, a CPU has fewer than the device that a run was trained on."""
    monkeypatch.setattr(ppo_fast, "FEW", 8)
    settings = ("--steps", "320", "--episode", "20", "--horizon", "10", "--hidden", "8")
    result = run("train", "ppo-fast", *SHORT, *settings, "--device", "cpu")
    assert result.exit_code == 0, result.output
    monkeypatch.setattr(ppo_fast, "FEW", 2)
    trained: list[int] = []

    def update(*_: Any) -> dict[str, float]:
        trained.append(1)
        return {}

    monkeypatch.setattr(ppo_fast.Learner, "update", update)
    before = contents("runs/ppo-fast-1/checkpoints")
    result = run("export", "runs/ppo-fast-1", "--output", "a.rlz")
    assert result.exit_code == 0, result.output
    assert contents("runs/ppo-fast-1/checkpoints") == before
    assert not trained
    held = torch.load("runs/ppo-fast-1/checkpoints/000000000320.pt", weights_only=True)["state"]["kept"]
    np.testing.assert_array_equal(load("a.rlz").arrays["weight_0"], held["actor.trunk.0.weight"].numpy().T)
    assert load("a.rlz").manifest["provenance"]["config"]["envs"] == 0, "as it was asked for"


def test_the_newest_checkpoint_is_taken_unless_another_is_asked_for(folder: Path) -> None:
    assert run("export", "runs/q-learning-1", "--output", "a.rlz").exit_code == 0
    assert load("a.rlz").manifest["provenance"]["checkpoint"]["step"] == 8
    assert run("export", "runs/evolve-1", "--checkpoint", "best", "--output", "b.rlz").exit_code == 0
    best = torch.load("runs/evolve-1/checkpoints/best.pt", weights_only=True)
    assert load("b.rlz").manifest["provenance"]["checkpoint"] == {"name": "best", "step": best["step"]}


def torched(held: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(held, buffer)
    return buffer.getvalue()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return buffer.getvalue()


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


WHOLE = checkpoints.dumps(4, {"value": torch.ones(3)})
FOREIGN = {
    "empty": (b"", "it is empty"),
    "text": (b"hello world", "it begins with b'hello wo'"),
    "pickle": (pickle.dumps({"step": 1}), "it is a pickle"),
    "cut short": (WHOLE[: len(WHOLE) // 2], "it is cut short or damaged"),
    "cut at the end": (WHOLE[:-1], "it is cut short or damaged"),
    "an artifact": (dumps(table()), "it is an artifact, which serves"),
    "of stable-baselines3": (zipped("data", "policy.pth"), "it is a model of stable-baselines3"),
    "a zip": (zipped("a.txt"), "it is a zip of a.txt"),
    "without contents": (zipped("x/data.pkl"), "it is damaged ("),
    "code": (torched({"step": 1, "state": Evil()}), "it holds more than tensors, numbers and text"),
    "weights of another program": (torched({"layer.weight": torch.ones(2)}), "it holds a dict with the keys layer"),
    "a tensor": (torched(torch.ones(2)), "it holds a Tensor, not step and state"),
    "too new": (torched({"format": 2, "step": 1, "state": {}}), "its format is 2, not 1; read it with the version"),
    "a step before the first": (torched({"step": -1, "state": {}}), "its step is -1"),
    "a step in words": (torched({"step": "one", "state": {}}), "its step is 'one'"),
    "a state that is none": (torched({"step": 1, "state": [1]}), "its state a list"),
}


@pytest.mark.parametrize(("data", "message"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_checkpoint_is_one_line_and_nothing_runs(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.read(path)
    told = str(caught.value)
    assert told.startswith(f"{path} is no checkpoint of rlscaler: ")
    assert message in told
    assert told.endswith(("begin a new run",))
    assert "\n" not in told
    assert not Path("ran").exists()


def test_no_flipped_byte_of_a_checkpoint_is_anything_but_one_line(tmp_path: Path) -> None:
    """Or changes nothing that is read."""
    path = tmp_path / "x.pt"
    told: list[str] = []
    for position in range(0, len(WHOLE), 7):
        data = bytearray(WHOLE)
        data[position] ^= 0xFF
        path.write_bytes(data)
        try:
            step, state = checkpoints.read(path)
        except CheckpointError as error:
            told.append(str(error))
        else:
            assert isinstance(step, int)
            assert isinstance(state, dict)
    assert len(told) > 20
    assert not any("\n" in each for each in told)


def overwritten(name: str, data: bytes) -> Callable[[], Any]:
    return lambda: Path(f"runs/q-learning-1/checkpoints/{name}.pt").write_bytes(data)


def other_learner() -> None:
    newest = max(Path("runs/evolve-1/checkpoints").glob("[0-9]*.pt"))
    shutil.copy(newest, "runs/q-learning-1/checkpoints/best.pt")


def environment(text: str) -> Callable[[], Any]:
    return lambda: Path("runs/q-learning-1/environment.json").write_text(text)


def of_nobody() -> None:
    path = Path("runs/q-learning-1/config.json")
    path.write_text(path.read_text().replace('"q-learning"', '"sarsa"'))


def nothing() -> None:
    pass


RUN = "runs/q-learning-1"
BEST = [RUN, "--checkpoint", "best"]
BAD: dict[str, tuple[Callable[[], Any], list[str], str]] = {
    "no such run": (nothing, ["nowhere"], "nowhere: is no run; expected the folder of one"),
    "no such checkpoint": (nothing, [RUN, "--checkpoint", "7"], "the run has none; there are best, latest, 0, 4, 8"),
    "a checkpoint in words": (nothing, [RUN, "--checkpoint", "last"], "expected best, latest or a number of steps"),
    "a checkpoint below zero": (nothing, [RUN, "--checkpoint", "-1"], "expected best, latest or a number of steps"),
    "no checkpoint at all": (
        lambda: shutil.rmtree(f"{RUN}/checkpoints"),
        [RUN],
        f"no checkpoint; 'rlscaler runs {RUN}'",
    ),
    "before anything was learned": (nothing, [RUN, "--checkpoint", "0"], "is of step 0, before anything was learned"),
    "a damaged one": (
        overwritten("best", WHOLE[:50]),
        BEST,
        "best.pt is no checkpoint of rlscaler: it is cut short",
    ),
    "a foreign one": (
        overwritten("best", WHOLE),
        BEST,
        "best.pt: does not fit a run of q-learning",
    ),
    "of another learner": (
        other_learner,
        BEST,
        "best.pt: does not fit a run of q-learning with the settings of",
    ),
    "of a learner that is not here": (of_nobody, [RUN], "is a run of 'sarsa'; expected one of q-learning, dqn"),
    "no word of how it began": (
        lambda: Path(f"{RUN}/environment.json").unlink(),
        [RUN],
        "environment.json: cannot be read: No such file or directory",
    ),
    "half a word of how it began": (
        environment('{"beg'),
        [RUN],
        "environment.json: cannot be read: it is not whole",
    ),
    "not all of how it began": (environment('{"git": null}'), [RUN], "cannot be read: it is not whole ('began')"),
    "nowhere to write": (nothing, [RUN, "--output", "no/such/a.rlz"], "no/such/a.rlz: the folder"),
    "a checkpoint of an artifact": (nothing, [f"{RUN}/policy.rlz", "--checkpoint", "4"], "is no run, so it has no"),
    "nothing to do": (nothing, [f"{RUN}/policy.rlz"], "or --onnx FILE.onnx beside an artifact"),
}


@pytest.mark.parametrize(("make", "arguments", "message"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line_and_leaves_nothing(
    folder: Path, make: Callable[[], Any], arguments: list[str], message: str
) -> None:
    make()
    before = contents(".")
    (line,) = mistakes(run("export", *arguments))
    assert message in line
    assert contents(".") == before


ONNX = {
    "silu": lambda: network(),
    "relu": lambda: network(activation="relu"),
    "tanh, a correction": lambda: network("correction", activation="tanh"),
    "two branches": lambda: network(actions="branching"),
    "narrow": lambda: network(training_range={"size": [0.5, 2.5]}),
    "branching": branching,
}


@pytest.mark.parametrize("made", ONNX.values(), ids=ONNX)
def test_onnx_answers_as_numpy_does(made: Callable[[], Artifact], folder: Path) -> None:
    """Held here on observations of its own; the file names its inputs and where it comes from."""
    runtime = pytest.importorskip("onnxruntime")
    save(artifact := made(), "a.rlz")
    result = run("export", "a.rlz", "--onnx", "a.onnx", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["compared"]
    assert told["observations"] == 10_000
    assert told["largest_difference"] < 1e-5
    session = runtime.InferenceSession("a.onnx", providers=["CPUExecutionProvider"])
    policy: Any = from_artifact(artifact)
    (wanted,), (given,) = session.get_inputs(), session.get_outputs()
    assert (wanted.name, wanted.shape) == ("inputs", ["rows", len(policy.fields)])
    name = "correction" if isinstance(policy, MlpPolicy) and policy.output == "correction" else "values"
    assert (given.name, given.shape[0]) == (name, "rows")
    inputs = np.random.default_rng(9).normal(size=(257, len(policy.fields))).astype(np.float32)
    (answers,) = session.run(None, {"inputs": inputs})
    np.testing.assert_allclose(answers, policy.network(np, inputs), rtol=1e-4, atol=1e-5)
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["digest"] == artifact.digest
    assert json.loads(properties["fields"]) == list(policy.fields)
    assert json.loads(properties["branches"]) == list(policy.scheme.branches)


def test_onnx_of_a_run_is_that_of_its_artifact(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = run("export", "runs/evolve-1", "--onnx", "a.onnx", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout).keys() == {"onnx", "compared"}
    assert Path("a.onnx").stat().st_size > 1000


def test_a_network_that_onnx_answers_otherwise_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from rlscaler_training import onnx_graph

    model = onnx_graph.model
    other = network(provenance={"seed": 8}, activation="relu")
    monkeypatch.setattr(onnx_graph, "model", lambda _: model(other))
    save(network(), "a.rlz")
    (line,) = mistakes(run("export", "a.rlz", "--onnx", "a.onnx"))
    assert "a.onnx: not written, as onnxruntime does not answer as NumPy" in line
    assert not Path("a.onnx").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [("a.rlz", "is of kind q-table, which has no network"), ("hpa", "hpa: is a rule, which has no network")],
)
def test_what_has_no_network_has_no_onnx(folder: Path, source: str, message: str) -> None:
    pytest.importorskip("onnxruntime")
    save(table(), "a.rlz")
    (line,) = mistakes(run("export", source, "--onnx", "a.onnx"))
    assert message in line


def test_without_the_extra_one_line_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "rlscaler_training.onnx_graph", raising=False)
    monkeypatch.delattr("rlscaler_training.onnx_graph", raising=False)
    (line,) = mistakes(run("export", "runs/evolve-1", "--checkpoint", "best", "--onnx", "a.onnx"))
    assert line == "error: 'export' needs onnx: pip install 'rlscaler[onnx]'"
    assert not list(Path("runs/evolve-1").glob("evolve-*.rlz")), "nothing is made before"
