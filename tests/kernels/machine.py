"""A machine of qemu's, without hardware support: it boots a kernel, runs one job and ends."""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.kernels.debian import Kernel, busybox
from tests.kernels.initramfs import initramfs

# What `init` says before the job begins.
BOOTED = "booted Linux"
# An emulated kernel can stop while it boots, which says nothing of the tests. Seen once, with 7.2:
# "Oops: int3", in code that the kernel patches at that time.
_BOOTS = 3
# How long the guest may take to switch itself off after its time is over.
_GRACE = 60


class Processor(NamedTuple):
    """What qemu needs to know of an architecture."""

    command: Sequence[str]
    console: str


PROCESSORS = {
    # The newest processor without AVX, which costs much without hardware support.
    "amd64": Processor(("qemu-system-x86_64", "-M", "q35", "-cpu", "Nehalem"), "ttyS0"),
    "arm64": Processor(("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72"), "ttyAMA0"),
}


class Job(NamedTuple):
    """What runs in the guest."""

    command: Sequence[str]
    """With ``/run/job`` for the folder that the guest and this machine share."""
    cwd: Path
    environment: Mapping[str, str]
    folders: Mapping[str, Path]
    """Other folders that the job needs, by their place in the guest."""
    seconds: float


class Ended(NamedTuple):
    """What became of a job."""

    status: int | None
    """The command's exit status; None: it did not end."""
    console: str


def run(architecture: str, kernel: Kernel, root: Path, job: Job, folder: Path) -> Ended:
    """Boot `kernel` with `root` as its root, run `job`, and return how it ended.

    What the job writes to stdout and stderr is in the file `log` of `folder`, beside whatever else
    it left in ``/run/job``. What the guest changes elsewhere is in its memory only.
    """
    variables = [f"{name}={value}" for name, value in job.environment.items()]
    in_time = ["timeout", "--kill-after=10", str(job.seconds)]
    command = shlex.join(["env", "-i", *variables, *in_time, *job.command])
    (folder / "script").write_text(
        # As systemd has it; the kernel alone gives 4,096.
        "ulimit -Hn 524288\n"
        f"cd {shlex.quote(str(job.cwd))} || exit\n"
        f"{command} </dev/null >/run/job/log 2>&1\n"
        "echo $? >/run/job/status\n"
    )
    with tempfile.TemporaryDirectory() as scratch:
        first_root = Path(scratch) / "initramfs"
        first_root.write_bytes(initramfs(kernel, busybox(architecture)))
        for _ in range(_BOOTS):
            console = _boot(architecture, kernel, first_root, root, job, folder)
            if BOOTED in console:
                break
    try:
        status = int((folder / "status").read_text())
    except (FileNotFoundError, ValueError):
        status = None
    return Ended(status, console)


def _boot(
    architecture: str, kernel: Kernel, first_root: Path, root: Path, job: Job, folder: Path
) -> str:
    processor = PROCESSORS[architecture]
    # Emulation keeps what it translated, for the same code at the same address. And there is no
    # processor whose faults would have to be kept from attackers.
    words = [f"console={processor.console}", "quiet", "panic=-1", "norandmaps", "mitigations=off"]
    shares = [("root", root, True), ("modules", kernel.modules, True), ("job", folder, False)]
    for number, (place, path) in enumerate(job.folders.items()):
        words.append(f"job.folder={place}")
        shares.append((f"folder{number}", path, True))
    command = [*processor.command, "-accel", "tcg,thread=multi,tb-size=1024"]
    command += ["-smp", "2", "-m", "4G", "-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-serial", "stdio", "-kernel", str(kernel.image), "-initrd", str(first_root)]
    command += ["-append", " ".join(words), "-device", "virtio-rng-pci"]
    for tag, path, readonly in shares:
        where = f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap"
        command += ["-virtfs", where + (",readonly=on" if readonly else "")]
    with (folder / "console").open("w+b") as console:
        qemu = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C ends this process, which ends qemu
        )
        try:
            qemu.wait(job.seconds + _GRACE)
        except subprocess.TimeoutExpired:
            pass  # the guest hangs; what it said is in the console
        finally:
            if qemu.poll() is None:
                os.kill(qemu.pid, signal.SIGKILL)
                qemu.wait()
        console.seek(0)
        return console.read().decode(errors="replace")
