"""The one exception that reaches a user as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what is wrong and what to do."""


class OutOfReachError(UserError):
    """A target that no network comes to."""


class InterruptionError(UserError):
    """What ended work that was all right so far: once mended, it can go on where it stood."""


class DiskFullError(InterruptionError):
    """A file that found no room; what was there before is intact."""
