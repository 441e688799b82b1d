"""Processes, as proc(5) shows them: who has a socket open, who descends from whom.

Processes start and end during a look. A process that ends or may not be looked into is left out, or
the answer is None; nothing here raises for it.
"""

import functools
import os
import re
import shlex
import time
from collections.abc import Collection, Iterator

__all__ = [
    "age",
    "command_line",
    "container",
    "descendants",
    "descriptors",
    "environment",
    "is_running",
    "is_stopped",
    "mappings",
    "open_sockets",
    "owners",
    "pids",
    "read_memory",
    "session_or_group",
    "started",
    "thread_count",
    "thread_group",
    "user_of",
    "was_told",
]

# How container engines name their cgroups: Docker, Podman, CRI-O, containerd, LXC.
_CONTAINER = re.compile(
    r"\b(docker|libpod|crio|cri-containerd|containerd|lxc)(?:\.payload)?[-/.:]([0-9A-Za-z][\w-]+)"
)
# Field 22 of proc_pid_stat(5), in what `_stat_fields` returns: without the first two.
_START_TIME = 19
_ENGINES = {"libpod": "podman", "crio": "cri-o", "cri-containerd": "containerd"}


def owners(
    inodes: Collection[int], *, within: Collection[int] | None = None
) -> dict[int, list[int]]:
    """Return who has the sockets with these inode numbers open: inode -> sorted process ids.

    Reads /proc/PID/fd of the processes in `within`, or of all. It skips processes whose descriptors
    may not be read (another user's, see PTRACE_MODE_READ_FSCREDS in ptrace(2)). An inode that no
    visible process has open is no key of the result.
    """
    found: dict[int, list[int]] = {}
    for inode, pid, _ in _open_sockets(inodes, within):
        found.setdefault(inode, []).append(pid)
    return found


def descriptors(inodes: Collection[int]) -> dict[int, list[tuple[int, int]]]:
    """As `owners`, with one descriptor of each process: inode -> pairs of pid and descriptor."""
    found: dict[int, list[tuple[int, int]]] = {}
    for inode, pid, descriptor in _open_sockets(inodes, None):
        found.setdefault(inode, []).append((pid, descriptor))
    return found


def open_sockets(pid: int) -> dict[int, int] | None:
    """Return all sockets of `pid`, inode -> descriptor; None where it may not be looked into.

    If a socket has several descriptors, it is the first that is found.
    """
    folder = f"/proc/{pid}/fd"
    seen: dict[int, int] = {}
    try:
        for descriptor in os.listdir(folder):
            try:
                target = os.readlink(f"{folder}/{descriptor}")
            except FileNotFoundError:
                continue  # closed meanwhile
            if target.startswith("socket:["):
                seen.setdefault(int(target[8:-1]), int(descriptor))
    except OSError:
        return None
    return seen


def _open_sockets(
    inodes: Collection[int], within: Collection[int] | None
) -> Iterator[tuple[int, int, int]]:
    # No process has a socket of inode 0 open: to the kernel that means "no longer open".
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    if not wanted:
        return
    for pid in sorted(set(pids() if within is None else within)):
        for inode, descriptor in _open_among(pid, wanted).items():
            yield inode, pid, descriptor


def _open_among(pid: int, wanted: dict[str, int]) -> dict[int, int]:
    folder = f"/proc/{pid}/fd"
    seen: dict[int, int] = {}
    try:
        for descriptor in os.listdir(folder):
            try:
                inode = wanted.get(os.readlink(f"{folder}/{descriptor}"))
            except FileNotFoundError:
                continue  # closed meanwhile
            if inode is not None:
                seen.setdefault(inode, int(descriptor))
    except OSError:
        pass  # Another user's, or gone. What was found before stays in the answer.
    return seen


def descendants(pid: int) -> list[int]:
    """Return `pid` and the processes below it that are running, every parent before its children.

    Empty if `pid` itself is not running. A process whose parent exited belongs to init, or to a
    subreaper, and is no descendant any more. A process that starts or ends meanwhile may be missed
    (proc_tid_children(5)): a wait loop asks again.
    """
    children = _children if _has_children_files() else functools.partial(_lookup, _child_map())
    tree = [pid] if is_running(pid) else []
    seen = {pid}  # A pid that is reused meanwhile could otherwise lead in a circle.
    for parent in tree:  # grows as it goes
        for child in children(parent):
            if child not in seen and is_running(child):
                seen.add(child)
                tree.append(child)
    return tree


@functools.cache
def _has_children_files() -> bool:
    return os.path.exists("/proc/thread-self/children")  # CONFIG_PROC_CHILDREN


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for tid in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{tid}/children").split())
    except OSError:
        pass
    return found


def _child_map() -> dict[int, list[int]]:
    """Return parent -> children for the whole machine, for kernels without children files."""
    result: dict[int, list[int]] = {}
    for pid in pids():
        if (fields := _stat_fields(pid)) is not None:
            result.setdefault(int(fields[1]), []).append(pid)
    return result


def _lookup(children: dict[int, list[int]], pid: int) -> list[int]:
    return children.get(pid, [])


def command_line(pid: int) -> str | None:
    r"""Return the command line of process `pid`, quoted for a shell; None if there is none.

    For a process without one, a kernel thread or a zombie, it is the name in brackets: ``[comm]``.
    Bytes that are not UTF-8 are written ``\\xNN``, so that the text can always be printed.
    """
    try:
        # Programs that set their own title leave NULs after it, any number of them.
        text = _read(f"/proc/{pid}/cmdline").rstrip(b"\0").decode("utf-8", "backslashreplace")
        if text:
            return shlex.join(text.split("\0"))
        name = _read(f"/proc/{pid}/comm").rstrip(b"\n").decode("utf-8", "backslashreplace")
    except OSError:
        return None
    return f"[{name}]"


