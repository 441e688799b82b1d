"""PyTorch's rendezvous. A large installation, and so an extra of its own."""

from tests.servers.clients import says
from tests.servers.row import PYTHON, Row, module

STORE = """
import sys, threading
from torch.distributed import TCPStore

port, *more = sys.argv[1:]
more = {"fd": {"master_listen_fd": 3}, "plain": {"use_libuv": False}}[more[0]] if more else {}
store = TCPStore("127.0.0.1", int(port), is_master=True, wait_for_workers=False, **more)
store.set("answer", "held")
threading.Event().wait()
"""

STORE_CLIENT = """
import sys
from torch.distributed import TCPStore

print(TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False).get("answer").decode())
"""

# The process that is started is rank 0, whose store listens on MASTER_PORT; the client is rank 1.
GLOO = """
import os, sys, threading, torch, torch.distributed

rank = int(os.environ["RANK"])
torch.distributed.init_process_group("gloo")
tensor = torch.tensor([40 if rank == 0 else 2])
torch.distributed.all_reduce(tensor)
print(tensor.item(), flush=True)
if rank == 0:
    threading.Event().wait()
"""

GLOO_CLIENT = """
import os, sys

os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[1], WORLD_SIZE="2", RANK="1")
exec(open("rank.py").read())
"""

ROWS = [
    Row(
        name="PyTorch `TCPStore`",
        takes="`TCPStore(host, port, is_master=True)`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`master_listen_fd=3`",
        activated=(PYTHON, "server.py", "{port}", "fd"),
        files={"server.py": STORE, "client.py": STORE_CLIENT},
        talk=says("held", PYTHON, "client.py", "{port}"),
        needs=(module("torch"),),
    ),
    Row(
        name="PyTorch `TCPStore`, without libuv",
        takes="`TCPStore(host, port, is_master=True, use_libuv=False)`",
        command=(PYTHON, "server.py", "{port}", "plain"),
        files={"server.py": STORE, "client.py": STORE_CLIENT},
        talk=says("held", PYTHON, "client.py", "{port}"),
        needs=(module("torch"),),
    ),
    Row(
        name="PyTorch process group, gloo, two processes",
        takes="`MASTER_PORT={port}`",
        command=(
            *("env", "MASTER_ADDR=127.0.0.1", "MASTER_PORT={port}", "WORLD_SIZE=2", "RANK=0"),
            *(PYTHON, "rank.py"),
        ),
        files={"rank.py": GLOO, "client.py": GLOO_CLIENT},
        talk=says("42", PYTHON, "client.py", "{port}"),
        needs=(module("torch"),),
    ),
]
