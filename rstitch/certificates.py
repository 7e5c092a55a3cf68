"""Certificates and private keys in files, which may be renewed at any time. It opens no connection.

Nothing that is said of a file holds its path or its content.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rstitch.errors import RstitchError, invalid

# Of each file: inode, time and size, or None where there is none.
_State = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files held at one time, in PEM; None where no file is named."""

    cert: bytes | None
    key: bytes | None
    ca: bytes | None


class CertificateFiles:
    """A certificate with its key, and authorities to trust, each in a file or not at all.

    `called` says how `tls_cert`, `tls_key` and `tls_ca` are called where they were given; errors name them so.
    """

    def __init__(self, cert: str, key: str, ca: str, called: Callable[[str], str] = str) -> None:
        self._paths = (cert, key, ca)
        self._called = called
        self._lock = threading.Lock()  # handshakes are in threads of the library's own
        self._seen: _State = ()
        if cert and not key:
            raise invalid(called("tls_key"), "the certificate's key is missing.", "Name its file too.")
        if key and not cert:
            raise invalid(called("tls_cert"), "the key's certificate is missing.", "Name its file too.")

    def read(self) -> Pem:
        """Reads all files. Raises: RstitchError if one cannot be read, or they do not belong together."""
        with self._lock:
            self._seen = self._state()
            return self._read()

    def renewed(self) -> Pem | None:
        """Returns what the files hold if one has changed since the last look, else None; costs little.

        Raises: RstitchError as `read`, once for each change: the other half of a pair may be on its way.
        """
        with self._lock:
            state = self._state()
            if state == self._seen:
                return None
            self._seen = state
            return self._read()

    def _state(self) -> _State:
        return tuple(_state_of(path) if path else None for path in self._paths)

    def _read(self) -> Pem:
        names = [self._called(name) for name in ("tls_cert", "tls_key", "tls_ca")]
        cert, key, ca = (_bytes_of(path, name) if path else None for path, name in zip(self._paths, names, strict=True))
        if ca is not None:
            _check_certificates(ca, names[2])
        if cert is not None:
            _check_certificates(cert, names[0])
            _check_pair(self._paths[0], self._paths[1], names[1])
            # What was checked is what was read, also while somebody writes.
            if (cert, key) != (_bytes_of(self._paths[0], names[0]), _bytes_of(self._paths[1], names[1])):
                raise invalid(names[0], "the file is being written.", "Try again.")
        return Pem(cert, key, ca)


def system_roots() -> bytes | None:
    """Reads the authorities that this system trusts (SSL_CERT_FILE, or OpenSSL's own); None where there is no file."""
    path = ssl.get_default_verify_paths().cafile
    return Path(path).read_bytes() if path else None


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _bytes_of(path: str, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise invalid(name, f"the file cannot be read: {error.strerror}.", "Name a readable file in PEM.") from None


def _check_certificates(pem: bytes, name: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise invalid(name, "the file holds no certificate.", "Name a file in PEM (BEGIN CERTIFICATE).") from None


def _check_pair(cert: str, key: str, name: str) -> None:
    def no_passphrase() -> str:
        raise invalid(name, "the key has a passphrase.", "Name a key without one that only this user may read.")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_passphrase)
    except RstitchError as error:
        raise error from None
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise invalid(name, "it is the key of another certificate.", "Name the certificate's own key.") from None
        raise invalid(name, "the file holds no usable key.", "Name a private key in PEM.") from None
