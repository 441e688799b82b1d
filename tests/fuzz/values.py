"""What a caller may pass: what is meant, what is not, and objects that misbehave."""

import itertools
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

# The ephemeral port range of the networks in which the fuzzers run, both ends included.
PORTS = (40000, 40127)


class Theirs(Exception):
    """What a caller's own object raises: it comes out as it is."""


class Index:
    """An object whose `__index__` returns what it was made with."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"Index({self.value!r:.50})" if type(self.value) is not int else "Index(int)"


class RaisingIndex:
    def __index__(self) -> int:
        raise Theirs("__index__")


class RaisingIterable:
    """Iterates over `values`, then raises."""

    def __init__(self, *values: object) -> None:
        self.values = values

    def __iter__(self) -> Iterator[object]:
        yield from self.values
        raise Theirs("__iter__")


class Endless:
    """An iterable without end."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __iter__(self) -> Iterator[object]:
        return itertools.repeat(self.value)


class Falsy:
    """Something that is nothing, and no container either."""

    def __bool__(self) -> bool:
        return False


class RaisingComparison:
    def __eq__(self, other: object) -> bool:
        raise Theirs("__eq__")

    def __hash__(self) -> int:
        return 0


class RaisingText:
    def __repr__(self) -> str:
        raise Theirs("__repr__")

    __str__ = __repr__


class Text(str):
    """A str of a class of its own."""

    __slots__ = ()


class Huge(int):
    """An int that has more digits than Python writes, and can be shown in a report all the same."""

    def __repr__(self) -> str:
        return "10**5000" if self > 0 else "-10**5000"

    __str__ = int.__repr__


class Number(IntEnum):
    """Ints of a class of their own."""

    LOW = 40007
    HIGH = 70000


def _numbers(*numbers: int) -> SearchStrategy[int]:
    return st.sampled_from(numbers)


ports = st.integers(*PORTS)
huge = _numbers(2**15, 2**16, 2**31, 2**32, 2**40, 2**63, 2**64, 10**30, Huge(10**5000))
negative = _numbers(-1, -(2**31), -(2**63), -(10**30), Huge(-(10**5000)))
wrong_ints = st.one_of(_numbers(0, 65535, 65536), huge, negative)
floats = st.sampled_from([0.0, -0.0, 1.5, -1.0, 1e-300, 1e300, float("inf"), float("-inf")])
nan = st.just(float("nan"))
texts = st.one_of(
    st.sampled_from(["", " ", "\0", "127.0.0.1\0", "\ud800", "8080", "ü", "\n", "{", "{port}"]),
    st.text(max_size=8),
    st.sampled_from(["a", "\0", "8", ".", ":"]).map(lambda one: one * 100_000),
)
raw = st.one_of(st.binary(max_size=8), st.sampled_from([b"tcp", b"127.0.0.1", bytearray(b"1")]))
misbehaving = st.one_of(
    st.builds(RaisingIndex),
    st.builds(Index, st.one_of(st.sampled_from(["8080", None, 1.5, True]), ports, wrong_ints)),
    st.builds(RaisingIterable),
    st.builds(RaisingIterable, ports),
    st.builds(Endless, st.one_of(ports, st.none(), wrong_ints)),
    st.builds(Falsy),
    st.builds(RaisingComparison),
    st.builds(RaisingText),
)


def generators(of: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Iterables of `of` that can be read once."""
    return st.lists(of, max_size=4).map(lambda some: (one for one in some))


numbers = st.one_of(ports, wrong_ints, st.booleans(), floats, nan)
anything: SearchStrategy[Any] = st.one_of(
    st.none(),
    numbers,
    texts,
    raw,
    misbehaving,
    st.lists(st.one_of(numbers, texts, misbehaving), max_size=3),
    st.dictionaries(ports, ports, max_size=2),
    st.sets(ports, max_size=3),
    generators(numbers),
    st.sampled_from([Number.LOW, Number.HIGH, Text("tcp"), 1 + 2j, int, len, ..., NotImplemented]),
    st.builds(object),
)


def or_anything(good: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Mostly what is meant, so that most calls get past the first check."""
    return st.sampled_from((good, good, good, anything)).flatmap(lambda chosen: chosen)


wanted = st.one_of(
    ports,
    st.lists(st.one_of(ports, st.just(0)), min_size=1, max_size=4),
    generators(ports),
    st.builds(Index, ports),
    st.just(Number.LOW),
    st.builds(range, ports, ports),
    _numbers(0, 1, 65535),
    st.none(),
)
excluded = st.one_of(
    st.just(()),
    st.sets(ports, max_size=4),
    generators(ports),
    st.just(range(40000, 40100)),
    st.just(range(65536)),
    st.just([1] * 100_000),
)
allowed = st.one_of(
    st.none(),
    st.builds(range, ports, ports),
    st.builds(range, ports, ports, st.sampled_from([2, -1, 50])),
    st.sets(ports, min_size=1, max_size=4),
    generators(ports),
    st.sampled_from([range(1, 65536), range(20000, 20010), range(9, 0, -1), range(10**30)]),
)
hosts = st.sampled_from(
    ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::", "127.0.0.2", "127.1", Text("127.0.0.1")]
)
strange_hosts = st.sampled_from(
    [
        "192.0.2.1",
        "2001:db8::1",
        "[::1]",
        "127.0.0.1:80",
        "::1%lo",
        "1",
        "a..b",
        "a" * 64,
        ".",
        "*",
        "127.0.0.1\0",
    ]
)
protocols = st.sampled_from(["tcp", "udp", "both", Text("tcp")])
handoffs = st.sampled_from(["takeover", "shadow", "fd"])
counts = st.integers(0, 5)
offsets = st.one_of(
    st.none(),
    st.lists(st.integers(-20, 20), max_size=4).map(lambda some: [0, *some]),
    st.sets(st.one_of(st.integers(-9, 9), wrong_ints), max_size=4).map(lambda some: {0, *some}),
    generators(st.integers(0, 9)),
    st.sampled_from([[0, 10000], [0, 65534], [0, -39999], range(4)]),
)
timeouts = st.sampled_from([0, 0.0, 0.001, 1e-9])
