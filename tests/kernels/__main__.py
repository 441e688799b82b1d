"""Boot kernels of Debian and run the tests of what depends on the kernel.

    python -m tests.kernels 6.1 6.12

Each kernel runs in qemu, without hardware support, with this machine's root as its own (arm64: with
a root of Debian's packages), and with two processors. It needs qemu-system-x86 (arm64:
qemu-system-arm), kmod and dpkg; the packages with the kernels are downloaded with apt-get and kept
in EPHEMPORT_CI_CACHE or /var/cache/ephemport-ci. A test may be skipped there only for what
its kernel is too old for. `--record` keeps the results in tests/kernels/results.json, and makes the
table of docs/kernels.md of them.

exit status: 0 all kernels passed, 1 one did not, 2 one could not be booted, 130 Ctrl-C
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.kernels import arm64
from tests.kernels.debian import Suite, kernel
from tests.kernels.machine import BOOTED, Ended, Job, run
from tests.kernels.results import Result, read_report, record

PASSED, FAILED, NOT_BOOTED, INTERRUPTED = 0, 1, 2, 130

CLONE = Path(__file__).parents[2]
KERNELS = {
    "5.10": Suite("bullseye", "amd64"),
    "6.1": Suite("bookworm", "amd64"),
    "6.12": Suite("trixie", "amd64"),
    "newest": Suite("sid", "amd64"),
    "arm64": arm64.SUITE,
}
EVERYTHING = ("core", "kernel", "takeover", "assist", "isolation", "diagnosis")
# What fits into some minutes: something of each.
SUBSET = (
    "core/test_kernel_facts.py",
    "kernel/test_kernel_sockets.py",
    "takeover/test_wait_facts.py",
    "assist/test_assist_takeover.py",
    "isolation/test_isolate_enter.py",
    "diagnosis/test_without_sight.py",
)
# Tests that run longer than this hang, also without hardware support.
_LONGEST_TEST = 1500
# The exit statuses of pytest that say that tests ran.
_RAN = (0, 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kernels", nargs="+", choices=KERNELS, metavar="KERNEL",
                        help=f"one of {', '.join(KERNELS)}")  # fmt: skip
    parser.add_argument("--subset", action="store_true", help="some tests only, for CI")
    parser.add_argument(
        "--minutes", type=float, default=120, help="the limit of each (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", metavar="TEST", help="these tests, below tests/")
    parser.add_argument("--record", action="store_true", help="keep the results in the table")
    options = parser.parse_args()
    which = ", ".join(options.only or []) or ("subset" if options.subset else "all")
    tests = options.only or (SUBSET if options.subset else EVERYTHING)
    statuses = []
    try:
        for name in options.kernels:
            status, result = _one(name, tests, options.minutes * 60)
            statuses.append(status)
            if result is not None and options.record:
                record(name, which, result)
    except KeyboardInterrupt:
        return INTERRUPTED
    return max(statuses)


def _one(name: str, tests: Sequence[str], seconds: float) -> tuple[int, Result | None]:
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"kernel-{name}-"))
    print(f"== Linux {name}: the log is {folder}/log", flush=True)
    try:
        ended = _boot(name, tests, seconds, folder)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"Linux {name} cannot be booted: {error}", file=sys.stderr)
        return NOT_BOOTED, None
    minutes = (time.monotonic() - started) / 60
    if ended.status not in _RAN:
        return _failed(name, ended, folder, minutes), None
    result = read_report(folder, minutes)
    print(f"== {result}")
    for line in (*result.failures, *(f"{n} skipped: {why}" for why, n in result.skipped.items())):
        print(line)
    if ended.status == 0 and not result.failures:
        shutil.rmtree(folder)
        return PASSED, result
    print((folder / "log").read_text(errors="replace").partition("= FAILURES =")[2])
    return FAILED, result


def _failed(name: str, ended: Ended, folder: Path, minutes: float) -> int:
    log = folder / "log"
    said = log.read_text(errors="replace") if log.exists() else ended.console
    print(said[-5000:])
    if BOOTED not in ended.console:
        print(f"Linux {name} did not boot; see {folder}/console", file=sys.stderr)
        return NOT_BOOTED
    how = "did not end" if ended.status is None else f"ended with status {ended.status}"
    print(f"the tests on Linux {name} {how} in {minutes:.0f} minutes", file=sys.stderr)
    return FAILED


def _boot(name: str, tests: Sequence[str], seconds: float, folder: Path) -> Ended:
    suite = KERNELS[name]
    here = suite.architecture == "amd64"
    python = Path(sys.executable) if here else Path(arm64.VENV, "bin/python")
    clone = CLONE if here else Path(arm64.CLONE)
    with tempfile.TemporaryDirectory() as scratch:
        # A copy, so that edits meanwhile change nothing.
        copy = Path(scratch, "clone")
        shutil.copytree(CLONE, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        folders = {str(clone): copy}
        if here:
            # These are not in the copy, and the guest has folders of its own for temporary files.
            for prefix in map(Path, (sys.base_prefix, sys.prefix)):
                if any(prefix.is_relative_to(hidden) for hidden in (CLONE, "/tmp", "/run")):
                    folders[str(prefix)] = prefix
        pytest = [
            *(str(python), "-m", "pytest", "-v", "--tb=short", "--durations=30", "-n", "2"),
            *("-p", "no:cacheprovider", "-o", f"faulthandler_timeout={_LONGEST_TEST}"),
            *("--junit-xml=/run/job/report.xml", *(f"tests/{one}" for one in tests)),
        ]
        shell = f'{python} -m tests.abilities >/run/job/facts && exec "$@"'
        environment = {
            "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "CI": "true",
        }
        job = Job(["sh", "-c", shell, "sh", *pytest], clone, environment, folders, seconds)
        root = Path("/") if here else arm64.root(CLONE)
        return run(suite.architecture, kernel(suite), root, job, folder)


if __name__ == "__main__":
    sys.exit(main())
