"""ephemeral-port-reserve's and port-for's interfaces, held; and how many ports are kept."""

from collections.abc import Callable

RESERVE = "from ephemport.dropin.ephemeral_port_reserve import reserve\n"
PORT_FOR = "import ephemport.dropin.port_for as port_for\n"


def test_reserve(script: Callable[..., str]) -> None:
    script(
        RESERVE
        + """
from ephemport import holders
port = reserve()
assert isinstance(port, int) and holders(port)
assert reserve(port=port) != port                  # taken: another
assert reserve("0.0.0.0") and reserve("localhost") and reserve(ip="::1")
with bare(0) as other:
    port = other.getsockname()[1]
    assert reserve("127.0.0.1", port) != port
assert reserve("127.0.0.1", str(port)) == port
for address in ("192.0.2.77", "no.such.name.invalid"):
    try:
        reserve(address)
    except OSError:
        continue
    raise AssertionError(address)
with bare(port) as server:
    assert not elsewhere(port, "SO_REUSEADDR")
assert elsewhere(port, "SO_REUSEADDR")
"""
    )


def test_get_port(script: Callable[..., str]) -> None:
    script(
        PORT_FOR
        + """
from ephemport import holders
for ports in (None, (20000, 20100), {20200, 20201}, [(20300, 20310), {20400}, 20500]):
    port = port_for.get_port(ports)
    assert holders(port), port
assert 20000 <= port_for.get_port((20000, 20100)) <= 20100
assert port_for.get_port({20600, 20601}, exclude_ports=[20600]) == 20601
assert port_for.get_port(-1) is None
assert (port_for.get_port("8000"), port_for.get_port(8000)) == (8000, 8000)
assert not holders(8000)
for wrong in ({20601}, [object()], "a port", (1, 2, 3)):
    try:
        port_for.get_port(wrong)
    except (port_for.PortForException, ValueError):
        continue
    raise AssertionError(wrong)
"""
    )


def test_available_ports(script: Callable[..., str]) -> None:
    script(
        PORT_FOR
        + """
ports = port_for.available_ports()
with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
    low, high = map(int, file.read().split())
assert len(ports) > 5000
assert not {80, 443, 1024, low, high} & ports
assert not port_for.available_ports(20000, 20100, [(20050, 20060)]) & set(range(20050, 20061))
assert port_for.available_ports(20000, 20100) <= set(range(20001, 20100))
port = port_for.select_random()
assert port in ports and port_for.is_available(port)
with bare(port):
    assert not port_for.is_available(port)
assert not port_for.is_available(80)
assert port_for.select_random({20700, 20701}, {20701}) == 20700
"""
    )


def test_forked_servers_get_in(script: Callable[..., str]) -> None:
    script(
        RESERVE
        + """
port = reserve()
pid = os.fork()
if pid == 0:
    with bare(port):
        os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    )


def test_only_the_latest_are_held_where_there_are_very_many(script: Callable[..., str]) -> None:
    script(
        RESERVE
        + """
import resource
from ephemport import holders
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
ports = [reserve() for _ in range(60)]
assert all(holders(port) for port in ports[-50:])
assert not holders(ports[0])
"""
    )


def test_sockets_of_no_concern_are_left_alone(script: Callable[..., str]) -> None:
    script(
        RESERVE
        + """
reserve()
with socket.socket(socket.AF_UNIX) as sock:
    sock.bind("")
    sock.listen(1)
with bare(0, listen=False) as sock:
    sock.listen()
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
with socket.socket() as sock:
    for wrong in ("127.0.0.1", ("127.0.0.1",), ("127.0.0.1", "80"), ("127.0.0.1", 1 << 20)):
        try:
            sock.bind(wrong)
        except (TypeError, OverflowError):
            continue
        raise AssertionError(wrong)
"""
    )
