"""Shows what a terminal shows after a program's output."""


def screen(text):
    """The lines that a terminal shows in the end."""
    lines, column = [""], 0
    for character in text:
        if character == "\n":
            lines.append("")
        if character == "\b":
            column = max(0, column - 1)
            continue
        column = 0 if character in "\r\n" else column + 1
        if column:
            lines[-1] = lines[-1][: column - 1] + character + lines[-1][column:]
    return [line.rstrip() for line in lines]
