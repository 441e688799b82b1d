"""What takes a number's place, shape by shape."""

import pytest

from ephemport.migrate import migrate
from tests.migrate.conftest import Folder


def rewritten(folder: Folder, body: str) -> str:
    """The test file after `--write --style map`, with 9001 bound in its first line."""
    folder.write(test_it=f"start_server(9001)\n{body}\n")
    [source] = migrate([folder.path], style="map").after.values()
    return source.replace("from ephemport import port_map\n", "").strip()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 'ws://127.0.0.1:9001/a'", "x = f'ws://127.0.0.1:{port_map[9001]}/a'"),
        ('x = "http://localhost:9001/{}"', 'x = f"http://localhost:{port_map[9001]}/{{}}"'),
        ("x = '127.0.0.1:9001/%s' % 1", "x = f'127.0.0.1:{port_map[9001]}/%s' % 1"),
        (
            r"x = r'tcp://127\.0\.0\.1:9001\d{2}'",
            r"x = rf'tcp://127\.0\.0\.1:{port_map[9001]}\d{{2}}'",
        ),
        (r"x = r'\d 127.0.0.1:9001 \d{2}'", r"x = rf'\d 127.0.0.1:{port_map[9001]} \d{{2}}'"),
        (r"x = 'a\n9001 \N{BULLET} {'", r"x = f'a\n{port_map[9001]} \N{BULLET} {{'"),
        ("x = f'{a}://[::1]:9001/{b}'", "x = f'{a}://[::1]:{port_map[9001]}/{b}'"),
        ("x = f'{a}:9001' ':9001'", "x = f'{a}:{port_map[9001]}' f':{port_map[9001]}'"),
        ("x = f'{host}:{9001}'", "x = f'{host}:{port_map[9001]}'"),
        ("x = u'localhost:9001'", "x = f'localhost:{port_map[9001]}'"),
        ("f(b'Host: localhost:9001 100%')", "f(b'Host: localhost:%d 100%%' % port_map[9001])"),
        ("b'localhost:9001'.split()", "(b'localhost:%d' % port_map[9001]).split()"),
        ("run(['--port', '9001'])", "run(['--port', str(port_map[9001])])"),
        ("run(['--port=9001'])", "run([f'--port={port_map[9001]}'])"),
        ("env = {'PORT': '9001'}", "env = {'PORT': str(port_map[9001])}"),
        ("def f(port=9001): pass", "def f(port=port_map[9001]): pass"),
        ("class A:\n    port: int = 9001", "class A:\n    port: int = port_map[9001]"),
        ("x = {9001: 'a'}[9_001]", "x = {port_map[9001]: 'a'}[port_map[9001]]"),
        ("assert server.port == 9001", "assert server.port == port_map[9001]"),
        (
            "ports = itertools.count(9001)",
            "ports = (port_map[port] for port in itertools.count(9001))",
        ),
        ("port = 9001 + i  # kept", "port = port_map[9001 + i]  # kept"),
        ("(PORT) = (9001)", "(PORT) = (port_map[9001])"),
        ('"""On 9001."""', '"""On 9001."""'),
        ("# port 9001", "# port 9001"),
        ("timeout = 9001", "timeout = 9001"),
        ("read(timeout=9001, x=1.9001, y=19001)", "read(timeout=9001, x=1.9001, y=19001)"),
        ("assert 9001 < port", "assert 9001 < port"),
        ("x = 'https://example.com:9001'", "x = 'https://example.com:9001'"),
    ],
)
def test_one_use(folder: Folder, before: str, after: str) -> None:
    assert rewritten(folder, before) == f"start_server(port_map[9001])\n{after}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("x: Literal[9001] = y", "annotation"),
        ("match x:\n    case 9001: pass", "match pattern"),
        ("URL = 'http://localhost:9001'  # noqa: EPH003", "noqa"),
        (
            "PORT = 9001\n@pytest.mark.parametrize('p', [PORT], ids=str)\ndef test(p): pass",
            "part of ids",
        ),
        (
            "PORT = 9001\n@pytest.mark.parametrize('p', [PORT + 1])\ndef test(p): pass",
            "part of ids",
        ),
        ("@parameterized.expand([(9001,)])\ndef test(p): connect(p)", "name is made of it"),
        ("@pytest.mark.parametrize('p', [{'port': 9001}])\ndef test(p): connect(p)", "parametrize"),
        ("PORT = 9001\nother = PORT + 1000", "calculated"),
    ],
)
def test_all_or_nothing(folder: Folder, body: str, reason: str) -> None:
    folder.write(test_it=f"start_server(9001)\n{body}\n")
    before = folder.snapshot()
    done = folder.migrate("--write")
    assert folder.snapshot() == before
    assert "(left: " in done.stdout
    assert reason in done.stdout


