"""Where a literal stands: what may be put there, and what has been put there already."""

import re
from collections.abc import Sequence

import libcst as cst
import libcst.matchers as m

from ephemport.migrate.contexts import dotted, last_name, parameter_names
from ephemport.migrate.functions import is_mapped
from ephemport.migrate.uses import Default, Parameter
from ephemport.migrate.words import each

_MOCKS = re.compile(r"mock|responses|respx|vcr|httpretty|fake_http|stub_request", re.I)

# The libraries parameterized and ddt name tests after the values.
_PARAMETERIZED = each(
    "parameterized parameterized.expand parameterized_class ddt.data data idata ddt.idata"
)
_DESCRIBES = each("help description epilog usage metavar")
_TELLS = each("print echo secho debug info warning warn error exception critical log fail skip")


def parameter(stack: Sequence[cst.CSTNode]) -> str:
    """The parameter that a value of parametrize is given to as it is; "" if not so."""
    calls = [n for n, one in enumerate(stack) if _is_parametrize(one)]
    inside = stack[calls[-1] :]
    call = inside[0]
    if not isinstance(call, cst.Call) or len(call.args) < 2 or call.args[1] is not inside[1]:
        return ""
    if any(one.keyword is not None and one.keyword.value == "indirect" for one in call.args):
        return ""
    names = parameter_names(call)
    shape = [type(one) for one in inside[2:]]
    if shape[:2] not in ([cst.List, cst.Element], [cst.Tuple, cst.Element]):
        return ""
    row = inside[4:]
    place = 0
    if len(row) == 2 and isinstance(row[0], cst.Tuple) and isinstance(row[1], cst.Element):
        place = list(row[0].elements).index(row[1])
    elif len(row) == 2 and isinstance(row[0], cst.Call) and isinstance(row[1], cst.Arg):
        place = list(row[0].args).index(row[1])
    elif row or len(names) != 1:
        return ""
    return names[place] if place < len(names) else ""


def is_mixed(stack: Sequence[cst.CSTNode]) -> bool:
    """Whether parametrize gives some parameter values that are no texts."""
    values = _values(stack)
    return not values or not all(isinstance(one, cst.SimpleString) for one in values)


def values_beside(stack: Sequence[cst.CSTNode]) -> frozenset[int]:
    """All that parametrize gives its only parameter, if these are plain numbers."""
    values = _values(stack)
    numbers = [int(one.value, 0) for one in values if isinstance(one, cst.Integer)]
    return frozenset(numbers) if len(numbers) == len(values) else frozenset()


def _values(stack: Sequence[cst.CSTNode]) -> list[cst.BaseExpression]:
    """What the innermost parametrize gives; nothing if that is not written down there."""
    call = next((one for one in reversed(stack) if _is_parametrize(one)), None)
    values = call.args[1].value if isinstance(call, cst.Call) else None
    if not isinstance(values, (cst.List, cst.Tuple)):
        return []
    return [one.value for one in values.elements]


def is_drawn(computed: cst.CSTNode) -> bool:
    """Whether a function has a say in a sum: a random number, a process id, a worker's number."""
    return any(
        isinstance(one, cst.Call) and last_name(one.func) not in ("int", "len", "abs", "next")
        for one in m.findall(computed, m.Call())
    )


def obstacle(stack: Sequence[cst.CSTNode]) -> str:
    """Why nothing but a literal can stand here."""
    for node in stack:
        if isinstance(node, cst.Annotation):
            return "it stands in an annotation"
        if isinstance(node, (cst.MatchPattern, cst.MatchCase)) and any(
            isinstance(one, cst.MatchPattern) for one in stack
        ):
            return "it stands in a match pattern"
        if isinstance(node, cst.Call):
            if dotted(node) in _PARAMETERIZED:
                return "the test's name is made of it, and names must agree between workers"
            if last_name(node.func) == "parametrize" or dotted(node) == "pytest.param":
                return "it is an argument of parametrize, and ids must agree between workers"
            if last_name(node.func) == "fixture":
                return "it is a parameter of a fixture, and ids must agree between workers"
        if isinstance(node, cst.Call) and dotted(node).endswith("environ.setdefault"):
            return "workers inherit the environment that their controller sets first"
        if isinstance(node, cst.Subscript) and last_name(node.value) == "Literal":
            return "it stands in a type"
    return ""


def is_in_id(stack: Sequence[cst.CSTNode]) -> bool:
    """Whether a test's id is made of what stands here, in a way that the plugin does not see."""
    for node in stack:
        if not isinstance(node, cst.Call):
            continue
        if dotted(node) in _PARAMETERIZED:
            return True
        if last_name(node.func) not in ("parametrize", "fixture", "param"):
            continue
        if any(isinstance(one, cst.BinaryOperation) and _adds(one) for one in stack):
            return True
        for argument in node.args:
            if argument.keyword is not None and argument.keyword.value in ("id", "ids"):
                made = argument.value
                elements = made.elements if isinstance(made, (cst.List, cst.Tuple)) else ()
                plain = [isinstance(one.value, cst.SimpleString) for one in elements]
                if not (isinstance(made, cst.SimpleString) or (plain and all(plain))):
                    return True
    return False


def _adds(operation: cst.BinaryOperation) -> bool:
    return isinstance(operation.operator, (cst.Add, cst.Subtract))


def is_migrated(stack: Sequence[cst.CSTNode]) -> bool:
    """Whether the number stands in port_map[...] or port_map.environ(...) already."""
    return any(
        is_mapped(one)
        or (isinstance(one, (cst.ListComp, cst.GeneratorExp)) and is_mapped(one.elt))
        or (isinstance(one, cst.DictElement) and is_mapped(one.value))
        or (isinstance(one, cst.Call) and dotted(one).endswith("port_map.environ"))
        for one in stack
    )


