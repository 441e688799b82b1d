"""What a node and its agent say to each other: one JSON object a line.

The near end asks, `{"id": 7, "do": "reserve", ...}`, and the agent answers in the same order,
`{"id": 7, "ok": {...}}` or `{"id": 7, "error": {...}}`. Every line of the agent begins with a mark,
because a channel may carry other text before it: what a shell's start-up files print, a banner.
"""

import json
from typing import Any

from ephemport import _errors
from ephemport._errors import EphemportError
from ephemport._findings import Diagnosis, Found

# What both ends must agree on. It changes with the meaning of the messages, not with each release.
PROTOCOL = 1
MARK = "ephemport-agent: "

_NAMED: dict[str, type[Exception]] = {
    one.__name__: one
    for one in (*vars(_errors).values(), TypeError, ValueError)
    if isinstance(one, type) and issubclass(one, (EphemportError, TypeError, ValueError))
}
# The attributes of errors that go through the channel as they are.
_FACTS = ("port", "protocol", "errno")

Message = dict[str, Any]


def asked(message: Message) -> bytes:
    """A request as a line."""
    return json.dumps(message).encode() + b"\n"


def answered(message: Message) -> bytes:
    """An answer as a line. It begins on a line of its own, whatever the channel has printed."""
    return f"\n{MARK}{json.dumps(message)}\n".encode()


def answer_in(line: bytes) -> Message | None:
    """The answer in a line; None for a line that is not the agent's."""
    _, mark, rest = line.decode("utf-8", "replace").partition(MARK)
    if not mark:
        return None
    try:
        message = json.loads(rest)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def error_as_message(error: Exception) -> Message:
    """An error of the agent for its line."""
    if not isinstance(error, tuple(_NAMED.values())):
        error = EphemportError(f"the agent failed: {type(error).__name__}: {error}")
    diagnosis = getattr(error, "diagnosis", None)
    return {
        "type": type(error).__name__,
        "message": str(error),
        "facts": {name: getattr(error, name) for name in _FACTS if hasattr(error, name)},
        "diagnosis": diagnosis and diagnosis.as_dict(),
    }


def error_in(message: Message, node: object) -> Exception:
    """The same error here. Its text begins with the node that it is about."""
    kind = _NAMED.get(str(message.get("type")), EphemportError)
    error = kind(f"on node {node}, its agent says: {message.get('message')}")
    for name, value in message.get("facts", {}).items():
        if name in _FACTS:
            setattr(error, name, value)
    if isinstance(error, EphemportError) and message.get("diagnosis"):
        error.diagnosis = _diagnosis(message["diagnosis"])
    return error


def _diagnosis(fields: Message) -> Diagnosis:
    found = {
        name: tuple(Found(**{**one, "pids": tuple(one["pids"])}) for one in fields[name])
        for name in ("found", "elsewhere")
    }
    return Diagnosis(**{**fields, **found, "unseen": tuple(fields["unseen"])})