SERVE = """
def serve(n):
    return socket.create_server(("127.0.0.1", n))

"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "for i in range(9001, 9004):\n    serve(i)",
            "[port_map[port] for port in range(9001, 9004)]",
        ),
        ("for i, n in enumerate([9001]):\n    serve(n)", "enumerate([port_map[9001]])"),
        ("ns = [9001]\n[serve(n) for n in ns]", "ns = [port_map[9001]]"),
        (
            "class Pool:\n    _next = 9001\n    @classmethod\n    def take(cls):\n"
            "        cls._next += 1\n        return cls._next\nserve(Pool.take())",
            "_next = port_map[9001]",
        ),
        (
            "last = 9001\ndef fresh():\n    global last\n    last += 1\n    return last\n"
            "def test():\n    n = fresh()\n    serve(n)",
            "last = port_map[9001]",
        ),
        ("ns = iter(range(9001, 9003))\nserve(next(ns))", "port in range(9001, 9003)])"),
        (
            "[Relay('127.0.0.1', port) for port in range(9001, 9003)]\n"
            "class Relay:\n    def __init__(self, host, n): serve(n)",
            "for port in [port_map[port] for port in range(9001, 9003)]",
        ),
        (
            "@pytest.mark.parametrize('n', [9001])\ndef test_it(n):\n    serve(n)",
            "n = port_map[n]",
        ),
        (
            "@pytest.fixture(params=[9001])\ndef it(request):\n    serve(request.param)",
            "serve(port_map[request.param])",
        ),
        ("def number(): return 9001\nserve(number())", "return port_map[9001]"),
        (
            "def get_port(): return 9001\nURL = '127.0.0.1:9001'\nserve(9001)",
            "return port_map[9001]",
        ),
        ("def setUp(self):\n    self.n = 9001\n    serve(self.n)", "self.n = port_map[9001]"),
        ("pool = set()\npool.add(9001)\nserve(pool.pop())", "pool.add(port_map[9001])"),
    ],
)
def test_names_are_followed(folder: Folder, before: str, after: str) -> None:
    """A number that says nothing of itself is what its variable is used for."""
    folder.write(test_it=f"import socket\n{SERVE}\n{before}\n")
    [source] = migrate([folder.path], style="map").after.values()
    assert after in source


@pytest.mark.parametrize(
    "body",
    [
        "n = 9001\nm = 9002\nserve(m)\nprint(n)",
        "def f():\n    n = 9001\n    return n\ndef g(n):\n    serve(n)\ng(9002)\nassert f() == 3",
        "assert add(5000, 4001) == 9001\nserve(9001)",
        "assert 4000 + 5001 == 9001\nserve(9001)",
    ],
)
def test_names_of_something_else(folder: Folder, body: str) -> None:
    folder.write(test_it=f"import socket\n{SERVE}\n{body}\n")
    source = next(iter(migrate([folder.path], style="map").after.values()))
    assert "== 9001" in source or "n = 9001" in source


def test_elsewhere(folder: Folder) -> None:
    """What is no Python, or cannot be read, keeps its numbers everywhere."""
    folder.write(
        test_it="start_server(9001)\nstart_server(9002)\nstart_server(9003)\n",
        settings_yaml="port: 9001\ntimeout: 9003\n",
        test_broken="def f(:\n    connect(9002)\n",
    )
    done = folder.migrate("--write")
    assert folder.read("test_it.py").splitlines()[1:] == [
        "",
        "start_server(9001)",
        "start_server(9002)",
        "start_server(port_map[9003])",
    ]
    assert "settings.yaml:1 repeats it" in done.stdout
    assert "test_broken.py repeats it, which cannot be read" in done.stdout
    assert "test_broken.py:1:1 EPH900" in done.stdout


def test_parametrize_is_untouched_and_its_test_replaces(folder: Folder) -> None:
    folder.write(
        test_it="""
        import pytest

        start_server(9001)

        @pytest.mark.parametrize("url, port", [("http://localhost:9001", 9001)])
        def test_it(url, port):
            \"\"\"Doc.\"\"\"
            connect(url, port)
        """
    )
    folder.migrate("--write")
    text = folder.read("test_it.py")
    assert '[("http://localhost:9001", 9001)]' in text
    assert 'url = url.replace("9001", str(port_map[9001]))' in text
    assert "port = {9001: port_map[9001]}.get(port, port)" in text
    assert "0 uses replaced" in folder.migrate("--write").stderr


def test_line_ends_and_encodings_stay(folder: Folder) -> None:
    text = "# -*- coding: latin-1 -*-\r\nimport a\r\n\r\nstart_server(9001)  # \xe4\r\n"
    (folder.path / "test_it.py").write_bytes(text.encode("latin-1"))
    folder.migrate("--write", "--style", "map")
    expected = text.replace("9001", "port_map[9001]").replace(
        "import a\r\n", "import a\r\nfrom ephemport import port_map\r\n"
    )
    assert (folder.path / "test_it.py").read_bytes() == expected.encode("latin-1")


def test_ids_agree_between_workers_and_stay_as_they_were(folder: Folder) -> None:
    """What is made of a port may be a test's argument: ids show the number that was written."""
    folder.write(
        test_it="""
        import enum
        import socket

        import pytest

        PORT = 9001
        URL = f"http://127.0.0.1:{PORT}/"


        class Ports(enum.IntEnum):
            ONE = 9001


        def listen():
            return socket.create_server(("127.0.0.1", PORT))


        @pytest.fixture(params=[PORT, b"127.0.0.1:%d" % PORT])
        def param(request):
            return request.param


        @pytest.mark.parametrize("url, port", [(URL, PORT), ("x", Ports.ONE), (90010, None)])
        def test_it(url, port, param):
            with listen():
                assert param != url
        """
    )
    before = folder.pytest("--collect-only", "-q").stdout.splitlines()[:6]
    folder.migrate("--write")
    after = folder.pytest("-n", "2")
    assert sorted(after.outcomes) == sorted(before), after.stdout
    assert set(after.outcomes.values()) == {"PASSED"}, after.stdout


