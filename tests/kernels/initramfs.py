"""The guest's first root, in the format that the kernel unpacks (initramfs-buffer-format.rst)."""

import lzma
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.kernels.debian import Kernel

# What it takes to mount the shared folders. A kernel may have some of them built in.
WANTED = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng")


def initramfs(kernel: Kernel, busybox: Path) -> bytes:
    """Return an archive of `init`, busybox and the modules, which `init` loads in their order."""
    entries: list[tuple[str, int, bytes]] = [
        (folder, stat.S_IFDIR | 0o755, b"") for folder in ("bin", "dev", "proc", "modules")
    ]
    entries.append(("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()))
    init = Path(__file__).with_name("init").read_bytes()
    entries.append(("init", stat.S_IFREG | 0o755, init))
    for number, module in enumerate(_modules(kernel)):
        name = f"modules/{number:02}-{_name(module)}.ko"
        entries.append((name, stat.S_IFREG | 0o644, _plain(module)))
    entries.append(("TRAILER!!!", 0, b""))
    return b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))


def _modules(kernel: Kernel) -> Sequence[Path]:
    """The wanted modules, each after what it needs."""
    folder = kernel.modules / kernel.release
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        module, _, others = line.partition(":")
        needs[module] = others.split()
    paths = {_name(Path(module)): module for module in needs}
    order: dict[str, None] = {}
    for wanted in WANTED:
        if wanted in paths:
            order |= dict.fromkeys([*reversed(needs[paths[wanted]]), paths[wanted]])
    return [folder / module for module in order]


def _name(module: Path) -> str:
    return module.name.partition(".")[0].replace("-", "_")


def _plain(module: Path) -> bytes:
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return b"".join(_padded((head, data)))


def _padded(parts: Sequence[bytes]) -> Iterator[bytes]:
    for part in parts:
        yield part + bytes(-len(part) % 4)
