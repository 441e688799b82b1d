"""What the chosen files have to do with: what they import, what they run, what they read.

Elsewhere the same number is another number: an example's, another program's, a Makefile's.
"""

import configparser
import re
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ephemport.migrate.tree import Tree, is_test_file, read_text, shown
from ephemport.migrate.words import each

_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>[\w.]+)[ \t]+import[ \t]+(?P<names>\([^)]*\)|[^\n#]*)"
    r"|import[ \t]+(?P<modules>[^\n#]+))",
    re.M,
)
_STRING = re.compile(r"'([^'\n]{1,200})'|\"([^\"\n]{1,200})\"")
_WORD = re.compile(r"[\w./*-]+")
_SCRIPT = re.compile(r"""^\s*["']?([\w.-]+?)["']?\s*=\s*["']([\w.]+):[\w.]+""", re.M)
_SETTINGS = each(".yaml .yml .json .toml .cfg .ini .env .properties")
_OTHERS_SETTINGS = re.compile(
    r"/\.github/|/\.circleci/|/\.vscode/|/\.?(?:gitlab-ci|travis|pre-commit-config|readthedocs"
    r"|appveyor|codecov|mkdocs|renovate|azure-pipelines)\.(?:ya?ml|json)$"
)
_COMPOSE = re.compile(r"(?:docker-)?compose.*\.ya?ml")
_NUMBER = re.compile(r"(?<![\w.])[1-6]?\d{4}(?![\w]|\.\d)")
_ABOUT_PORTS = re.compile(
    r"port|listen|bind|addr|host|url|endpoint|server|expose|://|:\d{4,5}\b|^\W*\d{4,5}\W*$", re.I
)


class Reached(NamedTuple):
    """The files that matter for the chosen ones, and the numbers in those that are no Python.

    data: each number where it may be a port, and where it stands. published: the same for what
    containers publish on this machine.
    """

    python: frozenset[Path]
    data: dict[int, str]
    published: dict[int, str]


def reach(tree: Tree, suite: frozenset[Path]) -> Reached:
    """What the chosen part of the suite imports, runs and reads, the one through the other."""
    folders = {folder for path in tree.chosen for folder in path.parents}
    above = {path for path in tree.python if path.name == "conftest.py" and path.parent in folders}
    modules = _Modules(tree)
    found = set((tree.chosen & suite) | above) & set(tree.python)
    waiting = list(found)
    said: set[str] = set()
    while waiting:
        path = waiting.pop()
        text = read_text(path)
        words = _words(text)
        said |= words
        next_ones = set(modules.imported(path, text))
        if path in suite:
            next_ones |= set(modules.run(words))
        waiting += next_ones - found
        found |= next_ones
    data: dict[int, str] = {}
    published: dict[int, str] = {}
    suite_folders = {path.parent for path in suite & tree.chosen}
    for path in tree.data:
        if _is_read(path, tree, folders, suite_folders, said):
            into = published if _COMPOSE.fullmatch(path.name) else data
            for number, place in _numbers(path, tree.root):
                into.setdefault(number, place)
    return Reached(frozenset(found), data, published)


