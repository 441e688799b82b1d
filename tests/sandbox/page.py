"""docs/sandboxes.md: its table is `conditions`. `python -m tests.sandbox.page` writes it."""

from collections.abc import Iterator

from tests.conftest import ROOT
from tests.sandbox.conditions import CONDITIONS, Condition

PAGE = ROOT / "docs/sandboxes.md"
BEGIN, END = "<!-- table: python -m tests.sandbox.page -->", "<!-- /table -->"


def filled(text: str) -> str:
    """Return the page with the table as it should be."""
    before, _, rest = text.partition(BEGIN)
    lines = "\n".join(_lines())
    return f"{before}{BEGIN}\n{lines}\n{END}{rest.partition(END)[2]}"


def _lines() -> Iterator[str]:
    yield "| refused or missing | what does not work, and its error | what is weaker | `doctor` |"
    yield "| --- | --- | --- | --- |"
    for name, condition in CONDITIONS.items():
        if condition.weaker or condition.refused or condition.doctor or name.startswith("`"):
            weaker = condition.weaker or "-"
            yield f"| {name} | {_refused(condition)} | {weaker} | {_doctor(condition)} |"


def _refused(condition: Condition) -> str:
    return (
        "; ".join(
            f'`{way}`: "{error.format("...").strip()}"' for way, error in condition.refused.items()
        )
        or "everything works"
    )


def _doctor(condition: Condition) -> str:
    return ", ".join(f"{state}: {check}" for check, (state, _) in condition.doctor.items()) or "ok"


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
