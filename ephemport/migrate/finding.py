"""Reading one file: every number that may be a port, and what is said around it."""

import re
import tokenize
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import cast

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, PositionProvider

from ephemport.migrate import places, races
from ephemport.migrate.contexts import dotted, last_name, meaning_of, text_of
from ephemport.migrate.flowing import Flow, calls_around
from ephemport.migrate.functions import describe, note_inside
from ephemport.migrate.glancing import glance, needs_reading
from ephemport.migrate.texts import mentions
from ephemport.migrate.uses import QUANTITY, File, Finding, Function, Meaning, Supplied, Use
from ephemport.migrate.words import PORTS, binds, note_binding, portish

_NOQA = re.compile(r"#\s*noqa(?P<codes>:\s*[A-Z]+\d+(?:[,\s]+[A-Z]+\d+)*)?", re.I)
_NEW_LINE = re.compile(r"\r\n|\r|\n")
_STRING = re.compile(r"^([a-zA-Z]*)('''|\"\"\"|'|\")", re.S)


def read_source(path: Path) -> str:
    """A file's text as Python reads it, line ends as they are. SyntaxError, UnicodeDecodeError."""
    data = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
    return data.decode(encoding)


def read_file(path: Path) -> File:
    """What a Python file tells; one that cannot be read is `unreadable`."""
    try:
        source = read_source(path)
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        return File(path, "", unreadable=str(error))
    file = File(path, source)
    if not needs_reading(source) and glance(file):
        return file
    try:
        module = cst.parse_module(source)
    except cst.ParserSyntaxError as error:
        file.unreadable = f"{error.message} (line {error.raw_line})"
        return file
    except RecursionError:
        file.unreadable = "too deeply nested"
        return file
    _read_noqa(file)
    finder = _Finder(file, module, positions_in(module))
    module.visit(finder)
    finder.follow()
    return file


def positions_in(module: cst.Module) -> Mapping[cst.CSTNode, CodeRange]:
    """Where every node is."""
    # As MetadataWrapper.resolve() has it, without its second way through the whole tree for the
    # providers that share one: there are none.
    wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
    return cast("Mapping[cst.CSTNode, CodeRange]", PositionProvider()._gen(wrapper))


def _read_noqa(file: File) -> None:
    for count, line in enumerate(_NEW_LINE.split(file.source), 1):
        match = _NOQA.search(line) if "noqa" in line.lower() else None
        if match:
            codes = match["codes"]
            file.noqa[count] = frozenset(re.findall(r"[A-Z]+\d+", codes.upper())) if codes else None


