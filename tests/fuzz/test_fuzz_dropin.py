"""The drop-ins, with anything."""

from tests.fuzz.calls import try_all
from tests.fuzz.conftest import Fuzz


def fuzz_dropin() -> None:
    from tests.fuzz.dropin_calls import DROPIN, forget_all

    try_all(DROPIN, 80, forget_all)


def test_dropin(fuzz: Fuzz) -> None:
    fuzz(fuzz_dropin)
