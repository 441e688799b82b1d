"""Servers inside the test process that set no option get the ports of tests, with no edit."""

import importlib.util

import pytest

from ephemport import diagnose
from ephemport._looking.time_wait import is_left_over
from ephemport._port_map import PortMap
from tests.plugin.conftest import Suite

SERVE = """
import socketserver

def serve(port):
    socketserver.TCPServer(("127.0.0.1", int(port)), None).server_close()
"""

TESTS = """
import pytest
from helper import serve
from ephemport.compat import TestPortManager, allocate_port, port_context

@pytest.mark.parametrize("name", ["test_port", "server_port", "client_port", "federation_port"])
def test_a_port(request, name):
    serve(request.getfixturevalue(name))

def test_several(port_pair, server_cluster_ports):
    for port in (*port_pair, *server_cluster_ports):
        serve(port)

def test_reservations(reservation, reserve_port, session_reserve_port, port_allocator):
    for one in (reservation, reserve_port(), session_reserve_port()):
        serve(one)
    serve(port_allocator.allocate_port())

def test_the_documented_layer():
    serve(allocate_port())
    with port_context() as port:
        serve(port)
    with TestPortManager() as manager:
        serve(manager.get_server_port())

def test_port_map():
    from ephemport import port_map
    serve(port_map[9001])
"""


@pytest.mark.parametrize("mode", ["ephemeral", "fixed"])
def test_every_way_to_a_port(suite: Suite, mode: str) -> None:
    suite.write(SERVE, "helper.py")
    suite.write(TESTS)
    suite.run(f"--ephemport-mode={mode}").passed(8)


def test_the_ini_switches_it_off(suite: Suite) -> None:
    suite.ini("ephemport_assist = false")
    suite.write(SERVE, "helper.py")
    suite.write(
        """
        import socket
        from helper import serve
        def test_it(server_port):
            assert "bind" not in vars(socket.socket)
            serve(server_port)
        """
    )
    run = suite.run()
    assert run.outcomes == {"failed": 1}
    assert "with assisted():" in run.output


def test_a_reservation_that_the_code_under_test_made_is_not_assisted(suite: Suite) -> None:
    """Else the outcome would depend on which test ran before."""
    suite.write(SERVE, "helper.py")
    suite.write(
        """
        import pytest, ephemport
        from helper import serve
        def test_it(server_port):
            serve(server_port)
            with ephemport.reserve() as r:
                with pytest.raises(OSError):
                    serve(r)
                with ephemport.assisted():
                    serve(r)
        """
    )
    suite.run().passed(1)


def test_it_begins_with_the_first_port_and_ends_with_the_run(suite: Suite) -> None:
    suite.write(SERVE, "helper.py")
    suite.write(
        """
        import atexit, socket

        @atexit.register
        def at_the_end():
            print("at the end", vars(socket.socket).get("bind"))
        """,
        "conftest.py",
    )
    suite.write(
        """
        import socket
        def test_before(): assert "bind" not in vars(socket.socket)
        def test_with(server_port): assert "bind" in vars(socket.socket)
        """
    )
    run = suite.run("-s")
    assert "2 passed" in run.output
    assert "at the end None" in run.output


def test_a_server_of_a_conftest_file(suite: Suite) -> None:
    """A port that is asked for before the plugin knows the run's settings."""
    suite.write(SERVE, "helper.py")
    suite.write("from ephemport import port_map\nPORT = port_map[9001]", "conftest.py")
    suite.write(
        """
        import socket
        from conftest import PORT
        from helper import serve
        def test_it():
            assert "bind" in vars(socket.socket)
            serve(PORT)
        """
    )
    suite.run().passed(1)


def test_the_failure_report_still_knows_what_was_tried(suite: Suite) -> None:
    suite.write(
        """
        import socket
        kept = socket.socket()
        def test_it(server_port, reserve_port):
            kept.bind(reserve_port(handoff="fd").address)
        """
    )
    run = suite.run()
    assert run.outcomes == {"failed": 1}
    assert "The socket that tried to bind has SO_REUSEADDR not set" in run.output
    assert "inside.py" not in run.output


LIVE_SERVER = """
import pytest, socket, socketserver, threading

# What pytest-django is to our plugin: its name, its option and its fixture.
@pytest.fixture(scope="session")
def live_server(request):
    host, _, port = request.config.getoption("liveserver").partition(":")
    with socketserver.TCPServer((host, int(port)), Close) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()

class Close(socketserver.BaseRequestHandler):
    def handle(self): pass

def pytest_addoption(parser):
    parser.addoption("--liveserver")
"""
USES_IT = """
import socket
def test_it(live_server):
    with socket.create_connection(live_server.server_address) as client:
        assert client.recv(9) == b""
"""


SETTINGS = """
SECRET_KEY = "secret"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF, urlpatterns = "settings", []
STATIC_URL, MEDIA_URL = "/static/", "/media/"
"""
USES_THE_REAL_ONE = """
import socket
def test_it(live_server):
    thread = live_server.thread
    with socket.create_connection((thread.host, thread.port)) as client:
        client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        while client.recv(9999):
            pass
"""


# Where it is installed (the extra `servers`), the real one is tried.
REAL = importlib.util.find_spec("pytest_django") is not None


def test_a_live_server_on_a_named_port_comes_back_within_a_minute(suite: Suite) -> None:
    settings = ("DJANGO_SETTINGS_MODULE = settings",) if REAL else ()
    plugin = () if REAL else ("-p", "django")
    suite.write(SETTINGS if REAL else LIVE_SERVER, "settings.py" if REAL else "django.py")
    suite.write(USES_THE_REAL_ONE if REAL else USES_IT)
    # Ports outside of the ephemeral range, which nobody is given meanwhile.
    free = PortMap()
    first, second = free[18081], free[18082]
    free.release()
    suite.ini(*settings, filters=())
    for _ in range(2):
        suite.run(*plugin, f"--liveserver=127.0.0.1:{first}").passed(1)
    suite.ini("ephemport_assist = false", *settings, filters=())
    for _ in range(5):
        suite.run(*plugin, f"--liveserver=127.0.0.1:{second}").passed(1)
        # Seen once: the kernel had kept nothing of the connection.
        if is_left_over(diagnose(second).found):
            break
    run = suite.run(*plugin, f"--liveserver=127.0.0.1:{second}")
    assert run.outcomes == {"error": 1}
    assert "No process has these connections any more" in run.output
