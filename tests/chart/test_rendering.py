"""What each value of the chart changes, rendered by real helm."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm_chart import (
    CHART,
    NAME,
    NAMESPACE,
    RELEASE,
    ChartError,
    configuration,
    container,
    helm,
    names_that_are_no_text,
    own,
    pod,
    rendered,
)
from rlscaler.crd import crd
from rlscaler.errors import UserError
from rlscaler.prometheus_config import SourceConfig
from rlscaler_operator.commands import run
from rlscaler_operator.configuration import Configuration, CustomTarget, parse

pytestmark = pytest.mark.components("helm")

ALWAYS = {"ServiceAccount", "ConfigMap", "Role", "RoleBinding", "Service", "Deployment", "Pod"}
BY_DEFAULT = ALWAYS | {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "PodDisruptionBudget"}
CRD = ("CustomResourceDefinition", "rlscalers.rlscaler.io")
SECRET = {"name": "login"}
TARGET = {"group": "media.example.com", "version": "v1", "kind": "EncoderPool", "plural": "encoderpools"}


def test_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


def test_by_default_nothing_needs_another_project() -> None:
    assert {kind for kind, _ in rendered()} == BY_DEFAULT


SWITCHES: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "crds.install": ({"crds": {"install": False}}, set(), {"CustomResourceDefinition"}),
    "podDisruptionBudget": ({"podDisruptionBudget": {"enabled": False}}, set(), {"PodDisruptionBudget"}),
    "networkPolicy": ({"networkPolicy": {"enabled": True}}, {"NetworkPolicy"}, set()),
    "serviceMonitor": ({"serviceMonitor": {"enabled": True}}, {"ServiceMonitor"}, set()),
    "prometheusRule": ({"prometheusRule": {"enabled": True}}, {"PrometheusRule"}, set()),
    "serviceAccount": ({"serviceAccount": {"create": False, "name": "own"}}, set(), {"ServiceAccount"}),
    "no rights": (
        {"rbac": {"create": False, "aggregate": False}},
        set(),
        {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"},
    ),
    "nothing of the cluster's": (
        {"watchNamespaces": ["shop"], "rbac": {"aggregate": False}, "crds": {"install": False}},
        set(),
        {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"},
    ),
}


@pytest.mark.parametrize(("values", "more", "fewer"), SWITCHES.values(), ids=list(SWITCHES))
def test_a_switch_adds_or_leaves_out(values: dict[str, Any], more: set[str], fewer: set[str]) -> None:
    assert {kind for kind, _ in rendered(values)} == (BY_DEFAULT | more) - fewer


def test_everything_says_whose_it_is() -> None:
    switches = {name: {"enabled": True} for name in ("networkPolicy", "serviceMonitor", "prometheusRule", "dashboard")}
    everything = rendered({"commonLabels": {"team": "platform"}} | switches)
    for key, item in everything.items():
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE, key
        if key[0] != "Pod":
            assert labels["team"] == "platform", key
            assert labels["app.kubernetes.io/managed-by"] == "Helm", key


def test_the_definition_is_the_packages_and_is_kept() -> None:
    found = rendered()[CRD]
    metadata = found.pop("metadata")
    expected = crd()
    assert metadata["name"] == expected.pop("metadata")["name"]
    assert metadata["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert found == expected
    assert "annotations" not in rendered({"crds": {"keep": False}})[CRD]["metadata"]


# --- the pods


def test_the_pods_are_locked_down() -> None:
    objects = rendered()
    for spec in (pod(objects), own("Pod", objects, "-test")["spec"]):
        outer, (inside,) = spec["securityContext"], spec["containers"]
        assert outer["runAsNonRoot"]
        assert outer["runAsUser"] >= 10_000
        assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
        assert inside["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in inside["resources"]["limits"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert not own("Pod", objects, "-test")["spec"]["automountServiceAccountToken"]


def test_the_command_is_that_of_the_operator() -> None:
    objects = rendered({"watchNamespaces": ["shop", "media"], "log": {"format": "text", "level": "debug"}})
    assert container(objects)["args"] == [
        "run",
        "--config=/etc/rlscaler/config.yaml",
        "--listen=0.0.0.0:8080",
        "--log-format=text",
        "--log-level=debug",
        "--lease-namespace=$(POD_NAMESPACE)",
        "--namespace=shop",
        "--namespace=media",
    ]
    fields = {env["name"]: env["valueFrom"]["fieldRef"]["fieldPath"] for env in container(objects)["env"][:2]}
    assert fields == {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}


def test_the_operator_understands_its_command() -> None:
    given = container(rendered({"watchNamespaces": ["shop"], "policies": {"volume": {"emptyDir": {}}}}))["args"]
    told = run.make_context("run", given[1:]).params
    assert (told["namespaces"], told["listen"], told["log_format"]) == (("shop",), "0.0.0.0:8080", "json")
    assert (told["config"], told["policies"]) == (Path("/etc/rlscaler/config.yaml"), Path("/etc/rlscaler/policies"))
    given = container(rendered({"decisions": {"enabled": True, "megabytes": 1_000_000}}))["args"]
    recorded = run.make_context("run", given[1:]).params
    assert (recorded["decisions"].name, recorded["decisions_megabytes"]) == ("$(POD_NAME).jsonl", 1_000_000)
    assert told["decisions"] is None, "off by default"
    (role,) = own("Role", rendered(), "-own")["rules"][1]["resourceNames"]
    assert role == told["lease_name"], "the one Lease that it may renew is the one that it asks for"


def test_probes_and_service_meet_at_the_port() -> None:
    objects = rendered()
    inside, service = container(objects), own("Service", objects)["spec"]
    probes = {name: inside[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    (port,) = inside["ports"]
    assert {probe["port"] for probe in probes.values()} == {port["name"]} == {service["ports"][0]["targetPort"]}
    labels = own("Deployment", objects)["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert not service["selector"].items() <= own("Pod", objects, "-test")["metadata"]["labels"].items()


ANSWERS = {"at once": ([200], 0), "after a while": ([500, 200], 0), "never": ([500, 500, 500], 1)}


@pytest.mark.parametrize(("answers", "code"), ANSWERS.values(), ids=list(ANSWERS))
def test_the_release_test_asks_until_it_is_ready(answers: list[int], code: int) -> None:
    inside = own("Pod", rendered(), "-test")["spec"]["containers"][0]
    environment = {env["name"]: env["value"] for env in inside["env"]}
    assert environment["URL"] == f"http://{NAME}.{NAMESPACE}:8080/readyz"
    with ready_page(answers) as url:
        environment |= {"URL": url, "SECONDS": "20" if code == 0 else "0"}
        command = [sys.executable, *inside["command"][1:], *inside["args"]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == code
    assert "[-]watch failed: has not listed yet" in (done.stdout if code == 0 else done.stderr)


@contextlib.contextmanager
def ready_page(statuses: list[int]) -> Iterator[str]:
    """Serve a page that answers with one status after the other."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.pop(0))
            self.end_headers()
            self.wfile.write(b"[-]watch failed: has not listed yet\n")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/readyz"
        server.shutdown()
        thread.join()


