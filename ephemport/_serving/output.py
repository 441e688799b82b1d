"""The output of a process that we started, copied, so that its reader still gets it."""

import os

_LAST_LINES = 20
_PIPE_CAPACITY = 1 << 16
_SPLICE_F_NONBLOCK = 2


def captured_output(process: object) -> str | None:
    """Return the last lines in the pipes of a Popen; None where its output was not captured.

    They stay in the pipes: tee(2) copies them.
    """
    seen = b""
    captured = False
    for name in ("stdout", "stderr"):
        stream = getattr(process, name, None)
        try:
            descriptor = stream.fileno() if stream is not None else None
        except (AttributeError, OSError, ValueError):
            # asyncio's StreamReader, a closed file.
            continue
        if descriptor is not None:
            captured = True
            seen += _peek(descriptor)
    if not captured:
        return None
    return "\n".join(seen.decode(errors="replace").splitlines()[-_LAST_LINES:])


def _peek(pipe: int) -> bytes:
    import ctypes

    tee = ctypes.CDLL(None, use_errno=True).tee
    tee.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint]
    tee.restype = ctypes.c_ssize_t
    reader, writer = os.pipe()
    try:
        copied = tee(pipe, writer, _PIPE_CAPACITY, _SPLICE_F_NONBLOCK)
        return os.read(reader, copied) if copied > 0 else b""
    finally:
        os.close(reader)
        os.close(writer)
