"""`--ephemport-dropin`: plugins of others that import port-for and the like get our drop-ins."""

import pytest

from tests.plugin.conftest import Suite

THIRD_PARTY = """
import port_for
import pytest
from port_for import PortForException, PortType, get_port
from port_for.exceptions import PortForException as Same

assert Same is PortForException

@pytest.fixture(scope="session")
def their_port():
    port = get_port(None) or get_port((20000, 20100))
    assert port is not None
    return port
"""

TESTS = """
import os, subprocess, sys
import pytest
from ephemport import holders

@pytest.mark.parametrize("number", range(4))
def test_held(their_port, number):
    (held,) = holders(their_port)
    assert held.pid == os.getpid()

def test_the_other_names():
    import port_for.api, port_for.store, port_for.utils
    assert port_for.api.get_port is port_for.get_port
    assert port_for.__name__ == "ephemport.dropin.port_for"
"""

ON = "ephemport_dropin = port_for"


@pytest.fixture
def third_party(suite: Suite) -> Suite:
    suite.write(THIRD_PARTY, "thirdparty.py")
    suite.write(TESTS)
    return suite


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
@pytest.mark.parametrize("first", ["ephemport", "ephemport.pytest_plugin"])
def test_before_a_plugin_that_imports_the_original(
    third_party: Suite, first: str, workers: list[str]
) -> None:
    options = ["-p", first, "--ephemport-dropin=port_for", "-p", "thirdparty"]
    third_party.run(*options, *workers).passed(5)
    third_party.run(
        *options[:2], "--ephemport-dropin", "portpicker,port-for", "-pthirdparty"
    ).passed(5)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_in_the_ini_file(third_party: Suite, workers: list[str]) -> None:
    third_party.ini(ON)
    third_party.run("-p", "ephemport", "-p", "thirdparty", *workers).passed(5)
    text = (third_party.folder / "pytest.ini").read_text()
    added = "addopts = -p ephemport -p thirdparty --ephemport-dropin=port_for"
    (third_party.folder / "pytest.ini").write_text(text.replace(ON, "").replace("addopts =", added))
    run = third_party.run(*workers)
    run.passed(5)
    assert "ephemport: drop-ins for port_for\n" in run.output


def test_in_the_environment(third_party: Suite) -> None:
    options = "-p ephemport -p thirdparty --ephemport-dropin=port_for"
    third_party.run(env={"PYTEST_ADDOPTS": options}).passed(5)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_too_late(third_party: Suite, workers: list[str]) -> None:
    run = third_party.run(
        "-p", "thirdparty", "-p", "ephemport", "--ephemport-dropin=port_for", *workers
    )
    assert run.status == 4
    assert run.output.strip() == (
        "ERROR: ephemport: the drop-in for port_for is too late: port_for is imported already by "
        "thirdparty. Load ephemport first: write -p ephemport before every other -p, on the "
        "command line or in addopts of the ini file"
    )


def test_an_original_that_a_module_has_imported(third_party: Suite) -> None:
    third_party.write("import portpicker\nfrom port_for import get_port", "early.py")
    for name in ("port_for", "portpicker"):
        run = third_party.run("-p", "early", "-p", "ephemport", f"--ephemport-dropin={name}")
        assert f"{name} is imported already by early. Load" in run.output


def test_without_the_option_the_originals_are_left_alone(third_party: Suite) -> None:
    third_party.write(
        "def test_it():\n    import port_for\n    assert port_for.__name__ == 'port_for'\n"
    )
    third_party.run("-p", "ephemport", "-p", "thirdparty").passed(1)
    third_party.run("-p", "ephemport", "-p", "thirdparty", "--ephemport-dropin=").passed(1)


def test_an_unknown_name(third_party: Suite) -> None:
    run = third_party.run("-p", "ephemport", "--ephemport-dropin=port_far")
    assert run.status == 4
    assert (
        "ephemport_dropin: unknown drop-in 'port_far'; known are ephemeral_port_reserve, port_for"
        in (run.output)
    )


def test_every_drop_in(suite: Suite) -> None:
    suite.ini("ephemport_dropin = portpicker ephemeral_port_reserve")
    suite.write(
        """
        import ephemeral_port_reserve, portpicker
        from ephemport import holders

        def test_it():
            assert holders(ephemeral_port_reserve.reserve())
            assert holders(portpicker.pick_unused_port())
            assert portpicker.__name__ == "ephemport.dropin.portpicker"

        def test_the_portserver_needs_the_original():
            import pytest
            from ephemport import EphemportError
            from ephemport.compat import PortAllocator
            with pytest.raises(EphemportError, match="a drop-in stands in its place"):
                PortAllocator("portserver:@nobody")
        """
    )
    suite.run("-p", "ephemport").passed(2)


def test_a_run_inside_another_takes_the_names_away_again(suite: Suite) -> None:
    suite.write(
        "import port_for\ndef test_it(): assert 'ephemport' in port_for.__file__", "inner.py"
    )
    suite.write(
        """
        import sys
        import pytest

        def test_it():
            options = ["-p", "ephemport", "--ephemport-dropin=port_for"]
            assert pytest.main([*options, "inner.py"]) == 0
            assert [name for name in sys.modules if name.startswith("port_for")] == []
            import port_for
            assert "ephemport" not in port_for.__file__
        """
    )
    suite.run().passed(1)
