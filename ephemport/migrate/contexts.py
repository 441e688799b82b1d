"""What a number means where it stands: read outwards from the literal until something tells."""

from collections.abc import Sequence
from typing import TypeGuard

import libcst as cst
import libcst.matchers as m

from ephemport.migrate.uses import QUANTITY, UNKNOWN, Meaning
from ephemport.migrate.words import (
    LOCAL_HOSTS,
    binds,
    converts,
    counts,
    hostish,
    is_quantity,
    is_round,
    names_a_server,
    packs,
    portish,
    starts,
)

_UNSAID = "maybe"
# Below this, a number that is added counts ports: 9001 + 1.
_FEW = 20
_KEYED = ("get", "getenv", "setdefault", "setenv", "pop", "setitem", "setattr")
_STARTS = ("start", "run", "serve", "serve_forever", "listen", "launch", "begin")


def dotted(node: cst.CSTNode) -> str:
    """`a.b.c` for names and attributes, the callee's for calls; "" for anything else."""
    if isinstance(node, cst.Name):
        return node.value
    if isinstance(node, cst.Attribute):
        return f"{dotted(node.value)}.{node.attr.value}"
    if isinstance(node, cst.Call):
        return dotted(node.func)
    return ""


def last_name(node: cst.CSTNode) -> str:
    """The last part of `dotted()`, or the text of a key in `x["key"]`."""
    if isinstance(node, cst.Subscript) and len(node.slice) == 1:
        index = node.slice[0].slice
        if isinstance(index, cst.Index):
            return text_of(index.value) or last_name(node.value)
    return dotted(node).rpartition(".")[2]


def text_of(node: cst.BaseExpression | None) -> str:
    """The value of a plain string literal; "" for anything else."""
    if isinstance(node, cst.SimpleString):
        try:
            value = node.evaluated_value
        except (SyntaxError, ValueError):
            return ""  # an escape that Python itself refuses
        return value if isinstance(value, str) else ""
    return ""


def is_host(node: cst.BaseExpression) -> bool:
    """Whether an expression is a host of this machine, as far as can be told."""
    if isinstance(node, cst.SimpleString):
        text = text_of(node)
        return text in LOCAL_HOSTS or text.startswith("127.")
    return isinstance(node, (cst.Name, cst.Attribute, cst.Subscript)) and hostish(last_name(node))


def meaning_of(
    node: cst.CSTNode, around: Sequence[cst.CSTNode], number: int = 0
) -> tuple[Meaning, str]:
    """What the surroundings say of `node`, and the name that it is given to, if any.

    around: its ancestors, the outermost first. number: what stands there, if it is a number.
    """
    if number and any(map(_is_reckoning, around)):
        return QUANTITY, ""
    host_before = False
    column: int | None = None  # where in a row of parametrize it stands
    child = node
    level = len(around) - 1
    while level >= 0:
        parent = around[level]
        if isinstance(parent, cst.Arg):
            call = around[level - 1]
            if isinstance(call, cst.Call):
                if last_name(call.func) == "parametrize":
                    return _parametrized(call, column), ""
                if dotted(call) == "pytest.param" and parent.keyword is None:
                    column = list(call.args).index(parent)
                    child, level = call, level - 2
                    continue
                told, name = _argument(parent, call, host_before, number)
                if told is not None and told.binds == "maybe" and _is_started(call, around):
                    told = told._replace(binds="yes")
                if told is not None:
                    return told, name
                child, level = call, level - 2
                continue
            return UNKNOWN, ""
        if isinstance(parent, cst.Element):
            container = around[level - 1]
            if isinstance(container, (cst.Tuple, cst.List)):
                elements = list(container.elements)
                place = elements.index(parent)
                if column is None and isinstance(container, cst.Tuple):
                    column = place
                if place and is_host(elements[place - 1].value):
                    host_before = True
                elif place and (before := text_of(elements[place - 1].value)).startswith("-"):
                    return _after_option(before, _is_process(around[:level])), ""
                elif place and text_of(elements[place - 1].value) == "http.server":
                    return Meaning(True, "yes", "EPH001"), ""
            child, level = container, level - 2
            continue
        told, name = _surrounding(parent, child, host_before)
        if told == UNKNOWN and isinstance(parent, (cst.Assign, cst.AnnAssign)):
            # class Ports(IntEnum): HTTP = 9001
            owner = next((one for one in reversed(around) if isinstance(one, cst.ClassDef)), None)
            if owner is not None and portish(owner.name.value):
                told = Meaning(True, _UNSAID, "EPH002")
        if told is not None:
            return told, name
        child = parent
        level -= 1
    return UNKNOWN, ""


