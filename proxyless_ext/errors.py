"""The one exception that reaches a user as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake the user can mend: the message is one sentence saying what is wrong and what to do."""
