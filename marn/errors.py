"""The one error that the library raises for input it cannot use."""


class MarnError(ValueError):
    """Bad input met at a public boundary.

    The message is one line: what was wrong, by name, and what to do about it. The command line
    prints it without a traceback and exits with status 2.
    """


class DamagedError(MarnError):
    """A file of a model is not as it was written; the text says what is wrong with it."""
