import socket
import time

from constants import HOST


def ask(port, name, host=HOST):
    with socket.create_connection((host, port), timeout=5) as sock:
        file = sock.makefile("rw")
        file.write(name + "\n")
        file.flush()
        return file.readline().strip()


def split_url(url):
    """Split "tcp://127.0.0.1:9101" into its host and port."""
    host, _, port = url.rpartition("//")[2].partition(":")
    return host, int(port.split("/")[0])


def is_listening(port):
    with socket.socket() as sock:
        return sock.connect_ex((HOST, port)) == 0


def wait_for_port(port=9101, timeout=3.0):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if is_listening(port):
            return True
        time.sleep(0.01)
    return False
