"""Markdown on a terminal: nothing is lost, nothing is too wide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slsr.cli.terminal import fitted
from slsr.markdown import table

WORDS = st.text("abcdefgh0123456789.+-", min_size=1, max_size=30)
TABLES = st.integers(1, 12).flatmap(
    lambda columns: st.lists(st.lists(WORDS, min_size=columns, max_size=columns), min_size=2, max_size=5)
)


@given(TABLES)
def test_a_table_of_any_width_fits_and_keeps_every_cell(rows):
    text = fitted(table(*[rows[0], rows[1:]]), width=70)
    assert max(map(len, text.splitlines())) <= 70
    found = text.split()
    for row in rows:
        for cell in row:
            assert cell in found


def test_a_divided_table_repeats_what_says_which_row_it_is():
    header = ["", "backbone", "k", *(f"measure {number} of several" for number in range(5))]
    rows = [[name, "resnet18", k, *["1.0"] * 5] for name in ("baseline", "SLSR") for k in ("2", "3")]
    text = fitted(table(header, rows, [False] * 3 + [True] * 5), width=60)
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert len(blocks) > 1
    for heading, *lines in blocks:
        assert heading.split()[:2] == ["backbone", "k"]
        assert [line.split()[:3] for line in lines] == [row[:3] for row in rows]


def test_a_long_note_is_wrapped_under_itself():
    note = " ".join(f"word{number}" for number in range(40))
    text = fitted(table(["metric", "value", "note"], [["rank-1", "0.5", note]], [False, True, False]), width=80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    start = lines[0].index("note")
    assert all(line[:start].strip() == "" for line in lines[2:])
    assert " ".join(line[start:] for line in lines[1:]).split() == note.split()


def test_prose_is_wrapped_without_marks_and_code_is_left_alone():
    text = fitted(
        f"## Title\n\nSee `slsr gate` and **this** {'word ' * 40}\n\n```diff\n- `a`\n+ {'b ' * 80}\n```\n", 80
    )
    assert text.startswith("Title\n\nSee `slsr gate` and this word")
    prose, code = text.split("\n\n- ")
    assert max(map(len, prose.splitlines())) <= 80
    assert code.startswith("`a`\n+ b b")
    assert max(map(len, code.splitlines())) > 80


@pytest.mark.parametrize("text", ["", "one line", "two\nlines", "a\n\nb"])
def test_short_text_stays(text):
    assert fitted(text) == text


def test_an_escaped_bar_is_a_character():
    assert "a|b" in fitted(table(["x", "note"], [["1", r"a\|b"]]))
