"""Which pattern a number goes to, and what a maintainer sees of it in the diff."""

from textwrap import dedent

import pytest

from ephemport.migrate import migrate
from tests.migrate.conftest import Folder


def rewritten(folder: Folder, style: str = "auto", **files: str) -> str:
    """test_it.py as `--write` would leave it."""
    folder.write(**files)
    after = migrate([folder.path], style=style).after
    return after.get(folder.path / "test_it.py", folder.read("test_it.py"))


HARNESS = """
class Harness:
    PORT = 9001

    def __init__(self):
        self.server = start_server(self.PORT)

    def url(self):
        return "http://127.0.0.1:9001"

    def stop(self):
        self.server.stop()
"""


def test_class_that_has_a_number_to_itself(folder: Folder) -> None:
    assert (
        rewritten(folder, test_it=HARNESS).strip()
        == dedent("""
        from ephemport.compat import TestPortManager

        class Harness:
            port_manager = TestPortManager()
            port = port_manager.get_server_port()
            PORT = port

            def __init__(self):
                self.server = start_server(self.PORT)

            def url(self):
                return f"http://127.0.0.1:{Harness.port}"

            def stop(self):
                self.server.stop()
        """).strip()
    )


@pytest.mark.parametrize(
    "change",
    [
        ("class Harness:", "class Harness(enum.Enum):"),
        ("class Harness:", "@dataclass\nclass Harness:"),
        ("    PORT = 9001", "    PORTS = [9001 for _ in range(2)]"),
        ("self.server.stop()", "pass"),
        ("class Harness:", "other = connect(('localhost', 9001))\nclass Harness:"),
    ],
)
def test_class_that_must_not_get_a_manager(folder: Folder, change: tuple[str, str]) -> None:
    source = rewritten(folder, test_it=HARNESS.replace(*change))
    assert "TestPortManager" not in source
    assert "port_map[9001]" in source


def test_unittest_methods_keep_their_indentation(folder: Folder) -> None:
    source = rewritten(
        folder,
        test_it="""
        import unittest

        class It(unittest.TestCase):
            def setUp(self):
                self.server = start_server(9001)
                self.addCleanup(self.server.stop)

            def test_two(self):
                first, second = start_server(9002), start_server(9003)
                first.stop(), second.stop()
        """,
    )
    assert source == dedent("""
        import unittest

        from ephemport.compat import TestPortManager


        class It(unittest.TestCase):
            def setUp(self):
                port = self.enterContext(TestPortManager()).get_server_port()
                self.server = start_server(port)
                self.addCleanup(self.server.stop)

            def test_two(self):
                port_manager = self.enterContext(TestPortManager())
                port1, port2 = port_manager.get_port_range(2, "servers")
                first, second = start_server(port1), start_server(port2)
                first.stop(), second.stop()
        """).lstrip("\n").replace("TestPortManager\n\n\n", "TestPortManager\n\n")


def test_unittest_runs_with_what_it_got(folder: Folder) -> None:
    source = """
    import socket
    import unittest

    class Base(unittest.TestCase):
        PORT = 9001

        @classmethod
        def setUpClass(cls):
            cls.server = socket.create_server(("127.0.0.1", cls.PORT))

        @classmethod
        def tearDownClass(cls):
            cls.server.close()

    class ItTest(Base):
        def test_it(self):
            socket.create_connection(("127.0.0.1", self.PORT)).close()

    class OtherTest(unittest.TestCase):
        def setUp(self):
            self.server = socket.create_server(("127.0.0.1", 9002))

        def tearDown(self):
            self.server.close()

        def test_it(self):
            socket.create_connection(self.server.getsockname()).close()
    """
    folder.write(test_it=source)
    folder.migrate("--write")
    assert "port_manager = TestPortManager()" in folder.read("test_it.py")
    assert "self.enterContext(TestPortManager())" in folder.read("test_it.py")
    done = folder.pytest("-n", "2", "-W", "error")
    assert set(done.outcomes.values()) == {"PASSED"}, done.stdout
    assert len(done.outcomes) == 2


