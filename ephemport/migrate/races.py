"""What races without any number: pickers that let go, and sleeps that wait for a server."""

import re
from collections.abc import Callable

import libcst as cst
import libcst.matchers as m

from ephemport.migrate.contexts import dotted, last_name
from ephemport.migrate.uses import File, Function
from ephemport.migrate.words import STARTS_PROCESSES, imports_again, words

Report = Callable[[cst.CSTNode, str, str], None]

_PICKER_MODULES = {"portpicker", "port_for", "ephemeral_port_reserve"}
_PICKERS = re.compile(
    r"(?:pick|find|get|select|choose)_?(?:an?_)?(?:unused|free|open|available|random)_(?:tcp_|udp_)?"
    r"ports?|unused_(?:tcp_|udp_)?port|free_(?:tcp_|udp_)?port|unused_port_socket"
)
_PICKER_FIXTURES = {
    f"{kind}_{protocol}_port{factory}"
    for kind in ("unused", "free")
    for protocol in ("tcp", "udp")
    for factory in ("", "_factory")
} | {"unused_port", "free_port"}
_STARTERS = {"popen", "subprocess", "serve", "start", "launch", "spawn", "thread", "process"}
_SLEEPERS = {"time.sleep", "sleep", "asyncio.sleep", "anyio.sleep", "trio.sleep", "gevent.sleep"}
_SHORTEST = 0.04
_SETS_OPTION = re.compile(r"SO_REUSE(ADDR|PORT)|reuse_address|reuse_port")


def look_at_function(node: cst.FunctionDef, report: Report) -> None:
    """EPH101: bind to 0, read the number, close, return it."""
    bound = m.findall(node.body, m.Call(func=m.Attribute(attr=m.Name("bind"))))
    binding = [one for one in bound if isinstance(one, cst.Call) and _binds_zero(one)]
    if not binding or m.findall(node.body, m.FunctionDef()):
        return
    # Everything is tried on the text of small things: the shapes people write are many.
    taken = {
        last_name(one.targets[0].target)
        for one in m.findall(node.body, m.Assign())
        if isinstance(one, cst.Assign) and _reads_number(one.value)
    }
    for one in m.findall(node.body, m.Assign()):
        if isinstance(one, cst.Assign) and _reads_number(one.value):
            target = one.targets[0].target
            if isinstance(target, cst.Tuple):
                taken |= {last_name(part.value) for part in target.elements}
    sockets = {last_name(one.func.value) for one in binding if isinstance(one.func, cst.Attribute)}
    returned = [
        one.value
        for one in m.findall(node.body, m.Return() | m.Yield())
        if isinstance(one, (cst.Return, cst.Yield)) and one.value is not None
    ]
    gives_number = any(
        isinstance(one, cst.BaseExpression)
        and (_reads_number(one) or bool(_names(one) & taken))
        and not (_names_outside_calls(one) & sockets)
        for one in returned
    )
    closes = bool(
        m.findall(node.body, m.Call(func=m.Attribute(attr=m.Name("close"))))
        or m.findall(node.body, m.With())
    )
    listens = m.findall(node.body, m.Call(func=m.Attribute(attr=m.Name("listen"))))
    if gives_number and closes and not listens:
        report(
            binding[0],
            "EPH101",
            "binds to 0, reads the number and closes: it may be another's before the server binds "
            "it; use ephemport.reserve() or the fixture reserve_port",
        )


def look_at_import(node: cst.Import | cst.ImportFrom, report: Report) -> None:
    """EPH102: a picker that is imported."""
    if isinstance(node, cst.ImportFrom):
        module = dotted(node.module) if node.module is not None else ""
        # A suite's own helper is told where it is written; ours hold what they return.
        if node.relative or module.startswith("ephemport"):
            return
        names = [] if isinstance(node.names, cst.ImportStar) else node.names
        found = [dotted(one.name) for one in names]
        from_library = module in _PICKER_MODULES or module.split(".")[0] in _LIBRARIES
        picked = [name for name in found if module in _PICKER_MODULES or _PICKERS.fullmatch(name)]
        if from_library and picked:
            report(node, "EPH102", _advice(f"{module}.{picked[0]}"))
        return
    for name in (dotted(one.name) for one in node.names):
        if name in _PICKER_MODULES:
            report(node, "EPH102", _advice(name))


