"""What is found: the codes, and what each of them means and asks for."""

from typing import NamedTuple


class Code(NamedTuple):
    """A code's one line and its explanation."""

    title: str
    explanation: str


CODES: dict[str, Code] = {
    "EPH001": Code(
        "hard-coded port that is bound",
        "A server is given a number that stands in the source: two workers, or two runs on one "
        "machine, cannot both have it.\n"
        "--write puts a documented fixture (server_port, port_pair, server_cluster_ports, "
        "TestPortManager, session_reserve_port) or port_map[9001] in its place, together with all "
        "other uses of the number.",
    ),
    "EPH002": Code(
        "hard-coded port as a keyword, a default or a named constant",
        "port=9001, PORT = 9001, {'port': 9001}, '--port', '9001'. Rewritten as EPH001 is, if "
        "something in the tree binds the number or may bind it.",
    ),
    "EPH003": Code(
        "hard-coded port in a URL or a host:port string or tuple",
        "'ws://127.0.0.1:9001' becomes f'ws://127.0.0.1:{port_map[9001]}'. Only for this machine's "
        "addresses: a URL of another host is data. A number that nothing in the tree binds is left "
        "alone: somebody else starts that service.",
    ),
    "EPH101": Code(
        "bind to 0, read the number, close, return it",
        "Between the close and the server's own bind the number belongs to nobody, and another "
        "worker may be given it. Use ephemport.reserve(), the fixture reserve_port or "
        "ephemport.compat.allocate_port(): they hold the number until the server has it.",
    ),
    "EPH102": Code(
        "a port picker that does not hold what it picked",
        "portpicker, port-for, ephemeral-port-reserve, unused_tcp_port and the like return the "
        "number of a socket that is closed already. ephemport.dropin has the same names, held.",
    ),
    "EPH103": Code(
        "port_map looked up at import, beside a runner that forks",
        "PORT = port_map[9001] in a module, a class or a default value is evaluated when the file "
        "is imported. Django's manage.py test --parallel imports the tests and then forks its "
        "workers, and all of them have the same port.\n"
        "Look it up where it is used: port_map[9001] in a function, setUp() or setUpClass() is the "
        "worker's own. Or give every worker a network of its own: TEST_RUNNER = "
        '"ephemport.django.IsolatedRunner" in the settings, or ephemport.isolate() in the '
        "initializer of a pool.",
    ),
    "EPH201": Code(
        "fixed sleep that waits for a server",
        "Too short on a busy machine and too long on every other. Use "
        "ephemport.wait_listening(port, process=...): it returns as soon as the server listens and "
        "says why when it does not.",
    ),
    "EPH900": Code(
        "a file that cannot be read as Python",
        "It is left as it is, and so is every number that occurs in it.",
    ),
}


def table() -> str:
    """All codes, a line each."""
    return "\n".join(f"  {name}  {code.title}" for name, code in CODES.items())


def explain(name: str) -> str:
    """The explanation of one code. ValueError for an unknown one."""
    code = CODES.get(name.upper())
    if code is None:
        raise ValueError(f"unknown code {name!r}; known are {', '.join(CODES)}")
    return f"{name.upper()}: {code.title}\n\n{code.explanation}"


def selected(select: str | None, ignore: str | None) -> frozenset[str]:
    """The codes of `--select` without those of `--ignore`; prefixes such as EPH1 stand for all."""
    chosen = _matching(select, "--select") if select else set(CODES)
    return frozenset(chosen - (_matching(ignore, "--ignore") if ignore else set()))


def _matching(text: str, option: str) -> set[str]:
    found: set[str] = set()
    for prefix in filter(None, (part.strip().upper() for part in text.split(","))):
        matching = {name for name in CODES if name.startswith(prefix)}
        if not matching:
            raise ValueError(f"{option} {prefix}: no such code; known are {', '.join(CODES)}")
        found |= matching
    return found