def user_of(pid: int) -> int | None:
    """Return the real user id of process `pid` (proc_pid_status(5)), None if it is gone."""
    return _status_number(pid, b"Uid:")


def age(pid: int) -> float | None:
    """Return for how many seconds process `pid` has run, None if it is gone."""
    fields = _stat_fields(pid)
    if fields is None:
        return None
    since_boot = int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
    return max(time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot, 0.0)


def started(pid: int) -> int | None:
    """Return when process `pid` started, in clock ticks since boot; None where it is not shown.

    Together with the pid it names one process: a later one with the same pid started later.
    """
    fields = _stat_fields(pid)
    return None if fields is None else int(fields[_START_TIME])


def container(pid: int) -> str | None:
    """Return the container that process `pid` runs in, by its cgroup: ``docker 3f2a9c0d1e4b``.

    None if no known engine runs it, and for a process of the container that we are in.
    """
    try:
        text = _read(f"/proc/{pid}/cgroup").decode("ascii", "replace")
    except OSError:
        return None
    found = _CONTAINER.search(text)
    if found is None:
        return None
    engine, name = found.groups()
    return f"{_ENGINES.get(engine, engine)} {name[:12]}"


def environment(pid: int, names: Collection[str]) -> dict[str, str]:
    """Return those of these variables that were in the environment when `pid` called exec().

    Variables that it sets later are missing (proc_pid_environ(5)). Empty where it may not be read.
    """
    try:
        text = _read(f"/proc/{pid}/environ").decode("utf-8", "backslashreplace")
    except OSError:
        return {}
    pairs = (one.partition("=") for one in text.split("\0"))
    return {name: value for name, _, value in pairs if name in names}


def was_told(pid: int, word: str) -> bool:
    """Whether `word` stands in the arguments or the environment that `pid` was started with.

    It stands alone there: no letter and no digit is beside it. A process that runs and shows no
    arguments was told: in the middle of exec() the kernel has none to show, and Popen() returns
    while that goes on.
    """
    alone = re.compile(rb"(?<![0-9A-Za-z])" + re.escape(word.encode()) + rb"(?![0-9A-Za-z])")
    for name in ("cmdline", "environ"):
        try:
            text = _read(f"/proc/{pid}/{name}")
        except OSError:
            continue
        if alone.search(text) or (name == "cmdline" and not text and is_running(pid)):
            return True
    return False


def mappings(pid: int) -> str | None:
    """Return /proc/PID/maps (proc_pid_maps(5)), None where it may not be read."""
    try:
        return _read(f"/proc/{pid}/maps").decode("utf-8", "backslashreplace")
    except OSError:
        return None


def read_memory(pid: int, address: int, length: int) -> bytes | None:
    """Return memory of process `pid`, None where it may not be read.

    This needs more than the right to look: PTRACE_MODE_ATTACH_FSCREDS in ptrace(2).
    """
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(length)
    except (OSError, OverflowError):
        return None


def thread_group(tid: int) -> int | None:
    """Return the id of the process that thread `tid` belongs to, None if it is gone.

    Reads Tgid in /proc/TID/status, which exists for every thread, although no listing shows it.
    """
    return _status_number(tid, b"Tgid:")


def session_or_group(leader: int) -> list[int]:
    """Return the running processes in the session or process group that `leader` leads, or led.

    Without `leader` itself. The kernel gives its id to no other process while the session or the
    group has members (__change_pid() in kernel/pid.c).
    """
    found = []
    for pid in pids():
        fields = _stat_fields(pid)
        # Fields 5 and 6 of proc_pid_stat(5): the group and the session.
        if pid != leader and fields is not None and leader in (int(fields[2]), int(fields[3])):
            found.append(pid)
    return [pid for pid in found if is_running(pid)]


def is_running(pid: int) -> bool:
    """Return whether process `pid` exists and still runs; a zombie does not run."""
    fields = _stat_fields(pid)
    if fields is None:
        return False
    if fields[0] not in (b"Z", b"X"):
        return True
    # This is the state of the first thread. It may have ended while other threads still run.
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def thread_count() -> int:
    """Return how many threads this process has; without /proc, how many Python knows."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        import threading

        return threading.active_count()


def is_stopped(pid: int) -> bool:
    """Return whether a signal (SIGSTOP, Ctrl-Z) or a debugger has stopped process `pid`."""
    fields = _stat_fields(pid)
    return fields is not None and fields[0] in (b"T", b"t")


def _status_number(pid: int, key: bytes) -> int | None:
    try:
        for line in _read(f"/proc/{pid}/status").splitlines():
            if line.startswith(key):
                return int(line.split()[1])
    except OSError:
        pass
    return None


def _stat_fields(pid: int) -> list[bytes] | None:
    """Return the fields of /proc/PID/stat from the state on (proc_pid_stat(5))."""
    try:
        # The name before them is in parentheses, and may contain blanks and parentheses.
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None


def pids() -> list[int]:
    """Return all processes that this one can see; none where /proc is not mounted."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _read(path: str) -> bytes:
    # Half the cost of open(), which also reads the size and the kind of the file.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = chunk = os.read(descriptor, 1 << 12)
        while chunk:
            chunk = os.read(descriptor, 1 << 16)
            data += chunk
        return data
    finally:
        os.close(descriptor)
