"""The one kind of error that is shown without a traceback."""


class Mistake(ValueError):
    """What a person can mend: the message holds the value, what was expected and the cure, in one line.

    Scripts print it and exit with code 2 (see utils/config.py).
    """
