"""What is known of a function: is it a test or a fixture, of which scope, what does it call."""

import libcst as cst
import libcst.matchers as m

from ephemport.migrate.contexts import dotted, last_name, parameter_names, text_of
from ephemport.migrate.uses import Function
from ephemport.migrate.words import each, words

_ENDS = each("close stop shutdown terminate kill aclose cleanup closed end exit finish")


def describe(node: cst.FunctionDef, line: int, in_class: str | None) -> Function:
    """The facts about an outermost function or method."""
    function = Function(
        node.name.value,
        line,
        in_class,
        decorators=[dotted(one.decorator) for one in node.decorators],
        is_async=node.asynchronous is not None,
    )
    for decorator in node.decorators:
        if isinstance(decorator.decorator, cst.Call):
            _read_decorator(decorator.decorator, function)
    parameters = node.params
    function.parameters = [
        one.name.value for one in (*parameters.posonly_params, *parameters.params)
    ]
    function.simple_parameters = not (
        parameters.kwonly_params
        or parameters.posonly_params
        or isinstance(parameters.star_arg, cst.Param)
        or parameters.star_kwarg
        or any(one.default is not None for one in parameters.params)
    )
    node.body.visit(_Body(function))
    return function


def _read_decorator(call: cst.Call, function: Function) -> None:
    for argument in call.args:
        keyword = argument.keyword.value if argument.keyword else ""
        if last_name(call.func) == "fixture" and keyword == "scope":
            function.scope = text_of(argument.value) or "dynamic"
        if last_name(call.func) == "fixture" and keyword == "autouse":
            function.is_autouse = last_name(argument.value) == "True"
        if last_name(call.func) == "fixture" and keyword == "params":
            values = argument.value
            if isinstance(values, (cst.List, cst.Tuple)):
                numbers = [one.value for one in values.elements]
                if all(isinstance(one, cst.Integer) for one in numbers):
                    function.params = tuple(
                        int(one.value, 0) for one in numbers if isinstance(one, cst.Integer)
                    )
    if last_name(call.func) == "usefixtures":
        function.names |= {text_of(one.value) for one in call.args}
    if last_name(call.func) == "parametrize":
        function.parametrized |= set(parameter_names(call))


def is_mapped(node: cst.CSTNode) -> bool:
    """Whether this is `port_map[...]`, by whichever name the file calls it."""
    return isinstance(node, cst.Subscript) and dotted(node.value).endswith("port_map")


class _Body(cst.CSTVisitor):
    def __init__(self, function: Function) -> None:
        self.function = function
        self.depth = 0

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:  # noqa: N802
        self.depth += 1

    def leave_FunctionDef(self, original_node: cst.FunctionDef) -> None:  # noqa: N802
        self.depth -= 1

    def visit_Call(self, node: cst.Call) -> None:  # noqa: N802
        name = last_name(node.func)
        self.function.calls.add(name)
        self.function.ends_things = self.function.ends_things or not _ENDS.isdisjoint(words(name))

    def visit_Attribute(self, node: cst.Attribute) -> None:  # noqa: N802
        if m.matches(node.value, m.Name("self")) and not node.attr.value.startswith("assert"):
            self.function.uses_self = True

    def visit_Subscript(self, node: cst.Subscript) -> None:  # noqa: N802
        if is_mapped(node) and m.findall(node, m.Attribute(m.Name("request"), m.Name("param"))):
            self.function.maps_params = True

    def visit_With(self, node: cst.With) -> None:  # noqa: N802
        self.function.ends_things = True

    def visit_Assign(self, node: cst.Assign) -> None:  # noqa: N802
        name = last_name(node.targets[0].target)
        if name in self.function.parametrized:
            numbers = self.function.replaced.setdefault(name, set())
            numbers |= {
                int(one.value)
                for found in m.findall(node.value, m.Subscript())
                if isinstance(found, cst.Subscript) and is_mapped(found)
                for one in m.findall(found, m.Integer())
                if isinstance(one, cst.Integer)
            }

    def visit_Yield(self, node: cst.Yield) -> None:  # noqa: N802
        self.function.yields = self.function.yields or not self.depth

    def visit_Return(self, node: cst.Return) -> None:  # noqa: N802
        self.function.returns = self.function.returns or (not self.depth and node.value is not None)