class _Modules:
    """The project's modules by their names."""

    def __init__(self, tree: Tree) -> None:
        self.by_last: dict[str, list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
        self.packages = {path.parent for path in tree.python if path.name == "__init__.py"}
        self.root = tree.root
        for path in tree.python:
            inside = path.is_relative_to(tree.root)
            parts = path.relative_to(tree.root).with_suffix("").parts if inside else (path.stem,)
            if parts[-1] == "__init__":
                parts = parts[:-1]
            if parts:
                self.by_last[parts[-1]].append((parts, path))
        self.scripts: dict[str, str] = {}
        for name in ("pyproject.toml", "setup.cfg", "setup.py"):
            text = read_text(tree.root / name)
            # setup.cfg and setup.py write "name = package.module:function" without quotes.
            self.scripts.update(_SCRIPT.findall(text.replace("'", '"')))
            self.scripts.update(re.findall(r"([\w.-]+)\s*=\s*([\w.]+):\w+", text))

    def imported(self, path: Path, text: str) -> Iterator[Path]:
        """The modules that a file imports, and their packages."""
        for match in _IMPORT.finditer(text):
            if match["base"] is None:
                for module in match["modules"].split(","):
                    yield from self.named(module.split(" as ")[0].strip(), path)
                continue
            base = match["base"]
            names = [one.split(" as ")[0].strip(" \t\r\n()\\") for one in match["names"].split(",")]
            names = [name for name in names if name.isidentifier()]
            if base.startswith("."):
                yield from self._relative(path, base, names)
                continue
            yield from self.named(base, path)
            for name in names:
                yield from self.named(f"{base}.{name}", path)

    def _relative(self, path: Path, base: str, names: list[str]) -> Iterator[Path]:
        folder = path.parent
        for _ in range(len(base) - len(base.lstrip(".")) - 1):
            folder = folder.parent
        steps = [step for step in base.lstrip(".").split(".") if step]
        target = folder.joinpath(*steps)
        for candidate in (target, *(target / name for name in names)):
            for file in (candidate.with_name(f"{candidate.name}.py"), candidate / "__init__.py"):
                if any(file == known for _, known in self.by_last.get(candidate.name, ())):
                    yield file

    def named(self, name: str, importer: Path | None = None) -> Iterator[Path]:
        """The files that `import name` reads: of every package on the way, too."""
        parts = tuple(name.split("."))
        for length in range(1, len(parts) + 1):
            wanted = parts[:length]
            for known, path in self.by_last.get(wanted[-1], ()):
                if known[-length:] != wanted:
                    continue
                folder = self.root.joinpath(*known[:-length])
                # A folder on the path is no package, unless pytest put it there for the importer.
                if folder not in self.packages or (importer and folder == importer.parent):
                    yield path

    def run(self, words: Collection[str]) -> Iterator[Path]:
        """The files that a suite with these words in its strings may start, or load by name."""
        by_module = "-m" in words
        for word in words:
            name = word.rpartition("/")[2]
            if name.endswith(".py"):
                for _, path in self.by_last.get(name[:-3], ()):
                    if path.name == name:
                        yield path
            elif "." in name and name.replace(".", "_").isidentifier():
                yield from self.named(name)
                yield from self._main(name, by_module)
            else:
                yield from self._main(name, by_module)
                if name in self.scripts:
                    yield from self.named(self.scripts[name])

    def _main(self, name: str, by_module: bool) -> Iterator[Path]:
        """`python -m name`, and a script that is called by its stem."""
        parts = tuple(name.split("."))
        for known, path in self.by_last.get("__main__", ()):
            if known[:-1][-len(parts) :] == parts:
                yield path
                yield from self.named(".".join((*parts, "__main__")))
        for _, path in self.by_last.get(name, ()):
            if not is_test_file(path) and (by_module or "__main__" in read_text(path)):
                yield path


def _words(text: str) -> set[str]:
    """What a file's strings say, word by word, and the last parts of paths."""
    found = set()
    for match in _STRING.finditer(text):
        for word in _WORD.findall(match[0]):
            found |= {word, word.rpartition("/")[2]}
    return found


def _is_read(
    path: Path, tree: Tree, folders: set[Path], suite_folders: set[Path], said: set[str]
) -> bool:
    suffix = path.suffix or path.name
    if path.name in said or (path.stem in said and {suffix, "*" + suffix} & said):
        return True
    if path.parent in folders and path.name in _PYTEST_SETTINGS:
        return True
    is_settings = path.suffix in _SETTINGS or path.name.startswith(".env")
    if not is_settings or _OTHERS_SETTINGS.search(path.as_posix()):
        return False
    return path.parent == tree.root or bool(suite_folders & set(path.parents))


def _numbers(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    text = read_text(path)
    if not _NUMBER.search(text):
        return
    wanted = _pytest_numbers(path, text) if path.name in _PYTEST_SETTINGS else None
    for count, line in enumerate(text.splitlines(), 1):
        if wanted is not None or _ABOUT_PORTS.search(line):
            for match in _NUMBER.finditer(line):
                if wanted is None or int(match[0]) in wanted:
                    yield int(match[0]), f"{shown(path, root)}:{count}"


_PYTEST_SETTINGS = {"pyproject.toml", "setup.cfg", "tox.ini", "pytest.ini", ".pytest.ini"}
_DESCRIPTIONS = {"markers", "filterwarnings", "description"}


def _pytest_numbers(path: Path, text: str) -> set[int]:
    """The numbers that a file of many tools' settings hands to the tests."""
    try:
        if path.suffix == ".toml":
            tables: Mapping[str, Any] = tomllib.loads(text).get("tool", {})
        else:
            parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
            parser.read_string(text)
            tables = {name: dict(parser[name]) for name in parser.sections()}
    except (tomllib.TOMLDecodeError, configparser.Error):
        return {int(number) for number in _NUMBER.findall(text)}
    wanted = {
        name: table
        for name, table in tables.items()
        if "pytest" in name or name.startswith(("testenv", "hatch", "tox"))
    }
    return {int(number) for number in _NUMBER.findall(repr(_without_descriptions(wanted)))}


def _without_descriptions(table: Any) -> Any:
    if not isinstance(table, Mapping):
        return table
    return {
        key: _without_descriptions(value)
        for key, value in table.items()
        if key not in _DESCRIPTIONS
    }