def test_a_changed_configuration_rolls_the_pods() -> None:
    def checksum(**values: Any) -> str:
        metadata = own("Deployment", rendered(values))["spec"]["template"]["metadata"]
        return str(metadata["annotations"]["checksum/config"])

    assert checksum() == checksum(replicas=3)
    assert checksum() != checksum(sources={"default": {"url": "http://other:9090"}})


PLACES: dict[str, tuple[dict[str, Any], str, Any]] = {
    "replicas": ({"replicas": 3}, "spec.replicas", 3),
    "image": ({"image": {"repository": "r/x", "tag": "1"}}, "*.containers.0.image", "r/x:1"),
    "digest": (
        {"image": {"repository": "r/x", "tag": "1", "digest": "sha256:" + "a" * 64}},
        "*.containers.0.image",
        "r/x:1@sha256:" + "a" * 64,
    ),
    "pull policy": ({"image": {"pullPolicy": "Always"}}, "*.containers.0.imagePullPolicy", "Always"),
    "pull secrets": ({"imagePullSecrets": [{"name": "s"}]}, "*.imagePullSecrets", [{"name": "s"}]),
    "resources": ({"resources": {"limits": {"memory": "2Gi"}}}, "*.containers.0.resources.limits.memory", "2Gi"),
    "grace": ({"terminationGracePeriodSeconds": 60}, "*.terminationGracePeriodSeconds", 60),
    "priority": ({"priorityClassName": "high"}, "*.priorityClassName", "high"),
    "node selector": ({"nodeSelector": {"a": "b"}}, "*.nodeSelector", {"a": "b"}),
    "affinity": ({"affinity": {"nodeAffinity": {}}}, "*.affinity", {"nodeAffinity": {}}),
    "tolerations": ({"tolerations": [{"operator": "Exists"}]}, "*.tolerations", [{"operator": "Exists"}]),
    "environment": ({"extraEnv": [{"name": "A", "value": "b"}]}, "*.containers.0.env.-1", {"name": "A", "value": "b"}),
    "volumes": ({"extraVolumes": [{"name": "v", "emptyDir": {}}]}, "*.volumes.-1", {"name": "v", "emptyDir": {}}),
    "mounts": (
        {"extraVolumeMounts": [{"name": "v", "mountPath": "/v"}]},
        "*.containers.0.volumeMounts.-1",
        {"name": "v", "mountPath": "/v"},
    ),
    "pod labels": ({"podLabels": {"a": "b"}}, "spec.template.metadata.labels.a", "b"),
    "pod annotations": ({"podAnnotations": {"a": "b"}}, "spec.template.metadata.annotations.a", "b"),
    "account": ({"serviceAccount": {"create": False, "name": "own"}}, "*.serviceAccountName", "own"),
    "spread": (
        {"topologySpread": {"keys": ["rack"], "whenUnsatisfiable": "DoNotSchedule"}},
        "*.topologySpreadConstraints.0.whenUnsatisfiable",
        "DoNotSchedule",
    ),
}


