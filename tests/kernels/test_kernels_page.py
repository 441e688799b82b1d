"""docs/kernels.md says what the last runs said."""

from tests.kernels.results import BEGIN, END, PAGE, stored, table


def test_the_table_is_what_was_recorded() -> None:
    _, _, rest = PAGE.read_text().partition(BEGIN)
    shown, end, _ = rest.partition(END)
    assert end == END
    assert shown == table(stored())
