"""Finding hard-coded ports in a test suite, and putting held ones in their place.

The rule of rules: a number is a name. If every place of the tree where 9001 means *the port* gets
the same other number, the suite means what it meant; if one place is missed, it is broken. So all
uses of a number change together, or none does and each is reported with the reason.

Which numbers. 1024 to 65534, decimal, in files of the suite: test files, conftest.py, and what lies
in test folders or beside tests. One of the uses must say that it is a port: it is bound, passed to
something named port, after a host, in a URL or host:port of this machine (`contexts`, `texts`), or
given to a name that ends up so (`flowing`). And something must bind it, or seem to and be reached
(`binding`): what only clients use is somebody else's service, what nobody reaches is data.

Which uses. Once a number is a port, the uses that say nothing of themselves (`start(9001)`,
`{9001: "a"}`, `assert answer == 9001`) change along if the port is near: in their function, class
or file, or behind a fixture or helper that they name (`connecting`). A number that a server is
expected to show is among them: the server was given the stand-in and shows it. Not among them are
- quantities: `timeout=5000`, `recv(8192)`, `port > 1024`, and the distance in `PORT + 1000`;
- documentation strings and comments; URLs of other hosts;
- islands: tests that neither start nor reach a server and use nothing made of the number, such as
  `assert urlparse("http://h:9001").port == 9001`. They hold as they are, whatever the number is.
Numbers that people write for many reasons (8000, 4096, 2024) change only along with a use that is
certainly a port, and stay if something is counted with them in the same place.

What cannot change keeps the number everywhere: values of fixtures' params, and what parametrize
gives to more than its own test (a test replaces them itself, in a first statement: the ids must
agree between workers), and ids that are computed from it; annotations and match patterns; a line
with `# noqa: EPH...`; YAML, JSON, INI, shell and the like that the suite may read (`reaching`); the
product's own source, unless it is a default that the suite overrides, or can be made to
(`defaults`); a file that does not parse; files outside of the paths that were given.

What takes its place. `port_map[9001]`, an int, wherever an expression can stand, at import too;
`port_map[9000 + i]` where a port is computed; an f-string for a string (braces doubled, so
that % and .format() still find what they found); `b"...%d" % port_map[9001]` for bytes. A number
whose uses all lie in one test, fixture or class goes to the documented fixtures and
TestPortManager instead, if it is certain that they do: of the right scope, without names that are
taken, without a server in sight that sets no option. Scripts that the suite runs find the same
numbers in the environment: a line in conftest.py puts them there.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ephemport._errors import EphemportError
from ephemport.migrate.codes import CODES
from ephemport.migrate.uses import File, Finding
from ephemport.migrate.words import WELL_KNOWN

if TYPE_CHECKING:
    from ephemport.migrate.deciding import Decision


class Result(NamedTuple):
    """What was found, what was left and why, and the new sources of the files that change.

    places: where findings stand in the new sources, if that is known.
    """

    root: Path
    findings: list[Finding]
    left: list[Finding]
    before: dict[Path, str]
    after: dict[Path, str]
    replaced: int
    places: dict[Finding, Finding]


def migrate(
    paths: Iterable[Path],
    *,
    style: str = "auto",
    codes: frozenset[str] = frozenset(CODES),
    jobs: int = 1,
    exclude: Iterable[str] = (),
) -> Result:
    """Look through `paths` and work out the edits; nothing is written.

    style: "auto", "map" or "fixtures". codes: what to look for. jobs: how many processes read
    files. exclude: what not to look at, as .gitignore has it. Raises FileNotFoundError for a path
    that is not there, EphemportError without libcst, ValueError for an unknown style.
    """
    try:
        import libcst  # noqa: F401
    except ImportError as error:
        raise EphemportError(
            f"cannot read Python source without libcst ({error}): pip install 'ephemport[migrate]'"
        ) from error
    from ephemport.migrate import patterns, tree
    from ephemport.migrate.deciding import Decision
    from ephemport.migrate.forking import looked_up_at_import
    from ephemport.migrate.reaching import reach
    from ephemport.migrate.reading import read_files
    from ephemport.migrate.rewriting import rewrite

    if style not in patterns.STYLES:
        raise ValueError(f"unknown style {style!r}; known are {', '.join(patterns.STYLES)}")
    whole = tree.read_tree(paths, exclude)
    suite = tree.suite_of(whole) | {path for path in whole.chosen if path.suffix != ".py"}
    reached = reach(whole, suite)
    files = read_files(sorted(reached.python | set(whole.python) & whole.chosen), jobs)
    decision = Decision(whole, reached, files, suite, codes)
    chosen_patterns = patterns.choose(decision, style)
    after = rewrite(decision, chosen_patterns)
    changed = {(use.path, use.start) for one in decision.converted() for use in one.uses}
    before = {path: files[path].source for path in after}
    after = {path: text for path, text in after.items() if text != before[path]}
    at_import = looked_up_at_import(whole, files, suite, after)
    findings, left = _findings(decision, codes, at_import)
    return Result(whole.root, findings, left, before, after, len(changed), at_import)


def _findings(
    decision: "Decision", codes: frozenset[str], stays: Iterable[Finding]
) -> tuple[list[Finding], list[Finding]]:
    """What is found, and what is left. stays: findings that no edit makes good."""
    found = list(stays)
    left = list(found)
    for number in decision.numbers.values():
        # Somebody's database, told from its number: not this suite's port.
        if number.bound == "no" and number.number in WELL_KNOWN:
            continue
        for use in number.reported:
            if use.form == "range" and len(use.numbers) > 1:
                if number.number != use.numbers[0]:
                    continue
                about = f"ports {use.numbers[0]} to {use.numbers[-1]} are hard-coded"
            else:
                about = f"port {number.number} {_SAID[use.meaning.code]}"
            if number.reason:
                about += f" (left: {number.reason})"
            finding = Finding(use.path, use.line, use.column, use.meaning.code, about)
            found.append(finding)
            if number.reason:
                left.append(finding)
    for file in decision.files.values():
        others = list(file.findings)
        if file.unreadable:
            message = f"cannot be read, and is left: {file.unreadable}"
            others.append(Finding(file.path, 1, 1, "EPH900", message))
        if file not in decision.suite:
            others = [one for one in others if one.code != "EPH201"]
        found += others
        left += others
    return _shown(decision.files, found, decision.chosen, codes), _shown(
        decision.files, left, decision.chosen, codes
    )


_SAID = {
    "EPH001": "is bound and hard-coded",
    "EPH002": "is hard-coded",
    "EPH003": "is hard-coded in an address",
}


def _shown(
    files: Mapping[Path, File],
    findings: list[Finding],
    chosen: frozenset[Path],
    codes: frozenset[str],
) -> list[Finding]:
    """Those that were asked for, in the order of the files, without what noqa silences."""

    def silenced(finding: Finding) -> bool:
        marked = files[finding.path].noqa.get(finding.line, frozenset())
        return marked is None or finding.code in marked

    return sorted(
        {one for one in findings if one.path in chosen and one.code in codes and not silenced(one)}
    )