def at(value: Any, path: str) -> Any:
    """Return what lies at a path of names and numbers; * stands for the pods' spec."""
    for step in path.replace("*", "spec.template.spec").split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


@pytest.mark.parametrize(("values", "path", "expected"), PLACES.values(), ids=list(PLACES))
def test_a_value_reaches_its_place(values: dict[str, Any], path: str, expected: Any) -> None:
    assert at(own("Deployment", rendered(values)), path) == expected


def test_the_decision_log_has_room_for_both_of_its_files() -> None:
    """A pod whose emptyDir grows beyond its limit is evicted."""
    volumes = pod(rendered({"decisions": {"enabled": True, "megabytes": 500}}))["volumes"]
    assert volumes[-1] == {"name": "decisions", "emptyDir": {"sizeLimit": "1016Mi"}}


def test_spreading_can_be_left_out() -> None:
    assert "topologySpreadConstraints" not in pod(rendered({"topologySpread": {"keys": []}}))


def test_names_can_be_chosen() -> None:
    deployments = [
        name for values in ({"fullnameOverride": "x"}, {"nameOverride": "other"})
        for kind, name in rendered(values) if kind == "Deployment"
    ]  # fmt: skip
    assert deployments == [f"{NAMESPACE}/x", f"{NAMESPACE}/{RELEASE}-other"]


