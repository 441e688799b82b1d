"""Servers that take datagrams."""

from tests.servers.clients import datagram, dns, says
from tests.servers.row import PYTHON, UDP_IS_EXCLUSIVE, Row, module, program

ASYNCIO = """
import asyncio, socket, sys

class Upper(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(data.upper(), address)

async def main():
    if sys.argv[1] == "fd":
        where = {"sock": socket.socket(fileno=3)}
    else:
        where = {"local_addr": ("127.0.0.1", int(sys.argv[1]))}
    await asyncio.get_running_loop().create_datagram_endpoint(Upper, **where)
    await asyncio.Event().wait()

asyncio.run(main())
"""

QUIC = """
import asyncio, socket, sys
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration

async def upper(reader, writer):
    writer.write((await reader.read()).upper())
    writer.write_eof()

async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["held"])
    configuration.load_cert_chain("cert.pem", "key.pem")
    if sys.argv[1] == "fd":
        where = {"sock": socket.socket(fileno=3)}
    else:
        where = {"local_addr": ("127.0.0.1", int(sys.argv[1]))}
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: QuicServer(
            configuration=configuration,
            stream_handler=lambda *streams: tasks.append(asyncio.ensure_future(upper(*streams)))),
        **where)
    await asyncio.Event().wait()

tasks = []
asyncio.run(main())
"""

QUIC_CLIENT = """
import asyncio, sys
from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration

async def main():
    configuration = QuicConfiguration(alpn_protocols=["held"], cafile="cert.pem")
    async with connect("127.0.0.1", int(sys.argv[1]), configuration=configuration,
                       local_port=0) as client:
        reader, writer = await client.create_stream()
        writer.write(b"held")
        writer.write_eof()
        print((await reader.read()).decode())

asyncio.run(asyncio.wait_for(main(), 20))
"""

CERTIFICATE = """
import datetime, ipaddress
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "held")])
now = datetime.datetime.now(datetime.timezone.utc)
day = datetime.timedelta(days=1)
certificate = (
    x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    .not_valid_before(now - day).not_valid_after(now + day)
    .add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    .sign(key, hashes.SHA256()))
open("cert.pem", "wb").write(certificate.public_bytes(serialization.Encoding.PEM))
open("key.pem", "wb").write(key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
"""

NODE = """
const server = require("dgram").createSocket("udp4");
const port = process.argv[2];
server.on("message", (data, peer) =>
    server.send(data.toString().toUpperCase(), peer.port, peer.address));
if (port === "fd") server.bind({fd: 3}); else server.bind(+port, "127.0.0.1");
"""

ROWS = [
    Row(
        name="Python `asyncio`, UDP",
        takes="`create_datagram_endpoint(..., local_addr=(host, port))`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`sock=`",
        activated=(PYTHON, "server.py", "fd"),
        files={"server.py": ASYNCIO},
        talk=datagram(b"held", b"HELD"),
        protocol="udp",
        refuses=UDP_IS_EXCLUSIVE,
        core=True,
    ),
    Row(
        name="Node.js `dgram`, UDP",
        takes="`socket.bind(port, host)`",
        command=("node", "server.js", "{port}"),
        takes_socket="`bind({fd: 3})`",
        activated=("node", "server.js", "fd"),
        files={"server.js": NODE},
        talk=datagram(b"held", b"HELD"),
        needs=(program("node", "nodejs"),),
        protocol="udp",
        refuses=UDP_IS_EXCLUSIVE,
    ),
    Row(
        name="aioquic (QUIC)",
        takes="`create_datagram_endpoint(..., local_addr=(host, port))`",
        command=(PYTHON, "server.py", "{port}"),
        takes_socket="`sock=`",
        activated=(PYTHON, "server.py", "fd"),
        files={"server.py": QUIC, "client.py": QUIC_CLIENT, "certificate.py": CERTIFICATE},
        prepare=((PYTHON, "certificate.py"),),
        talk=says("HELD", PYTHON, "client.py", "{port}"),
        needs=(module("aioquic"),),
        protocol="udp",
        refuses=UDP_IS_EXCLUSIVE,
    ),
    Row(
        name="dnsmasq, UDP and TCP",
        takes="`dnsmasq --port={port}`",
        command=(
            *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"),
            *("--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces"),
            *("--address=/held.test/192.0.2.7", "--user=", "--pid-file="),
        ),
        talk=dns("held.test", "192.0.2.7"),
        needs=(program("dnsmasq", "dnsmasq-base"),),
        protocol="both",
        refuses=UDP_IS_EXCLUSIVE,
    ),
]
