"""What a results file says, gathered per peer: the figures behind the table and the pictures."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.cells import Row
from benchmarks.peers import EPHEMPORT, LIMIT, PEERS

Results = dict[str, Any]
KINDS = ("failed_starts", "failed_picks", "wrong_answers")
OURS = EPHEMPORT.name


def rows(results: Results, question: str, **wanted: Any) -> list[Row]:
    """The rows of a question that have all the wanted values."""
    found = results["questions"].get(question, [])
    return [row for row in found if all(row.get(key) == value for key, value in wanted.items())]


def peers(results: Results, *, limit: bool = False) -> Iterator[str]:
    """The names of the peers that were measured, in their order."""
    measured = {row.get("peer") for question in results["questions"].values() for row in question}
    for peer in PEERS:
        if peer.name in measured and (limit or peer is not LIMIT):
            yield peer.name


def per_10000(results: Results, peer: str, span: str, rest: str | None = None) -> dict[str, float]:
    """Failures of each kind per 10,000 starts; empty when none were tried."""
    counts: Counter[str] = Counter()
    wanted = {"peer": peer, "range": span, **({"rest": rest} if rest else {})}
    for row in rows(results, "collide", **wanted):
        counts.update({kind: row[kind] for kind in ("starts", *KINDS)})
    if not counts["starts"]:
        return {}
    return {kind: counts[kind] * 10000 / counts["starts"] for kind in KINDS}


def starts(results: Results, **wanted: str) -> int:
    """How many starts were tried."""
    return sum(row["starts"] for row in rows(results, "collide", **wanted))


def value(found: list[Row], *keys: str) -> float | None:
    """A figure deep in the only row, or None."""
    if len(found) != 1:
        return None
    inner: Any = found[0]
    for key in keys:
        inner = inner[key]
    return float(inner)


def cost(results: Results, peer: str, group: int = 1) -> Row | None:
    """The row that says what taking and giving back costs."""
    found = rows(results, "cost", measure="time", peer=peer, group=group)
    return found[0] if found else None


def missing(results: Results) -> list[str]:
    """What was left out, and why."""
    said = [f"{what}: {reason}" for what, reason in results["left_out"].items()]
    absent = results["environment"]["peers"].items()
    return said + [f"{peer}: {text}" for peer, text in absent if text and "not installed" in text]
