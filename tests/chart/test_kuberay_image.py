"""The training image: its recipe is that of the operator's image but for the packages and what Ray needs.

`test_image.py` runs the operator's recipe, whose steps these are; where an engine answers, it builds that image.
"""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import kuberay

pytestmark = pytest.mark.components("helm")

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = "report,train,distributed,serve,operator"


def steps(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each with what it says."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = (line.strip().partition(" ") for line in text.splitlines() if line.strip())
    return [(word, " ".join(rest.split())) for word, _, rest in lines]


TRAINING, OPERATOR = steps("Dockerfile.training"), steps("Dockerfile")
AT = [word for word, _ in TRAINING].index("FROM", 2)
FINAL = dict(TRAINING[AT:])


def test_it_is_built_as_the_operators_image_is() -> None:
    as_the_operators = [
        (word, rest.replace("training.txt", "operator.txt").replace(f"[{EXTRAS}]", "[operator]"))
        for word, rest in TRAINING[:AT]
    ]
    assert as_the_operators == OPERATOR[: [word for word, _ in OPERATOR].index("FROM", 2)]
    assert TRAINING[AT] == ("FROM", "${BASE}")


def test_its_extras_are_those_that_are_pinned() -> None:
    (pinned,) = re.findall(r"pin training\.txt pyproject\.toml (.*?)--constraints", script().replace("\\\n", ""))
    assert [word for word in pinned.split() if word != "--extra"] == EXTRAS.split(",")


def script() -> str:
    return (ROOT / "scripts" / "constraints.sh").read_text()


def test_only_the_environment_reaches_the_final_stage() -> None:
    words = [word for word, _ in TRAINING[AT:]]
    assert words == ["FROM", "LABEL", "COPY", "ENV", "USER", "EXPOSE", "ENTRYPOINT", "CMD"]
    assert FINAL["COPY"] == "--from=build /opt/rlscaler /opt/rlscaler"


def test_the_chart_runs_it_as_the_same_user_with_a_home_that_it_can_write() -> None:
    user, group = FINAL["USER"].split(":")
    environment = dict(pair.split("=", 1) for pair in shlex.split(FINAL["ENV"]))
    job = kuberay.ray("RayJob", kuberay.rendered({"train": {"enabled": True}}))
    for template in kuberay.pods(job):
        context = template["spec"]["securityContext"]
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == (user, group)
        mounts = [each["mountPath"] for each in template["spec"]["containers"][0]["volumeMounts"]]
        assert environment["HOME"] in mounts
    assert environment["PATH"].startswith("/opt/rlscaler/bin:"), "where KubeRay's `ray start` is found"


def test_the_chart_names_it_as_its_recipe_does() -> None:
    tag = re.search(r"--tag (\S+) \.", (ROOT / "Dockerfile.training").read_text())
    values = yaml.safe_load((kuberay.CHART / "values.yaml").read_text())
    chart = yaml.safe_load((kuberay.CHART / "Chart.yaml").read_text())
    assert tag
    assert tag[1] == f"{values['image']['repository']}:{chart['appVersion']}"
