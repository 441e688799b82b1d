"""The examples of docs/which-ports.md run, and the options in its table exist."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from ephemport.cli import _parser
from tests.conftest import ROOT, InNamespace

PAGE = (ROOT / "docs/which-ports.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
IN_PYTHON = re.findall(r"\| `(reserve.*?\))` \|", PAGE)
ON_THE_COMMAND_LINE = [
    *re.findall(r"\| `(-.*?)` \|", PAGE),
    *re.findall(r"reserve --for \$\$ (.*?)\)", PAGE),
]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples(in_namespace: InNamespace, tmp_path: Path, number: int) -> None:
    example = EXAMPLES[number]
    if "redis" in example and shutil.which("redis-server") is None:
        pytest.skip("no redis-server here")
    begin = f"from ephemport import reserve, reserve_many\nfolder = {str(tmp_path)!r}\n"
    in_namespace(f"{begin}{example}", ports=None)


@pytest.mark.parametrize("call", IN_PYTHON)
def test_the_calls_of_the_table(in_namespace: InNamespace, call: str) -> None:
    source = f"from ephemport import reserve, reserve_many\nwith {call}: print('held')"
    assert in_namespace(source, ports=None) == "held\n"


@pytest.mark.parametrize("options", ON_THE_COMMAND_LINE)
def test_the_options_of_the_table(in_namespace: InNamespace, options: str) -> None:
    words = ["reserve", *shlex.split(options)]
    source = f"import sys; from ephemport.cli import main; sys.exit(main({words}))"
    ports = [int(line) for line in in_namespace(source, ports=None).splitlines()]
    assert ports
    for command in re.findall(r"\$ ephemport (run .*?) -- ", PAGE):
        _parser().parse_args(shlex.split(command))


def test_nothing_is_left_out() -> None:
    assert (len(EXAMPLES), len(IN_PYTHON), len(ON_THE_COMMAND_LINE)) == (7, 10, 11)
