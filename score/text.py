"""Turn a text into the row of a tensor, exactly as scikit-learn's TfidfVectorizer and CountVectorizer do."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from score.manifest import TextVectorizer


class Vectorizer:
    """A compiled `TextVectorizer`."""

    def __init__(self, given: TextVectorizer) -> None:
        """Compile.

        Raises:
            ValueError: the token pattern is not a regular expression, or has more than one group.
        """
        self._given = given
        try:
            pattern = re.compile(given.token_pattern)
        except re.error as error:
            raise ValueError(f"token_pattern: {error}") from error
        if pattern.groups > 1:
            raise ValueError("token_pattern has more than one group")
        self._find: Callable[[str], list[str]] = pattern.findall
        self._columns = {term: column for column, term in enumerate(given.vocabulary)}
        self._stop_words = frozenset(given.stop_words)

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text, without stop words."""
        given = self._given
        if given.lowercase:
            text = text.lower()
        if given.strip_accents and not text.isascii():
            text = _STRIP[given.strip_accents](text)
        tokens = self._find(text)
        return [token for token in tokens if token not in self._stop_words] if self._stop_words else tokens

    def weigh(self, tokens: Sequence[str]) -> dict[int, float]:
        """Return the weights of a text's terms, by column; all other columns are 0."""
        given, columns = self._given, self._columns
        low, high = given.ngram_range
        counts = Counter(tokens) if low == 1 else Counter[str]()
        for size in range(max(low, 2), high + 1):
            counts.update([" ".join(tokens[at : at + size]) for at in range(len(tokens) - size + 1)])
        weights = {columns[term]: float(count) for term, count in counts.items() if term in columns}
        if given.binary:
            weights = dict.fromkeys(weights, 1.0)
        if given.sublinear_tf:
            weights = {column: math.log(weight) + 1 for column, weight in weights.items()}
        if given.idf is not None:
            weights = {column: weight * given.idf[column] for column, weight in weights.items()}
        if given.norm == "l2":
            length = math.sqrt(sum([weight * weight for weight in weights.values()]))
        else:
            length = sum([abs(weight) for weight in weights.values()]) if given.norm else 1.0
        return {column: weight / length for column, weight in weights.items()} if length else weights

    def rank(self, tokens: Collection[str], weights: Mapping[int, float], most: int) -> list[str]:
        """Return the distinct tokens with the largest weights; the weight of a token is that of its own term."""
        places = {token: self._columns.get(token, -1) for token in dict.fromkeys(tokens)}
        return sorted(places, key=lambda token: -abs(weights.get(places[token], 0.0)))[:most]


def _strip_unicode(text: str) -> str:
    return "".join([each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each)])


def _strip_ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


_STRIP: dict[str, Callable[[str], str]] = {"unicode": _strip_unicode, "ascii": _strip_ascii}
