"""The documentation page: Swagger UI from an installed package, nothing from a CDN.

The laptop server shows it at /docs; the discovery artifacts can carry the same files.
"""

import json
import os
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "drf_spectacular_sidecar"  # contains Swagger UI as published; Django is not imported
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
    "LICENSE": "text/plain",
}
PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{title}</title>
    <link rel="stylesheet" href="swagger-ui.css">
    <link rel="icon" href="favicon-32x32.png">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="swagger-ui-bundle.js"></script>
    <script src="start.js"></script>
  </body>
</html>
"""
# HEAD and OPTIONS of each path stay in the document but are hidden here: they would fill two thirds of the page.
START = """const HIDDEN = ["head", "options"];
const OnlyMain = () => ({{
  statePlugins: {{
    spec: {{
      wrapSelectors: {{
        taggedOperations: (original) => (state, ...rest) =>
          original(state, ...rest).map((tag) =>
            tag.set("operations", tag.get("operations").filter((each) => !HIDDEN.includes(each.get("method"))))),
      }},
    }},
  }},
}});
window.ui = SwaggerUIBundle({{
  plugins: [OnlyMain],
  url: {document},
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  supportedSubmitMethods: ["get"],
  tryItOutEnabled: true,
}});
"""


def build_document(text: str, servers: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """Build the document for consumers: without the extensions of API Gateway, with the servers of an environment."""
    document = _without_extensions(yaml.safe_load(text))
    document["paths"] = {path: operations for path, operations in document["paths"].items() if operations}
    if servers is not None:
        document["servers"] = servers
    found: dict[str, Any] = document
    return found


def read_document(servers: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """Read openapi.yaml of the project (`enrich.datasets.find_project`) and build the document for consumers.

    The title is the name of the service, as in the discovery files.
    """
    project = Path(os.environ.get("LARDER_PROJECT") or ROOT)
    document = build_document((project / "openapi.yaml").read_text(), servers)
    document["info"]["title"] = yaml.safe_load((ROOT / "infra/environments.yaml").read_text())["service"]
    return document


def read_pages(document_url: str = "../openapi.json") -> dict[str, tuple[str, bytes]]:
    """Read every file of the page: name -> (content type, content). The page itself is `index.html`.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{PACKAGE} is not installed: pip install -r examples/requirements.txt")
    folder = Path(spec.submodule_search_locations[0]) / "static" / PACKAGE / "swagger-ui-dist"
    pages = {name: (kind, (folder / name).read_bytes()) for name, kind in ASSETS.items() if (folder / name).exists()}
    title = read_document()["info"]["title"]
    pages["index.html"] = ("text/html; charset=utf-8", PAGE.format(title=escape(title)).encode())
    pages["start.js"] = ("text/javascript", START.format(document=json.dumps(document_url)).encode())
    return pages


def _without_extensions(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            name: _without_extensions(value) for name, value in node.items() if not str(name).startswith("x-amazon-")
        }
    return [_without_extensions(value) for value in node] if isinstance(node, list) else node
