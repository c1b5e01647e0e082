"""The one error that tenreo raises on purpose."""


class TenreoError(Exception):
    """Something a user can mend; the message says what was given, what was needed, what to do."""
