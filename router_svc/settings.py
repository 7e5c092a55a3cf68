"""The router's settings: flags and environment, typed and complete before anything is opened."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, CliImplicitFlag, SettingsConfigDict

from rstitch.credentials import Credentials
from rstitch.limits import ROUTER_ADDRESS, host_and_port, workers_place
from rstitch.service.scraping import MetricsSettings
from storage.settings import URL_PATTERN, RedisLogin

# gRPC itself would take a port over 65535 for another one.
Address = Annotated[str, AfterValidator(host_and_port)]
Workers = Annotated[str, AfterValidator(workers_place)]


class RouterSettings(RedisLogin, MetricsSettings, BaseSettings):
    """Settings of the router in front of the workers of two models.

    Every flag `--some-name` can be given as the environment variable `RSTITCH_SOME_NAME`.
    """

    # No implicit flags: a switch is written `--guard on`, so that each flag has a value as its variable has.
    model_config = SettingsConfigDict(env_prefix="RSTITCH_", cli_kebab_case=True, extra="ignore", frozen=True)

    slm: Annotated[
        Workers,
        Field(
            description="The SLM's workers: HOST:PORT[,HOST:PORT...], dns:///NAME:PORT for all addresses of a name, "
            "or empty: those that announce themselves in --redis."
        ),
    ] = ""
    llm: Annotated[Workers, Field(description="The LLM's workers, likewise.")] = ""
    fleet: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9._-]{1,64}$",
            description="Of those that announce themselves, whose --fleet is this: several fleets may share a Redis.",
        ),
    ] = "default"
    redis: Annotated[str, Field(pattern=URL_PATTERN, description="URL of Redis.")] = "redis://127.0.0.1:6379/0"
    redis_wait: Annotated[
        str,
        Field(description="Tokens go out once N replicas of Redis have them, or after MS ms, as N:MS; 0: at once."),
    ] = "0"
    listen: Annotated[Address, Field(description="HOST:PORT to serve on.")] = ROUTER_ADDRESS
    keys: Annotated[
        str,
        Field(
            min_length=1,
            description="Who may call: `redis`: who shows a key of `rstitch keys --redis`; FILE: one of "
            "`rstitch keys --file`; off: everybody.",
        ),
    ] = "off"
    audit: Annotated[
        bool, Field(description="Where keys are asked for: log each call refused or changing something; on or off.")
    ] = True
    # Without a value, unlike other switches: it is a confession, and reads as one.
    insecure: Annotated[
        CliImplicitFlag[bool],
        Field(description="Serve beyond this machine without TLS and keys: to whoever reaches it."),
    ] = False
    worker_tls_ca: Annotated[
        str,
        Field(description="File of the authorities that the workers' certificates must come from; empty: no TLS."),
    ] = ""
    worker_tls_cert: Annotated[
        str, Field(description="File of the certificate that the workers are shown; empty: none.")
    ] = ""
    worker_tls_key: Annotated[str, Field(description="File of that certificate's key.")] = ""
    worker_tls_name: Annotated[
        str, Field(description="Name that both workers' certificates must have; empty: the host of --slm and --llm.")
    ] = ""
    worker_key: Annotated[
        SecretStr, Field(description="API key that the workers are shown. A file keeps it out of listings.")
    ] = SecretStr("")
    worker_key_file: Annotated[str, Field(description="File with that key; it is read again when it changes.")] = ""

    tau: Annotated[float, Field(ge=-1, le=2, allow_inf_nan=False, description="tau where a request names none.")] = 0.02
    heads: Annotated[
        str, Field(description="Folder of the heads for `learned`, NAME/head.safetensors each; empty: none.")
    ] = ""
    heads_from_hub: Annotated[
        list[Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]],
        Field(description="Repositories of the hub whose heads may be asked for by their id; else none is fetched."),
    ] = []
    head_in_worker: Annotated[
        bool, Field(description="Whether the SLM's worker asks the head of `learned`, or the router does; on or off.")
    ] = True
    prompt: Annotated[
        Literal["own", "llm"],
        Field(description="Whose chat template writes the SLM's prompt where theirs differ: its own, or the LLM's."),
    ] = "own"
    special_tokens_in_text: Annotated[
        Literal["allow", "refuse"],
        Field(
            description="What a chat is whose texts spell a special token, which then acts as one: let in or refused."
        ),
    ] = "allow"
    guard: Annotated[
        bool, Field(description="Where a request does not say: LLM-only while routing loses? on or off.")
    ] = False
    # Where these are empty the models' folders say it, or else early_exit.DEFAULT_STYLE, which suits most models.
    early_exit_boundaries: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(max_length=16, description="Early exit tries an answer after a token that contains one of these."),
    ] = []
    early_exit_prompt: Annotated[str, Field(description="What is put there to end the thinking.")] = ""
    early_exit_end: Annotated[str, Field(description="A trial answer ends with a token that contains this.")] = ""
    early_exit_thinking_end: Annotated[str, Field(description="After this there are no trials.")] = ""
    max_new_tokens: Annotated[int, Field(ge=1, description="Limit where a request names none.")] = 2048
    max_running: Annotated[int, Field(ge=1, description="Most answers written, and observed, at once.")] = 1024
    max_list: Annotated[int, Field(ge=1, le=1000, description="Page size of ListTrajectories by default.")] = 100

    ttl_s: Annotated[float, Field(gt=0, description="A trajectory is forgotten so long after it last grew, in s.")] = (
        86_400.0
    )
    # Three renewals fit into it, each with one try: below 0.2 s a busy event loop alone would lose the sessions.
    lease_s: Annotated[
        float,
        Field(ge=0.2, description="A router that died is given up after so long, in s; its sessions are free then."),
    ] = 3.0
    on_disconnect: Annotated[
        Literal["continue", "stop"],
        Field(description="What becomes of an answer that its readers left, where a request does not say."),
    ] = "continue"
    detach_grace_s: Annotated[
        float, Field(ge=0, description="An answer nobody listens to is interrupted after so long, in s.")
    ] = 10.0
    catch_up_tokens: Annotated[
        int, Field(ge=0, description="Catch the waiting model up when it lags by so many tokens; 0: never.")
    ] = 32
    run_ahead: Annotated[
        Literal["auto", "on", "off"],
        Field(description="Whether the SLM writes on while its session waits for the LLM; auto: where it pays."),
    ] = "auto"
    run_ahead_tokens: Annotated[int, Field(ge=1, description="Most tokens written ahead of one switch.")] = 32
    run_ahead_max_running: Annotated[
        int, Field(ge=0, description="With `--run-ahead auto`: not while more answers than these are being written.")
    ] = 4
    worker_patience_s: Annotated[
        float, Field(ge=0, description="How long an answer waits for a lost worker without progress, in s.")
    ] = 30.0
    capacity_patience_s: Annotated[
        float, Field(ge=0, description="How long an answer waits for room on a worker without progress, in s.")
    ] = 60.0
    redis_patience_s: Annotated[float, Field(ge=0, description="How long a write to Redis is retried, in s.")] = 10.0
    drain_grace_s: Annotated[float, Field(ge=0, description="Time that calls in flight get on SIGTERM, in s.")] = 10.0

    otlp_endpoint: Annotated[str, Field(description="OTLP gRPC endpoint for traces; empty: tracing is off.")] = ""
    trace_names: Annotated[
        Literal["bounded", "exact"],
        Field(description="Names of an answer's spans: some thirty in all, or with values and numbers, for people."),
    ] = "bounded"
    trace_group: Annotated[
        int, Field(ge=0, description="Segments behind the first so many are in groups of so many spans; 0: none is.")
    ] = 0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="Log level.")] = "info"

    def worker_credentials(self) -> Credentials:
        """Says how the workers are talked to. Raises: RstitchError naming the flag of what does not go together."""
        return Credentials(
            tls_ca=self.worker_tls_ca,
            tls_cert=self.worker_tls_cert,
            tls_key=self.worker_tls_key,
            tls_name=self.worker_tls_name,
            api_key=self.worker_key.get_secret_value(),
            api_key_file=self.worker_key_file,
            called=_worker_flag,
        )


def _worker_flag(name: str) -> str:
    """Names the flag of a field of the workers' credentials, such as --worker-key of `api_key`."""
    return f"--worker-{name.removeprefix('api_').replace('_', '-')}"
