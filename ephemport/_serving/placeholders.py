"""`{NAME}` in the arguments of a command."""

import re
from collections.abc import Mapping

_BRACES = re.compile(r"\$\{[^}]*\}|\{\{|\}\}|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|[{}]")


def fill(argument: str, values: Mapping[str, str]) -> str:
    """Put values in place of `{NAME}`; `{{` and `}}` are literal, `${NAME}` is left to a shell.

    Raises ValueError for an unknown name and for a single brace.
    """

    def replacement(found: re.Match[str]) -> str:
        text = found[0]
        if text in ("{{", "}}"):
            return text[0]
        if text.startswith("$"):
            return text
        if found["name"] is None:
            raise ValueError(
                f"a single {text!r} in {argument!r}: write {text * 2!r} for a literal one"
            )
        if found["name"] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise ValueError(
                f"unknown name {text} in {argument!r}: known are {known}; "
                f"for literal braces write {{{text}}}"
            )
        return values[found["name"]]

    return _BRACES.sub(replacement, argument)
