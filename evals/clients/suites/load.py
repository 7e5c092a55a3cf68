"""aiperf: a load of streamed chats, whose usage it compares with its own tokenization."""

from __future__ import annotations

from evals.clients.outcomes import Outcome
from evals.clients.suites.suite import first, place
from rstitch.local.part import bundled_model

_REQUESTS = 8
# Heads what it says of a server whose usage is more than a tenth off its own count.
_DOUBT = "Token Count Discrepancy Warning"


def aiperf(http: str) -> Outcome:
    """Runs `aiperf profile`; passes if all requests are answered and no count of tokens is doubted."""
    at = place(http, "aiperf")
    ran = at.run(
        [
            "aiperf", "profile", "--model", "rstitch", "--url", http, "--endpoint-type", "chat", "--streaming",
            "--request-count", str(_REQUESTS), "--concurrency", "2", "--tokenizer", bundled_model("tiny-llm"),
            "--synthetic-input-tokens-mean", "64", "--output-tokens-mean", "32", "--ui-type", "none",
        ],
        HF_HUB_OFFLINE="",  # or it looks for a folder's tokenizer among what a hub has sent
    )  # fmt: skip
    said = ran.output + ran.errors
    num = first(r"Request Count[^\d]*([\d.]+)", said, "0")
    doubted = _DOUBT in said
    passed = ran.code == 0 and float(num) == _REQUESTS and not doubted
    note = f"{float(num):g} of {_REQUESTS} requests, counts of tokens {'doubted' if doubted else 'as its own'}"
    return at.outcome("aiperf, streamed chats", "aiperf", ran, passed=passed, note=note)