MAP = "from ephemport import port_map\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import os\n\nimport pytest\n", f"import os\n\nimport pytest\n{MAP}"),
        (
            "import pytest\nfrom a import b\nfrom requests import get\n",
            f"import pytest\nfrom a import b\n{MAP}from requests import get\n",
        ),
        ("import os\n\nfrom .a import b\n", f"import os\n\n{MAP}\nfrom .a import b\n"),
        ("from .a import b\n", f"{MAP}\nfrom .a import b\n"),
        (
            "import pytest\n\nfrom product import a\n",
            f"import pytest\n{MAP}\nfrom product import a\n",
        ),
        ("from __future__ import division\n", f"from __future__ import division\n\n{MAP}"),
    ],
)
def test_import_is_where_isort_has_it(folder: Folder, before: str, after: str) -> None:
    folder.write(product="a = 1", test_it=f"{before}\nstart_server(9001)\n")
    source = rewritten(folder, "map", test_it=f"{before}\nstart_server(9001)\n")
    assert source == f"{after}\nstart_server(port_map[9001])\n"


def test_exclude(folder: Folder) -> None:
    (folder.path / "other").mkdir()
    folder.write(test_it="start_server(9001)\n", settings_yaml="port: 9001\n")
    (folder.path / "other" / "test_other.py").write_text("start_server(9001)  # noqa\n")
    assert folder.migrate("--write").stdout.count("(left: ") == 1
    done = folder.migrate("--write", "--exclude", "other/", "--exclude", "*.yaml")
    assert (done.status, done.stdout) == (0, "")
    assert "port_map[9001]" in folder.read("test_it.py")


def test_what_is_left_is_told_where_it_stands_now(folder: Folder) -> None:
    folder.write(test_it="a = 1\nstart_server(9001)\n\nstart_server(9002)  # noqa\nconnect(9002)\n")
    done = folder.migrate("--write")
    [line] = done.stdout.splitlines()
    number = int(line.split(":")[1])
    assert folder.read("test_it.py").splitlines()[number - 1] == "connect(9002)"
    assert number > 5
    assert "1 use replaced in 1 file, 1 finding left" in done.stderr
    assert "--ephemport-isolate" in done.stderr


def test_a_package_beside_bare_tests_is_what_they_test(folder: Folder) -> None:
    (folder.path / "product").mkdir()
    (folder.path / "product" / "__init__.py").write_text("DEFAULT_PORT = 9001\n")
    (folder.path / "helpers").mkdir()
    (folder.path / "helpers" / "__init__.py").write_text("def go():\n    start_server(9002)\n")
    folder.write(test_it="from helpers import go\nimport product\nstart_server(9003)\n")
    folder.migrate("--write")
    assert folder.read("product/__init__.py") == "DEFAULT_PORT = 9001\n"
    assert "port_map[9002]" in folder.read("helpers/__init__.py")


UNRELATED = """
def test_kill():
    os_kill = Mock()
    stop_process(9001)
    os_kill.assert_called_once_with(9001)


def test_pack(codec):
    assert codec.read(codec.write(9001)) == 9001
"""


def test_equal_numbers_elsewhere_stay(folder: Folder) -> None:
    """9001 in a test of something else is another 9001."""
    folder.write(test_it="start_server(9001)\n", test_other=UNRELATED)
    after = migrate([folder.path]).after
    assert set(after) == {folder.path / "test_it.py"}


@pytest.mark.parametrize(
    "body",
    [
        # nobody connects, and nothing is a server
        "dst_port = 9001",
        "headers = {'X-Forwarded-Port': '9001'}",
        "invoke(main, ['read', '192.0.2.1', '--port', '9001'])",
        "address = ('127.0.0.1', 9001)\nserver.peers[address] = 1",
        "run_server(None, 9001)\ndef run_server(loop, pid): pass",
        "port = 9001 + random.randint(1, 99)\nstart_server(port)",
    ],
)
def test_numbers_that_nothing_binds_stay(folder: Folder, body: str) -> None:
    folder.write(test_it=f"{body}\n")
    assert migrate([folder.path]).after == {}


