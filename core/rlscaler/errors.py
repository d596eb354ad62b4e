"""The error that a person can act on.

Everything a user can get wrong (a file, a field, an option) is raised as `UserError`; the command line
turns it into `error: ...` and exit code 2 (1 where the machine is at fault, `NoRoomError`). Any other exception is a
defect of the program and keeps its traceback.
"""


class UserError(Exception):
    """A user's mistake; the message names the file or field, what was found, what is expected and what to do."""

    exit_code = 2


class NoRoomError(UserError):
    """Nothing more can be written where a result was to go; what was there before is whole."""

    exit_code = 1
