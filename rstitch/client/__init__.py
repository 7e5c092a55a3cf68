"""The Python client: `Client`, `AsyncClient` and the values that they take and give. No torch, redis or telemetry."""

# ruff: noqa: F403, F405 - `types` says what is public of each of its modules

from rstitch.client.aio import AsyncClient
from rstitch.client.sync import Client
from rstitch.client.types import *
from rstitch.credentials import Credentials
from rstitch.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    Interrupted,
    InvalidArgument,
    NotFound,
    Refused,
    ResourceExhausted,
    RstitchError,
    Unavailable,
)

# fmt: off
__all__ = [
    "Alternative", "Answer", "AsyncClient", "Budget", "Cancelled", "ChatInput", "Chunk", "Client", "Confidence",
    "Consultation", "Credentials", "DeadlineExceeded", "Details", "EarlyExit", "EarlyExitTaken", "Event",
    "FailedPrecondition", "FinishReason", "Finished", "GuardStatus", "HeadStatus", "InternalError", "Interrupted",
    "InvalidArgument", "KeptProfile", "Label", "Learned", "LlmOnly", "Message", "Model", "NotFound", "Observation",
    "Policy", "Profile", "Question", "Random", "Refused", "ResourceExhausted", "RstitchError", "Sampling", "Segment",
    "Signal", "SlmOnly", "Source", "Speculative", "Started", "Status", "Switch", "SwitchReason", "TemplateArguments",
    "Threshold", "TimeBreakdown", "TokenDetail", "Tokenized", "Trajectory", "TrajectoryPage", "TrajectoryState",
    "Unavailable", "Usage", "WorkerDrain", "WorkerMember", "WorkerStatus",
]
# fmt: on
