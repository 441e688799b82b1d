"""A quick look at the files without a number: what they still tell about the others' numbers.

Most files of a long tree are of this kind, and Python's own parser reads them fifty times as fast
as the one that keeps every space.
"""

import ast
import re
import warnings
from collections.abc import Iterator

from ephemport.migrate.uses import File, Function, Parameter, Supplied
from ephemport.migrate.words import STARTS_PROCESSES, imports_again, note_binding

_MAY_MATTER = re.compile(
    r"(?<![\w.])\d_?\d_?\d_?\d_?\d?(?!\w)|[nrt]\d{4,5}\b|\b[A-Z_]*PORTS?\b|getsockname|portpicker"
    r"|port_for|ephemeral_port_reserve|(?:unused|free|open|available)_\w*port"
)


def needs_reading(source: str) -> bool:
    """Whether a file has to be read closely."""
    waits = "sleep(" in source and re.search(r"Popen|[sS]erver|serve\(|subprocess", source)
    return bool(waits) or _MAY_MATTER.search(source) is not None


def glance(file: File) -> bool:
    """Note what a file tells besides numbers; False if it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    calls: list[ast.Call] = []
    named: list[tuple[str, int, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            file.identifiers.add(node.id)
        elif isinstance(node, ast.Attribute):
            file.identifiers.add(node.attr)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            file.identifiers.add(node.name)
            named.append((node.name, node.lineno, node.end_lineno or node.lineno))
            if isinstance(node, ast.ClassDef):
                file.classes[node.name] = [ast.unparse(base) for base in node.bases]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if len(node.value) < 200:
                file.strings.add(node.value)
        elif isinstance(node, ast.Call):
            calls.append(node)
    functions = []
    for one, owner in _outermost(tree):
        functions.append(one)
        file.functions[one.lineno] = _described(one, owner)
    starts = [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", file.source))]
    _note_signatures(tree, file)
    unless = _unless(tree)
    for call in calls:
        _note_call(call, file, starts, functions, named, unless)
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            names = {one.id for one in ast.walk(statement.value) if isinstance(one, ast.Name)}
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    file.made_of.append((target.id, names, 0, 0))
        elif isinstance(statement, ast.If) and "__name__" in ast.dump(statement.test):
            file.is_script = True
    return True


def _described(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str | None) -> Function:
    decorators = [ast.unparse(one) for one in node.decorator_list]
    inside = list(ast.walk(node))
    return Function(
        node.name,
        node.lineno,
        owner,
        decorators=[one.partition("(")[0] for one in decorators],
        parameters=[one.arg for one in (*node.args.posonlyargs, *node.args.args)],
        is_autouse=any("autouse=True" in one for one in decorators),
        is_async=isinstance(node, ast.AsyncFunctionDef),
        calls={_callee(one) for one in inside if isinstance(one, ast.Call)},
        names={one.id for one in inside if isinstance(one, ast.Name)}
        | {one.attr for one in inside if isinstance(one, ast.Attribute)},
    )


def _note_signatures(tree: ast.AST, file: File, owner: str = "") -> None:
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.ClassDef) else owner
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            callee, names = _signature(node, owner)
            file.signatures.setdefault(callee, set()).add(tuple(names))
        elif isinstance(node, ast.ClassDef):
            fields = [one.target for one in node.body if isinstance(one, ast.AnnAssign)]
            if known := tuple(one.id for one in fields if isinstance(one, ast.Name)):
                file.signatures.setdefault(node.name, set()).add(known)
        _note_signatures(node, file, inside)


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str) -> tuple[str, list[str]]:
    """As places.signature has it."""
    names = [one.arg for one in (*node.args.posonlyargs, *node.args.args)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    return (owner if owner and node.name in ("__init__", "__new__") else node.name), names


def _unless(tree: ast.AST, owner: str = "") -> dict[ast.Call, Parameter]:
    """The calls that stand in for a parameter: `settings or Settings()`, see places.unless."""
    found: dict[ast.Call, Parameter] = {}
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found |= _unless(node, node.name if isinstance(node, ast.ClassDef) else owner)
            continue
        callee, names = _signature(node, owner)
        for inside in ast.walk(node):
            given: ast.AST | None = None
            if isinstance(inside, ast.BoolOp) and isinstance(inside.op, ast.Or):
                given, *others = inside.values
            elif isinstance(inside, ast.IfExp):
                test = inside.test
                given = test.left if isinstance(test, ast.Compare) else test
                others = [inside.body, inside.orelse]
            if isinstance(given, ast.Name) and given.id in names:
                parameter = Parameter(callee, given.id, names.index(given.id))
                found |= {one: parameter for one in others if isinstance(one, ast.Call)}
    return found


def _callee(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _outermost(
    node: ast.AST, owner: str | None = None
) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str | None]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child, owner
        else:
            inside = child.name if owner is None and isinstance(child, ast.ClassDef) else owner
            yield from _outermost(child, inside)


def _note_call(
    node: ast.Call,
    file: File,
    starts: list[int],
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef],
    named: list[tuple[str, int, int]],
    unless: dict[ast.Call, Parameter],
) -> None:
    callee = _callee(node)
    keywords = frozenset(one.arg for one in node.keywords if one.arg)
    unpacks = any(one.arg is None for one in node.keywords)
    unpacks = unpacks or any(isinstance(one, ast.Starred) for one in node.args)
    start = starts[(node.end_lineno or 1) - 1]
    line = file.source[start:].encode()[: node.end_col_offset or 0]
    around = [one.lineno for one in functions if one.lineno <= node.lineno <= (one.end_lineno or 0)]
    names = [name for name, first, last in named if first <= node.lineno <= last and name != callee]
    note_binding(callee, names, file.binders)
    for name in names:
        file.calls_within.setdefault(name, set()).add(callee)
    file.calls.setdefault(callee, []).append(
        Supplied(
            len(node.args),
            keywords,
            unpacks,
            node.lineno,
            start + len(line.decode(errors="ignore")),
            around[0] if around else None,
            isinstance(node.func, ast.Name),
            unless.get(node),
        )
    )
    # Names in an id, as places.is_in_id has it; here a bare guess is enough.
    if callee in ("parametrize", "fixture", "param") and {"id", "ids"} & keywords:
        file.parametrize_names |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    runs = callee == "run" and "subprocess" in ast.dump(node.func)
    if callee in STARTS_PROCESSES or runs:
        file.starts_processes += 1
        file.imports_itself = file.imports_itself or imports_again(callee, file.source)
        for keyword in node.keywords:
            if keyword.arg == "env" and "environ" not in file.source:
                file.hides_environment += 1