def _is_started(call: cst.Call, around: Sequence[cst.CSTNode]) -> bool:
    """Whether `Relay(9001).start()` begins here, or `with Relay(9001)`."""
    place = next(n for n, one in enumerate(around) if one is call)
    above = around[place - 1] if place else None
    if isinstance(above, cst.Attribute):
        return above.attr.value in _STARTS
    return isinstance(above, cst.WithItem)


def parameter_names(call: cst.Call) -> list[str]:
    """The names that a call of parametrize gives values to."""
    names = call.args[0].value if call.args else None
    if isinstance(names, (cst.Tuple, cst.List)):
        return [text_of(one.value) for one in names.elements]
    return [one.strip() for one in text_of(names).split(",")]


def _parametrized(call: cst.Call, column: int | None) -> Meaning:
    found = parameter_names(call)
    place = 0 if len(found) == 1 else column
    if place is None or place >= len(found) or not portish(found[place]):
        return UNKNOWN
    return Meaning(True, _UNSAID, "EPH002")


def _is_process(around: Sequence[cst.CSTNode]) -> bool:
    """Whether a list is the command line of something that stays."""
    call = next((one for one in reversed(around) if isinstance(one, cst.Call)), None)
    return call is not None and last_name(call.func) in ("Popen", "create_subprocess_exec")


def _after_option(option: str, starts: bool = False) -> Meaning:
    if option == "-p" or portish(option):
        return Meaning(True, "yes" if starts else _UNSAID, "EPH002")
    return QUANTITY if is_quantity(option) else UNKNOWN


def _argument(
    arg: cst.Arg, call: cst.Call, host_before: bool, number: int
) -> tuple[Meaning | None, str]:
    callee = last_name(call.func)
    if arg.keyword is not None:
        name = arg.keyword.value
        if portish(name) or host_before:
            return Meaning(True, binds(callee), "EPH003" if host_before else "EPH002"), name
        if name in ("args", "kwargs", "default", "target", "json", "data", "env", "params"):
            # threading.Thread(args=(9001,)), Popen(env={"PORT": ...}), add_argument(default=9001)
            if name == "default":
                option = next((text_of(one.value) for one in call.args if text_of(one.value)), "")
                return (Meaning(True, _UNSAID, "EPH002") if portish(option) else UNKNOWN), option
            return (Meaning(True, _UNSAID, "EPH003") if host_before else UNKNOWN), name
        return (QUANTITY if is_quantity(name) else UNKNOWN), name
    if host_before:
        side = binds(callee)
        return Meaning(True, side, "EPH001" if side == "yes" else "EPH003"), ""
    if callee == "range":
        return (None if len(call.args) > 1 else QUANTITY), ""
    if callee == "count" and len(call.args) == 1:
        return None, ""
    before = list(call.args)[: list(call.args).index(arg)]
    side = binds(callee)
    if before and is_host(before[-1].value):
        return Meaning(True, side, "EPH001" if side == "yes" else "EPH003"), ""
    if counts(callee):
        return (QUANTITY if is_round(number) or packs(callee) else UNKNOWN), ""
    if converts(callee):
        return None, ""
    sets = callee in _KEYED or dotted(call).endswith("patch.object")
    if sets and before:
        key = text_of(before[-1].value)
        return (Meaning(True, _UNSAID, "EPH002") if portish(key) else UNKNOWN), key
    if before and (option := text_of(before[-1].value)).startswith("-"):
        return _after_option(option), ""
    if before and text_of(before[-1].value) == "http.server":
        return Meaning(True, "yes", "EPH001"), ""
    if callee.startswith("assert"):
        others = [last_name(one.value) for one in call.args if one is not arg]
        return (Meaning(True) if any(map(portish, others)) else UNKNOWN), ""
    if side == "yes" and (names_a_server(callee) or (starts(callee) and not _is_many(number))):
        return Meaning(True, "yes", "EPH001"), ""
    if portish(callee) or callee in ("connect", "dial", "open_connection", "create_connection"):
        return Meaning(True, "no", "EPH002"), ""
    return UNKNOWN, ""


def _is_many(number: int) -> bool:
    return bool(number) and is_round(number)


