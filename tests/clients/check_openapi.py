"""Compares docs/openapi.yaml with a running server: check_openapi.py FILE http://ADMIN

The file must be valid OpenAPI. Each path must have exactly the methods that the server names in
Allow, and what GET answers must fit the schema. POST bodies that the schemas forbid are refused: by
status, and in the server API by an error object, or by status if the header asks for that.
"""

import json
import sys
import urllib.error
import urllib.request

import jsonschema
import yaml
from openapi_spec_validator import validate

METHODS = ("get", "post", "delete")


def ask(method, url, body=None, extra=None):
    """Status, headers and body."""
    headers = {"content-type": "application/json"} if body is not None else {}
    headers.update(extra or {})
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def check_methods(path, item, admin):
    documented = {method.upper() for method in METHODS if method in item}
    if "GET" in documented:
        documented.add("HEAD")
    status, headers, _ = ask("PUT", admin + path)
    if status == 404 and path.startswith("/api/v1/debug/"):
        raise AssertionError(f"{path}: start the server with debug.fault_injection")
    allowed = {method.strip() for method in headers.get("allow", "").split(",")}
    assert (status, allowed) == (405, documented), f"{path}: {status} {allowed} {documented}"


def schema_of(document, answer):
    content = answer["content"].get("application/json")
    return content and {**content["schema"], "components": document["components"]}


def check_get(document, path, item, admin):
    status, headers, body = ask("GET", admin + path)
    answers = item["get"]["responses"]
    assert str(status) in answers, f"GET {path}: {status} is not documented"
    schema = schema_of(document, answers[str(status)])
    if schema:
        jsonschema.validate(json.loads(body), schema)
    else:
        kind = next(iter(answers[str(status)]["content"]))
        assert headers["content-type"].startswith(kind), f"{path}: {headers['content-type']}"


def check_post(document, path, item, admin):
    """A body that no schema allows is answered with a documented error."""
    modes = {None: 400}
    if "parameters" in item["post"]:
        modes = {None: 200, "transport": 400}
    for mode, expected in modes.items():
        extra = {"x-centrifugo-error-mode": mode} if mode else {}
        status, _, body = ask("POST", admin + path, b'{"no such field": 1}', extra)
        documented = str(status) in item["post"]["responses"]
        assert documented and status == expected, f"POST {path} {extra}: {status}"
        jsonschema.validate(
            json.loads(body),
            {"$ref": "#/components/schemas/Error", "components": document["components"]},
        )


def main():
    file, admin = sys.argv[1:]
    with open(file, encoding="utf-8") as text:
        document = yaml.safe_load(text)
    validate(document)
    for path, item in document["paths"].items():
        check_methods(path, item, admin)
        if "get" in item:
            check_get(document, path, item, admin)
        if "post" in item:
            check_post(document, path, item, admin)
    print("\n".join(f"{method} {path}" for path, item in document["paths"].items() for method in METHODS if method in item))


main()