def test_names_of_digits_stay_text() -> None:
    """A namespace, a release or a Secret may be called 42; the API server takes no number for a name."""
    values = {
        "sources": {"default": {"url": "http://p:9090", "secret": {"name": "7", "bearerToken": "8"}}},
        "watchNamespaces": ["123"],
        "serviceAccount": {"name": "9"},
        "priorityClassName": "10",
        "networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {}}]},
        "serviceMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
        "nameOverride": "11",
    }
    manifest = helm("template", "42", CHART, "--namespace", "456", values=values)
    objects = [item for item in yaml.safe_load_all(manifest) if item is not None]
    assert [wrong for item in objects for wrong in names_that_are_no_text(item)] == []
    assert {item["metadata"].get("namespace", "456") for item in objects} == {"123", "456"}


# --- the sources


ACCESS = ("url", "bearerTokenFile", "basic", "tls", "headers", "headerFiles")
"""What a source and a server have in common."""
SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"url": "http://p:9090"}, {"url": "http://p:9090"}),
    "everything plain": (
        {"url": "http://p:9090", "timeout": "5s", "headers": {"X-Scope-OrgID": "shop"}, "maxSeries": 5,
         "maxBytes": "1Mi", "acceptPartial": True, "queryParameters": {"dedup": "true"}},
        {"url": "http://p:9090", "timeout": "5s", "headers": {"X-Scope-OrgID": "shop"}, "maxSeries": 5,
         "maxBytes": "1Mi", "acceptPartial": True, "queryParameters": {"dedup": "true"}},
    ),
    "a token": (
        {"url": "https://p", "secret": SECRET | {"bearerToken": "token"}},
        {"url": "https://p", "bearerTokenFile": "/etc/rlscaler/sources/main/token"},
    ),
    "a password": (
        {"url": "https://p", "basic": {"username": "u"}, "secret": SECRET | {"password": "pw"}},
        {"url": "https://p", "basic": {"username": "u", "passwordFile": "/etc/rlscaler/sources/main/pw"}},
    ),
    "both sides of TLS": (
        {"url": "https://p", "secret": SECRET | {"ca": "ca.crt", "certificate": "tls.crt", "key": "tls.key"}},
        {"url": "https://p", "tls": {
            "caFile": "/etc/rlscaler/sources/main/ca.crt",
            "certFile": "/etc/rlscaler/sources/main/tls.crt",
            "keyFile": "/etc/rlscaler/sources/main/tls.key",
        }},
    ),
    "TLS half by hand": (
        {"url": "https://p", "tls": {"caFile": "/ca.pem"}, "secret": SECRET | {"certificate": "c"}},
        {"url": "https://p", "tls": {"caFile": "/ca.pem", "certFile": "/etc/rlscaler/sources/main/c"}},
    ),
    "secret headers": (
        {"url": "https://p", "headerFiles": {"A": "/a"}, "secret": SECRET | {"headers": {"B": "b"}}},
        {"url": "https://p", "headerFiles": {"A": "/a", "B": "/etc/rlscaler/sources/main/b"}},
    ),
    "a file that somebody else mounts": (
        {"url": "https://p", "bearerTokenFile": "/var/run/token"},
        {"url": "https://p", "bearerTokenFile": "/var/run/token"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), SOURCES.values(), ids=list(SOURCES))
def test_a_source_becomes_what_the_operator_reads(source: dict[str, Any], expected: dict[str, Any]) -> None:
    objects = rendered({"sources": {"default": None, "main": source}})
    assert configuration(objects)["sources"] == {"main": expected}
    text = own("ConfigMap", objects)["data"]["config.yaml"]
    assert parse(text.encode(), "config.yaml").sources["main"].url == expected["url"]
    mounted = {mount["mountPath"] for mount in container(objects)["volumeMounts"]}
    assert ("/etc/rlscaler/sources/main" in mounted) == ("secret" in source)
    secrets = [volume["secret"]["secretName"] for volume in pod(objects)["volumes"] if "secret" in volume]
    assert secrets == (["login"] if "secret" in source else [])


