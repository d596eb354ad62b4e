"""The server as a configuration of Ray Serve asks for it, and replicas that follow their files by themselves."""

import asyncio
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import kuberay
import served_artifacts
from rlscaler.artifact import save
from rlscaler.errors import UserError
from rlscaler_training.serving import CPU, CUDA, offered, wanted
from rlscaler_training.serving_http import MEGABYTE, Limits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own code, as it is imported
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary as as_ray_serve_builds
    from ray.serve.schema import ServeDeploySchema

    from rlscaler_training.serving_build import Arguments, Following, arguments, build

OLD, NEW = served_artifacts.network(), served_artifacts.network(output="correction")


@pytest.fixture
def web(tmp_path: Path) -> Path:
    path = tmp_path / "web.rlz"
    save(OLD, path)
    return path


def bound(args: dict[str, Any]) -> tuple[Any, tuple[Any, ...]]:
    """Return the deployment and the arguments of its replicas, as Ray Serve has them of a configuration."""
    builder: Any = build
    node = as_ray_serve_builds(builder, args)._bound_deployment
    return node, node.init_args


def test_ray_serve_builds_it_as_the_command_does(web: Path) -> None:
    deployment, (asked, offers, limits, device, replicas) = bound(
        {"policies": [f"web={web}", "learned"], "replicas": 3, "max_wait": 2.0, "max_queue": 9, "max_megabytes": 2}
    )
    assert (deployment.name, deployment.num_replicas, deployment.max_queued_requests) == ("Decisions", 3, 9)
    assert (asked[0].name, asked[0].path) == ("web", web)
    assert [each.name for each in offers] == ["web", "learned"]
    assert (limits, device, replicas) == (Limits(8192, 0.002, 9, 2 * MEGABYTE), CPU, 3)


@pytest.mark.components("helm")
def test_ray_serve_takes_the_configuration_of_the_chart(web: Path) -> None:
    policies = [{"name": "web", "path": "web.rlz"}, {"name": "learned"}]
    values = {"serve": {"enabled": True, "replicas": 2, "policies": policies}, "volume": {"nfs": {}}}
    told = kuberay.ray("RayService", kuberay.rendered(values))["spec"]["serveConfigV2"]
    config = yaml.safe_load(told.replace("/var/lib/rlscaler", str(web.parent)))
    read = ServeDeploySchema.model_validate(config)
    kept = read.model_dump(exclude_unset=True)  # what it does not know is left out
    for part in ("http_options", "logging_config"):
        assert kept[part].keys() == config[part].keys()
    assert (kept.keys(), kept["applications"][0].keys()) == (config.keys(), config["applications"][0].keys())
    (application,) = read.applications
    module, _, name = application.import_path.partition(":")
    assert getattr(import_module(module), name) is build
    deployment, (_, offers, _, _, _) = bound(application.args)
    assert deployment.num_replicas == 2
    assert [each.name for each in offers] == ["web", "learned"]


def test_replicas_with_a_gpu_decide_on_it() -> None:
    deployment, (_, _, _, device, _) = bound({"gpus": 0.5})
    assert device == CUDA
    assert deployment.ray_actor_options["num_gpus"] == 0.5


def test_without_arguments_it_serves_the_learned_policy() -> None:
    assert arguments({}) == Arguments()
    assert [each.name for each in bound({})[1][1]] == ["learned"]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"polices": []}, "args.polices is no argument; expected some of policies"),
    "no list": ({"policies": "learned"}, "args.policies is 'learned'; expected a list"),
    "empty": ({"policies": []}, "expected a list"),
    "a rule": ({"policies": ["hpa"]}, "hpa is a rule"),
    "missing": ({"policies": ["/nowhere/web.rlz"]}, "/nowhere/web.rlz"),
    "twice": ({"policies": ["learned", "learned"]}, "two policies have one name"),
    "tenure": ({"tenure": "On"}, "args.tenure is 'On'; expected \"Off\""),
    "replicas": ({"replicas": 0}, "args.replicas is 0; expected a whole number of 1 or more"),
    "half a replica": ({"replicas": 1.5}, "args.replicas is 1.5; expected a whole number"),
    "a flag": ({"max_queue": True}, "args.max_queue is True"),
    "wait": ({"max_wait": float("nan")}, "args.max_wait is nan; expected a number of 0 or more"),
}


@pytest.mark.parametrize(("args", "sentence"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_names_the_argument(args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        build(args)
    assert sentence in str(caught.value)


def test_a_replica_follows_its_files_at_each_health_check(web: Path) -> None:
    asked = [wanted(str(web), None)]
    replica = Following(asked, [offered(each) for each in asked], Limits(), CPU, 1)

    def digest() -> str:
        asyncio.run(replica.check_health())
        return replica.shelf.get("web", None).digest

    assert digest() == OLD.digest
    save(NEW, web)
    assert digest() == NEW.digest
    web.write_bytes(b"broken")
    assert [digest(), digest()] == [NEW.digest] * 2, "a broken file is refused, and the replica stays well"
    web.unlink()
    assert digest() == NEW.digest
    save(OLD, web)
    assert digest() == OLD.digest


def test_a_replica_that_starts_anew_serves_what_the_file_holds_by_then(web: Path) -> None:
    asked = [wanted(str(web), None)]
    first = [offered(each) for each in asked]
    save(NEW, web)
    replica = Following(asked, first, Limits(), CPU, 1)
    asyncio.run(replica.check_health())
    assert replica.shelf.get("web", None).digest == NEW.digest


def test_a_mounted_config_map_is_followed_when_its_link_moves(tmp_path: Path) -> None:
    """The kubelet swaps a link to a folder, so that no file is ever half there."""
    for version, artifact in (("..1", OLD), ("..2", NEW)):
        (tmp_path / version).mkdir()
        save(artifact, tmp_path / version / "web.rlz")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "web.rlz").symlink_to("..data/web.rlz")
    asked = [wanted(str(tmp_path / "web.rlz"), None)]
    replica = Following(asked, [offered(each) for each in asked], Limits(), CPU, 1)
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")
    asyncio.run(replica.check_health())
    assert replica.shelf.get("web", None).digest == NEW.digest
