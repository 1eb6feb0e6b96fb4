"""Every response of the handler conforms to openapi.yaml: status, headers, content type, body."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import yaml
from jsonschema import Draft4Validator
from referencing import Registry
from referencing.jsonschema import DRAFT4

from enrich.datasets import load_served
from serve.datasets import Served, list_names
from serve.handler import build_handler
from serve.item import build_pk
from tests.unit.serve.kit import FORMS, SERVED, Answered, App, claims, event, item, sign
from wire.errors import Throttled

ROOT = Path(__file__).parents[3]
DOCUMENT: dict[str, Any] = yaml.load((ROOT / "examples/flights/openapi.yaml").read_text(), yaml.CSafeLoader)
SCHEMAS = DOCUMENT["components"]["schemas"]
FIELDS = DOCUMENT["components"]["parameters"]["FlightDelaysFields"]


class Call(NamedTuple):
    """One request, and the operation and status that it demonstrates."""

    operation: tuple[str, str]
    status: int
    path: str
    arguments: Mapping[str, Any] = MappingProxyType({})


def _read_body(name: str) -> str:
    """Read the example of a dataset's body."""
    answer = DOCUMENT["paths"][f"/v1/{name}/{{prediction_id}}"]["get"]["responses"]["200"]
    reference = answer["content"]["application/json"]["schema"]["$ref"]
    return json.dumps(DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]["example"])


def _subject(dataset: Served) -> dict[str, str]:
    """Give each claim of the subject a different value, so that a wrong order would find nothing."""
    return {claim: f"B{n}" for n, claim in enumerate(dataset.subject, 6)}


def _claims(dataset: Served, **changes: Any) -> dict[str, Any]:
    return claims(**_subject(dataset) | {"scope": dataset.scope} | changes)


def _calls(dataset: Served) -> Iterator[Call]:
    page, one = f"/v1/{dataset.name}", f"/v1/{dataset.name}/{{prediction_id}}"
    good: dict[str, Any] = {"token": sign(_claims(dataset))}
    yield Call((page, "get"), 200, page, good)
    yield Call((page, "get"), 200, page, good | {"query": {"limit": "1"}})
    yield Call((page, "get"), 200, page, good | {"query": {"prefix": "zzz"}})
    yield Call((page, "get"), 200, page, good | {"query": {"id": ["b", "none", "zip"], "max_age": "5"}})
    yield Call((page, "get"), 200, page, good | {"query": {"max_age": "5"}})
    if dataset.rank_tag:
        yield Call((page, "get"), 200, page, good | {"query": {"top": "10"}})
        yield Call((page, "get"), 200, page, good | {"query": {"top": "3", "limit": "1", "max_age": "5"}})
        yield Call((page, "get"), 200, page, good | {"query": {"top": "3", "after_rank": "12:b"}})
        yield Call((page, "get"), 400, page, good | {"query": {"top": "3", "prefix": "a"}})
    yield Call((page, "get"), 304, page, good | {"if_none_match": "*"})
    yield Call((page, "get"), 400, page, good | {"query": {"fields": "none"}})
    yield Call((page, "get"), 400, page, good | {"query": {"limit": "0"}})
    yield Call((page, "get"), 401, page)
    yield Call((page, "get"), 401, page, {"token": sign(_claims(dataset, exp=1))})
    yield Call((page, "get"), 403, page, {"token": sign(_claims(dataset, scope="other"))})
    yield Call((page, "get"), 406, page, good | {"accept": "text/html"})
    yield Call((page, "head"), 200, page, good | {"method": "HEAD"})
    yield Call((page, "options"), 204, page, {"method": "OPTIONS"})
    yield Call((one, "get"), 200, f"{page}/a", good)
    yield Call((one, "get"), 200, f"{page}/zip", good | {"accept_encoding": "gzip"})
    yield Call((one, "get"), 200, f"{page}/zip", good)
    yield Call((one, "get"), 304, f"{page}/a", good | {"if_none_match": "*"})
    yield Call((one, "get"), 304, f"{page}/a", good | {"if_modified_since": "Tue, 14 Nov 2023 22:13:20 GMT"})
    yield Call((one, "get"), 400, f"{page}/a", good | {"query": {"max_age": "x"}})
    yield Call((one, "get"), 400, f"{page}/a", {"authorization": "Bearer a,Bearer b"})
    yield Call((one, "get"), 401, f"{page}/a")
    yield Call((one, "get"), 403, f"{page}/a", {"token": sign(_claims(dataset, scope="other"))})
    yield Call((one, "get"), 404, f"{page}/none", good)
    yield Call((one, "get"), 404, f"{page}/old", good | {"query": {"max_age": "5"}})
    yield Call((one, "get"), 406, f"{page}/a", good | {"accept": "text/html"})
    yield Call((one, "head"), 200, f"{page}/a", good | {"method": "HEAD"})
    yield Call((one, "options"), 204, f"{page}/a", {"method": "OPTIONS"})


