"""Who can read which dataset: its name, the claims that make its subject, the scope it needs. Standard library only."""

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

# Members of a body, each as the path of names that leads to it: (("flight",), ("carrier", "code")).
Place = tuple[str, ...]
Places = tuple[Place, ...]


class Served(NamedTuple):
    """One dataset as its reader sees it.

    Attributes:
        name: the dataset's name, in paths and item keys: 1 to 64 ASCII letters, digits, - and _.
        subject: the claims whose values make the subject. Their order here is their order in the partition key, for the
            writer too: `Dataset.subject` maps each claim to an expression and has no order of its own. Items that were
            written in another order are not found.
        scope: one of the token's scopes must be equal; with None, any valid token of an issuer reads its own subject's
            items.
        places: the members of the body, from which a request can choose (`fields`). The loader sets them from
            `Dataset.body` and ignores a value that is written here.
        rank_tag: the tag of the dataset's rank (`serve.item.build_rank_tag`); empty if it has none. The loader sets it
            from `Dataset.rank` in the same way.
        version_place: the member of the body that is the model's version; empty if the dataset names none. The loader
            sets it from `Dataset.model_version` in the same way.
    """

    name: str
    subject: tuple[str, ...]
    scope: str | None
    places: Places = ()
    rank_tag: str = ""
    version_place: Place = ()


FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "datasets.json")


@lru_cache(64)
def list_names(places: Places) -> dict[str, list[tuple[str, ...]]]:
    """Return the dotted names of the members of a body, each with its places.

    Names can contain dots, so two places can have the same dotted name: it selects both. Names with a comma are left
    out, because `fields` separates names by commas.
    """
    names: dict[str, list[tuple[str, ...]]] = {}
    for place in places:
        for depth, _ in enumerate(place, 1):
            name = ".".join(place[:depth])
            if "," not in name and place[:depth] not in names.setdefault(name, []):
                names[name].append(place[:depth])
    return names


def render_served(served: Mapping[str, Served]) -> str:
    """Render who can read which dataset as JSON: the file that a build puts into the bundle of serve."""
    return json.dumps([one._asdict() for one in served.values()])


def parse_served(text: str) -> dict[str, Served]:
    """Parse the JSON text that `render_served` made."""
    entries = [
        Served(
            one["name"],
            tuple(one["subject"]),
            one["scope"],
            tuple(tuple(place) for place in one["places"]),
            one["rank_tag"],
            tuple(one["version_place"]),
        )
        for one in json.loads(text)
    ]
    return {one.name: one for one in entries}


def load_served(path: str = FILE) -> dict[str, Served]:
    """Load who can read which dataset from the file of the bundle.

    Raises:
        ValueError: there is no such file, as in a checkout.
    """
    return parse_served(read_bundled(path, "serve", "datasets/"))


def read_bundled(path: str, bundle: str, folder: str) -> str:
    """Read a file that is made from a folder of the project when a bundle is built.

    Raises:
        ValueError: there is no such file, as in a checkout.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        message = f"{path}: is missing; `./larder bundle {bundle}` makes it from {folder} when it builds the bundle"
        raise ValueError(message) from None