def is_replaced(stack: Sequence[cst.CSTNode]) -> bool:
    """Whether this is the first half of `.replace("9001", str(port_map[9001]))`."""
    call = stack[-2] if len(stack) > 1 else None
    if not isinstance(call, cst.Call) or last_name(call.func) != "replace":
        return False
    inner = call.args[-1].value
    return isinstance(inner, cst.Call) and any(is_mapped(one.value) for one in inner.args)


def is_documentation(stack: Sequence[cst.CSTNode]) -> bool:
    """Whether a string stands alone as a statement."""
    around = [one for one in stack if not isinstance(one, cst.ConcatenatedString)]
    return bool(around) and isinstance(around[-1], cst.Expr)


def is_mocked(around: Sequence[cst.CSTNode]) -> bool:
    """Whether a library that answers in a server's place is told of an address."""
    call = next((one for one in reversed(around) if isinstance(one, cst.Call)), None)
    return call is not None and bool(_MOCKS.search(dotted(call)))


def is_told(stack: Sequence[cst.CSTNode]) -> bool:
    """Whether it only goes to people: printed, logged, raised, or in the help of an option."""
    for place, node in enumerate(stack):
        if isinstance(node, cst.Raise):
            return True
        if isinstance(node, cst.Arg) and node.keyword and node.keyword.value in _DESCRIBES:
            return True
        # Not the callee: print itself tells nothing.
        is_argument = place + 1 < len(stack) and isinstance(stack[place + 1], cst.Arg)
        if is_argument and isinstance(node, cst.Call) and last_name(node.func) in _TELLS:
            return True
    return False


def is_fallback(stack: Sequence[cst.CSTNode]) -> bool:
    """Whether it holds only if something else was not given: `port or 9001`."""
    return any(
        isinstance(node, (cst.BooleanOperation, cst.IfExp))
        or (isinstance(node, cst.Call) and last_name(node.func) in ("get", "getattr", "getenv"))
        for node in stack
    )


def _is_parametrize(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Call) and last_name(node.func) == "parametrize"


def signature(node: cst.FunctionDef, stack: Sequence[cst.CSTNode]) -> tuple[str, tuple[str, ...]]:
    """By which name a function is called, and its parameters by position."""
    names = [one.name.value for one in (*node.params.posonly_params, *node.params.params)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    callee = node.name.value
    if callee in ("__init__", "__new__"):
        outer = [one for one in stack if isinstance(one, cst.ClassDef)]
        callee = outer[-1].name.value if outer else callee
    return callee, tuple(names)


def unless(stack: Sequence[cst.CSTNode]) -> Parameter | None:
    """The parameter that `settings or Settings()` stands in for."""
    parent = stack[-1] if stack else None
    given: cst.CSTNode | None = None
    if isinstance(parent, cst.BooleanOperation) and isinstance(parent.operator, cst.Or):
        given = parent.left
    elif isinstance(parent, cst.IfExp):
        given = parent.test.left if isinstance(parent.test, cst.Comparison) else parent.test
    if not isinstance(given, cst.Name):
        return None
    place = max((n for n, one in enumerate(stack) if isinstance(one, cst.FunctionDef)), default=-1)
    function = stack[place] if place >= 0 else None
    if not isinstance(function, cst.FunctionDef):
        return None
    callee, names = signature(function, stack[:place])
    if given.value not in names:
        return None
    return Parameter(callee, given.value, names.index(given.value))


def in_class(stack: Sequence[cst.CSTNode]) -> str:
    """The outermost class, if its names are known here: not in a comprehension of its body."""
    owner = next((one for one in stack if isinstance(one, cst.ClassDef)), None)
    in_method = any(isinstance(one, cst.FunctionDef) for one in stack)
    hidden = any(isinstance(one, (cst.BaseComp, cst.Lambda)) for one in stack)
    return owner.name.value if owner is not None and (in_method or not hidden) else ""


def fields(node: cst.ClassDef) -> list[str]:
    """The annotated names of a class: a dataclass takes them in this order."""
    return [
        last_name(small.target)
        for line in node.body.body
        if isinstance(line, cst.SimpleStatementLine)
        for small in line.body
        if isinstance(small, cst.AnnAssign)
    ]


def default_at(
    stack: Sequence[cst.CSTNode], numbers: tuple[int, ...], line: int, alias: str = ""
) -> Default | None:
    """The default value that stands here: of a parameter, or of a field of a dataclass."""
    for place in range(len(stack) - 1, -1, -1):
        node = stack[place]
        if isinstance(node, cst.Param) and place >= 2:
            parameters = stack[place - 1]
            owner = stack[place - 2]
            if isinstance(parameters, cst.Parameters) and isinstance(owner, cst.FunctionDef):
                callee, names = signature(owner, stack[: place - 2])
                parameter = node.name.value
                at = names.index(parameter) if parameter in names else 99
                return Default(numbers, callee, parameter, at, line, alias)
            return None
        if isinstance(node, cst.AnnAssign):
            outer_class = next(
                (one for one in reversed(stack[:place]) if isinstance(one, cst.ClassDef)),
                None,
            )
            if outer_class is not None and isinstance(node.target, cst.Name):
                names = tuple(fields(outer_class))
                field = node.target.value
                at = names.index(field) if field in names else 99
                return Default(numbers, outer_class.name.value, field, at, line, alias)
            return None
    return None
