"""What the tests said on each kernel, and the table of it in docs/kernels.md."""

import json
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.abilities import Ability

STORE = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[2] / "docs/kernels.md"
BEGIN, END = "<!-- results: python -m tests.kernels -->\n", "<!-- /results -->\n"


class Result(NamedTuple):
    """The tests on one kernel."""

    release: str
    machine: str
    python: str
    date: str
    minutes: float
    passed: int
    failures: list[str]
    skipped: dict[str, int]
    missing: list[str]
    tests: str = "all"

    def __str__(self) -> str:
        return (
            f"Linux {self.release} ({self.machine}, Python {self.python}): {self.passed} passed, "
            f"{len(self.failures)} failed, {sum(self.skipped.values())} skipped "
            f"in {self.minutes:.0f} min"
        )


def read_report(folder: Path, minutes: float) -> Result:
    """Return what a job left in its folder."""
    facts = json.loads((folder / "facts").read_text())
    passed, failures, skipped = 0, [], Counter[str]()
    for case in ET.parse(folder / "report.xml").iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failures.append(name)
        elif (skip := case.find("skipped")) is not None:
            skipped[skip.get("message", "").partition("; this is ")[0]] += 1
        else:
            passed += 1
    return Result(
        facts["release"],
        facts["machine"],
        facts["python"],
        time.strftime("%Y-%m-%d"),
        round(minutes, 1),
        passed,
        failures,
        dict(skipped),
        facts["missing"],
    )


def record(name: str, tests: str, result: Result) -> None:
    """Keep a result, in the place of an older one, and write the table anew."""
    results = stored() | {name: result._replace(tests=tests)}
    text = json.dumps({name: one._asdict() for name, one in sorted(results.items())}, indent=2)
    STORE.write_text(f"{text}\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{table(results)}{END}{after}")


def stored() -> dict[str, Result]:
    """Return the results that were kept."""
    if not STORE.exists():
        return {}
    return {name: Result(**one) for name, one in json.loads(STORE.read_text()).items()}


def table(results: dict[str, Result]) -> str:
    """Return the results as a table, the oldest kernel first."""
    if not results:
        return ""
    lines = [
        "| Linux | Python | date | tests | passed | failed | skipped | weaker there |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in sorted(results.values(), key=_age):
        skipped = "; ".join(f"{count}: {why}" for why, count in one.skipped.items())
        weaker = "; ".join(Ability[name].value.weaker for name in one.missing)
        failed = "; ".join([str(len(one.failures)), *one.failures])
        lines.append(
            f"| {one.release} ({one.machine}) | {one.python} | {one.date} | {one.tests} | "
            f"{one.passed:,} | {failed} | {skipped or 0} | {weaker or 'nothing'} |"
        )
    return "".join(f"{line}\n" for line in lines)


def _age(one: Result) -> tuple[list[int], str]:
    version = one.release.partition("-")[0].partition("+")[0]
    return [int(part) for part in version.split(".")], one.machine