def _surrounding(
    parent: cst.CSTNode, child: cst.CSTNode, host_before: bool
) -> tuple[Meaning | None, str]:
    if isinstance(parent, cst.DictElement):
        if child is parent.key:
            return None, ""
        key = text_of(parent.key) or last_name(parent.key)
        return _by_name(key, host_before, decides=False), key
    if isinstance(parent, (cst.Assign, cst.AnnAssign, cst.NamedExpr)):
        targets = (
            [one.target for one in parent.targets]
            if isinstance(parent, cst.Assign)
            else [parent.target]
        )
        names = [last_name(inner) for target in targets for inner in _parts(target)]
        told = [_by_name(name, host_before) or UNKNOWN for name in names] or [UNKNOWN]
        return max(told, key=lambda one: one.port is True), names[0] if names else ""
    if isinstance(parent, cst.Param):
        return _by_name(parent.name.value, host_before) or UNKNOWN, parent.name.value
    if isinstance(parent, (cst.For, cst.CompFor)) and child is parent.iter:
        names = [last_name(inner) for inner in _parts(parent.target)]
        is_port = host_before or any(portish(name) or name == "p" for name in names)
        return (Meaning(True, _UNSAID, "EPH002") if is_port else UNKNOWN), ""
    if isinstance(parent, cst.Comparison):
        compared = _compared(parent)
        # getpeername() == ("127.0.0.1", 9001)
        return (Meaning(True) if host_before and compared == UNKNOWN else compared), ""
    if isinstance(parent, cst.BinaryOperation):
        return _calculated(parent, child), ""
    if isinstance(parent, (cst.UnaryOperation, cst.Slice)):
        return QUANTITY, ""
    if isinstance(parent, cst.FunctionDef):
        # def get_port(): return 9001
        return Meaning(True, _UNSAID, "EPH002") if portish(parent.name.value) else UNKNOWN, ""
    if isinstance(parent, (cst.Return, cst.Yield)):
        return (Meaning(True, _UNSAID, "EPH003") if host_before else None), ""
    if isinstance(parent, (cst.SimpleStatementLine, cst.BaseCompoundStatement)):
        return (Meaning(True, _UNSAID, "EPH003") if host_before else UNKNOWN), ""
    return None, ""


def _by_name(name: str, host_before: bool, decides: bool = True) -> Meaning | None:
    if host_before:
        return Meaning(True, _UNSAID, "EPH003")
    if portish(name):
        return Meaning(True, _UNSAID, "EPH002")
    if is_quantity(name):
        return QUANTITY
    return UNKNOWN if decides else None


def _compared(comparison: cst.Comparison) -> Meaning:
    operators = [target.operator for target in comparison.comparisons]
    if any(
        isinstance(one, (cst.LessThan, cst.LessThanEqual, cst.GreaterThan, cst.GreaterThanEqual))
        for one in operators
    ):
        return QUANTITY
    sides = [comparison.left, *(target.comparator for target in comparison.comparisons)]
    names = [last_name(side) for side in sides]
    if any(isinstance(side, cst.Call) and packs(last_name(side)) for side in sides):
        return QUANTITY
    if any(map(portish, names)):
        return Meaning(True)
    if any(map(is_quantity, names)):
        return QUANTITY
    return UNKNOWN


def _is_reckoned(node: cst.CSTNode) -> bool:
    """Whether one number is made of two others, as in add(5000, 101) == 5101."""
    found = [int(one.value, 0) for one in m.findall(node, m.Integer()) if _is_integer(one)]
    numbers = sorted({number for number in found if number > _FEW})
    if not 2 <= len(numbers) <= 5:
        return False
    pairs = [(one, other) for one in numbers for other in numbers]
    return any(one + other in numbers or one * other in numbers for one, other in pairs)


def _is_reckoning(node: cst.CSTNode) -> bool:
    checks = isinstance(node, cst.Comparison) or (
        isinstance(node, cst.Call) and last_name(node.func).startswith("assert")
    )
    return checks and _is_reckoned(node)


def _is_integer(node: cst.CSTNode) -> TypeGuard[cst.Integer]:
    return isinstance(node, cst.Integer)


def _calculated(operation: cst.BinaryOperation, child: cst.CSTNode) -> Meaning | None:
    """None when it may be a base from which ports are counted: what is outside decides."""
    if isinstance(operation.operator, cst.Modulo) and child is operation.right:
        text = operation.left
        while isinstance(text, cst.BinaryOperation):
            text = text.left
        is_text = isinstance(text, (cst.SimpleString, cst.ConcatenatedString))
        return UNKNOWN if is_text or last_name(text).isupper() else QUANTITY
    if not isinstance(operation.operator, (cst.Add, cst.Subtract)):
        return None if isinstance(child, cst.Tuple) else QUANTITY
    other = operation.left if child is operation.right else operation.right
    if isinstance(operation.operator, cst.Subtract) and child is operation.right:
        return QUANTITY
    # PORT + 10000: the literal is the distance.
    return QUANTITY if portish(last_name(other)) else None


def _parts(target: cst.BaseExpression) -> list[cst.BaseExpression]:
    if isinstance(target, (cst.Tuple, cst.List)):
        return [element.value for element in target.elements]
    return [target]
