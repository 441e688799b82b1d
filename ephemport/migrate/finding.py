"""Reading one file: every number that may be a port, and what is said around it."""

import ast
import re
import tokenize
import warnings
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import libcst as cst
from libcst.metadata import CodeRange

from ephemport.migrate import places
from ephemport.migrate.contexts import dotted, last_name, meaning_of, text_of
from ephemport.migrate.flowing import Name, calls_around, passed_to
from ephemport.migrate.glancing import glance, needs_reading
from ephemport.migrate.reader import NEW_LINE, Reader, positions_in
from ephemport.migrate.texts import mentions
from ephemport.migrate.uses import QUANTITY, File, Meaning, Use
from ephemport.migrate.words import PORTS

_NOQA = re.compile(r"#\s*noqa(?P<codes>:\s*[A-Z]+\d+(?:[,\s]+[A-Z]+\d+)*)?", re.I)
# What Python and libcst raise for files: those they cannot decode or parse, those nested too deeply
# for them, and ints of too many digits (ValueError, as UnicodeDecodeError is).
UNREADABLE = (SyntaxError, ValueError, LookupError, RecursionError, MemoryError)
_STRING = re.compile(r"^([a-zA-Z]*)('''|\"\"\"|'|\")", re.S)


def read_source(path: Path) -> str:
    """A file's text as Python reads it, line ends as they are. UNREADABLE."""
    data = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
    return data.decode(encoding)


def read_file(path: Path) -> File:
    """What a Python file tells; one that cannot be read is `unreadable`."""
    source = ""
    try:
        source = read_source(path)
        return _read(File(path, source))
    except cst.ParserSyntaxError as error:
        why = f"{error.message} (line {error.raw_line})"
    except (*UNREADABLE, OSError) as error:
        why = "too deeply nested" if _is_about_depth(error) else str(error)
    return File(path, source, unreadable=why)


def _read(file: File) -> File:
    if not needs_reading(file.source) and glance(file):
        return file
    _refuse_deep(file.source)
    module = cst.parse_module(file.source)
    _read_noqa(file)
    finder = _Finder(file, module, positions_in(module))
    module.visit(finder)
    finder.follow()
    return file


def _is_about_depth(error: BaseException | None) -> bool:
    # libcst answers its RecursionError with a KeyError, whose text is the repr() of a whole tree.
    while error is not None and not isinstance(error, (RecursionError, MemoryError)):
        error = error.__context__
    return error is not None


# Levels of a syntax tree. Reading takes several calls a level, and Python allows 1,000 in all.
_DEEPEST = 1000


def _refuse_deep(source: str) -> None:
    """Raise RecursionError or MemoryError for what is nested too deeply for Python."""
    # libcst's parser has no limit: it overflows the stack, and the process ends by SIGSEGV. That of
    # Python has a low one, up to Python 3.13.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes: list[ast.AST] = [ast.parse(source)]
        for _ in range(_DEEPEST):
            nodes = [child for node in nodes for child in ast.iter_child_nodes(node)]
        if nodes:
            raise RecursionError
    except SyntaxError as error:
        if "too many nested" in error.msg:
            raise RecursionError from error
    except ValueError:
        pass  # a zero byte, for which libcst has the words


def _read_noqa(file: File) -> None:
    for count, line in enumerate(NEW_LINE.split(file.source), 1):
        match = _NOQA.search(line) if "noqa" in line.lower() else None
        if match:
            codes = match["codes"]
            file.noqa[count] = frozenset(re.findall(r"[A-Z]+\d+", codes.upper())) if codes else None


class _Finder(Reader):
    def __init__(
        self, file: File, module: cst.Module, positions: Mapping[cst.CSTNode, CodeRange]
    ) -> None:
        super().__init__(file, module, positions)
        # The uses that do not say everything, and what is given to a name.
        self.asking: list[tuple[int, cst.CSTNode, list[cst.CSTNode]]] = []

    def follow(self) -> None:
        """Ask the names that a number is given to, or what is made of it."""
        names: dict[int, set[Name]] = {}
        for place, node, stack in self.asking:
            names.setdefault(place, set()).update(self.flow.targets(node, stack))
        self.flow.follow(set().union(*names.values()))
        for place, given_to in names.items():
            use = self.file.uses[place]
            sides, callees, is_counted = self.flow.told_by(given_to)
            use = replace(use, passed_to=use.passed_to | callees, is_counted=is_counted)
            told = [side for side in ("yes", "maybe", "no") if side in sides]
            if use.meaning.port is None and told:
                use = replace(use, meaning=Meaning(True, told[0], "EPH002"))
            elif use.meaning.binds == "maybe" and "yes" in told:
                use = replace(use, meaning=use.meaning._replace(binds="yes"))
            self.file.uses[place] = use

    # numbers

    def _look_at_Integer(self, node: cst.Integer) -> None:  # noqa: N802
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

    def _look_at_Attribute(self, node: cst.Attribute) -> None:  # noqa: N802
        """`request.param` of a fixture whose params are ports."""
        if dotted(node) != "request.param" or places.is_migrated(self.stack):
            return
        line, _ = self.function()
        function = self.file.functions.get(line or 0)
        if function is not None and function.params and set(function.params) <= set(PORTS):
            meaning, name = meaning_of(node, self.stack, function.params[0])
            self._add(function.params, node, meaning, "sum", name=name)

    # texts

    def _look_at_SimpleString(self, node: cst.SimpleString) -> None:  # noqa: N802
        text = text_of(node)
        if text and len(text) < 200:
            self.file.strings.add(text)
        opening = _STRING.match(node.value)
        if opening is None or not re.search(r"\d{4}", node.value):
            return
        literal = self.span(node)
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

    def _look_at_FormattedStringText(self, node: cst.FormattedStringText) -> None:  # noqa: N802
        whole = self.stack[-1]
        if not isinstance(whole, cst.FormattedString):
            return  # a format specification
        place = list(whole.parts).index(node)
        start, _ = self.span(node)
        for mention in mentions(node.value, follows_expression=place > 0):
            self._add_text(
                whole,
                mention.number,
                mention.meaning,
                "inner",
                start + mention.start,
                start + mention.end,
                self.span(node),
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
            start, end = self.span(node)
        line = bisect_right(self.lines, start) if start else 1
        column = start - self.lines[line - 1] + 1
        function, decorates = self.function()
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
                passed_to(self._around(node)),
                places.is_told(self.stack),
                is_fallback=places.is_fallback(self.stack),
                in_class=places.in_class(self.stack),
                is_mixed=bool(parameter) and places.is_mixed(self.stack),
                beside=places.values_beside(self.stack) if parameter else frozenset(),
            )
        )
        if meaning.port is None or meaning.binds == "maybe":
            self._ask_names(node)
        self.note_default(numbers, line, is_text=node is None)

    def _around(self, node: cst.CSTNode | None) -> list[cst.CSTNode]:
        """The ancestors of what is replaced, which may be more than the number."""
        around = list(self.stack)
        while node in around:
            around.pop()
        return around

    def _ask_names(self, node: cst.CSTNode | None) -> None:
        around = self._around(node)
        place = len(self.file.uses) - 1
        if node is not None:
            self.asking.append((place, node, list(around)))
        if self.file.uses[-1].meaning.port:
            # What is made of a port: Settings(port=9001), {"port": 9001}, "localhost:9001".
            while around and not isinstance(around[-1], cst.BaseStatement):
                made = around.pop()
                if isinstance(made, (cst.Call, cst.Dict)):
                    self.asking.append((place, made, around))
                    return