@pytest.mark.parametrize(("source", "expected"), SOURCES.values(), ids=list(SOURCES))
def test_a_server_becomes_what_the_operator_reads(source: dict[str, Any], expected: dict[str, Any]) -> None:
    own = {"policy": "web", "fallback": "learned", "timeout": "500ms"}
    given = {name: value for name, value in source.items() if name in (*ACCESS, "secret")}
    objects = rendered({"servers": {"gpu": given | own}})
    text = yaml.safe_dump(expected).replace("/sources/main/", "/servers/gpu/")
    wanted = {name: value for name, value in yaml.safe_load(text).items() if name in ACCESS}
    assert configuration(objects)["servers"] == {"gpu": wanted | own}
    read = parse(yaml.safe_dump(configuration(objects)).encode(), "config.yaml").servers["gpu"]
    assert (read.source.url, read.policy, read.fallback, read.source.timeout) == (given["url"], "web", "learned", 0.5)
    mounted = {mount["mountPath"] for mount in container(objects)["volumeMounts"]}
    assert ("/etc/rlscaler/servers/gpu" in mounted) == ("secret" in source)


def test_the_configuration_says_what_the_values_say() -> None:
    assert parse(own("ConfigMap", rendered())["data"]["config.yaml"].encode(), "config.yaml") == Configuration(
        sources={"default": SourceConfig(name="default", url="http://prometheus-operated.monitoring.svc:9090")}
    ), "and no default of the chart is another than the operator's own"
    text = own("ConfigMap", rendered({"history": "36h", "targets": [TARGET]}))["data"]["config.yaml"]
    found = parse(text.encode(), "config.yaml")
    assert (found.history, found.targets) == (36 * 3600.0, (CustomTarget(**TARGET),))


def test_no_secret_reaches_a_manifest() -> None:
    """Secrets are named, never written: what a value could hold of one ends up in no object."""
    text = yaml.safe_dump(list(rendered({"sources": {"default": SOURCES["a token"][0]}}).values()))
    assert "kind: Secret\n" not in text
    assert "secretKeyRef" not in text


def test_every_volume_is_mounted_and_every_mount_has_one() -> None:
    sources = {f"s{number}": source for number, (source, _) in enumerate(SOURCES.values())}
    claim = {"persistentVolumeClaim": {"claimName": "p"}}
    decisions = {"enabled": True, "volume": claim}
    objects = rendered({"sources": sources, "policies": {"volume": claim}, "decisions": decisions})
    volumes = [volume["name"] for volume in pod(objects)["volumes"]]
    mounts = container(objects)["volumeMounts"]
    assert sorted(volumes) == sorted({mount["name"] for mount in mounts}) == sorted(set(volumes))
    assert all(mount.get("readOnly") for mount in mounts if mount["name"] not in ("tmp", "decisions"))
    assert Path("/var/lib/rlscaler") in [Path(mount["mountPath"]) for mount in mounts if mount["name"] == "decisions"]
    assert "--policies=/etc/rlscaler/policies" in container(objects)["args"]


# --- rights


