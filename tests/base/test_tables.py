from utils.base import program

HEADER = ["network", "top-1 %", "MB"]
ROWS = [["a", "75.2", "9"], ["longer-name", "-", "15.25"]]


def test_markdown_aligns_names_left_and_numbers_right():
    assert program.markdown(HEADER, ROWS) == (
        "| network | top-1 % | MB |\n|---|---:|---:|\n| a | 75.2 | 9 |\n| longer-name | - | 15.25 |"
    )
    assert program.markdown(["a", "b"], [], left=0) == "| a | b |\n|---:|---:|"


def test_markdown_may_be_printed_row_by_row():
    lines = [program.markdown_head(HEADER, left=2), *map(program.markdown_row, ROWS)]
    assert "\n".join(lines) == program.markdown(HEADER, ROWS, left=2)


def test_plain_columns_are_as_wide_as_their_widest_cell():
    assert program.plain(HEADER, ROWS) == (
        "network      top-1 %     MB\na               75.2      9\nlonger-name        -  15.25"
    )
    assert program.plain(["a", "b"], [["1", ""]], left=2) == "a  b\n1"
