"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake in the input that the user can mend.

    The message is one line that names the thing, the place and the remedy. `launch` prints it without a
    traceback and exits with status 2.
    """
