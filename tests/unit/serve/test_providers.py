"""Each recipe of docs/identity-providers.md, from infra/environments.yaml through the template to its responses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from infra.environments import SCHEMA, build_issuers, build_parameters, read_environments
from infra.translate import read_template
from serve.datasets import Served
from serve.handler import build_dependencies, build_handler
from serve.settings import SETTINGS, parse_settings
from serve.storage import Storage
from tests.unit.serve.kit import NOW, SERVED, Answered, Table, event, item, private_key, public_jwk, sign

PAGE = (Path(__file__).parents[3] / "docs" / "identity-providers.md").read_text()
RECIPES: dict[str, Any] = {
    name: yaml.safe_load(text) for name, text in re.findall(r"### (.+?)\n.*?```yaml\n(.*?)```", PAGE, re.DOTALL)
}
PROVIDERS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "providers.yaml").read_text())
REQUIRED = {"issuer", "audience", "keys"}
OTHER = Served("other", ("carrier",), None)
DOCUMENT = read_environments(Path(__file__).parents[3] / "examples/flights/infra/environments.yaml")
TEMPLATE = read_template()


def _through_the_template(recipe: Mapping[str, Any], path: Path) -> str:
    """Return the LARDER_ISSUERS that a deploy of an environment with this recipe gives the function."""
    environment = DOCUMENT["environments"]["dev"] | {"issuers": [dict(recipe)]}
    del environment["issuer"], environment["audience"]
    path.write_text(json.dumps({**DOCUMENT, "environments": DOCUMENT["environments"] | {"dev": environment}}))
    parameters = build_parameters(read_environments(path), "dev")
    function = TEMPLATE["Resources"]["ServeFunction"]["Properties"]
    condition, chosen, _ = function["Environment"]["Variables"]["LARDER_ISSUERS"]["Fn::If"]
    assert (condition, chosen) == ("HasIssuers", {"Ref": "Issuers"})
    assert re.fullmatch(TEMPLATE["Parameters"]["Issuers"]["AllowedPattern"], parameters["Issuers"])
    return parameters["Issuers"]


class Deployment:
    """A handler built from the variable, whose keys are in a file; only the table is in memory."""

    def __init__(self, issuers: str, provider: Mapping[str, Any], folder: Path) -> None:
        (settings,) = json.loads(issuers)
        key = public_jwk("RS256", **provider.get("key", {}))
        others = [public_jwk("RS256", which=1 + n, **other) for n, other in enumerate(provider.get("others", []))]
        (folder / "jwks.json").write_text(json.dumps({"keys": [key, *others]}))
        settings["keys"] = f"file:{folder}/jwks.json"
        env = {"LARDER_TABLE": "table", "LARDER_ISSUERS": json.dumps([settings])}
        pk = f"flight-delays#{quote(provider['subject'], safe='')}"
        self.lines: list[dict[str, Any]] = []
        self.handler = build_handler(
            build_dependencies(env, SERVED)._replace(
                storage=Storage(Table(item("a", pk=pk)).send, "table"),
                now=lambda: NOW,
                write=lambda line: self.lines.append(json.loads(line)),
                served=SERVED | {"other": OTHER},
            )
        )

    def ask(self, token: str, dataset: str = "flight-delays") -> Answered:
        """Request the item of the provider's subject."""
        headers = {"Authorization": f"Bearer {token}"}
        return Answered(self.handler(event("rest", "GET", f"/v1/{dataset}/a", {}, headers), None))


def _token(recipe: Mapping[str, Any], provider: Mapping[str, Any], change: Mapping[str, Any]) -> str:
    base = {"iss": recipe["issuer"], "iat": int(NOW) - 10, "exp": int(NOW) + 600}
    claims = base | provider["claims"] | change.get("claims", {})
    header = {"alg": "RS256", "kid": "RS256-0"} | provider["header"] | change.get("header", {})
    return sign(
        {name: value for name, value in claims.items() if value is not None},
        algorithm=change.get("algorithm", provider.get("algorithm", "RS256")),
        which=change.get("which", 0),
        header={name: value for name, value in header.items() if value is not None},
        key=private_key("RS256", change.get("which", 0)),
    )


