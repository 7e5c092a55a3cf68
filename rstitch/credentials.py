"""How a client shows who it is, and how it knows the server: TLS, a certificate of its own, an API key.

It makes channels, sync and aio. It does not know who is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import grpc

from rstitch.certificates import CertificateFiles, Pem, system_roots
from rstitch.channels import client_options, name_options, target_of
from rstitch.errors import invalid
from rstitch.keyed import KeyedChannel
from rstitch.limits import is_loopback
from rstitch.secret import Secret

_ENVIRONMENT = "RSTITCH_"
_YES, _NO = ("1", "true", "on", "yes"), ("0", "false", "off", "no")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client needs to be let in; nothing: no TLS and no key. Files are read when a channel is made.

    Raises: RstitchError naming the field if these do not go together; `channel` does if a file does not load.

    Attributes:
        tls: whether to talk TLS; implied by `tls_ca`. Without that, the authorities of this system are trusted.
        tls_ca: file of the authorities that the server's certificate must come from, in PEM.
        tls_cert, tls_key: files of the client's own certificate and its key, in PEM, for a server that asks for one.
        tls_name: name that the server's certificate must have; "": the host of the address.
        api_key, api_key_file: the key, or a file that holds it, which is read again when it changes.
        called: how errors call these fields where they came from flags.
    """

    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_name: str = ""
    api_key: str = field(default="", repr=False)
    api_key_file: str = ""
    called: Callable[[str], str] = field(default=str, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("tls_cert", "tls_key", "tls_name"):
            if getattr(self, name) and not self.secure:
                called, ca = self.called(name), self.called("tls_ca")
                raise invalid(called, "it is of no use without TLS.", f"Name the authorities to trust, too: {ca}.")

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> Credentials:
        """Reads RSTITCH_TLS (1 or true), RSTITCH_TLS_CA, ..., RSTITCH_API_KEY and RSTITCH_API_KEY_FILE."""
        found = os.environ if environment is None else environment
        values: dict[str, Any] = {
            each.name: value
            for each in fields(cls)
            if each.name != "called" and (value := found.get(variable_of(each.name), ""))
        }
        if "tls" in values:
            word = values["tls"].lower()
            if word not in (*_YES, *_NO):
                raise invalid(variable_of("tls"), f"{word!r} is neither yes nor no.", "Write 1 or 0.")
            values["tls"] = word in _YES
        return cls(**values, called=variable_of)

    def as_environment(self) -> dict[str, str]:
        """Gives what `of_environment` reads, for a process that is started."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "called"}
        return {variable_of(name): "1" if value is True else value for name, value in values.items() if value}

    @property
    def secure(self) -> bool:
        """Whether calls go over TLS."""
        return self.tls or bool(self.tls_ca)

    def files(self) -> CertificateFiles:
        """Gives the certificates' files, for whoever makes a new channel when they are renewed."""
        return CertificateFiles(self.tls_cert, self.tls_key, self.tls_ca, self.called)

    def channel(self, address: str) -> Any:
        """Makes a channel of grpc; calls on it carry the key."""
        return self._keyed(address, self._made(grpc, address, None))

    def aio_channel(self, address: str, interceptors: Sequence[Any] = (), pem: Pem | None = None) -> Any:
        """Makes a channel of grpc.aio; calls on it carry the key. `pem` is what the files hold, if that is known."""
        return self._keyed(address, self._made(grpc.aio, address, pem, interceptors=list(interceptors)))

    def _made(self, wire: Any, address: str, pem: Pem | None, **more: Any) -> Any:
        options: list[tuple[str, Any]] = [*client_options(), *name_options(address)]
        target = target_of(address)
        if not self.secure:
            return wire.insecure_channel(target, options, **more)
        if self.tls_name:
            options.append(("grpc.ssl_target_name_override", self.tls_name))
        pem = pem or self.files().read()
        secured = grpc.ssl_channel_credentials(pem.ca or system_roots(), pem.key, pem.cert)
        return wire.secure_channel(target, secured, options, **more)

    def _keyed(self, address: str, channel: Any) -> Any:
        secret = Secret(self.api_key, self.api_key_file, self.called("api_key"), self.called("api_key_file"))
        if not secret.get():
            return channel
        if not self.secure and not is_loopback(address):
            called = self.called("api_key_file" if self.api_key_file else "api_key")
            remedy = f"Talk TLS: name the authorities to trust, {self.called('tls_ca')}, or {self.called('tls')}."
            raise invalid(called, f"it would go to {address} in clear.", remedy)
        return KeyedChannel(channel, lambda: [("authorization", f"Bearer {secret.get()}")])


def variable_of(name: str) -> str:
    """Gives the environment variable of a field, such as RSTITCH_TLS_CA of `tls_ca`."""
    return f"{_ENVIRONMENT}{name.upper()}"
