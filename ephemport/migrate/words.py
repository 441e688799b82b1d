"""The vocabulary: what names, hosts and texts say about a number beside them."""

import builtins
import re
from collections.abc import Iterable

# Below are the system's own; a test cannot have meant to bind them. 65535 is everybody's maximum.
PORTS = range(1024, 65535)

# What people run beside their tests. A client of one proves nothing about who starts it.
WELL_KNOWN = frozenset(
    {1433, 1521, 1883, 2181, 2375, 2379, 3306, 4222, 4317, 4318, 4566, 5432, 5672, 5984, 6379, 6650}
    | {7474, 7687, 8086, 8125, 8500, 8983, 9042, 9092, 9200, 9300, 11211, 15672, 26379, 27017}
)


def each(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_PORT_WORDS = {"port", "ports", "listen", "bind", "addr", "address", "addresses", "endpoint"}
_NOT_PORTS = {"support", "report", "import", "export", "transport", "viewport", "passport"}
_SERVER_WORDS = each(
    "serve server servers served bind listen listener listening start starts started starting run "
    "running launch spawn boot site controller daemon broker backend worker service popen process "
    "cluster app application gateway peer httpd leader follower replica primary tcpserver "
    "httpserver wsserver echo upstream setup subprocess exec insecure"
)
_CLIENT_WORDS = each(
    "client clients connect connected connection connections get post put patch delete head "
    "request requests urlopen fetch proxy dial ping call ask query websocket wait probe check "
    "alive open is reachable ready healthy health until url urls uri redis assert expect "
    "can has verify exists"
)
_QUANTITY_WORDS = each(
    "timeout timeouts size sizes max min limit limits count counts num len length bytes delay "
    "interval seed id ids width height ttl ms sec secs seconds duration status year backlog amount "
    "total rate iterations rounds retries chunk buffer buf bufsize capacity window threshold epoch "
    "timestamp version price weight depth lines rows items pid offset sleep quota budget balance "
    "salary distance users connections threads "
    "entries records points events hits score maxsize nbytes deadline expires ago repeat times"
)
_QUANTITY_CALLS = each(
    "sleep recv recv_into read readexactly readline seek urandom randint "
    "token_bytes token_hex zfill ljust rjust center truncate repeat islice "
    "timedelta datetime date Decimal Fraction settimeout alarm call_later fromtimestamp"
)
_PACKS = each("pack pack_into unpack unpack_from to_bytes from_bytes encode decode")
_CONVERSIONS = each(
    "int str repr list tuple set frozenset dict sorted zip enumerate partial cast iter next "
    "reversed cycle chain deque Value format hash index SimpleNamespace deepcopy copy"
)

_STARTING = each("start run launch serve spawn boot open listen bind make create setup starts")
_BINDING = each(
    "bind listen create_server start_server create_datagram_endpoint serve_forever TCPSite "
    "HTTPServer ThreadingHTTPServer TCPServer ThreadingTCPServer UDPServer ThreadingUDPServer "
    "make_server run_simple WSGIServer SimpleXMLRPCServer add_insecure_port add_secure_port "
    "start_unix_server Popen"
)
# Methods that anything may have.
_EVERYBODYS = each("start run main __init__ setUp setUpClass __enter__ __aenter__ open connect")
STARTS_PROCESSES = each(
    "Popen create_subprocess_exec create_subprocess_shell check_output check_call Process "
    "ProcessPoolExecutor Pool"
)
# Whose children import the suite's modules again.
_IMPORTS_AGAIN = each("Process ProcessPoolExecutor Pool")
_PURE_CALLS = each("raises param mark fullmatch search sub findall copy loads dumps asdict")
_PURE_WORDS = each(
    "parse parser parsed url urls uri urlparse urlsplit urljoin urlunparse split validate valid "
    "normalize format quote unquote encode decode settings config address pattern"
)

LOCAL_HOSTS = frozenset(
    {"localhost", "127.0.0.1", "0.0.0.0", "::1", "[::1]", "::", "[::]", "*", "", "ip6-localhost"}
)


def words(name: str) -> list[str]:
    """`startHTTPServer` and `start_http_server` as [start, http, server]."""
    return [
        word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name.replace("_", " "))
    ]


