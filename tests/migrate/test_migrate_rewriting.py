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
        ("PORT = 9001\n@pytest.mark.parametrize('p', [PORT])\ndef test(p): pass", "parametrize"),
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
