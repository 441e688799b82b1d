"""A program that calls bind() on command: with any pointer, length and descriptor, in threads.

It reads a list of calls a line and answers with their error numbers. Run as a script, it imports
nothing of ephemport's.
"""

import ctypes
import json
import mmap
import os
import socket
import struct
import sys
import tempfile
import threading
from contextlib import suppress

_BIND = {"x86_64": 49, "aarch64": 200}[os.uname().machine]
_PAGE = mmap.PAGESIZE
_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_KINDS = {
    "tcp4": (socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM),
    "udp4": (socket.AF_INET, socket.SOCK_DGRAM),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
}

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Memory:
    """Two pages, of which nobody may touch the second."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 2 * _PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        if libc.mprotect(ctypes.c_void_p(self.start + _PAGE), _PAGE, _PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect()")

    def put(self, data: bytes, where: str) -> int:
        """Write an address there and return where it begins."""
        data = data[:_PAGE]
        self._map[:_PAGE] = bytes(_PAGE)
        begin = {"edge": _PAGE - len(data), "odd": 1}.get(where, 0)
        self._map[begin : begin + len(data)] = data
        return self.start + begin

    def protect(self, how: int) -> None:
        libc.mprotect(ctypes.c_void_p(self.start), _PAGE, how)

    def flip(self, stop: threading.Event, ports: list[int]) -> None:
        """Change the port of the address at the beginning, over and over."""
        while not stop.is_set():
            for port in ports:
                self._map[2:4] = struct.pack("!H", port)


def open_descriptor(kind: str) -> int:
    if kind in _KINDS:
        with socket.socket(*_KINDS[kind]) as sock:
            return sock.detach()
    if kind == "file":
        return os.open(os.devnull, os.O_RDWR)
    return {"closed": 999, "negative": -1, "huge": 2**31 - 1}[kind]


def one_call(memory: Memory, call: dict[str, object]) -> int:
    """Make the call; return its error number, 0 for none."""
    where = str(call["where"])
    pointer = {"null": 0, "one": 1, "high": 2**47 - 8, "kernel": -4096}.get(where)
    if pointer is None:
        pointer = memory.put(bytes.fromhex(str(call["address"])), where)
    descriptor = open_descriptor(str(call["kind"]))
    # Bits that the kernel does not look at: both are ints to it.
    above = int(str(call["above"])) << 32
    try:
        if where == "readonly":
            memory.protect(_PROT_READ)
        arguments = (_BIND, descriptor + above, pointer, int(str(call["length"])) + above)
        failed = libc.syscall(*map(ctypes.c_long, arguments)) != 0
        return ctypes.get_errno() if failed else 0
    finally:
        if where == "readonly":
            memory.protect(_PROT_READ | _PROT_WRITE)
        if str(call["kind"]) in (*_KINDS, "file"):
            os.close(descriptor)
        if call["kind"] == "unix":
            for name in os.listdir(b"."):
                with suppress(FileNotFoundError):
                    os.unlink(name)


def many_calls(calls: list[dict[str, object]], threads: int, flips: list[int]) -> list[int]:
    """Make the calls in each of several threads, over memory that they share if it changes."""
    answers: list[int] = []
    shared = Memory()
    stop = threading.Event()
    flipper = threading.Thread(target=shared.flip, args=(stop, flips))

    def work() -> None:
        memory = shared if flips else Memory()
        answers.extend(one_call(memory, call) for call in calls)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for thread in (*workers, *([flipper] if flips else [])):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    if flips:
        flipper.join()
    return answers


def main() -> None:
    os.chdir(tempfile.mkdtemp(dir="."))
    for line in sys.stdin:
        told = json.loads(line)
        if told["threads"] == 1 and not told["flips"]:
            memory = Memory()
            answers = [one_call(memory, call) for call in told["calls"]]
        else:
            answers = many_calls(told["calls"], told["threads"], told["flips"])
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
