"""Numbers within strings: what the text around the digits says."""

import re
from typing import NamedTuple

from ephemport.migrate.uses import QUANTITY, UNKNOWN, Meaning
from ephemport.migrate.words import LOCAL_HOSTS, PORTS, is_quantity

# A number of its own, or at the end of a word ("node-9001", "-p9001"); no fraction, date or hex.
_NUMBER = re.compile(
    r"(?:(?<![\w.$-])|(?<=\\[nrt])|(?<=[a-zA-Z_])|(?<=[a-zA-Z]-)|(?<=[^\w]-))"
    r"(?<!0x)(?<!\\x)([1-6]?\d{4})(?![\da-zA-Z]|\.\d|-\d)"
)
_HOST_BEFORE = re.compile(
    r"(?P<scheme>[a-zA-Z][\w+.-]*://(?:[^\s/@]*@)?)?"
    r"(?P<host>\[[0-9a-fA-F:.]*\]|\{\w*\}|%s|%\(\w+\)s|[\w.*-]*(?:\\\.[\w*-]+)*|::1|::):$"
)
_NAMED_BEFORE = re.compile(
    r"(?:^|[^a-zA-Z])(?:[\w-]*port|-p|listen|listening on|bind)s?\\?[\"']?\s*[=: ]\s*\\?[\"']?$",
    re.I,
)
_KEY_BEFORE = re.compile(r"([\w-]+)\\?[\"']?\s*[:=]\s*\\?[\"']?$")
_COMMAND_BEFORE = re.compile(r"(?:^|\s)(?:-p|-m http\.server )$")
_COUNTED_AFTER = re.compile(
    r"\s*(?:bytes|[kmgKMG]i?[bB]|ms|seconds|secs|items|rows|lines|messages|times|records|chars)\b"
)


class Mention(NamedTuple):
    """A number in a string: where its digits are, and what the text says about it."""

    number: int
    start: int
    end: int
    meaning: Meaning
    whole: bool


def mentions(text: str, follows_expression: bool = False) -> list[Mention]:
    """The numbers in the source text of a string (without its quotes) that a port can have.

    follows_expression: the text stands behind a `{...}` of an f-string.
    """
    found = []
    for match in _NUMBER.finditer(text):
        number = int(match[1])
        if number in PORTS and not _COUNTED_AFTER.match(text[match.end(1) :]):
            meaning = _meaning(text[: match.start(1)], follows_expression)
            whole = match[1] == text.strip() == text and not follows_expression
            found.append(Mention(number, match.start(1), match.end(1), meaning, whole))
    return found


def _meaning(before: str, follows_expression: bool) -> Meaning:
    if _NAMED_BEFORE.search(before) or _COMMAND_BEFORE.search(before):
        return Meaning(True, "maybe", "EPH002")
    key = _KEY_BEFORE.search(before)
    if key is not None and is_quantity(key[1]):
        return QUANTITY
    host = _HOST_BEFORE.search(before)
    if host is None:
        return UNKNOWN
    name = host["host"].replace("\\", "")
    if name == "" and host.start() == 0 and follows_expression:
        return Meaning(True, "no", "EPH003")
    if name.startswith(("{", "%")):
        return Meaning(True, "no", "EPH003")
    if name.lower() in LOCAL_HOSTS or name.startswith("127."):
        if not name and not host["scheme"] and host.start() > 0:
            return UNKNOWN  # "expected: 9001", '{"a":9001}'
        everywhere = name in ("0.0.0.0", "[::]", "::", "*")
        return Meaning(True, "maybe" if everywhere else "no", "EPH003")
    # Another machine's address is data, whatever its number. "node:9001" a server may have said.
    return Meaning(False) if host["scheme"] or "." in name else UNKNOWN
