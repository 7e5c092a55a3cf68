"""What is packed by hand for its speed is what the libraries pack."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from redis.asyncio.connection import Connection

from router_svc.trajectory.answer_record import encode_usage
from router_svc.trajectory.usage import TimeBreakdown, Usage
from storage.packed import packed


async def test_a_command_is_packed_as_the_library_does() -> None:
    command: list[str | int | bytes] = [
        "EVALSHA",
        "a" * 40,
        0,
        -1,
        2**53,
        "",
        b"",
        "ein Täßchen",
        bytes(range(256)),
        "x" * 10_000,
    ]
    assert packed(command) == b"".join(Connection().pack_command(*command))


@pytest.mark.parametrize("value", [True, 1.5, None, ["a"]])
def test_what_redis_could_not_read_again_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        packed(["SET", value])


@pytest.mark.parametrize("reused", [None, 0, 17])
def test_a_usage_reads_as_it_was_written(reused: int | None) -> None:
    usage = Usage(num_reused_prompt_tokens=reused, exit_confidence=0.1 + 0.2)
    for number, field in enumerate(fields(Usage)):
        if field.type == "int":
            setattr(usage, field.name, number)
    for number, field in enumerate(fields(TimeBreakdown)):
        setattr(usage.breakdown, field.name, 10**9 + number)
    assert json.loads(encode_usage(usage)) == usage.as_dict()
    assert Usage.from_dict(json.loads(encode_usage(usage))) == usage
