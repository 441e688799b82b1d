"""Look-ups at import that forked workers would share: `PORT = port_map[9001]` beside `manage.py`.

A runner that forks its workers imports the tests first. Every worker then has the constant of its
parent, and so the same port. Found in the sources as they will be, so that a run with --write says
what it leaves.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ephemport.migrate.reporting import moved
from ephemport.migrate.tree import Tree, read_text, shown
from ephemport.migrate.uses import File, Finding

CODE = "EPH103"

# Django's own runner: what a manage.py, or a reusable app's runtests.py, starts it with.
_RUNS_DJANGO = re.compile(r"\bexecute_from_command_line\b|\bget_runner\b|\bdjango\.test\.runner\b")
# Its workers are isolated already.
_ISOLATED = re.compile(r"\bephemport\.django\b")


def looked_up_at_import(
    tree: Tree, files: Mapping[Path, File], suite: Iterable[Path], after: Mapping[Path, str]
) -> dict[Finding, Finding]:
    """The look-ups that workers would share, as findings; none where no runner forks.

    Each as it stands in the files now, and in what --write writes. after: these sources.
    """
    runner = _forking_runner(tree)
    if runner is None:
        return {}
    found: list[Finding] = []
    sources = {path: files[path].source for path in suite if path in files}
    for path, source in {**sources, **after}.items():
        for line, column, port in _look_ups(source):
            about = (
                f"port_map[{port}] is looked up at import: the workers of 'test --parallel' "
                f"({shown(runner, tree.root)}) are forked after that and all get this port. Look "
                "it up where it is used (a function, setUp(), setUpClass()), or isolate the "
                'workers: TEST_RUNNER = "ephemport.django.IsolatedRunner" in the settings'
            )
            found.append(Finding(path, line, column, CODE, about))
    now = moved(found, after, {path: sources[path] for path in after if path in sources})
    return dict(zip(now, found, strict=True))


def _forking_runner(tree: Tree) -> Path | None:
    texts = {path: read_text(path) for path in tree.python}
    if any(map(_ISOLATED.search, texts.values())):
        return None
    runners = [path for path, text in texts.items() if _RUNS_DJANGO.search(text)]
    return min(runners, key=lambda path: (path.name != "manage.py", len(path.parts)), default=None)


def _look_ups(source: str) -> Iterator[tuple[int, int, str]]:
    """Line, column and key of each look-up that happens at import."""
    if "port_map" not in source:
        return
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    names = {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module == "ephemport"
        for alias in node.names
        if alias.name == "port_map"
    }
    for node in _at_import(module):
        if isinstance(node, ast.Subscript) and _is_map(node.value, names):
            yield node.lineno, node.col_offset + 1, ast.unparse(node.slice)


def _is_map(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in names
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "port_map"
        and isinstance(node.value, ast.Name)
        and node.value.id == "ephemport"
    )


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: no body of a function, no `if __name__ == ...`."""
    yield node
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        children = [*node.decorator_list, node.args]
    elif isinstance(node, ast.Lambda):
        children = [node.args]
    elif isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
        children = node.orelse
    for child in children:
        yield from _at_import(child)
