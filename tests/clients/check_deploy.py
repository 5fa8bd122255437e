"""Checks the files of deploy/: check_deploy.py REPOSITORY COMPOSE_SCHEMA

compose.yaml against the Compose schema, the manifests against the schemas of Kubernetes, and both
against each other and the server's defaults: who waits longer than whom, and what a pod can hold.
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.31"
DEADLINE_S = 30
BYTES_PER_CONNECTION = 4352
PROCESS_BYTES = 20 << 20
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}


def seconds(text):
    assert text.endswith("s"), text
    return int(text[:-1])


def check_compose(file, schema):
    document = yaml.safe_load(file.read_text())
    jsonschema.validate(document, json.loads(schema.read_text()))
    server = document["services"]["tidegate"]
    assert seconds(server["stop_grace_period"]) > DEADLINE_S
    assert server["stop_signal"] == "SIGTERM"
    check = server["healthcheck"]
    assert check["test"] == ["CMD", "tidegate", "healthcheck"]
    assert [check[key] for key in ("interval", "timeout", "start_period", "retries")] == ["30s", "3s", "5s", 3]
    profile = next(option for option in server["security_opt"] if option.startswith("seccomp="))
    assert (file.parent / profile.removeprefix("seccomp=")).exists(), profile
    assert server["depends_on"]["redis"]["condition"] == "service_healthy"


def check_pod(spec):
    (container,) = spec["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    deadline_s = int(environment["TIDEGATE_SHUTDOWN__DEADLINE_MS"]) / 1000
    before_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > before_s + deadline_s
    memory = container["resources"]["limits"]["memory"]
    budget = int(memory[:-2]) * UNITS[memory[-2:]] * 9 // 10
    connections = int(environment["TIDEGATE_ADMISSION__MAX_GLOBAL_CONNECTIONS"])
    room = (budget - PROCESS_BYTES) * 85 // 100
    assert connections * BYTES_PER_CONNECTION <= room, "it would not admit as many"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert spec["securityContext"]["seccompProfile"]["type"] == "Localhost"
    assert spec["securityContext"]["runAsUser"] == 1001


def check_kubernetes(file):
    for document in yaml.safe_load_all(file.read_text()):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        if document["kind"] == "Deployment":
            check_pod(document["spec"]["template"]["spec"])


root, compose_schema = map(pathlib.Path, sys.argv[1:])
check_compose(root / "deploy/compose/compose.yaml", compose_schema)
for manifest in sorted((root / "deploy/kubernetes").glob("*.yaml")):
    check_kubernetes(manifest)
