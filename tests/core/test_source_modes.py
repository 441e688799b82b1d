"""Which source is in force."""

from typing import Any

import pytest

from ephemport._holding.mode import mode_named
from ephemport._holding.sources import modes


@pytest.fixture(autouse=True)
def no_mode_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EPHEMPORT_MODE", raising=False)


def test_ephemeral_is_the_default() -> None:
    assert modes() == ("ephemeral", "fixed", "portserver")
    assert mode_named() == mode_named(None) == "ephemeral"


def test_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in (*modes(), "portserver:@somewhere", "portserver:/run/it"):
        monkeypatch.setenv("EPHEMPORT_MODE", mode)
        assert mode_named() == mode
    monkeypatch.setenv("EPHEMPORT_MODE", "")
    assert mode_named() == "ephemeral"


def test_an_argument_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPHEMPORT_MODE", "fixed")
    assert mode_named("ephemeral") == "ephemeral"
    monkeypatch.setenv("EPHEMPORT_MODE", "nonsense")
    assert mode_named("fixed") == "fixed"


@pytest.mark.parametrize("mode", ["magic", "", "Fixed", "fixed:10000", "ephemeral:", " fixed"])
def test_an_unknown_mode(mode: str) -> None:
    with pytest.raises(ValueError, match="known are ephemeral, fixed, portserver") as caught:
        mode_named(mode)
    assert repr(mode) in str(caught.value)
    assert "EPHEMPORT_MODE" not in str(caught.value)


def test_an_unknown_mode_in_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPHEMPORT_MODE", "magic")
    with pytest.raises(ValueError, match=r"'magic' \(from the environment's EPHEMPORT_MODE\)"):
        mode_named()


@pytest.mark.parametrize("mode", [1, b"fixed", ["fixed"]])
def test_what_is_no_mode(mode: Any) -> None:
    with pytest.raises(TypeError, match="mode must be a string"):
        mode_named(mode)
