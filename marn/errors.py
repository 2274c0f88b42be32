"""The errors that the library raises for input that it cannot use."""


class MarnError(ValueError):
    """Report bad input.

    The message is one line: what is wrong, by name, and what to do about it. The command line
    prints it without a traceback and exits with status 2.
    """


class DamagedError(MarnError):
    """Report a damaged model file; the text says what is wrong with it."""
