import json
import os
import sys
import time
import unittest
from pathlib import Path

import pytest

from processes import SCRIPT, get, running

INLINE = """
import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write({"a": b"inline"}["a"])
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", 6104), H).serve_forever()
"""


def test_default_port(echo):
    time.sleep(0.1)
    assert get(echo).split()[0] == "6101"


def test_default_port_again(echo):
    time.sleep(0.1)
    assert get("http://localhost:6101/").split() == ["6101"]


def test_status():
    with running(SCRIPT, "--status", port=6103):
        assert get("http://127.0.0.1:6103").startswith("6103")


def test_option(other):
    time.sleep(0.1)
    assert get("http://127.0.0.1:6102/path?next=http://example.com:6102") == "6102 "


def test_option_with_equals():
    with running(SCRIPT, "--port=6102", port=6102):
        assert "6102" in get("http://127.0.0.1:6102")


def test_environment(monkeypatch):
    monkeypatch.setenv("BACKEND_PORT", "6102")
    with running(SCRIPT, "--port", "6105", port=6105):
        assert get("http://127.0.0.1:6105") == "6105 6102"


def test_environment_dict():
    env = {**os.environ, "BACKEND_PORT": "6102"}
    with running(SCRIPT, "--port", "6105", port=6105, env=env):
        assert get("http://127.0.0.1:6105") == "6105 6102"


def test_inline():
    with running("-c", INLINE, port=6104):
        assert get("http://127.0.0.1:6104") == "inline"


def test_http_server(tmp_path):
    (tmp_path / "hello").write_text("hi")
    with running("-m", "http.server", "6106", "--bind", "127.0.0.1", port=6106, cwd=tmp_path):
        assert get("http://127.0.0.1:6106/hello") == "hi"


def test_request_line():
    import socket

    with running(SCRIPT, port=6101), socket.create_connection(("127.0.0.1", 6101)) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\nHost: 127.0.0.1:6101\r\n\r\n")
        assert b"200 OK" in sock.makefile("rb").readline()


def test_from_file():
    port = json.loads(Path(__file__).with_name("service.json").read_text())["port"]
    assert port == 6190
    with running(SCRIPT, "--port", str(port), port=port):
        assert get("http://127.0.0.1:6190").split()[0] == "6190"


class TestCase(unittest.TestCase):
    PORT = 6107

    def setUp(self):
        self.context = running(SCRIPT, "--port", str(self.PORT), port=self.PORT)
        self.process = self.context.__enter__()

    def tearDown(self):
        self.context.__exit__(None, None, None)

    def test_get(self):
        self.assertEqual(get("http://127.0.0.1:6107").split()[0], "6107")

    def test_get_again(self):
        self.assertIn("6107", get(f"http://127.0.0.1:{self.PORT}"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs port 6108")
def test_fails_always():
    assert get("http://127.0.0.1:6108") == "never"