DEFAULTS = {
    "product": """
    from dataclasses import dataclass


    @dataclass
    class Settings:
        name: str = "a"
        port: int = 9001


    def serve(settings=None):
        return settings


    class Client:
        def __init__(self, port=9001): ...
    """,
    "setup": "from setuptools import setup\nsetup()\n",
}


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("Settings()", "Settings(port=port_map[9001])"),
        ("Settings('b')", "Settings('b', port=port_map[9001])"),
        ("Settings('b', 9001)", "Settings('b', port_map[9001])"),
        ("Settings(name='b',)", "Settings(name='b', port=port_map[9001])"),
        (
            "Settings(\n        name='b',\n    )",
            "Settings(\n        name='b',\n        port=port_map[9001],\n    )",
        ),
    ],
)
def test_default_in_force_is_said_outright(folder: Folder, call: str, told: str) -> None:
    """The product keeps its number, and the suite no longer relies on it."""
    start = "from product import Settings, serve\n\ndef test_it():\n    serve_forever("
    folder.write(**DEFAULTS)
    (folder.path / "tests").mkdir()
    target = folder.path / "tests" / "test_it.py"
    target.write_text(f"{start}{call})\n    connect('127.0.0.1', 9001)\n")
    product = folder.read("product.py")
    folder.migrate("--write")
    assert f"serve_forever({told})" in target.read_text()
    assert "connect('127.0.0.1', port_map[9001])" in target.read_text()
    assert folder.read("product.py") == product
    assert "0 uses replaced" in folder.migrate("--write").stderr


@pytest.mark.parametrize("call", ["Settings(**options)", "Settings(  # a\n)", "serve(Settings)"])
def test_default_that_cannot_be_said_stays(folder: Folder, call: str) -> None:
    folder.write(**DEFAULTS)
    if call == "serve(Settings)":
        folder.write(product=DEFAULTS["product"] + "\n    settings = Settings()\n")
    (folder.path / "tests").mkdir()
    target = folder.path / "tests" / "test_it.py"
    target.write_text(f"from product import Settings\nstart({call})\nconnect('127.0.0.1', 9001)\n")
    before = folder.snapshot()
    done = folder.migrate("--write")
    assert folder.snapshot() == before
    assert "product.py:7 repeats it, which is no part of the suite" in done.stdout


def test_what_the_suite_does_not_reach(folder: Folder) -> None:
    """Examples, others' settings and Makefiles are about other numbers."""
    folder.write(
        **DEFAULTS,
        example="start_server(9001)\n",
        test_it="start_server(9001)\n",
        pyproject_toml="""
        [project]
        name = "a"

        [tool.pytest.ini_options]
        markers = ["real: needs a server at localhost:9001"]
        """,
    )
    (folder.path / "Makefile").write_text("serve:\n\tserve --port 9001\n")
    (folder.path / ".github").mkdir()
    (folder.path / ".github" / "ci.yaml").write_text("port: 9001\n")
    folder.migrate("--write")
    assert "start_server(port_map[9001])" in folder.read("test_it.py")
    assert folder.read("example.py") == "start_server(9001)\n"


@pytest.mark.parametrize(
    ("name", "text", "mention"),
    [
        ("pytest.ini", "[pytest]\naddopts = --port 9001\n", ""),
        ("run.sh", "serve --port 9001\n", "run(['./run.sh'])\n"),
        ("docker-compose.yml", "ports: ['9001:80']\n", ""),
        ("product.py", "bind(('127.0.0.1', 9001))\n", "run('python -m product'.split())\n"),
    ],
)
def test_what_the_suite_reads_or_runs(folder: Folder, name: str, text: str, mention: str) -> None:
    folder.write(setup="setup()\n")
    (folder.path / name).write_text(text)
    (folder.path / "tests").mkdir()
    target = folder.path / "tests" / "test_it.py"
    target.write_text(f"{mention}PORT = 9001\nURL = 'http://localhost:9001'\n")
    done = folder.migrate("--write")
    assert f"(left: {name}:" in done.stdout
    assert "port_map" not in target.read_text()
