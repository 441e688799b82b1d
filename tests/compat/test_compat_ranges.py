"""The documented table: four categories, ten slots, a hundred ports each."""

import pytest

from ephemport._holding.ranges import worker_slot
from ephemport.compat import CATEGORIES, worker_range

STARTS = {"servers": 10000, "clients": 11000, "federation": 12000, "testing": 13000}

# As the guide prints it.
DOCUMENTED = """
servers    | 10000-10099 | 10100-10199 | 10200-10299
clients    | 11000-11099 | 11100-11199 | 11200-11299
federation | 12000-12099 | 12100-12199 | 12200-12299
testing    | 13000-13099 | 13100-13199 | 13200-13299
"""


@pytest.mark.parametrize("line", DOCUMENTED.strip().splitlines())
def test_the_guides_table(line: str) -> None:
    category, *ranges = (part.strip() for part in line.split("|"))
    for worker, text in zip(("gw0", "gw1", "gw2"), ranges, strict=True):
        first, last = map(int, text.split("-"))
        assert worker_range(category, worker) == range(first, last + 1)


@pytest.mark.parametrize("slot", range(10))
@pytest.mark.parametrize("category", STARTS)
def test_every_port_of_every_slot(category: str, slot: int) -> None:
    first = STARTS[category] + 100 * slot
    assert list(worker_range(category, f"gw{slot}")) == list(range(first, first + 100))


def test_no_port_has_two_owners() -> None:
    ports = [
        n for name in CATEGORIES for slot in range(10) for n in worker_range(name, f"gw{slot}")
    ]
    assert len(ports) == len(set(ports)) == 4000


@pytest.mark.parametrize(("worker", "slot"), [("gw10", 0), ("gw11", 1), ("gw29", 9), ("gw100", 0)])
def test_beyond_ten_workers_slots_are_shared(worker: str, slot: int) -> None:
    for category in CATEGORIES:
        assert worker_range(category, worker) == worker_range(category, f"gw{slot}")


def test_the_categories() -> None:
    assert list(CATEGORIES) == ["servers", "clients", "federation", "testing"]
    for name, category in CATEGORIES.items():
        assert category.start == STARTS[name]
        assert category.description


def test_the_worker_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_range("servers") == range(10000, 10100)
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw2")
    assert worker_range("servers") == range(10200, 10300)
    assert worker_range("servers", "gw5") == range(10500, 10600), "an argument wins"
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "")
    assert worker_range("servers", "") == range(10000, 10100)


def test_master_has_the_first_slot() -> None:
    assert worker_range("clients", "master") == range(11000, 11100)


@pytest.mark.parametrize("worker", ["gw", "gw-1", "gw1a", "Gw2", "worker_3", "größe", "gw1 "])
def test_odd_workers_get_a_slot_of_the_table(worker: str) -> None:
    ports = worker_range("testing", worker)
    assert ports in [worker_range("testing", f"gw{slot}") for slot in range(10)]
    assert ports == worker_range("testing", worker)


def test_odd_workers_slots_stay_the_same() -> None:
    # From one process to the next too, which hash() would not do.
    assert [worker_slot(name) for name in ("alpha", "beta", "gamma", "delta")] == [0, 1, 9, 3]


@pytest.mark.parametrize("category", ["server", "SERVERS", "", None, 3])
def test_an_unknown_category(category: str) -> None:
    with pytest.raises(ValueError, match="unknown category") as caught:
        worker_range(category)
    assert all(known in str(caught.value) for known in STARTS)


@pytest.mark.parametrize("worker", [0, b"gw0", object()])
def test_a_worker_that_is_no_string(worker: str) -> None:
    with pytest.raises(TypeError, match="worker_id must be a string"):
        worker_range("servers", worker)
