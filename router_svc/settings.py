"""The router's settings: flags and environment, typed and complete before anything is opened."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis import ConnectionPool

from rstitch.limits import LLM_ADDRESS, ROUTER_ADDRESS, SLM_ADDRESS, host_and_port

# gRPC itself would take a port over 65535 for another one.
Address = Annotated[str, AfterValidator(host_and_port)]


def _checked_url(value: str) -> str:
    """Raises ValueError, which does not quote it, for what no connection can be made of."""
    try:
        urlsplit(value).port  # noqa: B018 - raises
        ConnectionPool.from_url(value).make_connection()
    except Exception:  # noqa: BLE001 - what it raises differs, and quotes what may be a password
        what = "it is no URL of a Redis; write redis://user:password@host:port/number, and in a password %2F for /"
        raise ValueError(f"{what}, %40 for @, %3A for :, %23 for #, %3F for ?") from None
    return value


class RouterSettings(BaseSettings):
    """Settings of the router in front of two model workers.

    Every flag `--some-name` can be given as the environment variable `RSTITCH_SOME_NAME`.
    """

    # No implicit flags: a switch is written `--guard on`, so that each flag has a value as its variable has.
    model_config = SettingsConfigDict(env_prefix="RSTITCH_", cli_kebab_case=True, extra="ignore", frozen=True)

    slm: Annotated[Address, Field(description="HOST:PORT of the SLM's worker.")] = SLM_ADDRESS
    llm: Annotated[Address, Field(description="HOST:PORT of the LLM's worker.")] = LLM_ADDRESS
    redis: Annotated[
        str, Field(pattern=r"^(redis|rediss|unix)://", description="URL of Redis."), AfterValidator(_checked_url)
    ] = "redis://127.0.0.1:6379/0"
    listen: Annotated[Address, Field(description="HOST:PORT to serve on.")] = ROUTER_ADDRESS

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
        Field(description="Whether a chat is let in whose texts spell a special token, which is read as that token."),
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
    metrics_endpoint: Annotated[str, Field(description="OTLP gRPC endpoint for metrics; empty: there are none.")] = ""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="Log level.")] = "info"
