"""How ports are written on the command line: 8080, or 8080,8090, or 8000-8010, or all of that."""

import argparse
import re
from collections.abc import Callable, Iterator

from ephemport._arguments import PORTS, shown

_RANGE = re.compile(r"([0-9]+)-([0-9]+)")
_INT = re.compile(r"-?[0-9]+")
_HOW = "write 8080, or 8080,8090, or 8000-8010"


class Ports(list[int]):
    """The ports of one option, in order. `lone`: it was one port, not a list or a range of one."""

    lone = False


def ports(text: str) -> Ports:
    """The ports of --exclude and --range."""
    return _ports(text, lowest=1)


def wanted_ports(text: str) -> Ports:
    """The ports of --port. 0 means any."""
    return _ports(text, lowest=0)


def whole_numbers(name: str) -> Callable[[str], list[int]]:
    """A reader of ints with commas between them; `name` is what messages call one of them."""

    def read(text: str) -> list[int]:
        return [_whole(item, f"{shown(item)} is no {name}") for item in _items(text)]

    return read


def _ports(text: str, lowest: int) -> Ports:
    found = Ports()
    for item in _items(text):
        bounds = _RANGE.fullmatch(item)
        if bounds is None:
            found.append(_port(item, lowest))
            continue
        first, last = (_port(one, 1) for one in bounds.groups())
        if last < first:
            raise argparse.ArgumentTypeError(f"{item} ends before it begins: {_HOW}")
        found.extend(range(first, last + 1))
    found.lone = len(found) == 1 and "-" not in text and "," not in text
    return found


def _items(text: str) -> Iterator[str]:
    for item in text.split(","):
        if not item.strip():
            raise argparse.ArgumentTypeError(f"{shown(text)} has an empty item")
        yield item.strip()


def _port(text: str, lowest: int) -> int:
    any_port = " (0: any)" if lowest == 0 else ""
    wrong = f"{shown(text)} is no port: ports are 1 to {PORTS - 1}{any_port}; {_HOW}"
    port = _whole(text, wrong)
    if not lowest <= port < PORTS:
        raise argparse.ArgumentTypeError(wrong)
    return port


def _whole(text: str, otherwise: str) -> int:
    # int() would also read 8_080 and digits of other scripts, and refuses very many digits.
    if not _INT.fullmatch(text) or len(text) > 9:
        raise argparse.ArgumentTypeError(otherwise)
    return int(text)
