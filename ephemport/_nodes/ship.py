"""A node without ephemport: the package goes through the channel, and nothing is installed there.

The command then runs `python3 -m code`, an interpreter that reads lines: its words need no quotes,
so a shell on the way (ssh joins its arguments for one) changes nothing in them. The first line asks
for the package, reads it as a zip archive into memory (where the system has no memfd_create(2),
into a file that it removes), and starts the agent from it.
"""

import base64
import io
import zipfile
from importlib import resources
from pathlib import PurePosixPath

from ephemport._nodes.command import Shipment
from ephemport._nodes.wire import MARK

# Words of a command that no shell changes.
INTERPRETER = ("-m", "code")

# `input()` of the interpreter may not read ahead, so the package is sent when this asks for it.
_BOOTSTRAP = """
import os, sys
def tell(text):
    sys.stdout.write("\\n{mark}" + text + "\\n")
    sys.stdout.flush()
if sys.version_info < (3, 11):
    tell('{{"old": "%d.%d"}}' % sys.version_info[:2])
    os._exit(0)
tell('{{"ready": true}}')
package = b""
while len(package) < {size}:
    part = os.read(0, {size} - len(package))
    if not part:
        os._exit(0)
    package += part
import atexit, base64, tempfile
if hasattr(os, "memfd_create"):
    descriptor = os.memfd_create("ephemport.zip")
    path = "/proc/self/fd/%d" % descriptor
else:
    descriptor, path = tempfile.mkstemp(".zip", "ephemport-")
    atexit.register(os.unlink, path)
os.write(descriptor, base64.b64decode(package))
sys.path.insert(0, path)
from ephemport.cli import main
sys.exit(main({arguments!r}))
"""


def shipment(arguments: list[str]) -> Shipment:
    """What to send so that the far end runs `ephemport` with these arguments."""
    package = base64.b64encode(_zipped())
    source = _BOOTSTRAP.format(mark=MARK, size=len(package), arguments=arguments)
    return Shipment(f"exec({source!r})\n".encode(), package)


def _zipped() -> bytes:
    """The sources of this very package, as a zip archive."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, resources.files("ephemport"), PurePosixPath("ephemport"))
    return written.getvalue()


def _add(archive: zipfile.ZipFile, folder: resources.abc.Traversable, name: PurePosixPath) -> None:
    for one in sorted(folder.iterdir(), key=lambda one: one.name):
        if one.is_dir() and one.name != "__pycache__":
            _add(archive, one, name / one.name)
        elif one.name.endswith(".py"):
            # A fixed date: the same sources give the same archive.
            archive.writestr(zipfile.ZipInfo(str(name / one.name)), one.read_bytes())
