"""Calls of one area: a public name, what it takes, and how what it returns is put away."""

import asyncio
import inspect
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from socket import socket
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ephemport import Reservation, ReservationGroup
from tests.fuzz.effort import examples
from tests.fuzz.values import or_anything
from tests.fuzz.watch import Watch, only_documented

Errors = tuple[type[BaseException], ...]


class Call(NamedTuple):
    """A public callable: what each of its parameters is given, and what else it may raise."""

    call: Callable[..., Any]
    takes: Mapping[str, SearchStrategy[Any]]
    needed: frozenset[str] = frozenset()
    also: Errors = ()
    # For names of other libraries: whose TypeError it is makes no difference to them either.
    lenient: bool = False

    def may_raise(self, *also: type[BaseException]) -> "Call":
        """The same call, which is documented to raise these besides."""
        return self._replace(also=also)


Calls = Mapping[str, Call]


def call_of(function: Callable[..., Any], /, **takes: SearchStrategy[Any]) -> Call:
    """A call with mostly what is meant, and with anything; every parameter must be in `takes`."""
    parameters = {
        name: one
        for name, one in inspect.signature(function).parameters.items()
        if name != "self" and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    }
    assert set(parameters) == set(takes), f"{function}: {sorted(set(parameters) ^ set(takes))}"
    needed = frozenset(name for name, one in parameters.items() if one.default is one.empty)
    return Call(function, {name: or_anything(one) for name, one in takes.items()}, needed)


def with_what_it_is_called_on(
    checked: Call, call: Callable[..., Any], **first: SearchStrategy[Any]
) -> Call:
    """`checked`, a method, as `call`, which makes its object out of `first`, always given."""
    return checked._replace(
        call=call, takes={**checked.takes, **first}, needed=checked.needed | set(first)
    )


def put_away(result: object) -> None:
    """Use up what a call returned, so that nothing of it is left."""
    if isinstance(result, (Reservation, ReservationGroup)):
        repr(result)
        result.release()
    elif isinstance(result, socket):
        result.close()
    elif isinstance(result, subprocess.Popen):
        with result:
            result.communicate(timeout=20)
    elif inspect.iscoroutine(result):
        put_away(asyncio.run(result))
    elif isinstance(result, AbstractContextManager):
        with result as inner:
            if inner is not result:
                put_away(inner)
    else:
        str(result)


def given_calls(calls: Calls) -> SearchStrategy[tuple[str, dict[str, Any]]]:
    """Names with arguments: those without a default always, the others or not."""
    return st.one_of(*(_arguments(name, call) for name, call in sorted(calls.items())))


def _arguments(name: str, call: Call) -> SearchStrategy[tuple[str, dict[str, Any]]]:
    needed = {one: values for one, values in call.takes.items() if one in call.needed}
    optional = {one: values for one, values in call.takes.items() if one not in call.needed}
    return st.tuples(st.just(name), st.fixed_dictionaries(needed, optional=optional))


def try_all(calls: Calls, count: int, clean_up: Callable[[], None] = lambda: None) -> None:
    """Try `count` calls: only documented errors come out, and nothing is left."""
    watch = Watch()

    @given(given_calls(calls))
    @examples(count)
    def one_call(call: tuple[str, dict[str, Any]]) -> None:
        name, arguments = call
        try:
            with only_documented(calls[name].also, lenient=calls[name].lenient):
                put_away(calls[name].call(**arguments))
        finally:
            clean_up()
        watch.check()

    one_call()
    watch.check_lock()
