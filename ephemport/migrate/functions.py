"""What is known of a function: is it a test or a fixture, of which scope, what does it call."""

import libcst as cst
import libcst.matchers as m

from ephemport.migrate.contexts import dotted, last_name, parameter_names, text_of
from ephemport.migrate.uses import ALL, Function
from ephemport.migrate.words import each, words

_ENDS = each("close stop shutdown terminate kill aclose cleanup closed end exit finish")


def describe(node: cst.FunctionDef, line: int, in_class: str | None) -> Function:
    """The facts about an outermost function or method, but for its body."""
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


def note_inside(node: cst.CSTNode, function: Function, is_own: bool) -> None:
    """Note what stands in a function's body. is_own: not in a function within it."""
    if isinstance(node, cst.Call):
        name = last_name(node.func)
        function.calls.add(name)
        function.ends_things = function.ends_things or not _ENDS.isdisjoint(words(name))
    elif isinstance(node, cst.Attribute):
        if isinstance(node.value, cst.Name) and node.value.value == "self":
            function.uses_self = function.uses_self or not node.attr.value.startswith("assert")
    elif isinstance(node, cst.Subscript):
        if is_mapped(node) and m.findall(node, m.Attribute(m.Name("request"), m.Name("param"))):
            function.maps_params = True
    elif isinstance(node, cst.With):
        function.ends_things = True
    elif isinstance(node, cst.Assign):
        name = last_name(node.targets[0].target)
        if name in function.parametrized:
            function.replaced.setdefault(name, set()).update(_mapped_numbers(node.value))
    elif isinstance(node, cst.Yield):
        function.yields = function.yields or is_own
    elif isinstance(node, cst.Return):
        function.returns = function.returns or (is_own and node.value is not None)


def _mapped_numbers(value: cst.BaseExpression) -> set[int]:
    if is_mapped(value) and not m.findall(value, m.Integer()):
        return {ALL}
    return {
        int(one.value)
        for found in m.findall(value, m.Subscript())
        if isinstance(found, cst.Subscript) and is_mapped(found)
        for one in m.findall(found, m.Integer())
        if isinstance(one, cst.Integer)
    }
