"""Until when the certificates of a process hold, as a metric: whoever is told in time renews them. It checks nothing.

The standard library loads certificates and does not say until when they hold, so the date is read here: of the DER
structure that RFC 5280 gives a certificate only the way to it.

    Certificate  SEQUENCE
      tbs          SEQUENCE
        [0] version, serial, algorithm, issuer
        validity     SEQUENCE   notBefore, notAfter
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from rstitch.service import semconv
from rstitch.service.metrics import Metrics, Reading

_END = "-----END CERTIFICATE-----"
_VERSION, _UTC_TIME = 0xA0, 0x17
# A file is read when metrics are; whatever larger is named there is not certificates.
_MAX_BYTES = 1 << 20


def measure_expiry(metrics: Metrics, files: Mapping[str, str]) -> None:
    """Adds a gauge of when the first certificate of each file ends that holds no longer; `files` by flag, "" for none.

    A file that cannot be read has no figure: those who use it say so.
    """
    named = {flag: Path(path) for flag, path in files.items() if path}

    def read() -> Iterator[Reading]:
        for flag, path in named.items():
            ends = _end_of(path)
            if ends is not None:
                yield ends, {semconv.RSTITCH_CERTIFICATE: flag}

    what = "When the first certificate of a file ends, in Unix time."
    metrics.gauge_of(semconv.METRIC_CERTIFICATE_EXPIRY, "s", what, read)


def not_after(pem: str) -> float:
    """Gives the Unix time until which all certificates of `pem` hold. Raises: ValueError if there is none."""
    found = [_not_after(ssl.PEM_cert_to_DER_cert(part[part.index("-----BEGIN") :] + _END)) for part in _parts(pem)]
    return min(found)


def _end_of(path: Path) -> float | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        return not_after(path.read_text("ascii", "replace"))
    except (OSError, ValueError, IndexError):
        return None


def _parts(pem: str) -> list[str]:
    return [part for part in pem.split(_END) if "-----BEGIN CERTIFICATE-----" in part]


def _not_after(der: bytes) -> float:
    _, begin, _ = _element(der, 0)
    _, at, _ = _element(der, begin)
    if der[at] == _VERSION:
        at = _element(der, at)[2]
    for _ in ("serial", "algorithm", "issuer"):
        at = _element(der, at)[2]
    _, at, _ = _element(der, at)
    at = _element(der, at)[2]  # past notBefore
    kind, begin, end = _element(der, at)
    text = der[begin:end].decode("ascii")
    if kind == _UTC_TIME:  # two digits of the year, of which RFC 5280 says what they mean
        text = ("20" if text < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Gives an element's tag, where its content begins, and where it ends."""
    tag, length, begin = der[at], der[at + 1], at + 2
    if length & 0x80:
        num = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + num], "big"), begin + num
    return tag, begin, begin + length
