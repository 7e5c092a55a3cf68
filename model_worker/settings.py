"""A worker's settings: flags and environment, typed and complete before anything is loaded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from rstitch.limits import host_and_port
from rstitch.service.scraping import MetricsSettings
from storage.settings import URL_PATTERN, RedisLogin

Dtype = Literal["auto", "float32", "bfloat16", "float64"]
Quantize = Literal["none", "int8", "int4", "fp8"]


# Of a worker: it can stand alone on a command line.
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


def _host_and_port_or_none(value: str) -> str:
    return value and host_and_port(value)


Listen = Annotated[str, AfterValidator(host_and_port), Field(description="HOST:PORT to serve on.")]


class WorkerSettings(MetricsSettings, RedisLogin):
    """Serves one language model behind gRPC.

    Every flag `--some-name` can be given as the environment variable `RSTITCH_SOME_NAME`.
    """

    model_config = SettingsConfigDict(env_prefix="RSTITCH_", cli_kebab_case=True, extra="ignore")

    model: Annotated[str, Field(min_length=1, description="Folder or hub id of a transformers causal LM.")]
    listen: Listen
    shared_listen: Annotated[
        str,
        AfterValidator(_host_and_port_or_none),
        Field(
            description="LLM only: HOST:PORT where the first layers of --model serve as the SLM. Empty: they do not."
        ),
    ] = ""
    redis: Annotated[
        str,
        Field(
            pattern=rf"^$|{URL_PATTERN}",
            description="URL of the Redis where it tells routers of its --fleet that it is there. Empty: it does not.",
        ),
    ] = ""
    fleet: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9._-]{1,64}$",
            description="Workers and routers of one name in one Redis belong together.",
        ),
    ] = "default"
    worker_id: Annotated[
        str,
        Field(
            pattern=f"^({_NAME})?$",
            description="Its name in the fleet; one that is restarted keeps it. Empty: made of role and address.",
        ),
    ] = ""
    advertise: Annotated[
        str,
        AfterValidator(_host_and_port_or_none),
        Field(
            description="HOST:PORT by which routers reach it. Empty: --listen; if that is any interface, the one"
            " towards Redis."
        ),
    ] = ""
    keys_file: Annotated[
        str, Field(description="Who may call: who shows a key of this file, made by `rstitch keys`. Empty: everybody.")
    ] = ""
    audit: Annotated[
        bool, Field(description="Where keys are asked for: log each call refused or changing something; on or off.")
    ] = True
    insecure: Annotated[
        CliImplicitFlag[bool],
        Field(description="Serve beyond this machine without TLS and keys or a client CA: to whoever reaches it."),
    ] = False
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu or cuda:N.")] = "cpu"
    tp: Annotated[
        int,
        Field(ge=1, le=64, description="Divides the model among so many cards, from --device on, a process for each."),
    ] = 1
    dtype: Annotated[Dtype, Field(description="auto: bfloat16 on CUDA or --quantize, else float32.")] = "auto"
    quantize: Annotated[
        Quantize, Field(description="Keep the weights of linear layers in 8 or 4 bits, by torchao; not the LM head's.")
    ] = "none"
    context_length: Annotated[int, Field(ge=0, description="Most tokens of a session; 0: the model's own.")] = 0
    num_pages: Annotated[
        int, Field(ge=0, description="KV pages; 0: the free GPU memory less 10% and no less than 2.5 GB; on CPU 1 GiB.")
    ] = 0
    num_states: Annotated[
        int,
        Field(ge=0, description="Slots for what recurrent layers keep, if there are any; 0: a quarter of that memory."),
    ] = 0
    kv_tokens: Annotated[int, Field(ge=0, description="KV cache in tokens, instead of --num-pages; 0: not given.")] = 0
    beside: Annotated[
        str, Field(description="The other model on this device: both caches get as many tokens. Empty: there is none.")
    ] = ""
    beside_quantize: Annotated[
        Quantize, Field(description="How the model of --beside is quantized: its worker's --quantize.")
    ] = "none"
    page_size: Annotated[
        int, Field(ge=0, le=1024, description="Tokens per KV page; 0: on CUDA 256 for varlen, 64 for triton; else 16.")
    ] = 0
    attention: Annotated[
        Literal["auto", "varlen", "triton", "native", "in-place", "gather"],
        Field(description="How the KV cache is read; auto: the first that runs (CUDA: varlen, triton; CPU: native)."),
    ] = "auto"
    matmul: Annotated[
        Literal["auto", "native", "torch"],
        Field(description="Matrix products in bfloat16 on a CPU; auto: by our own kernel where it is faster."),
    ] = "auto"
    compile: Annotated[
        Literal["auto", "on", "off"],
        Field(description="Compiled steps (CPU); on: compiled at the start if need be; auto: if kept and faster."),
    ] = "auto"
    graphs: Annotated[
        Literal["auto", "on", "off"],
        Field(description="Capture steps as CUDA graphs; auto: where varlen or triton runs."),
    ] = "auto"
    batch_invariant: Annotated[
        CliImplicitFlag[bool],
        Field(description="A session gets the same tokens alone and in any batch, bit for bit; it costs speed."),
    ] = False
    prefix_cache: Annotated[
        Literal["auto", "share", "copy", "off"],
        Field(
            description="Sessions that begin alike compute it once, then share pages or copy them; auto: copy on a CPU."
        ),
    ] = "auto"
    fused: Annotated[
        Literal["auto", "on", "off"],
        Field(description="Fused kernels of norms, rotary embeddings and MLPs; auto: on CUDA where they are exact."),
    ] = "auto"
    check_tokens: Annotated[
        int,
        Field(
            ge=0,
            description="Tokens by which the engine is compared with the model's own code at the start; 0: enough to "
            "see a window of up to some 2000.",
        ),
    ] = 0
    max_batch_tokens: Annotated[int, Field(ge=1, description="Most tokens of one forward.")] = 512
    measure_ms: Annotated[
        int, Field(ge=0, description="Time to measure at the start what a step costs, in ms; 0: do not.")
    ] = 1000
    background_stretch: Annotated[
        float, Field(ge=0, description="Background rows make a step longer by at most this share.")
    ] = 0.25
    background_ms: Annotated[
        float,
        Field(ge=0, description="Longest step of background rows alone, in ms; one decode step if that is longer."),
    ] = 5.0
    random_weights: Annotated[
        int | None, Field(ge=0, description="For benchmarks: weights drawn with this seed instead of the model's own.")
    ] = None
    batching: Annotated[
        str,
        Field(
            pattern=r"^(eager|delayed|fixed:[1-9]\d*)$",
            description="eager: steps start at once; delayed: when it pays; fixed:N: with N rows if they can come.",
        ),
    ] = "eager"
    max_delay_ms: Annotated[float, Field(ge=0, description="No step is held back longer, in ms.")] = 10.0
    share_device: Annotated[
        str, Field(description="A file that both workers on one device name: they step in turns. Empty: no turns.")
    ] = ""
    share_slm_steps: Annotated[
        int, Field(ge=1, description="On a shared device, SLM steps for each LLM step; the same for both workers.")
    ] = 8
    share_cores: Annotated[
        str,
        Field(
            description="A file that both workers on one CPU name: all cores while the other rests. Empty: --threads."
        ),
    ] = ""
    flush_ms: Annotated[
        float,
        Field(
            ge=0,
            description="A token waits so long for others to share its message, in ms, among more than 32 runs up to "
            "four times as long; 0: not at all.",
        ),
    ] = 50.0
    threads: Annotated[int, Field(ge=0, description="CPU threads of torch; 0: torch's own choice.")] = 0
    drain_grace_s: Annotated[
        float,
        Field(ge=0, description="On SIGTERM it serves on until no call is open, so long at most, in s."),
    ] = 10.0
    otlp_endpoint: Annotated[str, Field(description="OTLP gRPC endpoint for traces; empty: tracing is off.")] = ""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="Log level.")] = "info"
