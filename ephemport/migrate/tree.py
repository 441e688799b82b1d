"""Which files there are: the suite's, the product's, and others that may repeat a number."""

import fnmatch
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ephemport.migrate.words import each

_SKIPPED = each(
    ".git .hg .venv venv node_modules build dist .tox .nox .eggs __pycache__ site-packages "
    ".mypy_cache .ruff_cache .pytest_cache"
)
_ROOT_MARKS = (".git", "pyproject.toml", "setup.py", "setup.cfg", "pytest.ini", "tox.ini")
_TEST_FOLDERS = {"test", "tests", "testing", "integration_tests", "functional_tests"}
_HELPERS = each(
    "helper helpers fixture fixtures support util utils common fake fakes mock mocks stub stubs"
)
_DATA = each(
    ".yaml .yml .json .toml .cfg .ini .conf .env .properties .xml .sh .js .mjs .ts .rb .go .rs "
    ".java .tf .service"
)
_DATA_NAMES = {"Dockerfile", "Makefile", "Procfile", ".env", "justfile"}
_LOCKS = {"package-lock.json", "poetry.lock", "uv.lock", "Pipfile.lock", "composer.lock"}
_LARGEST = 1_000_000


class Tree(NamedTuple):
    """A project: everything whose numbers must agree, and the part of it that may be changed."""

    root: Path
    python: list[Path]
    data: list[Path]
    chosen: frozenset[Path]


def read_tree(paths: Iterable[Path], exclude: Iterable[str] = ()) -> Tree:
    """The project around `paths`. FileNotFoundError for a path that is not there.

    exclude: patterns as in .gitignore, of what not to look at.
    """
    # Not resolve(), which raises RuntimeError for links that lead in a circle.
    given = [Path(os.path.realpath(path)) for path in paths]
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
    root = _root(given)
    excluded = list(exclude)
    files = [
        path
        for path in _files(root)
        if not any(
            _ignores(root, pattern, part)
            for pattern in excluded
            for part in (path, *path.parents)
            if part != root and part.is_relative_to(root)
        )
    ]
    python = [path for path in files if path.suffix == ".py"]
    # A file that is named outright counts even where its folder would be skipped.
    named = [path for path in given if path.is_file() and path not in set(python)]
    folders = [path for path in given if path.is_dir()]
    chosen = {path for path in python if any(path.is_relative_to(one) for one in folders)}
    chosen |= {path for path in given if path.is_file()}
    data = [path for path in files if _is_data(path)]
    return Tree(root, sorted({*python, *named}), sorted(data), frozenset(chosen))


def suite_of(tree: Tree) -> frozenset[Path]:
    """The Python files that are tests, or help them; the others are the product."""
    with_tests = {path.parent for path in tree.python if is_test_file(path)}
    # A project that is distributed has its product beside its tests; a bare suite has not.
    ships = any((tree.root / name).exists() for name in ("setup.py", "setup.cfg")) or any(
        table in read_text(tree.root / "pyproject.toml") for table in ("[project]", "[tool.poetry]")
    )
    bare = not ships and any(
        path.parent == tree.root and path.name != "conftest.py" and is_test_file(path)
        for path in tree.python
    )
    # A package beside bare tests is what they test, unless it is called a helper of theirs.
    packages = {path.parent for path in tree.python if path.name == "__init__.py"}
    found = set()
    for path in tree.python:
        parts = path.relative_to(tree.root).parts[:-1] if path.is_relative_to(tree.root) else ()
        above = {path.parent, *path.parent.parents} & with_tests - {tree.root}
        in_package = bool(parts) and tree.root / parts[0] in packages
        helps = bare and not (in_package and _HELPERS.isdisjoint(parts[0].split("_")))
        beside = path.parent == tree.root and tree.root in with_tests and not ships
        if is_test_file(path) or _TEST_FOLDERS & set(parts) or above or beside or helps:
            found.add(path)
    return frozenset(found) if found or ships else frozenset(tree.python)


def is_test_file(path: Path) -> bool:
    """Whether pytest reads this file of itself."""
    return path.name == "conftest.py" or bool(re.fullmatch(r"test_.*\.py|.*_test\.py", path.name))


def shown(path: Path, root: Path) -> str:
    """A path as people read it: from where they are, or else from the project's root."""
    for base in (Path.cwd(), root):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)


def _root(given: list[Path]) -> Path:
    common = Path(os.path.commonpath(given))
    folder = common if common.is_dir() else common.parent
    for candidate in (folder, *folder.parents):
        if candidate in (Path.home(), Path("/"), Path("/tmp")):
            break
        if any((candidate / mark).exists() for mark in _ROOT_MARKS):
            return candidate
    return folder


def _files(root: Path) -> Iterator[Path]:
    listed = _git_files(root)
    if listed is None:
        yield from _walk(root, [])
        return
    for name in listed:
        path = root / name
        if not _SKIPPED & set(Path(name).parts[:-1]) and path.is_file() and not path.is_symlink():
            yield path


def _git_files(root: Path) -> list[str] | None:
    command = ["git", "-C", str(root), "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    names = {name for name in os.fsdecode(done.stdout).split("\0") if name}
    # A folder that its repository ignores as a whole, and that was asked for all the same.
    return sorted(names) or None


def _walk(folder: Path, ignored: list[tuple[Path, str]]) -> Iterator[Path]:
    lines = read_text(folder / ".gitignore").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "!"))]
    ignored = [*ignored, *((folder, pattern) for pattern in patterns)]
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or any(_ignores(base, pattern, path) for base, pattern in ignored):
            continue
        if path.is_dir():
            if path.name not in _SKIPPED and not path.name.endswith(".egg-info"):
                yield from _walk(path, ignored)
        elif path.is_file():
            yield path


def _ignores(base: Path, pattern: str, path: Path) -> bool:
    """A simple reading of gitignore(5): no `!`, `**` as `*`."""
    if pattern.endswith("/"):
        if not path.is_dir():
            return False
        pattern = pattern[:-1]
    if "/" in pattern:
        return fnmatch.fnmatch(str(path.relative_to(base)), pattern.lstrip("/"))
    return fnmatch.fnmatch(path.name, pattern)


def _is_data(path: Path) -> bool:
    known = path.suffix in _DATA or path.name in _DATA_NAMES or path.name.startswith(".env")
    return known and path.name not in _LOCKS


def read_text(path: Path) -> str:
    """A file's text as well as it can be had, "" for one that is very long or cannot be read."""
    try:
        if path.stat().st_size > _LARGEST:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