class _Finder(cst.CSTVisitor):
    def __init__(
        self, file: File, module: cst.Module, positions: Mapping[cst.CSTNode, CodeRange]
    ) -> None:
        self.file = file
        self.flow = Flow(module, lambda node: positions[node].start.line)
        # The uses that do not say everything, and what is given to a name.
        self.asking: list[tuple[int, cst.CSTNode, list[cst.CSTNode]]] = []
        self.positions = positions
        self.stack: list[cst.CSTNode] = []
        self.outermost: cst.FunctionDef | None = None
        self.inside: Function | None = None  # whose body this is
        self.nested = 0
        ends = [match.end() for match in _NEW_LINE.finditer(file.source)]
        self.lines = [0, *ends]

    def on_visit(self, node: cst.CSTNode) -> bool:
        if self.outermost is None:
            if isinstance(node, cst.FunctionDef):
                self.outermost = node
        elif node is self.outermost.body:
            self.inside = self.file.functions[self.positions[self.outermost.name].start.line]
        look = getattr(self, f"look_at_{type(node).__name__}", None)
        if look is not None:
            look(node)
        if self.inside is not None:
            note_inside(node, self.inside, not self.nested)
            self.nested += isinstance(node, cst.FunctionDef)
        self.stack.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        self.stack.pop()
        if self.outermost is None:
            return
        if self.inside is not None and isinstance(original_node, cst.FunctionDef):
            self.nested -= original_node is not self.outermost
        if original_node is self.outermost.body:
            self.inside = None
        elif original_node is self.outermost:
            self.outermost = None

    def follow(self) -> None:
        """Ask the names that a number is given to, or what is made of it."""
        names = {place: set(self.flow.targets(node, stack)) for place, node, stack in self.asking}
        self.flow.follow(set().union(*names.values()))
        for place, given_to in names.items():
            use = self.file.uses[place]
            sides, callees = self.flow.told_by(given_to)
            use = replace(use, passed_to=use.passed_to | callees)
            told = [side for side in ("yes", "maybe", "no") if side in sides]
            if use.meaning.port is None and told:
                use = replace(use, meaning=Meaning(True, told[0], "EPH002"))
            elif use.meaning.binds == "maybe" and "yes" in told:
                use = replace(use, meaning=use.meaning._replace(binds="yes"))
            self.file.uses[place] = use

    # numbers

    def look_at_Integer(self, node: cst.Integer) -> None:  # noqa: N802
        number = int(node.value.replace("_", ""), 0)
        if number not in PORTS or not node.value[:2].replace("_", "").isdecimal():
            return
        if places.is_migrated(self.stack):
            return
        meaning, name = meaning_of(node, self.stack, number)
        if meaning.port is False:
            self._add((number,), node, meaning, "int", name=name)
            return
        whole, around = self._outermost_sum(node)
        if whole is not node and places.is_drawn(whole):
            # 20000 + random.randint(1, 9999) is another number each time, and each worker's own.
            self._add((number,), node, QUANTITY, "int", name=name)
            return
        if whole is not node:
            self._add((number,), whole, meaning, "sum", name=name)
            return
        call = next((one for one in reversed(around[-2:]) if isinstance(one, cst.Call)), None)
        if call is not None and last_name(call.func) == "count" and isinstance(around[-1], cst.Arg):
            self._add((number,), call, meaning, "count", name=name)
            return
        if call is not None and last_name(call.func) == "range" and isinstance(around[-1], cst.Arg):
            self._look_at_range(call, node, meaning)
            return
        self._add((number,), node, meaning, "int", name=name)

    def _outermost_sum(self, node: cst.CSTNode) -> tuple[cst.CSTNode, list[cst.CSTNode]]:
        around = list(self.stack)
        whole = node
        while (
            around
            and isinstance(parent := around[-1], cst.BinaryOperation)
            and isinstance(parent.operator, (cst.Add, cst.Subtract))
        ):
            whole = around.pop()
        return whole, around

    def _look_at_range(self, call: cst.Call, node: cst.Integer, meaning: Meaning) -> None:
        bounds = [one.value for one in call.args]
        if not all(isinstance(one, cst.Integer) for one in bounds):
            self._add((int(node.value),), node, meaning, "", "it bounds a range() that is computed")
            return
        if bounds[0] is not node:
            return  # reported with the first bound
        numbers = tuple(range(*(int(one.value) for one in bounds if isinstance(one, cst.Integer))))
        if 0 < len(numbers) <= 500 and numbers[-1] in PORTS:
            self._add(numbers, call, meaning, "range")

    def look_at_Attribute(self, node: cst.Attribute) -> None:  # noqa: N802
        """`request.param` of a fixture whose params are ports."""
        if dotted(node) != "request.param" or places.is_migrated(self.stack):
            return
        line, _ = self._function()
        function = self.file.functions.get(line or 0)
        if function is not None and function.params and set(function.params) <= set(PORTS):
            meaning, name = meaning_of(node, self.stack, function.params[0])
            self._add(function.params, node, meaning, "sum", name=name)

    # texts

    def look_at_SimpleString(self, node: cst.SimpleString) -> None:  # noqa: N802
        text = text_of(node)
        if text and len(text) < 200:
            self.file.strings.add(text)
        opening = _STRING.match(node.value)
        if opening is None or not re.search(r"\d{4}", node.value):
            return
        literal = self._span(node)
        quotes = len(opening[2])
        inner = node.value[opening.end() : -quotes]
        for mention in mentions(inner):
            start = literal[0] + opening.end() + mention.start
            end = literal[0] + opening.end() + mention.end
            form, obstacle = "text", ""
            if mention.whole and not isinstance(self.stack[-1], cst.ConcatenatedString):
                form = "whole"
            if "b" in opening[1].lower() and isinstance(self.stack[-1], cst.ConcatenatedString):
                form, obstacle = "", "it stands in bytes that are put together from pieces"
            self._add_text(
                node, mention.number, mention.meaning, form, start, end, literal, obstacle
            )

    def look_at_FormattedStringText(self, node: cst.FormattedStringText) -> None:  # noqa: N802
        whole = self.stack[-1]
        if not isinstance(whole, cst.FormattedString):
            return  # a format specification
        place = list(whole.parts).index(node)
        start, _ = self._span(node)
        for mention in mentions(node.value, follows_expression=place > 0):
            self._add_text(
                whole,
                mention.number,
                mention.meaning,
                "inner",
                start + mention.start,
                start + mention.end,
                self._span(node),
            )

    def _add_text(
        self,
        node: cst.CSTNode,
        number: int,
        said: Meaning,
        form: str,
        start: int,
        end: int,
        literal: tuple[int, int],
        obstacle: str = "",
    ) -> None:
        if places.is_documentation(self.stack) or places.is_replaced(self.stack):
            return
        outside = self.stack[:-1] if form == "inner" else self.stack
        around, name = meaning_of(node, outside, number if form == "whole" else 0)
        meaning = said
        if form == "whole":
            meaning = around
        elif said.port and around.binds == "yes":
            meaning = said._replace(binds="yes")
        elif said.port is None and around.port and around.code == "EPH001":
            meaning = Meaning(True, "maybe", "EPH002")  # a whole command line as a string
        if said.port and places.is_mocked(outside):
            meaning = Meaning(None)
        self._add((number,), None, meaning, form, obstacle, start, end, literal, name)

    # everything

    def _add(
        self,
        numbers: tuple[int, ...],
        node: cst.CSTNode | None,
        meaning: Meaning,
        form: str,
        obstacle: str = "",
        start: int = 0,
        end: int = 0,
        literal: tuple[int, int] = (0, 0),
        name: str = "",
    ) -> None:
        if node is not None:
            start, end = self._span(node)
        line = bisect_right(self.lines, start) if start else 1
        column = start - self.lines[line - 1] + 1
        function, decorates = self._function()
        blocked = places.obstacle(self.stack)
        parameter = places.parameter(self.stack) if "parametrize" in blocked else ""
        fixture = self.file.functions.get(decorates or 0)
        if fixture is not None and fixture.is_fixture and set(numbers) & set(fixture.params):
            parameter, obstacle = "request.param", blocked
        elif parameter and form in ("int", "text", "whole") and decorates is not None:
            obstacle = blocked
        elif blocked:
            form, obstacle = "", blocked
        self.file.uses.append(
            Use(
                numbers,
                self.file.path,
                line,
                column,
                start,
                end,
                meaning,
                form,
                literal,
                function,
                obstacle,
                name,
                decorates,
                parameter,
                frozenset(calls_around(node or self.stack[-1], self.stack)),
                places.passed_to(self.stack),
                places.is_told(self.stack),
                is_fallback=places.is_fallback(self.stack),
                in_class=places.in_class(self.stack),
                is_mixed=bool(parameter) and places.is_mixed(self.stack),
            )
        )
        if meaning.port is None or meaning.binds == "maybe":
            self._ask_names(node)
        self._note_default(numbers, line, is_text=node is None)

    def _ask_names(self, node: cst.CSTNode | None) -> None:
        around = list(self.stack)
        while node in around:
            around.pop()
        use = self.file.uses[-1]
        if use.meaning.port:
            # What is made of a port: Settings(port=9001), {"port": 9001}, "localhost:9001".
            while around and not isinstance(around[-1], cst.BaseStatement):
                if isinstance(around[-1], (cst.Call, cst.Dict)):
                    node = around.pop()
                    break
                around.pop()
        if node is not None:
            self.asking.append((len(self.file.uses) - 1, node, around))

    def _note_default(
        self, numbers: tuple[int, ...], line: int, alias: str = "", is_text: bool = False
    ) -> None:
        default = places.default_at(self.stack, numbers, line, alias)
        if default is not None:
            self.file.defaults.append(default._replace(is_text=is_text))

    def _function(self) -> tuple[int | None, int | None]:
        """Where the outermost function begins whose body, or whose decorator, this is in."""
        if self.inside is not None:
            return self.inside.line, None
        if self.outermost is not None and self.outermost in self.stack:
            place = self.stack.index(self.outermost) + 1
            if place < len(self.stack) and isinstance(self.stack[place], cst.Decorator):
                return None, self.positions[self.outermost.name].start.line
        return None, None

    def _span(self, node: cst.CSTNode) -> tuple[int, int]:
        place = self.positions[node]
        return (
            self.lines[place.start.line - 1] + place.start.column,
            self.lines[place.end.line - 1] + place.end.column,
        )

    # what surrounds them

    def look_at_Name(self, node: cst.Name) -> None:  # noqa: N802
        name = node.value
        self.file.identifiers.add(name)
        line, _ = self._function()
        if line is not None and line in self.file.functions:
            self.file.functions[line].names.add(name)
        if places.is_in_id(self.stack):
            self.file.parametrize_names.add(name)
        if not (portish(name) or name.isupper()) or not self.stack:
            return
        if isinstance(self.stack[-1], cst.Param) and self.stack[-1].default is node:
            self._note_default((), self.positions[node].start.line, name)
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

    def look_at_AugAssign(self, node: cst.AugAssign) -> None:  # noqa: N802
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

    def look_at_FunctionDef(self, node: cst.FunctionDef) -> None:  # noqa: N802
        if "getsockname" in self.file.source:
            races.look_at_function(node, self.report)
        self.flow.note_function(node, self.stack)
        callee, names = places.signature(node, self.stack)
        self.file.signatures.setdefault(callee, set()).add(names)
        if not any(isinstance(one, cst.FunctionDef) for one in self.stack):
            owner = next((one for one in self.stack if isinstance(one, cst.ClassDef)), None)
            line = self.positions[node.name].start.line
            function = describe(node, line, owner.name.value if owner else None)
            self.file.functions[line] = function
            for parameter in function.parameters:
                races.look_at_parameter(parameter, node, function, self.report)

    def look_at_ClassDef(self, node: cst.ClassDef) -> None:  # noqa: N802
        self.file.classes[node.name.value] = [dotted(base.value) for base in node.bases]
        if not node.decorators and len(self.stack) == 1:
            twice = node.name.value in self.file.plain_classes
            line = self.positions[node.name].start.line
            self.file.plain_classes[node.name.value] = 0 if twice else line
        fields = tuple(places.fields(node))
        if fields:
            self.file.signatures.setdefault(node.name.value, set()).add(fields)

    def look_at_Import(self, node: cst.Import) -> None:  # noqa: N802
        races.look_at_import(node, self.report)

    def look_at_ImportFrom(self, node: cst.ImportFrom) -> None:  # noqa: N802
        races.look_at_import(node, self.report)

    def look_at_IndentedBlock(self, node: cst.IndentedBlock) -> None:  # noqa: N802
        if "sleep" in self.file.source:
            races.look_at_block(node, self.report)

    def look_at_If(self, node: cst.If) -> None:  # noqa: N802
        test = node.test
        if isinstance(test, cst.Comparison) and dotted(test.left) == "__name__":
            self.file.is_script = True

    def look_at_Call(self, node: cst.Call) -> None:  # noqa: N802
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
                self._span(node)[1],
                self._function()[0],
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

    def look_at_Assign(self, node: cst.Assign) -> None:  # noqa: N802
        self._note_made([last_name(one.target) for one in node.targets], node, node.value)

    def look_at_AnnAssign(self, node: cst.AnnAssign) -> None:  # noqa: N802
        if node.value is not None:
            self._note_made([last_name(node.target)], node, node.value)

    def _note_made(self, names: list[str], node: cst.CSTNode, value: cst.CSTNode) -> None:
        if self._function()[0] is not None:
            return
        collector = _Names()
        value.visit(collector)
        start, end = self._span(node)
        for name in filter(None, names):
            self.file.made_of.append((name, collector.found, start, end))

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
