"""A secret that is given in words or in a file, which may be renewed at any time. It never shows in errors or logs."""

from __future__ import annotations

from pathlib import Path

from rstitch.errors import RstitchError, invalid

_PUT_IT = "Put the secret, and nothing else, into one line of a readable file."


class Secret:
    """A secret; "" if none was given. `field` and `file_field` are how it and its file are called in errors."""

    def __init__(self, value: str, file: str, field: str, file_field: str) -> None:
        if value and file:
            raise invalid(file_field, f"{field} is given as well.", "Give one of them; the file shows in no listing.")
        self._file = file
        self._field = file_field if file else field
        self._seen: tuple[int, int, int] | None = None
        self._value = "" if file else self._checked(value)
        self.get()

    def __repr__(self) -> str:
        return f"Secret({'***' if self._value else ''})"

    def get(self) -> str:
        """Gives the secret as it is now. A file that holds none any more leaves the last good one.

        Raises: RstitchError if its file never held one.
        """
        if self._file:
            try:
                self._look()
            except RstitchError:
                if not self._value:
                    raise
        return self._value

    def _look(self) -> None:
        """Reads the file if it has changed."""
        try:
            found = Path(self._file).stat()
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen == self._seen:
                return
            text = Path(self._file).read_bytes().decode("ascii", "replace").strip()
        except OSError as error:
            raise invalid(self._field, f"the file cannot be read: {error.strerror}.", _PUT_IT) from None
        self._seen = seen
        if not text:
            raise invalid(self._field, "the file is empty.", _PUT_IT)
        self._value = self._checked(text)

    def _checked(self, value: str) -> str:
        if not all(" " < character <= "~" for character in value):
            remedy = "Give it as it was shown: letters, digits and signs in one line, without blanks."
            raise invalid(self._field, "it holds characters that no key has.", remedy)
        return value
