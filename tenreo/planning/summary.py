"""Results that print as a few lines, in Python and in notebooks."""

from html import escape


class Summarized:
    """Base class of results whose `repr` is their `str`, because the values of all layers would fill pages."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
