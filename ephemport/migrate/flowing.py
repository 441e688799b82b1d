"""Where a number goes that says nothing of itself: through variables, to something that tells.

`n = 9001`, `for n in (9001, 9002)`, `_next = 9001` with a method that counts on, `return 9001`:
what is done with the name says what the number is. A name is followed within its file, for as many
steps as people take.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from ephemport.migrate.contexts import last_name, meaning_of, parameter_names
from ephemport.migrate.words import converts

_STEPS = 5
# Which argument is the function that is called with the others.
_CALLS_ITS = {"submit": 0, "to_thread": 0, "partial": 0, "call_soon": 0, "run_in_executor": 1}
_TAKES = ("pop", "popleft", "get", "get_nowait")
_PASSES_ON = ("range", "count", "append", "add", "put", "cycle", "param")


class Name(NamedTuple):
    """A variable of the outermost function that begins at `line`.

    Where that is None: a variable of the module, an attribute, or what a function returns.
    """

    line: int | None
    name: str


Lines = Callable[[cst.CSTNode], int]


class Flow:
    """The names of one module that numbers go to, and what is done with them."""

    def __init__(self, module: cst.Module, line_of: Lines) -> None:
        self.module = module
        self.line_of = line_of
        self.parameters: dict[str, list[tuple[int, Sequence[str]]]] = defaultdict(list)
        self.told: dict[Name, set[str]] = defaultdict(set)
        self.callees: dict[Name, set[str]] = defaultdict(set)
        self.counted: set[Name] = set()
        self.own: dict[int, set[str]] = {}
        self.leads: dict[Name, set[Name]] = defaultdict(set)

    def note_function(self, callee: str, names: Sequence[str], outermost: cst.CSTNode) -> None:
        """A function of the module, whose parameters take what it is called with."""
        self.parameters[callee].append((self.line_of(outermost), names))

    def follow(self, names: set[Name]) -> None:
        """Read what the module does with these names, and with those that they lead to."""
        known: set[Name] = set()
        for _ in range(_STEPS):
            names = names - known
            if not names:
                return
            known |= names
            self.module.visit(_Loads(self, names))
            names = {after for name in names for after in self.leads[name]}

    def told_by(self, names: set[Name]) -> tuple[set[str], set[str], bool]:
        """What becomes of the names: sides as in Meaning.binds, what is called, is it added to."""
        sides: set[str] = set()
        callees: set[str] = set()
        seen: set[Name] = set()
        while names:
            seen |= names
            for name in names:
                sides |= self.told[name]
                callees |= self.callees[name]
            names = {after for name in names for after in self.leads[name]} - seen
        return sides, callees, not seen.isdisjoint(self.counted)

    def targets(self, node: cst.CSTNode, stack: Sequence[cst.CSTNode]) -> Iterator[Name]:
        """The names that the value of `node` is given to. stack: its ancestors."""
        level = len(stack) - 1
        while level >= 0:
            parent = stack[level]
            if isinstance(parent, cst.Arg):
                call = stack[level - 1]
                if not isinstance(call, cst.Call):
                    return
                callee = last_name(call.func)
                if callee == "parametrize":
                    for name in parameter_names(call):
                        yield self.local(name, stack)
                    return
                if callee == "fixture":  # its params
                    yield Name(None, "param")
                    return
                if not converts(callee) and callee not in _PASSES_ON:
                    yield from self._parameter(*passed_to(stack[: level + 1], node))
                    return
                if callee in ("append", "add", "put") and isinstance(call.func, cst.Attribute):
                    yield from self._names(call.func.value, stack)
                    return
                node, level = call, level - 2
                continue
            if isinstance(parent, (cst.Assign, cst.AnnAssign, cst.NamedExpr, cst.AugAssign)):
                if isinstance(parent, cst.Assign):
                    for target in parent.targets:
                        yield from self._names(target.target, stack)
                else:
                    yield from self._names(parent.target, stack)
                return
            if isinstance(parent, (cst.For, cst.CompFor)):
                if node is parent.iter:
                    yield from self._names(parent.target, stack)
                return
            if isinstance(parent, (cst.Return, cst.Yield)):
                functions = [one for one in stack if isinstance(one, cst.FunctionDef)]
                if functions:
                    yield Name(None, functions[-1].name.value)
                return
            if isinstance(parent, (cst.BaseStatement, cst.BaseSmallStatement, cst.Comparison)):
                return
            if isinstance(parent, (cst.Subscript, cst.FormattedStringExpression, cst.Attribute)):
                return
            node = parent
            level -= 1

    def _parameter(self, callee: str, place: int, keyword: str) -> Iterator[Name]:
        for line, names in self.parameters.get(callee, ()):
            if keyword in names:
                yield Name(line, keyword)
            elif 0 <= place < len(names):
                yield Name(line, names[place])

    def _names(self, place: cst.CSTNode, stack: Sequence[cst.CSTNode]) -> Iterator[Name]:
        if isinstance(place, (cst.Tuple, cst.List)):
            for element in place.elements:
                yield from self._names(element.value, stack)
        elif isinstance(place, cst.Attribute):
            yield Name(None, place.attr.value)
        elif isinstance(place, cst.Name):
            yield self.local(place.value, stack)

    def local(self, name: str, stack: Sequence[cst.CSTNode]) -> Name:
        """A plain name where it is written: the function's, unless that calls it global."""
        function = next((one for one in stack if isinstance(one, cst.FunctionDef)), None)
        if function is None:
            return Name(None, name)
        line = self.line_of(function)
        if line not in self.own:
            reader = _Own()
            function.visit(reader)
            self.own[line] = reader.bound - reader.outer
        return Name(line if name in self.own[line] else None, name)


