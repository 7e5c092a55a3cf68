"""The gateway's settings: flags and environment, typed and complete before anything is opened."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, CliImplicitFlag, SettingsConfigDict

from gateway.openai.thinking import Marks
from rstitch.credentials import Credentials
from rstitch.errors import invalid
from rstitch.limits import GATEWAY_ADDRESS, ROUTER_ADDRESS, host_and_port, is_loopback, routers_place

_LOCAL = ("localhost", "127.0.0.1", "::1")
Address = Annotated[str, AfterValidator(host_and_port)]


class GatewaySettings(BaseSettings):
    """Settings of the HTTP gateway in front of a router.

    Every flag `--some-name` can be given as the environment variable `RSTITCH_SOME_NAME`.
    """

    model_config = SettingsConfigDict(env_prefix="RSTITCH_", cli_kebab_case=True, extra="ignore", frozen=True)

    http_listen: Annotated[Address, Field(description="HOST:PORT to serve on.")] = GATEWAY_ADDRESS
    router: Annotated[
        str,
        AfterValidator(routers_place),
        Field(description="HOST:PORT of the router; of several IP:PORT,IP:PORT... or dns:///NAME:PORT, asked in turn."),
    ] = ROUTER_ADDRESS
    router_tls_ca: Annotated[
        str, Field(description="File of the authorities that the router's certificate must come from; empty: no TLS.")
    ] = ""
    router_tls_cert: Annotated[str, Field(description="File of the certificate that the router is shown.")] = ""
    router_tls_key: Annotated[str, Field(description="File of that certificate's key.")] = ""
    router_tls_name: Annotated[
        str, Field(description="Name that the router's certificate must have; empty: the host of its address.")
    ] = ""
    http_tls_cert: Annotated[
        str, Field(description="File of the certificate to serve with, in PEM, its chain behind it; empty: no TLS.")
    ] = ""
    http_tls_key: Annotated[str, Field(description="File of that certificate's key, in PEM.")] = ""
    allowed_host: Annotated[
        list[str],
        Field(description="A name that may be asked for; may be repeated. None: this machine's own, beyond it any."),
    ] = []
    insecure: Annotated[
        CliImplicitFlag[bool],
        Field(description="Serve beyond this machine without TLS or keys, or hand keys on beyond it without TLS."),
    ] = False
    served_model_name: Annotated[
        list[str], Field(description="A further name for the model `rstitch`; as often as wanted.")
    ] = []
    think_begin: Annotated[str, Field(min_length=1, description="The mark before the thinking.")] = "<think>"
    think_end: Annotated[str, Field(min_length=1, description="The mark behind the thinking.")] = "</think>"
    jaeger_url: Annotated[
        str,
        Field(
            pattern=r"^(https?://\S+)?$",
            description="Where a browser finds Jaeger: the page links answers' traces to it.",
        ),
    ] = ""
    keepalive_s: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="A stream that is silent for so long gets a comment.")
    ] = 10.0
    max_body_mib: Annotated[float, Field(gt=0, le=1024, description="Largest request, in MiB.")] = 16.0
    # JSON takes up to twenty times as much once it is read, and a gateway may take 2 GB (compose.tls.yaml).
    max_bodies_mib: Annotated[
        float,
        Field(
            gt=0, allow_inf_nan=False, description="All requests at once, in MiB, beyond 64 KiB of each; 503 over it."
        ),
    ] = 64.0
    max_address_mib: Annotated[
        float,
        Field(
            ge=0,
            allow_inf_nan=False,
            description="Of these, those from one address; 429 over it. 0: a quarter, or all on this machine's own.",
        ),
    ] = 0.0
    body_timeout_s: Annotated[
        float, Field(gt=0, allow_inf_nan=False, description="A request must have come whole within so long.")
    ] = 30.0
    head_timeout_s: Annotated[
        float,
        Field(gt=0, allow_inf_nan=False, description="A connection on which no whole head came for so long is closed."),
    ] = 10.0
    max_connections: Annotated[int, Field(ge=1, description="Connections at once; more get 503.")] = 2048
    drain_grace_s: Annotated[
        float, Field(ge=0, allow_inf_nan=False, description="How long answers in flight get to end on SIGTERM.")
    ] = 10.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="Least level logged.")] = (
        "info"
    )

    def hosts(self) -> list[str]:
        """Gives the names that requests may be for; none of them: any."""
        if self.allowed_host or not is_loopback(self.http_listen):
            return [name.lower() for name in self.allowed_host]
        own = self.http_listen.rpartition(":")[0].strip("[]").lower()
        return sorted({*_LOCAL, own})

    def key_mib(self) -> float:
        """Gives how much room the requests with one key may take: a quarter, and one of them at least."""
        return max(self.max_bodies_mib / 4, self.max_body_mib)

    def address_mib(self) -> float:
        """Gives how much room the requests from one address may take; of this machine's own there are no others."""
        chosen = self.max_bodies_mib if is_loopback(self.http_listen) else self.key_mib()
        return self.max_address_mib or chosen

    def marks(self) -> Marks:
        """Gives the marks of the thinking."""
        return Marks(self.think_begin, self.think_end)

    def credentials(self) -> Credentials:
        """Gives what the router is shown beside each caller's key. Raises: RstitchError naming the flag at fault."""
        made = Credentials(
            tls_ca=self.router_tls_ca,
            tls_cert=self.router_tls_cert,
            tls_key=self.router_tls_key,
            tls_name=self.router_tls_name,
            called=lambda name: f"--router-{name.replace('_', '-')}",
        )
        if not made.secure and not is_loopback(self.router) and not self.insecure:
            what = f"callers' keys would go to {self.router} in clear."
            raise invalid("--router", what, "Name --router-tls-ca; or say --insecure if nobody listens in between.")
        return made

    def check(self) -> None:
        """Refuses what goes not together, or serves beyond this machine in clear.

        Raises: RstitchError naming the flag at fault.
        """
        if self.max_bodies_mib < self.max_body_mib:
            what = f"{self.max_bodies_mib:g} MiB for all requests are less than {self.max_body_mib:g} for one."
            raise invalid("--max-bodies-mib", what, "Allow at least as much as --max-body-mib.")
        if 0 < self.max_address_mib < self.max_body_mib:
            what = f"{self.max_address_mib:g} MiB for one address are less than {self.max_body_mib:g} for one request."
            raise invalid("--max-address-mib", what, "Allow at least as much as --max-body-mib.")
        if bool(self.http_tls_cert) != bool(self.http_tls_key):
            raise invalid("--http-tls-cert", "a certificate and its key go together.", "Name --http-tls-key, too.")
        if not is_loopback(self.http_listen) and not self.http_tls_cert and not self.insecure:
            what = f"{self.http_listen} is open to the network, without TLS."
            remedy = "Give it --http-tls-cert and --http-tls-key; or listen on 127.0.0.1; or say --insecure."
            raise invalid("--http-listen", what, remedy, "EXPOSED")
