r"""Cut CSV text into records, find malformed ones, and rewrite a dialect as plain CSV.

pyarrow's parser accepts text after a closing quote, and drops an escape character wherever it is. Spark, MySQL and Hive
each have other rules. So the grammar of a dialect is defined here, as regular expressions (250 MB/s). Text that it
accepts is unambiguous, and is passed to pyarrow as plain CSV: quotes doubled, no escapes.

| quote | escape | a field |
|---|---|---|
| `"` | none | RFC 4180: quoted, with `""` for a quote in it, or without any quote in it |
| `"` | `\` | the same; in a quoted field, `\` and a character that is not a letter or digit stand for that character |
| none | none | everything up to the delimiter or the newline |
| none | `\` | the same, but `\` before a delimiter, newline or mark makes it text; `\0 \b \n \r \t \Z` as in MySQL |

An escape before any other letter or digit is rejected, since writers differ in what it means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_NAMED = {b"0": b"\0", b"b": b"\b", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"Z": b"\x1a"}
_MARK, _ANY = rb"[^A-Za-z0-9]", rb"[\s\S]"  # characters after an escape: the allowed ones, and any


class Malformed(NamedTuple):
    """A record that is not CSV: its text, and the problem."""

    text: bytes
    problem: str


class Cut(NamedTuple):
    """Text cut into records.

    Attributes:
        pieces: sequences of complete records as plain CSV, and malformed records, in their order.
        rest: the incomplete record at the end of the text.
    """

    pieces: list[bytes | Malformed]
    rest: bytes


class CsvSyntax:
    """The grammar of a dialect.

    Attributes:
        delimiter: separates fields.
        quote: encloses fields in the plain CSV.
    """

    def __init__(self, delimiter: str, quote: str | None, escape: str | None, null_words: Sequence[str]) -> None:
        """Compile the grammar. All arguments except `null_words` are single ASCII characters."""
        self.delimiter, self.quote = delimiter, quote or '"'
        self._quoted = quote is not None
        self._escape = b"" if escape is None or escape == quote else escape.encode()  # a quote always escapes itself
        self._null_words = {word.encode() for word in null_words}
        d, q, e = (re.escape(each) for each in (delimiter.encode(), self.quote.encode(), self._escape))
        if self._quoted:
            plain, end = rb"[^" + q + d + rb"\r\n]*+", rb"(?:\r\n?|\n)"
            field = rb"(?:%s|%s)" % (_quoted_field(q, e, _MARK), plain)
            lenient = rb"(?:%s|%s)" % (_quoted_field(q, e or rb"\\", _ANY), plain)
            cut_off = rb"(?:%s\r?|%s\r?)" % (_quoted_field(q, e, _ANY, cut_off=True), plain)
            lenient_cut_off = rb"(?:%s\r?|%s\r?)" % (_quoted_field(q, e or rb"\\", _ANY, cut_off=True), plain)
            self._special = re.compile(rb"(?<![^%s\r\n])%s" % (d, _quoted_field(q, e, _MARK)))
            self._token = re.compile(rb"%s%s|%s(%s)" % (q, q, e, _ANY))
        else:
            plain, end = rb"[^" + e + d + rb"\r\n]++|\r(?!\n)", rb"\r?\n"
            escaped = rb"|%s(?:\r\n|%s|[%s])" % (e, _MARK, b"".join(_NAMED)) if e else b""
            anything = rb"|%s(?:\r\n|%s)" % (e, _ANY) if e else b""
            words = b"|".join(re.escape(word) for word in self._null_words if e and self._escape in word)
            null = rb"(?:%s)(?=%s|%s)|" % (words, d, end) if words else b""
            field = rb"(?:%s(?:%s%s)*+)" % (null, plain, escaped)
            lenient = rb"(?:%s%s)*+" % (plain, anything)
            cut_off = lenient_cut_off = rb"%s%s\r?" % (lenient, rb"%s?" % e if e else b"")
            self._special = re.compile(
                rb"(?<![^%s\n])(?=[^%s%s\"\r\n]*+(?:[\"%s]|\r(?!\n)))(?:%s%s)++" % (d, d, e, e, plain, anything)
            )
            self._token = re.compile(rb"%s(\r\n|%s)" % (e, _ANY))
        record = rb"%s(?:%s%s)*+%s"
        self._records = re.compile(rb"(?:%s)*+" % (record % (field, d, field, end)))
        self._cut_off = re.compile(rb"(?:%s%s)*+%s\Z" % (field, d, cut_off))
        self._well_formed = re.compile(rb"%s(?:%s%s)*+" % (field, d, field))
        self._lenient = re.compile(record % (lenient, d, lenient, end))
        self._lenient_cut_off = re.compile(rb"(?:%s%s)*+%s\Z" % (lenient, d, lenient_cut_off))
        plain_field = rb"(?:%s|[^%s%s\r\n]*+)" % (_quoted_field(q, b"", b""), q, d)
        self._plain_record = re.compile(record % (plain_field, d, plain_field, rb"(?:\r\n?|\n)"))

    def cut(self, text: bytes, *, final: bool, patient: bool = True) -> Cut:
        """Cut text that begins with a record.

        Args:
            text: not decoded; it need not be UTF-8.
            final: no more text follows, and the text ends with a newline. A rest then has a quote that is never closed.
            patient: a malformed record can wait for more text if that can show where it ends.
        """
        pieces: list[bytes | Malformed] = []
        at = 0
        while at < len(text):
            if (end := _end(self._records, text, at)) > at:
                pieces.append(self._rewrite_records(text[at:end]))
            elif self._cut_off.match(text, at) and (self._quoted or not final):
                break
            else:
                wrong = _end(self._well_formed, text, at)
                end = self._find_end(text, at, wrong, final=final, patient=patient and not final)
                if not end:
                    break
                pieces.append(Malformed(text[at:end], self._explain(text, at, wrong, end)))
            at = end
        return Cut(pieces, text[at:])

    def first_record(self, plain: bytes) -> bytes:
        """Return the first record of plain CSV, with its newline."""
        return plain[: _end(self._plain_record, plain, 0)]

    def _find_end(self, text: bytes, at: int, wrong: int, *, final: bool, patient: bool) -> int:
        """Find where a malformed record ends; 0 if more text must be read for it.

        Its writer may use escapes that the dialect lacks. Then a newline can be within quotes, and the text after it
        must not become a row.
        """
        if found := self._lenient.match(text, at):
            return found.end()
        if patient and self._lenient_cut_off.match(text, at):
            return 0
        return text.find(b"\n", wrong) + 1 or (len(text) if final else 0)

    def _explain(self, text: bytes, at: int, wrong: int, end: int) -> str:
        """Describe the problem of a record, which is CSV up to `wrong`."""
        quote = self.quote.encode()
        if self._escape and (not self._quoted or text.startswith(quote, wrong)):
            remedy = "double it" if self._quoted else "double it, or add its word to null_words, such as '\\N'"
            return f"the escape {self._escape.decode()!r} is before a letter or digit, or last; {remedy}"
        if text[at:wrong].endswith(quote):
            problem = "there is text after a closing quote; double a quote within a quoted field"
        else:
            problem = "there is a quote in a field that does not begin with one; quote the field, or set quote=None"
        return problem + (", or set escape='\\\\' if its writer does" if b"\\" + quote in text[at:end] else "")

    def _rewrite_records(self, records: bytes) -> bytes:
        marks = (self._escape,) if self._quoted else (self._escape, b'"', b"\r")
        if any(mark and mark in records for mark in marks):
            return self._special.sub(lambda field: self._rewrite(field[0]), records)
        return records

    def _rewrite(self, field: bytes) -> bytes:
        quote = self.quote.encode()
        if self._quoted:
            inside = self._token.sub(lambda each: quote * 2 if each[1] in {None, quote} else each[1], field[1:-1])
            return quote + inside + quote
        if field in self._null_words:
            return field
        if self._escape:
            field = self._token.sub(lambda each: _NAMED.get(each[1], each[1]), field)
        return quote + field.replace(quote, quote * 2) + quote


def _quoted_field(q: bytes, e: bytes, after: bytes, *, cut_off: bool = False) -> bytes:
    """Return the pattern of a quoted field. `after`: characters after an escape; `cut_off`: an incomplete field."""
    escaped = rb"|%s%s" % (e, after) if e else b""
    inside = rb"%s(?:[^%s%s]++|%s%s%s)*+" % (q, q, e, q, q, escaped)
    return inside + (rb"(?:%s%s)?" % (q, rb"|" + e if e else b"") if cut_off else q)


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
