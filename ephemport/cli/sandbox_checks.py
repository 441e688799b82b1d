"""The checks of `ephemport doctor` on what a sandbox may refuse."""

import os
import subprocess
import sys
import tempfile

from ephemport import EphemportError
from ephemport._kernel.processes import open_sockets, pids
from ephemport._serving.activation import bash
from ephemport._serving.assist import check_assist
from ephemport._serving.messages import abstract_socket
from ephemport.cli.check import BROKEN, NOTE, OK, Check


def processes(name: str) -> Check:
    """Whether /proc says which process has a socket."""
    if not pids():
        return Check(
            name,
            NOTE,
            "/proc is not mounted, or may not be read: no process can be named. A wait with "
            "process= counts every listener of this user",
            "mount -t proc proc /proc",
        )
    try:
        os.readlink("/proc/self/fd/0")
    except FileNotFoundError:
        pass
    except OSError as error:
        return Check(
            name,
            NOTE,
            f"readlink() below /proc/PID/fd is refused ({os.strerror(error.errno or 0)}): no "
            "process can be named. A wait with process= counts every listener of this user",
            "allow readlink() in the sandbox",
        )
    if 1 not in pids():
        return Check(
            name,
            NOTE,
            "/proc hides the processes of others (hidepid): those that have a port cannot be "
            "named. Waits see all that this process starts",
            "mount -o remount,hidepid=0 /proc",
        )
    if os.getpid() != 1 and open_sockets(1) is None:
        return Check(name, OK, "/proc shows them, and of this user also who has which socket")
    return Check(name, OK, "/proc shows all of them, and who has which socket")


def pidfd(name: str) -> Check:
    """Whether the kernel tells when a process ends."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except AttributeError:
        why, remedy = "this Python has no os.pidfd_open()", "CPython has it"
    except OSError as error:
        why = f"pidfd_open() is refused ({os.strerror(error.errno or 0)})"
        remedy = "Linux 5.3 or newer, and a sandbox that allows it"
    else:
        return Check(name, OK, "a server that ends before it listens is noticed at once")
    return Check(
        name,
        NOTE,
        f"{why}: the end of a process is looked for, and noticed up to 0.1 s later, by "
        "'ephemport reserve --for' up to 0.2 s. What an isolated worker leaves behind that was "
        "killed is not ended",
        remedy,
    )


def activation(name: str) -> Check:
    """What is started between this process and a server that gets its sockets."""
    if bash() is None:
        return Check(
            name,
            NOTE,
            "there is no bash: this Python interpreter is started before each server that gets its "
            "sockets, which takes some ten times as long",
            "install bash",
        )
    return Check(name, OK, "popen(activate=True) passes sockets through bash")


def sharing(name: str) -> Check:
    """Whether share() can serve a token."""
    try:
        abstract_socket().close()
    except OSError as error:
        return Check(
            name,
            BROKEN,
            f"Unix sockets with abstract names are refused ({os.strerror(error.errno or 0)}): "
            "share() and adopt() do not work",
            "allow socket(AF_UNIX) in the sandbox (RestrictAddressFamilies=, seccomp profile); or "
            "pass the socket of listen() by pass_fds=",
        )
    return Check(name, OK, "share() can serve a token")


def files(name: str) -> Check:
    """Where files can be written, and which settings."""
    notes: list[tuple[str, str]] = []
    try:
        tempfile.TemporaryFile().close()
    except OSError as error:
        notes.append((
            f"no file can be written in the temporary folder ({error.strerror}): mode fixed cannot "
            "lock its ports, and pytest needs -s and -p no:cacheprovider",
            "mount a tmpfs on /tmp, or set TMPDIR and EPHEMPORT_LOCK_DIR",
        ))  # fmt: skip
    if not os.access("/dev/shm", os.W_OK):
        notes.append((
            "/dev/shm cannot be written: multiprocessing.Pool() and other locks of Python need it, "
            "ephemport does not",
            "mount a tmpfs on /dev/shm",
        ))  # fmt: skip
    if _is_read_only("/proc/sys/net"):
        notes.append((
            "/proc/sys is mounted read-only: what is isolated keeps the kernel's default settings, "
            "such as the ephemeral port range",
            "mount -o remount,rw /proc/sys",
        ))  # fmt: skip
    if not notes:
        return Check(name, OK, "the temporary folder, /dev/shm and /proc/sys can be written")
    reasons, remedies = zip(*notes, strict=True)
    return Check(name, NOTE, ". ".join(reasons), "; ".join(remedies))


def _is_read_only(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def network_namespace(name: str) -> Check:
    """Whether a worker can have its own loopback; tried in a separate process."""
    # A user namespace can only be entered by a process with a single thread.
    code = (
        "from ephemport._kernel import namespaces\n"
        "try: namespaces.enter_new_network()\n"
        "except OSError as error: print(error.strerror or error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 0 and not done.stdout:
        return Check(name, OK, "a worker can have its own loopback, and so every port")
    return Check(
        name,
        BROKEN,
        f"refused: {done.stdout.strip() or done.stderr.strip().rpartition(chr(10))[2]}",
        "remove what is named, or run as root with CAP_SYS_ADMIN (docker run --cap-add SYS_ADMIN); "
        "reservations do not need it",
    )


def assistance(name: str) -> Check:
    """Whether servers that set no option can be let in; tried with a shell."""
    try:
        check_assist()
    except EphemportError as error:
        return Check(name, BROKEN, str(error))
    return Check(name, OK, "servers that set no option can be let in (ephemport run --assist)")
