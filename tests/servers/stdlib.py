"""What comes with Python."""

from tests.servers.clients import http_get, line, manager_call, says, xmlrpc_call
from tests.servers.row import PYTHON, SETS_NO_OPTION, Row, module

HTTP_SERVER = """
import http.server, socket
server = http.server.ThreadingHTTPServer(
    ("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.server_name, server.server_port = server.socket.getsockname()
server.serve_forever()
"""

BARE = """
import socket, socketserver, sys

class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())

if sys.argv[1] == "fd":
    server = socketserver.TCPServer(("127.0.0.1", 0), Upper, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=3)
else:
    server = socketserver.TCPServer(("127.0.0.1", int(sys.argv[1])), Upper)
server.serve_forever()
"""

ASYNCIO = """
import asyncio, socket, sys

async def upper(reader, writer):
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()

async def main():
    if sys.argv[1] == "fd":
        server = await asyncio.start_server(upper, sock=socket.socket(fileno=3))
    else:
        server = await asyncio.start_server(upper, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"""

XMLRPC = """
import socket, sys
from xmlrpc.server import SimpleXMLRPCServer

activated = sys.argv[1] == "fd"
port = 0 if activated else int(sys.argv[1])
server = SimpleXMLRPCServer(("127.0.0.1", port), bind_and_activate=not activated)
if activated:
    server.socket.close()
    server.socket = socket.socket(fileno=3)
server.register_function(pow)
server.serve_forever()
"""

MANAGER = """
import sys
from multiprocessing.managers import BaseManager, DictProxy

table = {}
BaseManager.register("table", lambda: table, DictProxy)
BaseManager(("127.0.0.1", int(sys.argv[1])), b"held").get_server().serve_forever()
"""

ZMQ = """
import sys, zmq

socket = zmq.Context().socket(zmq.REP)
if sys.argv[2:] == ["fd"]:
    socket.setsockopt(zmq.USE_FD, 3)
socket.bind(f"tcp://127.0.0.1:{sys.argv[1]}")
while True:
    socket.send(socket.recv().upper())
"""

ZMQ_CLIENT = """
import sys, zmq

socket = zmq.Context().socket(zmq.REQ)
socket.setsockopt(zmq.RCVTIMEO, 20000)
socket.setsockopt(zmq.LINGER, 0)
socket.connect(f"tcp://127.0.0.1:{sys.argv[1]}")
socket.send(b"held")
print(socket.recv().decode())
"""

GRPC = """
import sys, grpc
from concurrent.futures import ThreadPoolExecutor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

server = grpc.server(ThreadPoolExecutor(2))
servicer = health.HealthServicer()
servicer.set("", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
"""

GRPC_CLIENT = """
import sys, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

with grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}") as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=20)
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
"""

ROWS = [
    Row(
        name="Python `http.server`",
        takes="`python -m http.server {port} --bind {host}`",
        command=(PYTHON, "-m", "http.server", "{port}", "--bind", "127.0.0.1"),
        takes_socket="`server.socket`",
        activated=(PYTHON, "server.py"),
        files={"server.py": HTTP_SERVER, "index.html": "held by http.server"},
        talk=http_get("held by http.server"),
        core=True,
    ),
    Row(
        name="Python `socketserver.TCPServer`, bare",
        takes="`TCPServer((host, port), handler)`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`server.socket`",
        activated=(PYTHON, "server.py", "fd"),
        files={"server.py": BARE},
        talk=line(b"held\n", b"HELD\n", hang_up=True),
        refuses=SETS_NO_OPTION,
        core=True,
    ),
    Row(
        name="Python `asyncio`",
        takes="`asyncio.start_server(callback, host, port)`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`sock=`",
        activated=(PYTHON, "server.py", "fd"),
        files={"server.py": ASYNCIO},
        talk=line(b"held\n", b"HELD\n", hang_up=True),
        core=True,
    ),
    Row(
        name="Python `xmlrpc.server`",
        takes="`SimpleXMLRPCServer((host, port))`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`server.socket`",
        activated=(PYTHON, "server.py", "fd"),
        files={"server.py": XMLRPC},
        talk=xmlrpc_call,
        core=True,
    ),
    Row(
        name="Python `multiprocessing` manager",
        takes="`BaseManager((host, port), key)`",
        command=(PYTHON, "server.py", "{port}"),
        files={"server.py": MANAGER},
        talk=manager_call,
        core=True,
    ),
    Row(
        name="grpcio",
        takes='`server.add_insecure_port(f"{host}:{port}")`',
        command=(PYTHON, "server.py", "{port}"),
        files={"server.py": GRPC, "client.py": GRPC_CLIENT},
        talk=says("SERVING", PYTHON, "client.py", "{port}"),
        needs=(module("grpc", "grpcio"), module("grpc_health", "grpcio-health-checking")),
    ),
    Row(
        name="pyzmq",
        takes='`socket.bind(f"tcp://{host}:{port}")`',
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`zmq.USE_FD`",
        activated=(PYTHON, "server.py", "{port}", "fd"),
        files={"server.py": ZMQ, "client.py": ZMQ_CLIENT},
        talk=says("HELD", PYTHON, "client.py", "{port}"),
        needs=(module("zmq", "pyzmq"),),
    ),
]
