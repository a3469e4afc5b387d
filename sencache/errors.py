"""The one kind of error a user can cause."""


class SencacheError(ValueError):
    """Bad input: the message is one sentence that names the offending value and the remedy.

    Command line programs print it and exit with code 2; the app shows it as it is.
    """