class _Own(cst.CSTVisitor):
    """The names that a function binds itself."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.outer: set[str] = set()

    def _bind(self, target: cst.CSTNode) -> None:
        if isinstance(target, cst.Name):
            self.bound.add(target.value)
        elif isinstance(target, (cst.Tuple, cst.List)):
            for element in target.elements:
                self._bind(element.value)

    def visit_Param(self, node: cst.Param) -> None:  # noqa: N802
        self._bind(node.name)

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:  # noqa: N802
        self._bind(node.target)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:  # noqa: N802
        self._bind(node.target)

    def visit_AugAssign(self, node: cst.AugAssign) -> None:  # noqa: N802
        self._bind(node.target)

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:  # noqa: N802
        self._bind(node.target)

    def visit_For(self, node: cst.For) -> None:  # noqa: N802
        self._bind(node.target)

    def visit_CompFor(self, node: cst.CompFor) -> None:  # noqa: N802
        self._bind(node.target)

    def visit_AsName(self, node: cst.AsName) -> None:  # noqa: N802
        self._bind(node.name)

    def visit_Global(self, node: cst.Global) -> None:  # noqa: N802
        self.outer |= {item.name.value for item in node.names}


class _Loads(cst.CSTVisitor):
    """Visits where some names are read."""

    def __init__(self, flow: Flow, names: set[Name]) -> None:
        self.flow = flow
        self.names = names
        self.texts = {name.name for name in names}
        self.stack: list[cst.CSTNode] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Name) and node.value in self.texts:
            self.look_at(node)
        self.stack.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        self.stack.pop()

    def look_at(self, node: cst.Name) -> None:
        used: cst.CSTNode = node
        around = self.stack[:]
        if around and isinstance(around[-1], cst.Attribute):
            if around[-1].attr is not node:
                name = self.flow.local(node.value, around)
            else:
                name = Name(None, node.value)
                used = around.pop()
        else:
            name = self.flow.local(node.value, around)
        if name not in self.names or not around:
            return
        if (isinstance(around[-1], cst.Attribute) and around[-1].attr.value in _TAKES) or (
            isinstance(around[-1], cst.Subscript) and around[-1].value is used
        ):
            used = around.pop()
        if isinstance(around[-1], (cst.AssignTarget, cst.Param, cst.FunctionDef, cst.Attribute)):
            return
        if around and isinstance(around[-1], cst.Call) and around[-1].func is used:
            used = around.pop()  # what it returns
        if isinstance(around[-1], cst.Await):
            used = around.pop()
        if isinstance(around[-1], cst.FormattedStringExpression):
            if _is_port_in(around[-1], around):
                self.flow.told[name].add("no")
            return
        if isinstance(around[-1], (cst.BinaryOperation, cst.AugAssign)):
            self.flow.counted.add(name)
        self.flow.callees[name] |= calls_around(used, around)
        meaning, _ = meaning_of(used, around)
        if meaning.port:
            self.flow.told[name].add(meaning.binds)
        if meaning.port is not False:
            self.flow.leads[name] |= set(self.flow.targets(used, around))


def passed_to(
    stack: Sequence[cst.CSTNode], node: cst.CSTNode | None = None
) -> tuple[str, int, str]:
    """What is called with the value that stands below `stack`: its name, place and keyword.

    The place is -1 for a keyword, and the name "" where nothing is called. Thread(target=serve,
    args=(9001,)) calls serve, and so does submit(serve, 9001). node: what stands there.
    """
    arg = stack[-1] if stack else None
    place = 0
    if isinstance(arg, cst.Element) and len(stack) > 2 and isinstance(stack[-2], cst.Tuple):
        place = list(stack[-2].elements).index(arg)
        arg, stack = stack[-3], stack[:-2]
        if not isinstance(arg, cst.Arg) or arg.keyword is None or arg.keyword.value != "args":
            return "", 0, ""
    elif isinstance(node, cst.Tuple) and isinstance(arg, cst.Arg):
        return "", 0, ""
    call = stack[-2] if len(stack) > 1 else None
    if not isinstance(arg, cst.Arg) or not isinstance(call, cst.Call):
        return "", 0, ""
    if any(one.star for one in call.args):
        return "", 0, ""
    callee = last_name(call.func)
    keyword = arg.keyword.value if arg.keyword is not None else ""
    if keyword == "args":
        return next(iter(_targets(call)), ""), place, ""
    if keyword:
        return callee, -1, keyword
    place = list(call.args).index(arg)
    first = _CALLS_ITS.get(callee, -1)
    if 0 <= first < place:
        return last_name(call.args[first].value), place - first - 1, ""
    return callee, place, ""


def _targets(call: cst.Call) -> list[str]:
    """The function that a thread, a process or a pool calls."""
    first = _CALLS_ITS.get(last_name(call.func), -1)
    named = [one for one in call.args if one.keyword and one.keyword.value == "target"]
    named += call.args[first : first + 1] if 0 <= first < len(call.args) else ()
    return [name for one in named if (name := last_name(one.value))]


def calls_around(node: cst.CSTNode, stack: Sequence[cst.CSTNode]) -> set[str]:
    """What is called with the value of `node`, or with what a call with it returns."""
    found = set()
    for place, parent in enumerate(stack):
        if isinstance(parent, cst.Call):
            inside = stack[place + 1] if place + 1 < len(stack) else node
            if isinstance(inside, cst.Arg):
                found |= {last_name(parent.func), *_targets(parent)}
        elif isinstance(parent, (cst.BaseStatement, cst.Lambda)):
            found.clear()
    return found


def _is_port_in(expression: cst.CSTNode, around: Sequence[cst.CSTNode]) -> bool:
    """Whether `f"http://host:{n}"` has it behind a colon."""
    whole = around[-2] if len(around) > 1 else None
    if not isinstance(whole, cst.FormattedString):
        return False
    place = next(n for n, part in enumerate(whole.parts) if part is expression)
    before = whole.parts[place - 1] if place else None
    text = before.value if isinstance(before, cst.FormattedStringText) else ""
    return text.endswith(":") and ("://" in text or "localhost" in text or "127.0.0.1" in text)
