"""How whatever is sent by OTLP is secured: https, by OpenTelemetry's own variables. It sends nothing."""

from __future__ import annotations

import os

import grpc

from rstitch.certificates import CertificateFiles, system_roots

_PARTS = {"tls_cert": "CLIENT_CERTIFICATE", "tls_key": "CLIENT_KEY", "tls_ca": "CERTIFICATE"}


def otlp_credentials(url: str, signal: str) -> grpc.ChannelCredentials | None:
    """Loads what OTEL_EXPORTER_OTLP_CERTIFICATE, ..._CLIENT_CERTIFICATE and ..._CLIENT_KEY name; None if not https.

    Those of the signal alone (`TRACES` or `METRICS`) win. The exporter would go on without a file that it cannot read.

    Raises: RstitchError naming the variable of a file that does not load.
    """
    if not url.startswith("https://"):
        return None
    cert, key, ca = (os.environ.get(_variable(name, signal), "") for name in _PARTS)
    files = CertificateFiles(cert, key, ca, lambda name: _variable(name, signal))
    pem = files.read()
    return grpc.ssl_channel_credentials(pem.ca or system_roots(), pem.key, pem.cert)


def _variable(name: str, signal: str) -> str:
    """Names the signal's own variable where there is one, else that of all signals."""
    own = f"OTEL_EXPORTER_OTLP_{signal}_{_PARTS[name]}"
    return own if own in os.environ else f"OTEL_EXPORTER_OTLP_{_PARTS[name]}"
