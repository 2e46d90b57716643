"""What reaches into a library's private parts or changes its behaviour, one module a library.

Each is a context manager that restores what was there, or a function that checks the library first
(``guard``).
"""
