"""Tries hostile input, damaged files and kills on the real programs, and counts what goes wrong.

`make campaign` runs everything, `make campaign SECTIONS="settings kills"` some sections.
A section is a module with a function `cases`: `settings`, `weights`, `records`, `kills`, `state`,
`file_system` and `commands`.
"""