CALLS = (
    *(call for dataset in SERVED.values() for call in _calls(dataset)),
    Call(("/v1/health", "get"), 200, "/v1/health"),
    Call(("/v1/health", "head"), 200, "/v1/health", {"method": "HEAD"}),
    Call(("/v1/health", "options"), 204, "/v1/health", {"method": "OPTIONS"}),
)
GOOD: dict[str, Any] = {"token": sign()}
LIST = ("/v1/flight-delays", "get")
ONE = ("/v1/flight-delays/{prediction_id}", "get")


def _items() -> Iterator[Any]:
    for dataset in SERVED.values():
        pk, body = build_pk(dataset.name, _subject(dataset).values()), _read_body(dataset.name)
        packer = zlib.compressobj(wbits=31)
        zipped = packer.compress(body.encode()) + packer.flush()
        yield from (item("a", body, pk=pk, place="13"), item("b", body, pk=pk), item("zip", zipped, pk=pk, place="11"))
        yield item("old", body, pk=pk, place="12")._replace(order="0001.1690000000000.00000007")


def _resolve(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def _as_draft4(schema: Any) -> Any:
    """OpenAPI 3.0 says nullable where JSON Schema lists the type null."""
    if isinstance(schema, list):
        return [_as_draft4(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {name: _as_draft4(value) for name, value in schema.items()}
    if changed.pop("nullable", False):
        changed["type"] = [changed["type"], "null"]
    return changed


REGISTRY: Registry[Any] = Registry().with_resource("api", DRAFT4.create_resource(_as_draft4(DOCUMENT)))


def _check_body(schema: dict[str, Any], body: Any) -> None:
    reference = {"$ref": f"api{schema['$ref']}"} if "$ref" in schema else _as_draft4(schema)
    Draft4Validator(reference, registry=REGISTRY).validate(body)


def check(operation: tuple[str, str], answer: Answered) -> None:
    """Check a response against the one that the document describes for its status."""
    responses = DOCUMENT["paths"][operation[0]][operation[1]]["responses"]
    response = _resolve(responses[str(answer.status)])
    for name, header in response.get("headers", {}).items():
        described = _resolve(header)
        if described.get("required"):
            assert name.lower() in answer.headers, name
        if name.lower() in answer.headers:
            Draft4Validator(described["schema"]).validate(answer.headers[name.lower()])
    contents = response.get("content")
    if operation[1] == "head" or not contents:
        assert answer.body == b""
        return
    kind = answer.headers["content-type"]
    body = answer.body
    if answer.headers.get("content-encoding") == "gzip":
        body = zlib.decompress(body, wbits=31)
    _check_body(contents[kind]["schema"], json.loads(body))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.operation[1]}-{call.status}-{call.path}")
def test_the_answer_conforms(call: Call, form: str) -> None:
    """Each operation and status is reached with each event form, and conforms."""
    answer = App(*_items()).call(call.path, form=form, **call.arguments)
    drops_ids = form == "alb" and "id" in call.arguments.get("query", {})
    assert answer.status == (400 if drops_ids else call.status)
    check(call.operation, answer)


def test_every_described_status_has_an_example_here() -> None:
    """All statuses are reached by a call above, except those that only the gateway or a fault can cause."""
    reached = {(call.operation, str(call.status)) for call in CALLS}
    for path, operations in DOCUMENT["paths"].items():
        for method in ("get", "options"):
            for status in operations.get(method, {}).get("responses", {}):
                if status not in ("429", "500", "503") and (method, status) != ("options", "404"):
                    assert ((path, method), status) in reached, (path, method, status)


@pytest.mark.parametrize("operation", [LIST, ONE])
def test_faults_conform(operation: tuple[str, str]) -> None:
    """The 503 when storage throttles and the 500 when something breaks conform."""
    path = operation[0].replace("{prediction_id}", "a")
    app = App(*_items())
    app.table.error = Throttled("slow down")
    answer = app.call(path, **GOOD)
    assert answer.status == 503
    check(operation, answer)
    app.table.error = ZeroDivisionError("a secret")
    answer = app.call(path, **GOOD)
    assert answer.status == 500
    assert b"secret" not in answer.body
    check(operation, answer)


@pytest.mark.parametrize("name", FIELDS["schema"]["items"]["enum"])
def test_each_member_that_is_described_can_be_asked_for(name: str) -> None:
    """The contract's `fields` has the names that serve knows; each is a member of the body's schema and example."""
    served = {one: load_served(ROOT / "examples/flights/datasets")[one] for one in SERVED}
    app = App(*_items())
    sent = event("rest", "GET", "/v1/flight-delays/a", {"fields": name}, {"Authorization": f"Bearer {GOOD['token']}"})
    answer = Answered(build_handler(app.parts._replace(served=served))(sent, None))
    assert answer.status == 200
    schema, found, whole = SCHEMAS["FlightDelaysBody"], answer.json, json.loads(_read_body("flight-delays"))
    for part in name.split("."):
        schema, found, whole = schema["properties"][part], found[part], whole[part]
    assert found == whole
    assert list(FIELDS["schema"]["items"]["enum"]) == list(list_names(served["flight-delays"].places))


def test_the_check_can_fail() -> None:
    """A body that differs from its description is noticed."""
    answer = App(item("a", '{"flight": 1}')).call("/v1/flight-delays/a", **GOOD)
    with pytest.raises(Exception, match=r"is a required property|is not of type"):
        check(ONE, answer)