def portish(name: str) -> bool:
    """Whether something of this name is a port, or an address with one."""
    return any(
        word in _PORT_WORDS
        or (word.endswith(("port", "ports")) and word.rstrip("s") not in _NOT_PORTS)
        for word in words(name)
    )


def hostish(name: str) -> bool:
    """Whether something of this name is a host."""
    return any(
        word in {"host", "hosts", "hostname", "ip", "addr", "address", "interface", "localhost"}
        or word == "loopback"
        for word in words(name)
    )


def is_quantity(name: str) -> bool:
    """Whether something of this name is counted or measured."""
    return not _QUANTITY_WORDS.isdisjoint(words(name))


def counts(call: str) -> bool:
    """Whether what this function takes is counted or measured, or no port at any rate."""
    return call in _QUANTITY_CALLS or packs(call)


def packs(call: str) -> bool:
    """Whether this function makes bytes of numbers, or numbers of bytes."""
    return call in _PACKS


def converts(call: str) -> bool:
    """Whether this function only passes on what it is given."""
    return call in _CONVERSIONS


def binds(call: str) -> str:
    """Whether what is called so binds the number that it is given: "yes", "no" or "maybe".

    The last telling word decides between `connect_to_server` and `client_server`, except that who
    names a client first is one: `connect_server`, `ServerProxy`, `wait_for_server`.
    """
    found = words(call)
    if not found:
        return "maybe"
    if call[:1].isupper() and found[-1].endswith(("server", "servers", "daemon", "broker")):
        return "yes"  # OpenADRServer, WebSocketServer
    if found[0] in _CLIENT_WORDS or found[-1] in {"client", "connection", "proxy", "connect"}:
        return "no"
    if any(word in _SERVER_WORDS or word.endswith("server") for word in found):
        return "yes"
    return "no" if any(word in _CLIENT_WORDS for word in found) else "maybe"


def imports_again(callee: str, source: str) -> bool:
    """Whether a call of this name, in this file, starts a child that imports modules anew."""
    return callee in _IMPORTS_AGAIN and ("multiprocessing" in source or "futures" in source)


def note_binding(callee: str, names: Iterable[str], binders: set[str]) -> None:
    """Note what binds: the classes and functions of these names, around a call of `callee`."""
    if callee in _BINDING:
        binders |= {name for name in names if not is_everybodys(name)}


def is_everybodys(name: str) -> bool:
    """Whether a method of this name proves nothing about another of the same name."""
    return name in _EVERYBODYS


def names_a_server(call: str) -> bool:
    """Whether what is called so is a server without doubt, and not only something that starts."""
    certain = {"server", "servers", "serve", "bind", "listen", "listener", "site", "httpd", "popen"}
    return any(word in certain or word.endswith("server") for word in words(call))


def starts(call: str) -> bool:
    """Whether what is called so starts something, as far as its first word tells."""
    found = words(call)
    return bool(found) and found[0] in _STARTING


def is_pure(call: str) -> bool:
    """Whether a function of this name surely neither starts nor reaches a server."""
    if hasattr(builtins, call) or hasattr(str, call) or call in _PURE_CALLS:
        return call not in ("open", "input", "exec", "eval")
    if call.startswith("assert"):
        return True
    found = words(call)
    if call[:1].isupper():
        return not any(
            word in _SERVER_WORDS | _CLIENT_WORDS - {"url", "urls", "uri"}
            or word.endswith("server")
            for word in found
        )
    return not _PURE_WORDS.isdisjoint(found) and "server" not in found


def is_round(number: int) -> bool:
    """Whether people write this number for many other reasons too."""
    return number % 500 == 0 or number & (number - 1) == 0 or 1900 <= number <= 2100
