"""What helps a server that reports its port in use, by what is known of the hold."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from ephemport._holding.handoffs import HANDOFFS, lets_in
from ephemport._looking.recognition import HoldKind
from ephemport._looking.time_wait import is_left_over_beside_holds, what_helps

if TYPE_CHECKING:
    from ephemport._findings import Diagnosis

_TAKEN_TEXTS = ("address already in use", "eaddrinuse", "address in use", "errno 98")


def says_taken(output: str | None) -> bool:
    """Whether a server's output says that some address is in use."""
    return output is not None and any(text in output.lower() for text in _TAKEN_TEXTS)


def hint(
    condition: str,
    diagnosis: "Diagnosis | None",
    protocols: Collection[str],
    reservation: object,
) -> str:
    """Return a sentence that begins with `condition`: which servers the hold on a port lets in.

    The hold is known from the diagnosis or, where the kernel shows no holds, from `reservation`,
    the argument that was waited for. "" where no hold is known.
    """
    kinds = kinds_of_holds(diagnosis, protocols)
    if not kinds and not getattr(reservation, "released", True):
        handoff = HANDOFFS[getattr(reservation, "handoff", "takeover")]
        kinds = {one: handoff.kinds[one] for one in protocols}
    clauses = "; ".join(dict.fromkeys(lets_in(kind, one) for one, kind in kinds.items()))
    if diagnosis is not None and is_left_over_beside_holds(diagnosis.found):
        left_over = f"{diagnosis}. {what_helps(diagnosis.port)}"
        clauses = f"{left_over}. Without them {clauses}" if clauses else left_over
    return f"{condition}: {clauses}" if clauses else ""


def kinds_of_holds(
    diagnosis: "Diagnosis | None", protocols: Collection[str]
) -> dict[str, HoldKind]:
    """Return ephemport's hold on the port, by protocol, as far as the kernel shows it."""
    return {
        one.protocol: HoldKind(one.hold)
        for one in (diagnosis.found if diagnosis is not None else ())
        if one.ephemport and one.hold is not None and one.protocol in protocols
    }


def who_has(diagnosis: "Diagnosis | None") -> str:
    """Say who has the port, in one clause of a message."""
    if diagnosis is None:
        return "it is unknown who holds it: the kernel does not answer"
    return f"nobody holds it ({diagnosis.meaning})" if diagnosis.free else str(diagnosis)
