"""Who can read which dataset: its name, the claims that make its subject, the scope it needs. Standard library only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

# Members of a body, each by the names that lead to it: (("flight",), ("carrier", "code")).
Places = tuple[tuple[str, ...], ...]


class Served(NamedTuple):
    """One dataset as its reader sees it.

    Attributes:
        name: the dataset's name, in paths and item keys: 1 to 64 ASCII letters, digits, - and _.
        subject: the claims whose values make the subject. Their order here is their order in the partition key, for the
            writer too: `Dataset.subject` maps each claim to an expression and has no order of its own. Items that were
            written in another order are not found.
        scope: one of the token's scopes must be equal; with None, any valid token of an issuer reads its own subject's
            items.
        places: the members of the body, which a request can choose from (`fields`). They are taken from `Dataset.body`,
            whatever is written here.
    """

    name: str
    subject: tuple[str, ...]
    scope: str | None
    places: Places = ()


FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "datasets.json")


@lru_cache(64)
def list_names(places: Places) -> dict[str, list[tuple[str, ...]]]:
    """Return the dotted names of the members of a body, with the places that each stands for.

    Names can hold dots, so two places can have one name: it stands for both. A name with a comma can't be in a list.
    """
    names: dict[str, list[tuple[str, ...]]] = {}
    for place in places:
        for depth in range(1, len(place) + 1):
            name = ".".join(place[:depth])
            if "," not in name and place[:depth] not in names.setdefault(name, []):
                names[name].append(place[:depth])
    return names


def render_served(served: Mapping[str, Served]) -> str:
    """Render who can read which dataset as JSON: the file that the bundle of serve has, made when it is built."""
    return json.dumps([one._asdict() for one in served.values()], indent=1) + "\n"


def parse_served(text: str) -> dict[str, Served]:
    """Parse what `render_served` made."""
    entries = [
        Served(one["name"], tuple(one["subject"]), one["scope"], tuple(tuple(place) for place in one["places"]))
        for one in json.loads(text)
    ]
    return {one.name: one for one in entries}


def load_served(path: str = FILE) -> dict[str, Served]:
    """Load who can read which dataset from the file of the bundle.

    Raises:
        ValueError: there is no such file, as in a checkout.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return parse_served(file.read())
    except FileNotFoundError:
        message = f"{path}: is missing; `./larder bundle serve` makes it from datasets/ when it builds the bundle"
        raise ValueError(message) from None
