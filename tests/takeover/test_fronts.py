"""A front that listens in place of a server: it is named, and nobody is told to end it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ephemport import ServerExited, StillListening, WrongListener, reserve
from ephemport._looking.fronts import front_in_words
from ephemport._spelling import for_the_command

LISTENS = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def front(name: str, port: int) -> "Iterator[subprocess.Popen[str]]":
    """A stranger that listens and is called `name`."""
    with subprocess.Popen(
        [name, "-S", "-c", LISTENS, str(port)],
        executable=sys.executable,
        # By its name Python would look for its library at another place.
        env={**os.environ, "PYTHONHOME": sys.base_prefix},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.communicate()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("/usr/bin/docker-proxy", "This listener is Docker's proxy for a published port"),
        ("rootlessport", "This listener is Podman's proxy for a published port"),
        ("rootlesskit", "RootlessKit, which forwards a published port of rootless Docker"),
        ("com.docker.backend", "Docker Desktop"),
        ("pasta.avx2", "pasta, which forwards a published port of a rootless container"),
    ],
)
def test_a_container_s_front_is_not_to_be_ended(name: str, what: str) -> None:
    with reserve() as r, subprocess.Popen(["cat"], stdin=subprocess.PIPE) as client:
        with front(name, r.port) as proxy:
            with pytest.raises(WrongListener) as caught:
                r.wait_listening(600, client)
            assert r.wait_listening(10).pid == proxy.pid
            with for_the_command(), pytest.raises(WrongListener) as told:
                r.wait_listening(600, client)
            with pytest.raises(StillListening, match="Do not end it: stop the container") as still:
                r.wait_not_listening(0)
        client.communicate()
    assert what in str(caught.value)
    assert what in str(still.value)
    end = "; the server is behind it. Do not end it: {} (docs/starting.md)"
    assert str(caught.value).endswith(end.format("wait without process="))
    assert str(told.value).endswith(end.format("run it without --wait-listening"))
    assert "End it" not in str(caught.value)


NODE = """
require("http").createServer((_, answer) => answer.end("hello"))
    .listen(process.argv[2], process.argv[3])
"""


IN_SHELL = """
node server.js "$@"; exit $?
"""


def test_a_server_behind_npm_counts_and_may_live_on(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    # A shell starts it in the same way.
    front = ["npm", "start", "--"] if shutil.which("npm") else ["sh", "-c", IN_SHELL, "sh"]
    (tmp_path / "package.json").write_text(json.dumps({"scripts": {"start": "node server.js"}}))
    (tmp_path / "server.js").write_text(NODE)
    with reserve() as r:
        npm = r.popen(
            [*front, "{port}", "{host}"],
            cwd=tmp_path,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
        )
        try:
            found = r.wait_listening(60, npm)
            assert found.pid not in (None, npm.pid)
            assert "node server.js" in str(found)
            npm.kill()
            npm.wait()
            # It has no parent any more that is known to be ours, and is found all the same.
            with pytest.raises(StillListening, match=rf"pid {found.pid} \(node server.js"):
                r.wait_not_listening(0.02, npm)
        finally:
            os.killpg(npm.pid, signal.SIGTERM)
        r.wait_not_listening(60, npm)


def test_a_command_that_leaves_a_container_is_no_daemon() -> None:
    """As `docker run -d` does: it ends with status 0, and the proxy listens."""
    with reserve() as r, front("docker-proxy", r.port), subprocess.Popen(["true"]) as detached:
        detached.wait()  # before the look, which would see a stranger beside a process that runs
        with pytest.raises(ServerExited) as caught:
            r.wait_listening(600, detached)
    assert "daemonize" not in str(caught.value)
    assert str(caught.value).endswith(
        "This listener is Docker's proxy for a published port; the server is behind it: wait "
        "without process= (docs/starting.md)"
    )


def test_another_server_is_no_front() -> None:
    with reserve() as r, subprocess.Popen(["cat"], stdin=subprocess.PIPE) as client:
        with front("web-server", r.port), pytest.raises(WrongListener) as caught:
            r.wait_listening(600, client)
        client.communicate()
    assert str(caught.value).endswith("wrong server. End it, or reserve another port")


@pytest.mark.parametrize(
    ("stranger", "awaited", "said"),
    [
        (None, "docker run -p 8080:80 nginx", "A container engine publishes a port by a process"),
        (None, "/usr/bin/podman run nginx", "A container engine"),
        (None, "python server.py", None),
        (None, None, None),
        ("python docker-proxy", "docker run nginx", None),
        ("'unclosed", None, None),
        ("", None, None),
    ],
)
def test_what_speaks_for_a_front(
    stranger: str | None, awaited: str | None, said: str | None
) -> None:
    """One whose process cannot be seen is a front if a container engine was started."""
    found = front_in_words(stranger, awaited)
    assert found is None if said is None else said in str(found)
