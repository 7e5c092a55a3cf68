"""TLS of a server: its certificate, whose clients it takes, and all of that renewed without a restart."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import grpc
import structlog
from pydantic import Field
from pydantic_settings import BaseSettings

from rstitch.certificates import CertificateFiles, Pem
from rstitch.errors import RstitchError, invalid, to_status
from rstitch.service.handlers import Context, Continuation, Handler, in_scope

_log = structlog.get_logger(__name__)
_FLAGS = {"tls_cert": "--tls-cert", "tls_key": "--tls-key", "tls_ca": "--tls-client-ca"}


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What ports are secured with; `TlsSettings.server_tls` makes it."""

    cert: str
    key: str
    client_ca: str
    client_names: frozenset[str]

    def credentials(self) -> grpc.ServerCredentials:
        """Makes the credentials of one port. Raises: RstitchError naming the flag of a file that does not load."""
        files = CertificateFiles(self.cert, self.key, self.client_ca, lambda name: _FLAGS[name])
        return _credentials(files, bool(self.client_ca))

    def interceptors(self) -> list[grpc.aio.ServerInterceptor]:
        """Makes what refuses calls by the name of the client's certificate."""
        return [_NameInterceptor(self.client_names)] if self.client_names else []


class TlsSettings(BaseSettings):
    """The flags of a server's TLS, the same for router and workers."""

    tls_cert: Annotated[
        str, Field(description="File of the certificate to serve with, in PEM, its chain behind it; empty: no TLS.")
    ] = ""
    tls_key: Annotated[str, Field(description="File of that certificate's key, in PEM.")] = ""
    tls_client_ca: Annotated[
        str,
        Field(description="File of the authorities that clients' certificates must come from; empty: none is asked."),
    ] = ""
    tls_client_name: Annotated[
        str,
        Field(description="Names, with commas, of which a client's certificate must have one; empty: any of theirs."),
    ] = ""

    def server_tls(self) -> ServerTls | None:
        """Loads the files; None without TLS. Raises: RstitchError naming the flag of one that does not load."""
        if self.tls_client_name and not self.tls_client_ca:
            raise invalid("--tls-client-name", "clients show no certificate.", "Name --tls-client-ca too.")
        if self.tls_client_ca and not self.tls_cert:
            raise invalid("--tls-client-ca", "this server has no certificate itself.", "Name --tls-cert and --tls-key.")
        if not (self.tls_cert or self.tls_key):
            return None
        names = frozenset(name for part in self.tls_client_name.split(",") if (name := part.strip()))
        if self.tls_client_name and not names:
            raise invalid("--tls-client-name", "it names nobody.", "Give a name, or leave it out: then any will do.")
        made = ServerTls(self.tls_cert, self.tls_key, self.tls_client_ca, names)
        made.credentials()
        return made


def _credentials(files: CertificateFiles, ask_clients: bool) -> grpc.ServerCredentials:
    """Makes credentials that look at the files at each handshake. The library takes TLS 1.2 and 1.3."""

    def renewed() -> Any:
        """Returns what is new, or None: the library goes on with what it has."""
        try:
            pem = files.renewed()
        except RstitchError as error:
            _log.error("certificates not renewed: the last good ones stay", error=str(error))
            return None
        if pem is None:
            return None
        _log.info("certificates renewed")
        return _configuration(pem)

    return grpc.dynamic_ssl_server_credentials(_configuration(files.read()), renewed, ask_clients)


def _configuration(pem: Pem) -> Any:
    assert pem.key is not None
    assert pem.cert is not None
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.ca)


class _NameInterceptor(grpc.aio.ServerInterceptor):
    """Refuses every call of a client whose certificate has none of the names, health and reflection included."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None

        @contextlib.asynccontextmanager
        async def scope(context: Context) -> AsyncIterator[None]:
            if not self._names & _names_of(context.auth_context()):
                error = RstitchError(
                    grpc.StatusCode.PERMISSION_DENIED,
                    "WRONG_CERTIFICATE",
                    "the client's certificate is for another name.",
                    remedy="Use the certificate that this server was told to take.",
                )
                await context.abort_with_status(to_status(error))
            yield

        return in_scope(handler, scope)


def _names_of(auth: Mapping[str, Any]) -> set[str]:
    """Gives the subject alternative names of a client's certificate, or its common name where it has none of them."""
    found = auth.get("x509_subject_alternative_name") or auth.get("x509_common_name") or ()
    return {name.decode("utf-8", "replace") for name in found}