_LIBRARIES = {"aiohttp", "test", "torch", "pytest_asyncio", "anyio", "tornado", "xprocess", "vllm"}


def look_at_parameter(
    parameter: str, node: cst.FunctionDef, function: Function, report: Report
) -> None:
    """EPH102: a test or fixture that asks for a picker's fixture."""
    if parameter in _PICKER_FIXTURES and (function.is_fixture or function.is_test):
        at = next((one for one in node.params.params if one.name.value == parameter), node)
        report(at, "EPH102", _advice(parameter))


def _advice(name: str) -> str:
    return (
        f"{name} lets the number go before the server has it; use ephemport's server_port or "
        "reserve_port, or the same name from ephemport.dropin"
    )


def look_at_block(node: cst.IndentedBlock, report: Report) -> None:
    """EPH201: a server is started, and the next thing is a sleep of fixed length."""
    started = -9
    for place, statement in enumerate(node.body):
        if not isinstance(statement, cst.SimpleStatementLine):
            continue
        if m.findall(statement, m.Yield()):
            started = -9  # what follows is the teardown
        calls = [one for one in m.findall(statement, m.Call()) if isinstance(one, cst.Call)]
        for call in calls:
            if dotted(call) in _SLEEPERS and place - started <= 2 and _is_fixed(call):
                report(
                    call,
                    "EPH201",
                    "a fixed sleep waits for a server; use wait_listening(port, process=...)",
                )
            elif _starts_server(call):
                started = place


def _starts_server(call: cst.Call) -> bool:
    found = words(last_name(call.func))
    if "wait" in found or "stop" in found or dotted(call) in _SLEEPERS:
        return False
    about_server = any(
        word.endswith(("server", "servers", "serve", "broker", "daemon", "app"))
        for name in _names(call)
        for word in words(name)
    )
    if last_name(call.func) in ("Popen", "create_subprocess_exec", "create_subprocess_shell"):
        return True
    return about_server and bool({*found} & ({"create", "task", "run"} | _STARTERS))


def _is_fixed(call: cst.Call) -> bool:
    if len(call.args) != 1:
        return False
    value = call.args[0].value
    if isinstance(value, (cst.Integer, cst.Float)):
        return float(value.value.replace("_", "")) >= _SHORTEST
    return isinstance(value, cst.Name) and value.value.isupper()


def note_process(call: cst.Call, file: File) -> None:
    """Whether a call starts a process, and whether that one lacks our environment."""
    callee = last_name(call.func)
    if callee in STARTS_PROCESSES or dotted(call) == "subprocess.run":
        file.starts_processes += 1
        file.imports_itself = file.imports_itself or imports_again(callee, file.source)
        for argument in call.args:
            if argument.keyword is not None and argument.keyword.value == "env":
                made_elsewhere = _is_plain_name(argument.value) and "environ" in file.source
                if "environ" not in _names(argument.value) and not made_elsewhere:
                    file.hides_environment += 1
    # A socket of the suite's own, without SO_REUSEADDR as far as this file tells.
    binds_number = callee == "bind" and call.args and not _binds_zero(call)
    if binds_number and "socket" in file.source and not _SETS_OPTION.search(file.source):
        file.needs_options = True
    if callee in ("TCPServer", "ThreadingTCPServer", "ForkingTCPServer") and (
        "allow_reuse_address" not in file.source
    ):
        file.needs_options = True


def _is_plain_name(node: cst.BaseExpression) -> bool:
    """`env=env`: made elsewhere, and nearly always from os.environ."""
    return isinstance(node, (cst.Name, cst.Attribute))


def _binds_zero(call: cst.Call) -> bool:
    if not call.args or not isinstance(call.args[0].value, cst.Tuple):
        return False
    elements = call.args[0].value.elements
    return len(elements) >= 2 and m.matches(elements[1].value, m.Integer("0"))


def _reads_number(node: cst.CSTNode) -> bool:
    return "getsockname" in _names(node)


def _names(node: cst.CSTNode) -> set[str]:
    return {one.value for one in m.findall(node, m.Name()) if isinstance(one, cst.Name)}


def _names_outside_calls(node: cst.BaseExpression) -> set[str]:
    """The names that are returned themselves: `return sock, port` gives the socket away too."""
    if isinstance(node, cst.Tuple):
        return {last_name(one.value) for one in node.elements}
    return {node.value} if isinstance(node, cst.Name) else set()