@pytest.mark.parametrize(
    ("body", "kept", "changed"),
    [
        (
            "servers = [Collector(9001 + i) for i in range(3)]\nconnect(('localhost', 9002))",
            "",
            "Collector(port_map[9001 + i])",
        ),
        (
            "base = 9001\n[start_node(base + i) for i in range(3)]\nconnect(('localhost', 9003))",
            "",
            "base = port_map[9001]",
        ),
        ("Process(target=relay, args=(9001, 2)).start()", "", "args=(port_map[9001], 2)"),
        ("pool.submit(relay, 9001)", "", "pool.submit(relay, port_map[9001])"),
        ("hub = Hub(9001)", "", "Hub(port_map[9001])"),
        (
            "start_server(9001)\nd = encode(9001, 9001)\nassert unpack('>HH', d) == (9001, 9001)",
            "d = encode(9001, 9001)",
            "start_server(port_map[9001])",
        ),
        (
            "s = start_server(9001)\nf(9001, timeout=9001)\nassert g() == 9001",
            "f(9001, timeout=9001)\n    assert g() == 9001",
            "start_server(port_map[9001])",
        ),
        (
            "s = start_server(9001)\nf(timeout=9001)\nassert peer() == ('127.0.0.1', 9001)",
            "f(timeout=9001)",
            "== ('127.0.0.1', port_map[9001])",
        ),
    ],
)
def test_who_is_given_it(folder: Folder, body: str, kept: str, changed: str) -> None:
    """Told from the product's code, where a name does not say it."""
    folder.write(
        test_it="from product import Collector, Hub, relay, start_node\n\n\ndef test_it():\n"
        + "".join(f"    {line}\n" for line in body.splitlines()),
        setup="setup()\n",
        product="""
        import socket

        class Hub:
            def __init__(self, port):
                self.sock = socket.create_server(("127.0.0.1", port))

        class Collector(Hub): ...

        def relay(listen_port, count): Hub(listen_port)

        def start_node(port): return Hub(port)
        """,
    )
    source = migrate([folder.path], style="map").after[folder.path / "test_it.py"]
    assert kept in source
    assert changed in source


def test_parameter_that_is_not_always_a_text(folder: Folder) -> None:
    source = rewritten(
        folder,
        test_it="""
        import pytest

        start_server(9001)

        @pytest.mark.parametrize("url", ["http://localhost:9001", None])
        def test_it(url):
            connect(url)
        """,
    )
    assert '.replace("9001", str(port_map[9001])) if isinstance(url, str) else url' in source


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("'node-9001 on 127.0.0.1:9001'", "f'node-{port_map[9001]} on 127.0.0.1:{port_map[9001]}'"),
        ("['serve', '-p9001']", "['serve', f'-p{port_map[9001]}']"),
        ("'-m http.server 9001'", "f'-m http.server {port_map[9001]}'"),
        (
            '\'{"port": 9001, "max_conn": 9001}\'',
            '\'{{"port": {port_map[9001]}, "max_conn": 9001}}\'',
        ),
        ("ADDRESS % 9001", "ADDRESS % port_map[9001]"),
        ("patch.object(Config, 'port', 9001)", "patch.object(Config, 'port', port_map[9001])"),
    ],
)
def test_texts_that_repeat_a_number(folder: Folder, text: str, after: str) -> None:
    source = rewritten(folder, test_it=f"start_server(9001)\nassert_it({text})\n")
    assert after in source


def test_computed_neighbours_stay_together(folder: Folder) -> None:
    """What may be counted from a base goes where the base goes."""
    source = """
    import socket

    BASE_PORT = 9001

    def test_two():
        servers = [socket.create_server(("127.0.0.1", BASE_PORT + i)) for i in (0, 1)]
        socket.create_connection(("127.0.0.1", 9002)).close()
        for server in servers:
            server.close()
    """
    assert "port_map[9002]" in rewritten(folder, test_it=source)
    folder.migrate("--write")
    assert folder.pytest().outcomes == {"test_it.py::test_two": "PASSED"}
    kept = source.replace("= 9001", "= 9001  # noqa")
    assert "port_map" not in rewritten(folder, test_it=kept)
