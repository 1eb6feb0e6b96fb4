"""Hide the values of rows in texts: a page shows bodies and subjects only if the operator asked for them.

Errors and object keys can quote a row's value, which can be a part of a body or of a subject. Names that the dataset
defines (columns, metadata, members, expressions) are not values and stay readable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from enrich.dataset.definition import Dataset

HIDDEN = "(hidden)"
# An apostrophe, as in "can't", is not a quote
_QUOTED = re.compile(r"(?<![\w\\])(['\"])(.*?)(?<!\\)\1(?!\w)", re.DOTALL)
_WORD = re.compile(r"[^\W\d]\w*")
# Messages that contain a row's value without quotes: the text before the value, and the text after it
_CUTS = (
    (re.compile(r", for example row \d+: [\w-]+, "), ". Nothing was published"),
    (re.compile(r": \S+ raised \w+: "), "; fix the step"),  # the user's own step
    (re.compile(r"\d rows have "), ", expected one"),
    (re.compile(r" with value "), " can't be cast"),  # DuckDB's
)
# Quoted words of Larder's own messages: settings and their values, types, and what a file is
_OWN = frozenset(
    {"fail", "reject", "null", "drop", "remove-all", "refuse", "each", "once", "ahead", "zone", "empty_snapshot"}
    | {"snapshot_files", "equal_rows", "larder"}
)


class Privacy:
    """Decides which parts of a dataset's texts are shown.

    Args:
        datasets: the datasets; their names stay readable.
        show_data: show everything.
    """

    def __init__(self, datasets: Iterable[Dataset], *, show_data: bool) -> None:
        self.show_data = show_data
        self._known: dict[str, frozenset[str]] = {}
        self._keys: dict[str, re.Pattern[str] | None] = {}
        for dataset in datasets:
            self._known[dataset.name] = frozenset(_list_names(dataset)) | _OWN
            self._keys[dataset.name] = _match_subject_folders(dataset)

    def hide(self, dataset: str, text: str | None) -> str:
        """Return a text without anything that can be a row's value."""
        if not text or self.show_data:
            return text or ""
        for start, end in _CUTS:
            text = _cut(text, start, end)
        known = self._known.get(dataset, _OWN)

        def keep(found: re.Match[str]) -> str:
            return found[0] if found[2] in known else f"{found[1]}{HIDDEN}{found[1]}"

        return self.hide_object_key(dataset, _QUOTED.sub(keep, text))

    def hide_object_key(self, dataset: str, text: str) -> str:
        """Return a text without the values of folders `name=value` if the column is a part of the subject."""
        pattern = None if self.show_data else self._keys.get(dataset)
        return pattern.sub(rf"\1{HIDDEN}", text) if pattern else text


def _cut(text: str, start: re.Pattern[str], end: str) -> str:
    """Hide the text between two markers, up to the last end marker: a value can contain the words of a message."""
    found = start.search(text)
    if found is None:
        return text
    stop = text.rfind(end, found.end())
    return f"{text[: found.end()]}{HIDDEN}{text[stop:] if stop >= 0 else ''}"


def _list_names(dataset: Dataset) -> Iterable[str]:
    yield from (dataset.name, dataset.source.prefix, dataset.prediction_id, *dataset.subject, *dataset.subject.values())
    yield from dataset.columns
    yield from dataset.columns.values()
    for place, expression in dataset.leaves().items():
        yield from (place, place.removeprefix("body."), expression)
    for name, metadata in dataset.metadata.items():
        yield from (name, metadata.sql)
        yield from (word for pair in metadata.matches.items() for word in pair)
    if dataset.source.marker:
        yield dataset.source.marker


def find_subject_columns(dataset: Dataset) -> list[str]:
    """Return the columns that the subject is built from."""
    words = {word for expression in dataset.subject.values() for word in _WORD.findall(expression.lower())}
    return [name for name in dataset.columns if name.lower() in words]


def _match_subject_folders(dataset: Dataset) -> re.Pattern[str] | None:
    """Match `name=value` of an object key, for the columns that the subject is built from."""
    columns = find_subject_columns(dataset)
    if not columns:
        return None
    return re.compile(rf"((?:^|(?<=[/\s])){_any_of(columns)}=)[^/\s]+")


def _any_of(names: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, names))})"
