"""What a file says besides its numbers: its functions, names, calls and classes."""

import re
from collections.abc import Mapping
from typing import cast

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from ephemport.migrate import places, races
from ephemport.migrate.contexts import dotted, last_name, meaning_of
from ephemport.migrate.flowing import Flow
from ephemport.migrate.functions import describe, note_inside
from ephemport.migrate.uses import File, Finding, Function, Meaning, Supplied
from ephemport.migrate.words import binds, note_binding, portish

NEW_LINE = re.compile(r"\r\n|\r|\n")


def positions_in(module: cst.Module) -> Mapping[cst.CSTNode, CodeRange]:
    """Where every node is."""
    # As MetadataWrapper.resolve() has it, without its second way through the whole tree for the
    # providers that share one: there are none.
    wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
    return cast("Mapping[cst.CSTNode, CodeRange]", PositionProvider()._gen(wrapper))


class Reader(cst.CSTVisitor):
    """Walks through a file's tree, and notes what is said around the numbers."""

    def __init__(
        self, file: File, module: cst.Module, positions: Mapping[cst.CSTNode, CodeRange]
    ) -> None:
        self.file = file
        self.flow = Flow(module, lambda node: positions[node].start.line)
        self.positions = positions
        self.stack: list[cst.CSTNode] = []
        self.outermost: cst.FunctionDef | None = None
        self.inside: Function | None = None  # whose body this is
        self.nested = 0
        ends = [match.end() for match in NEW_LINE.finditer(file.source)]
        self.lines = [0, *ends]

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Look at a node that somebody here looks at, and keep track of where it is."""
        if self.outermost is None:
            if isinstance(node, cst.FunctionDef):
                self.outermost = node
        elif node is self.outermost.body:
            self.inside = self.file.functions[self.positions[self.outermost.name].start.line]
        look = getattr(self, f"_look_at_{type(node).__name__}", None)
        if look is not None:
            look(node)
        if self.inside is not None:
            note_inside(node, self.inside, not self.nested)
            self.nested += isinstance(node, cst.FunctionDef)
        self.stack.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        """Keep track of where the next one is."""
        self.stack.pop()
        if self.outermost is None:
            return
        if self.inside is not None and isinstance(original_node, cst.FunctionDef):
            self.nested -= original_node is not self.outermost
        if original_node is self.outermost.body:
            self.inside = None
        elif original_node is self.outermost:
            self.outermost = None

    def function(self) -> tuple[int | None, int | None]:
        """Where the outermost function begins whose body, or whose decorator, this is in."""
        if self.inside is not None:
            return self.inside.line, None
        if self.outermost is not None and self.outermost in self.stack:
            place = self.stack.index(self.outermost) + 1
            if place < len(self.stack) and isinstance(self.stack[place], cst.Decorator):
                return None, self.positions[self.outermost.name].start.line
        return None, None

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Where a node begins and ends in the source."""
        place = self.positions[node]
        return (
            self.lines[place.start.line - 1] + place.start.column,
            self.lines[place.end.line - 1] + place.end.column,
        )

    def _look_at_Name(self, node: cst.Name) -> None:  # noqa: N802
        name = node.value
        self.file.identifiers.add(name)
        line, _ = self.function()
        if line is not None and line in self.file.functions:
            self.file.functions[line].names.add(name)
        if places.is_in_id(self.stack):
            self.file.parametrize_names.add(name)
        if not (portish(name) or name.isupper()) or not self.stack:
            return
        if isinstance(self.stack[-1], cst.Param) and self.stack[-1].default is node:
            self.note_default((), self.positions[node].start.line, name)
        used: cst.CSTNode = node
        around = self.stack
        while around and isinstance(around[-1], cst.Attribute) and around[-1].attr is used:
            used, around = around[-1], around[:-1]
        if around and isinstance(around[-1], (cst.Attribute, cst.AssignTarget, cst.Param)):
            return
        if around and isinstance(around[-1], cst.BinaryOperation):
            self._note_computed(name, used, around[-1])
        meaning, _ = meaning_of(used, around)
        if isinstance(around[-1], cst.FormattedStringExpression):
            meaning = Meaning(True, "no")
        if isinstance(around[-1], cst.Arg) and isinstance(around[-2], cst.Call):
            callee = last_name(around[-2].func)
            self.file.name_callees.setdefault(name, set()).add(callee)
            if meaning.port is None and around[-1].keyword is None:
                # Named as a port is, and passed to something of which nothing is known.
                meaning = Meaning(True, binds(callee))
        if meaning.port:
            self.file.name_binds.setdefault(name, set()).add(meaning.binds)

    def _look_at_AugAssign(self, node: cst.AugAssign) -> None:  # noqa: N802
        name = last_name(node.target)
        if name and isinstance(node.operator, (cst.AddAssign, cst.SubtractAssign)):
            self.file.computed[name] = max(1, self.file.computed.get(name, 0))

    def _note_computed(self, name: str, node: cst.CSTNode, operation: cst.BinaryOperation) -> None:
        other = operation.left if operation.right is node else operation.right
        if isinstance(operation.operator, cst.Modulo) and operation.right is node:
            return
        if isinstance(operation.operator, (cst.Add, cst.Subtract)):
            distance = int(other.value, 0) if isinstance(other, cst.Integer) else 0
        else:
            distance = 65536
        self.file.computed[name] = max(distance, self.file.computed.get(name, 0))

    def _look_at_FunctionDef(self, node: cst.FunctionDef) -> None:  # noqa: N802
        if "getsockname" in self.file.source:
            races.look_at_function(node, self.report)
        callee, names = places.signature(node, self.stack)
        self.flow.note_function(callee, names, self.outermost or node)
        self.file.signatures.setdefault(callee, set()).add(names)
        if not any(isinstance(one, cst.FunctionDef) for one in self.stack):
            owner = next((one for one in self.stack if isinstance(one, cst.ClassDef)), None)
            line = self.positions[node.name].start.line
            function = describe(node, line, owner.name.value if owner else None)
            self.file.functions[line] = function
            for parameter in function.parameters:
                races.look_at_parameter(parameter, node, function, self.report)

    def _look_at_ClassDef(self, node: cst.ClassDef) -> None:  # noqa: N802
        self.file.classes[node.name.value] = [dotted(base.value) for base in node.bases]
        if not node.decorators and len(self.stack) == 1:
            twice = node.name.value in self.file.plain_classes
            line = self.positions[node.name].start.line
            self.file.plain_classes[node.name.value] = 0 if twice else line
        fields = tuple(places.fields(node))
        if fields:
            self.file.signatures.setdefault(node.name.value, set()).add(fields)

    def _look_at_Import(self, node: cst.Import) -> None:  # noqa: N802
        races.look_at_import(node, self.report)

    def _look_at_ImportFrom(self, node: cst.ImportFrom) -> None:  # noqa: N802
        races.look_at_import(node, self.report)

    def _look_at_IndentedBlock(self, node: cst.IndentedBlock) -> None:  # noqa: N802
        if "sleep" in self.file.source:
            races.look_at_block(node, self.report)

    def _look_at_If(self, node: cst.If) -> None:  # noqa: N802
        test = node.test
        if isinstance(test, cst.Comparison) and dotted(test.left) == "__name__":
            self.file.is_script = True

    def _look_at_Call(self, node: cst.Call) -> None:  # noqa: N802
        callee = last_name(node.func)
        keywords = frozenset(one.keyword.value for one in node.args if one.keyword is not None)
        plain = sum(one.keyword is None and one.star == "" for one in node.args)
        unpacks = any(one.star for one in node.args)
        self.file.calls.setdefault(callee, []).append(
            Supplied(
                plain,
                keywords,
                unpacks,
                self.positions[node].start.line,
                self.span(node)[1],
                self.function()[0],
                isinstance(node.func, cst.Name),
                places.unless(self.stack),
            )
        )
        around = [
            one.name.value
            for one in self.stack
            if isinstance(one, (cst.FunctionDef, cst.ClassDef)) and one.name.value != callee
        ]
        note_binding(callee, around, self.file.binders)
        for name in around:
            self.file.calls_within.setdefault(name, set()).add(callee)
        races.note_process(node, self.file)
        if callee in ("randint", "randrange") and meaning_of(node, self.stack)[0].port:
            self.report(
                node,
                "EPH102",
                "a random number may be anybody's; use ephemport.reserve() or reserve_port",
            )

    def _look_at_Assign(self, node: cst.Assign) -> None:  # noqa: N802
        self._note_made([last_name(one.target) for one in node.targets], node, node.value)

    def _look_at_AnnAssign(self, node: cst.AnnAssign) -> None:  # noqa: N802
        if node.value is not None:
            self._note_made([last_name(node.target)], node, node.value)

    def _note_made(self, names: list[str], node: cst.CSTNode, value: cst.CSTNode) -> None:
        if self.function()[0] is not None:
            return
        collector = _Names()
        value.visit(collector)
        start, end = self.span(node)
        for name in filter(None, names):
            self.file.made_of.append((name, collector.found, start, end))

    def note_default(
        self, numbers: tuple[int, ...], line: int, alias: str = "", is_text: bool = False
    ) -> None:
        """Note a default value, if this is one."""
        default = places.default_at(self.stack, numbers, line, alias)
        if default is not None:
            self.file.defaults.append(default._replace(is_text=is_text))

    def report(self, node: cst.CSTNode, code: str, message: str) -> None:
        """Report something that is no number."""
        start = self.positions[node].start
        self.file.findings.append(
            Finding(self.file.path, start.line, start.column + 1, code, message)
        )


class _Names(cst.CSTVisitor):
    def __init__(self) -> None:
        self.found: set[str] = set()

    def visit_Name(self, node: cst.Name) -> None:  # noqa: N802
        self.found.add(node.value)