def granted(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Return group/resource, verb and name of each right ("" where it is not restricted by name)."""
    return {
        (f"{group}/{resource}".strip("/"), verb, name)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def test_a_custom_target_is_watched_scaled_and_configured() -> None:
    plain, objects = rendered(), rendered({"targets": [TARGET]})
    more = granted(objects["ClusterRole", NAME]["rules"]) - granted(plain["ClusterRole", NAME]["rules"])
    resource = f"{TARGET['group']}/{TARGET['plural']}"
    assert more == {(resource, verb, "") for verb in ("list", "watch")} | {
        (f"{resource}/scale", verb, "") for verb in ("get", "patch")
    }
    assert configuration(objects)["targets"] == [TARGET]


def test_watched_namespaces_hold_the_rights_that_the_cluster_would() -> None:
    values = {"targets": [TARGET], "rbac": {"aggregate": False}}
    everywhere = rendered(values)["ClusterRole", NAME]["rules"]
    objects = rendered(values | {"watchNamespaces": ["shop", "media"]})
    roles = {name: item["rules"] for (kind, name), item in objects.items() if kind == "Role"}
    own_rules = roles.pop(f"{NAMESPACE}/{NAME}-own")
    assert roles == {f"shop/{NAME}": everywhere, f"media/{NAME}": everywhere}
    assert own_rules == own("Role", rendered(), "-own")["rules"]


def test_every_binding_binds_the_account_to_a_role_that_is_there() -> None:
    for values in ({}, {"watchNamespaces": ["shop", "media"]}, {"serviceAccount": {"create": False, "name": "own"}}):
        objects = rendered(values)
        account = pod(objects)["serviceAccountName"]
        bindings = {key: item for key, item in objects.items() if key[0].endswith("Binding")}
        assert bindings
        for (_, name), binding in bindings.items():
            role = binding["roleRef"]
            where = f"{name.partition('/')[0]}/" if role["kind"] == "Role" else ""
            assert (role["kind"], f"{where}{role['name']}") in objects
            assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]


def test_no_right_is_wild_and_no_secret_is_read() -> None:
    objects = rendered({"targets": [TARGET]})
    for kind in ("ClusterRole", "Role"):
        for resource, verb, _ in granted([rule for key, o in objects.items() if key[0] == kind for rule in o["rules"]]):
            assert "*" not in resource + verb
            assert not resource.startswith("secrets")


def test_without_keda_its_objects_are_not_read() -> None:
    groups = {rule["apiGroups"][0] for rule in rendered({"rbac": {"keda": False}})["ClusterRole", NAME]["rules"]}
    assert "keda.sh" not in groups


# --- the network


def test_the_network_policy_lets_the_sources_be_reached() -> None:
    urls = ("http://a", "https://b/prefix", "http://c:9090/x", "http://[fd00::1]:9091")
    sources: dict[str, Any] = {f"s{number}": {"url": url} for number, url in enumerate(urls)} | {"default": None}
    values = {"sources": sources, "networkPolicy": {"enabled": True, "apiServerPorts": [6443]}}
    spec = own("NetworkPolicy", rendered(values))["spec"]
    assert {port["port"] for port in spec["egress"][1]["ports"]} == {6443, 80, 443, 9090, 9091}
    assert spec["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    labels = own("Deployment", rendered(values))["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= labels.items()


def test_restricted_metrics_leave_the_release_test_in() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    objects = rendered({"networkPolicy": {"enabled": True, "metricsFrom": [peer], "egress": [{}]}})
    (rule,) = own("NetworkPolicy", objects)["spec"]["ingress"]
    assert rule["from"][0] == peer
    test_labels = own("Pod", objects, "-test")["metadata"]["labels"]
    assert rule["from"][1]["podSelector"]["matchLabels"].items() <= test_labels.items()
    assert own("NetworkPolicy", objects)["spec"]["egress"][-1] == {}


def test_the_monitor_selects_the_service() -> None:
    objects = rendered({"serviceMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prom"}}})
    monitor, service = own("ServiceMonitor", objects), own("Service", objects)
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"] == [
        {"port": "http", "path": "/metrics", "interval": "30s", "honorLabels": True}
    ]
    assert monitor["metadata"]["labels"]["release"] == "prom"


# --- what is refused


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name that is wrong": ({"watchNamespace": ["a"]}, "additional properties 'watchNamespace' not allowed"),
    "text for a list": ({"watchNamespaces": "shop"}, "'/watchNamespaces': got string, want array"),
    "an address without a scheme": ({"sources": {"default": {"url": "prom:9090"}}}, "does not match pattern '^https?://"),
    "credentials in an address": ({"sources": {"default": {"url": "http://u:p@prom"}}}, "'/sources/default/url'"),
    "no address": ({"sources": {"default": {"url": None}}}, "'/sources/default': missing property 'url'"),
    "no source": ({"sources": {"default": None}}, "'/sources'"),
    "seconds without a unit": ({"sources": {"default": {"timeout": "5"}}}, "'/sources/default/timeout'"),
    "a secret without its name": (
        {"sources": {"default": {"secret": {"bearerToken": "t"}}}},
        "'/sources/default/secret': missing property 'name'",
    ),
    "a password without a user": (
        {"sources": {"default": {"secret": SECRET | {"password": "pw"}}}},
        "sources.default.basic: needs a username, and a password",
    ),
    "a user without a password": (
        {"sources": {"default": {"basic": {"username": "u"}}}},
        "sources.default.basic: needs a username, and a password",
    ),
    "two identities": (
        {"sources": {"default": {"bearerTokenFile": "/t", "basic": {"username": "u", "passwordFile": "/p"}}}},
        "sources.default: has a password and a bearer token; give one of them",
    ),
    "TLS without TLS": (
        {"sources": {"default": {"url": "http://p", "secret": SECRET | {"ca": "ca.crt"}}}},
        "sources.default.url: http://p has no TLS; write https:// there",
    ),
    "half a target": ({"targets": [{"group": "a.b"}]}, "'/targets/0': missing properties 'version', 'kind', 'plural'"),
    "a singular for a plural": ({"targets": [TARGET | {"plural": "EncoderPool"}]}, "'/targets/0/plural'"),
    "no account": ({"serviceAccount": {"create": False}}, "serviceAccount.name: name the account that exists"),
    "a short digest": ({"image": {"digest": "sha256:abc"}}, "'/image/digest'"),
    "words for a number": ({"replicas": "two"}, "'/replicas': got string, want integer"),
    "nobody may be evicted": ({"podDisruptionBudget": {"maxUnavailable": 0}}, "'/podDisruptionBudget/maxUnavailable'"),
    "nobody of all may be evicted": (
        {"podDisruptionBudget": {"maxUnavailable": "0%"}},
        "'/podDisruptionBudget/maxUnavailable'",
    ),
    "a log level that is none": ({"log": {"level": "loud"}}, "'/log/level'"),
}  # fmt: skip


def _read(field: str, value: str) -> bool:
    """Tell whether the operator takes a duration there."""
    what = {"sources": {"default": {"url": "http://p", "timeout": value}}, "history": value,
            "servers": {"gpu": {"url": "http://s", "timeout": value}}}  # fmt: skip
    try:
        parse(yaml.safe_dump({field: what[field]}).encode(), "f")
    except UserError:
        return False
    return True


@pytest.mark.parametrize(("field", "values"), [
    ("sources", ["99ms", "100ms", "0.1s", "2m", "1m60s", "1.99m30ms", "120.5s", "2m1ms", "5m", "1h"]),
    ("servers", ["19ms", "20ms", "5s", "5000ms", "5.1s", "1m"]),
    ("history", ["59m", "1h", "60m", "744h", "743h60m", "745h", "9999999h", "12345678ms"]),
])  # fmt: skip
def test_a_duration_that_the_operator_would_refuse_is_refused(field: str, values: list[str]) -> None:
    """Else helm says that all is well, and the operator does not start."""
    for value in values:
        given: Any = value if field == "history" else {"default": {"url": "http://p", "timeout": value}}
        if _read(field, value):
            rendered({field: given})
            continue
        with pytest.raises(ChartError, match=f"{field}.*(: {value} is not from |does not match pattern)"):
            rendered({field: given})


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=list(REFUSED))
def test_a_mistake_is_refused_and_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ChartError) as refused:
        rendered(values)
    assert message in str(refused.value)
