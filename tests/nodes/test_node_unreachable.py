"""Far ends that have no agent: each is a named error with the far end's words, and ends soon."""

import sys
from pathlib import Path

import pytest

from ephemport import NodeUnreachable, on
from tests.core.helpers import eventually, open_descriptors

PYTHON = sys.executable


@pytest.mark.parametrize(
    ("command", "terms", "words"),
    [
        (["no-such-command"], {}, "cannot start no-such-command: No such file or directory"),
        (["/"], {}, "cannot start /: Permission denied"),
        (["sh", "-c", "exit 3", "--"], {}, "sh ended with status 3. It said nothing"),
        (["sh", "-c", "echo no; echo way >&2; exit 1"], {}, "no | way"),
        (["env"], {"python": "no-such-python"}, "python= (--python) names the interpreter there"),
        (["env", "PYTHONPATH="], {"python": "{bare}"}, "Install ephemport for that interpreter"),
        (["sh", "-c", "exec cat", "--"], {"timeout": 0.3}, "no agent answered within 0.3 s"),
        (["sh", "-c", "yes", "--"], {"timeout": 0.3}, "It said: y | y"),
        ([], {"python": "true"}, "true ended with status 0"),
    ],
    ids=str,
)
def test_it_is_named(
    command: list[str],
    terms: dict[str, object],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {PYTHON} -I -S "$@"\n')
    bare.chmod(0o755)
    if terms.get("python") == "{bare}":
        terms = {"python": str(bare)}
    before = open_descriptors()
    with pytest.raises(NodeUnreachable) as caught:
        on(command, **terms)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert str(caught.value).startswith("cannot use node ")
    eventually(lambda: open_descriptors() == before)


def test_another_version_is_named(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\necho \'ephemport-agent: {"hello": 0, "version": "0.0.9"}\'; cat\n')
    old.chmod(0o755)
    with pytest.raises(NodeUnreachable, match=r"it has ephemport 0\.0\.9, here is"):
        on([], python=str(old))


def test_noise_before_the_greeting_and_between_answers_is_skipped() -> None:
    noisy = ["sh", "-c", "echo 'Welcome to n7'; printf 'last login: never'; exec \"$@\"", "sh"]
    with on(noisy, python=PYTHON) as node:
        assert node.reserve(host="127.0.0.1").port
    # Text that looks like ours, and is not.
    with on(["sh", "-c", "echo 'ephemport-agent: {'; exec \"$@\"", "sh"], python=PYTHON) as node:
        assert node.reserve(host="127.0.0.1").port


def test_a_far_end_without_ephemport_gets_it(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\ncd /\nunset PYTHONPATH\nexec {PYTHON} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(NodeUnreachable, match="No module named ephemport"):
        on([], python=str(bare))
    with on([], python=str(bare), ship=True) as node:
        with node.reserve_many(3, host="127.0.0.1", contiguous=True) as group:
            assert not node.lost
            with pytest.raises(Exception, match="its agent says"):
                node.reserve(host="127.0.0.1", port=group[0].port)


def test_an_old_python_is_named() -> None:
    # It reads the one line that asks for the package, and says what it is.
    script = (
        "import sys; sys.version_info = (3, 9, 1); import code; sys.argv = ['-'];"
        "code.interact(banner='')"
    )
    with pytest.raises(NodeUnreachable, match=r"its Python is 3\.9, and ephemport needs 3\.11"):
        on(["sh", "-c", f'exec {PYTHON} -c "{script}"', "--"], ship=True)


def test_a_string_is_split_as_a_shell_does() -> None:
    with on("env 'A=b c'", python=PYTHON) as node:
        assert node.name == "env 'A=b c'"
    with pytest.raises(ValueError, match="no shell command"):
        on("ssh 'n7")
