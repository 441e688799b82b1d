import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

SCRIPT = str(Path(__file__).with_name("echo_script.py"))


def until_up(port):
    deadline = time.monotonic() + 15
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def running(*arguments, port, **kwargs):
    process = subprocess.Popen([sys.executable, *arguments], **kwargs)
    try:
        until_up(port)
        assert process.poll() is None, "it ended"
        yield process
    finally:
        process.kill()
        process.wait()


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()