@pytest.fixture(params=PROVIDERS)
def name(request: pytest.FixtureRequest) -> str:
    """Each provider."""
    return str(request.param)


def test_each_recipe_has_tokens() -> None:
    """The page and the table have the same providers."""
    assert RECIPES.keys() == PROVIDERS.keys()
    assert len(RECIPES) >= 11


def test_a_provider_works_through_the_template(name: str, tmp_path: Path) -> None:
    """Its tokens read only their subject's items; tokens that differ from the recipe are refused, with the reason."""
    recipe, provider = RECIPES[name], PROVIDERS[name]
    deployment = Deployment(_through_the_template(recipe, tmp_path / "e.yaml"), provider, tmp_path)
    for also in ({}, *provider.get("also", [])):
        answer = deployment.ask(_token(recipe, provider, {"claims": also}))
        assert answer.status == 200, (also, answer.body)
    for change in provider["refused"]:
        answer = deployment.ask(_token(recipe, provider, change), change.get("dataset", "flight-delays"))
        assert answer.status == change["status"], (change, answer.body)
        assert answer.json.get("detail") == change.get("detail", answer.json.get("detail")), change
    assert "event" not in {name for line in deployment.lines for name in line}, "no key of the set is a failure"
    signature = _token(recipe, provider, {"which": 7})
    assert deployment.ask(signature).status == 401


def test_every_setting_of_a_recipe_is_needed(name: str, tmp_path: Path) -> None:
    """Without it the provider's token is refused, or a bad one is accepted: no recipe relaxes more than needed."""
    recipe, provider = RECIPES[name], PROVIDERS[name]
    for setting in recipe.keys() - REQUIRED - {"tenants"}:  # the issuer of several tenants is refused without them
        less = {key: value for key, value in recipe.items() if key != setting}
        deployment = Deployment(build_issuers({"issuers": [less]}, "dev"), provider, tmp_path)
        also = ({}, *provider.get("also", []))
        good = [deployment.ask(_token(recipe, provider, {"claims": claims})) for claims in also]
        bad = [
            deployment.ask(_token(recipe, provider, change), change.get("dataset", "flight-delays"))
            for change in provider["refused"]
        ]
        # 404: the other dataset has no item
        assert {one.status for one in good} != {200} or {200, 404} & {one.status for one in bad}, setting


def test_schema_code_and_page_have_the_same_settings() -> None:
    """The settings that environments.yaml accepts, that serve parses, and that the page explains."""
    described = json.loads(SCHEMA.read_text())["$defs"]["issuer"]["properties"]
    assert described.keys() == SETTINGS.keys()
    assert set(described["algorithms"]["items"]["enum"]) == set(re.findall(r"[A-Z]{2}\d{3}|E\w+\d*(?=[,;])", _row()))
    for setting in SETTINGS:
        assert f"| `{setting}" in PAGE, setting


def _row() -> str:
    start = PAGE.index("| `algorithms` |")
    return PAGE[start : PAGE.index("default", start)]


def test_unusual_characters_survive() -> None:
    """Blanks, quotes, backslashes and other scripts reach the function unchanged, whatever SAM and a shell do."""
    odd = 'a b "c" \\ d\\"é'
    text = build_issuers({"issuers": [{"issuer": odd, "audience": odd}]}, "dev")
    assert json.loads(text)[0] == {"keys": "ssm:/larder/dev/keys/", "issuer": odd, "audience": odd}
    assert text.isascii()
    assert not set(text) & {" ", "'"}
    assert '\\"' not in text
    env = {"LARDER_TABLE": "t", "LARDER_ISSUERS": text}
    assert parse_settings(env, SERVED).issuers[0].policy.audience == odd
