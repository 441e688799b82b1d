"""Who has ports that are taken, for one message about all of them."""

from collections.abc import Collection, Iterator, Sequence

from ephemport._findings import Found
from ephemport._holding.refusal import first_step
from ephemport._looking.diagnosis import diagnosis_or_none, found_on
from ephemport._looking.sight import unseen_holders

# A message names the owners of so many ports, and says how many others there are.
_NAMED = 32
_GROUPS = 8
_PIECES = 5


class Owners:
    """Who has some ports that are taken: one look at the kernel for all of them."""

    def __init__(self, ports: Sequence[int], protocol: str) -> None:
        self._ports = ports
        self._named = ports[:_NAMED]
        self.diagnosis = diagnosis_or_none(ports[0], protocol) if ports else None
        self._found: dict[int, list[Found]] = {port: [] for port in self._named}
        if len(ports) > 1:
            for one in found_on(self._named, protocol):
                self._found[one.port].append(one)
        elif self.diagnosis is not None:
            self._found[ports[0]] = list(self.diagnosis.found)

    def clauses(self) -> Iterator[str]:
        """Who has which port, one clause for each process."""
        if len(self._ports) == 1 and self.diagnosis is not None:
            yield f"{self._ports[0]}: {self.diagnosis}"
            return
        groups: dict[object, list[int]] = {}
        for port, found in self._found.items():
            known = all(one.pid is not None for one in found)
            alike = tuple((one.pid, one.protocol, one.state, one.hold) for one in found)
            groups.setdefault(alike if known else port, []).append(port)
        shown = list(groups.values())[:_GROUPS]
        for first, *others in shown:
            who = "; ".join(map(str, self._found[first])) or _by_nobody()
            likewise = f" (likewise {listed(others)})" if others else ""
            yield f"{first} is taken: {who}{likewise}"
        said = {port for ports in shown for port in ports}
        rest = [port for port in self._ports if port not in said]
        if rest:
            is_are = "port is" if len(rest) == 1 else "ports are"
            yield f"{len(rest)} more {is_are} taken ({listed(rest)})"

    def steps(self) -> Iterator[str]:
        """What to do about them."""
        if self._ports:
            step = first_step(one for found in self._found.values() for one in found)
            yield step[0].lower() + step[1:]


def _by_nobody() -> str:
    hidden = unseen_holders()
    if hidden is None:
        return "the kernel no longer shows by whom"
    return f"the kernel does not show by whom; {hidden}"


def listed(ports: Collection[int]) -> str:
    """Ports as messages show them: ranges where there are some, and not too many."""
    pieces: list[list[int]] = []
    for port in ports:
        if pieces and port == pieces[-1][-1] + 1:
            pieces[-1].append(port)
        else:
            pieces.append([port])
    texts: list[str] = []
    for piece in pieces[: _PIECES + 1]:
        if len(piece) > 2:
            texts.append(f"{piece[0]}-{piece[-1]}")
        else:
            texts += map(str, piece)
    if len(texts) > _PIECES or len(pieces) > _PIECES:
        return f"{', '.join(texts[:_PIECES])}, ... ({len(ports)} ports)"
    return ", ".join(texts)
