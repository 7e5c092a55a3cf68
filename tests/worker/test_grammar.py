"""A worker holds answers to schemas: as the naive reference does, whatever runs and drafts they are made of."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_worker.engine.types import Sampling
from model_worker.grammars import AnswerGrammar
from rstitch.errors import from_rpc_error
from rstitch.service.json_schemas import grammar_of
from rstitch.v1 import common_pb2
from rstitch.v1 import worker_pb2 as pb
from tests.support.asking import until
from tests.support.grammars import MARKS, PERSON, Held, hold
from tests.support.pairs import STOP_TOKEN, VOCAB_SIZE, make_tokenizer
from tests.support.worker_calls import decode_once, error_of
from tests.worker.conftest import StartWorker

PROMPTS = [[7, 8, 9, 10, 11], [20, 21, 22] * 9, [50]]
LENGTH = 120
BLANK = tuple(token for token in range(VOCAB_SIZE) if not make_tokenizer().decode([token]).strip())
DRAWN = Sampling(1.3, top_p=0.95, seed=11, presence_penalty=0.0)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64).eval()


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_folder)


def expected(model: Any, folder: Path, prompt: list[int], schema: Any, **how: Any) -> Held:
    file = (folder / "tokenizer.json").read_text()
    return hold(model, file, prompt, schema, LENGTH, vocab_size=VOCAB_SIZE, stop=STOP_TOKEN, **how)


def request(name: str, prompt: list[int], schema: Any, **fields: Any) -> pb.DecodeRequest:
    start = fields.pop("start", len(prompt))
    grammar = pb.Grammar(json_schema=json.dumps(schema), start=start, **fields.pop("thinking", {}))
    fields.setdefault("masked_tokens", BLANK)  # without white space a random model comes to an end
    return pb.DecodeRequest(
        **({"session_id": name, "tokens": prompt, "max_tokens": LENGTH, "grammar": grammar} | fields)
    )


@pytest.mark.parametrize("how", [{}, {"sampling": DRAWN}, {"masked": BLANK}], ids=["greedy", "drawn", "masked"])
async def test_answers_equal_the_naive_reference_beside_one_another(
    start_worker: StartWorker, model_folder: Path, model: Any, tokenizer: Any, how: dict[str, Any]
) -> None:
    _, stub = await start_worker(measure_ms=0)
    sampling = how.get("sampling")
    fields: dict[str, Any] = {"masked_tokens": how.get("masked", ())}
    if sampling is not None:
        fields["sampling"] = common_pb2.Sampling(
            temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed
        )
    questions = [(prompt, schema) for prompt in PROMPTS for schema in (PERSON, MARKS)]
    calls = [decode_once(stub, request(f"s{i}", *question, **fields)) for i, question in enumerate(questions)]
    free = pb.DecodeRequest(session_id="free", tokens=PROMPTS[0], max_tokens=20)
    *answers, (unbound, _) = await asyncio.gather(*calls, decode_once(stub, free))
    assert (
        unbound == (await decode_once(stub, pb.DecodeRequest(session_id="alone", tokens=PROMPTS[0], max_tokens=20)))[0]
    )
    num_ended = 0
    for (prompt, schema), (tokens, finish) in zip(questions, answers, strict=True):
        held = expected(model, model_folder, prompt, schema, **how)
        assert tokens == held.tokens
        if finish.reason == pb.Finish.REASON_STOP:
            num_ended += 1
            jsonschema.validate(json.loads(tokenizer.decode(tokens[:-1])), schema)
    assert num_ended >= (len(questions) if how.get("masked") else 2), "white space may take all the room"


async def test_entropies_are_of_what_is_left_and_nothing_where_that_is_one_token(
    start_worker: StartWorker, model_folder: Path, model: Any
) -> None:
    _, stub = await start_worker(measure_ms=0)
    held = expected(model, model_folder, PROMPTS[0], PERSON, masked=BLANK)
    call = stub.Decode()
    await call.write(request("s", PROMPTS[0], PERSON))
    entropies: list[float] = []
    logprobs: list[float] = []
    while not (response := await call.read()).HasField("finish"):
        entropies += response.entropies
        logprobs += response.logprobs
    entropies += response.entropies
    logprobs += response.logprobs
    assert entropies == pytest.approx(held.entropies, abs=1e-6)
    assert any(entropy == 0 and logprob == 0 for entropy, logprob in zip(entropies, logprobs, strict=True))
    call.cancel()


async def test_an_answer_in_pieces_with_drafts_and_retries_is_the_same(
    start_worker: StartWorker, model_folder: Path, model: Any
) -> None:
    _, stub = await start_worker(measure_ms=0)
    prompt = PROMPTS[1]
    held = expected(model, model_folder, prompt, PERSON, masked=BLANK)
    assert held.ended
    tokens, begun = held.tokens, len(prompt)
    cut = len(tokens) // 2
    first, _ = await decode_once(stub, request("s", prompt, PERSON, max_tokens=cut))
    assert first == tokens[:cut]
    # Back into the middle, and on from there.
    back = request("s", [], PERSON, position=begun + 3, start=begun, max_tokens=4)
    assert (await decode_once(stub, back))[0] == tokens[3:7]
    # A worker that holds nothing is sent the answer so far as if it were prompt.
    rest, finish = await decode_once(stub, request("anew", [*prompt, *tokens[:cut]], PERSON, start=begun))
    assert rest == tokens[cut:]
    assert finish.reason == pb.Finish.REASON_STOP
    # Drafts: what would come; what the schema does not allow at some place; one that ends the answer and goes on.
    wrong = [*tokens[:3], STOP_TOKEN, *tokens[4:8]]
    for index, draft in enumerate((tokens[:9], wrong, [*tokens, 5, 6])):
        asked = request(f"draft{index}", prompt, PERSON, draft=draft, max_tokens=len(draft) + 1)
        kept, finish = await decode_once(stub, asked)
        assert kept == tokens[: len(kept)]
        assert finish.num_accepted == (3 if draft is wrong else min(len(draft), len(tokens)))
        if kept[-1] != STOP_TOKEN:
            goes_on = request(f"draft{index}", [], PERSON, position=begun + len(kept), start=begun, max_tokens=5)
            assert (await decode_once(stub, goes_on))[0] == tokens[len(kept) : len(kept) + 5]


async def test_thinking_is_not_bound_and_cannot_end_the_answer(
    start_worker: StartWorker, model_folder: Path, model: Any, tokenizer: Any
) -> None:
    _, stub = await start_worker(measure_ms=0)
    prompt = PROMPTS[0]
    unbound, _ = await decode_once(stub, request("t", prompt, MARKS, thinking={"thinking_end": "</t>"}, max_tokens=30))
    free = pb.DecodeRequest(session_id="f", tokens=prompt, max_tokens=30, masked_tokens=[STOP_TOKEN, *BLANK])
    assert unbound == (await decode_once(stub, free))[0], "it thinks, and does not stop"
    # The end of the thinking comes in several tokens; what follows is what follows such a prompt.
    thought = tokenizer.encode("ab</t>", add_special_tokens=False)
    sent = [*prompt, *thought]
    asked = request("e", sent, MARKS, start=len(prompt), thinking={"thinking_end": "</t>"})
    tokens, finish = await decode_once(stub, asked)
    assert tokens == expected(model, model_folder, sent, MARKS, masked=BLANK).tokens
    assert finish.reason == pb.Finish.REASON_STOP
    # It may begin to think by one token, and then does; or not, and is bound from the first token on.
    mark = tokenizer.decode([thought[0]])
    may = {"thinking_end": "</t>", "thinking_begin": mark}
    begun, _ = await decode_once(stub, request("b", [*prompt, thought[0]], MARKS, start=len(prompt), thinking=may))
    masked = pb.DecodeRequest(
        session_id="m", tokens=[*prompt, thought[0]], max_tokens=len(begun), masked_tokens=[STOP_TOKEN, *BLANK]
    )
    assert begun == (await decode_once(stub, masked))[0]
    at_once, finish = await decode_once(stub, request("n", sent, MARKS, thinking=may))
    assert at_once[0] == thought[0] or finish.reason == pb.Finish.REASON_STOP


BAD = {
    "no JSON": ("{", "grammar.json_schema"),
    "no object": ("[]", "grammar.json_schema"),
    "no schema": ('{"type": "nothing"}', "grammar.json_schema"),
    "a keyword that is not held to": ('{"not": {"type": "string"}}', "grammar.json_schema"),
    "nothing is allowed": ('{"enum": []}', "grammar.json_schema"),
    "without an end": ('{"$ref": "#"}', "grammar.json_schema"),
    "elsewhere": ('{"$ref": "http://example.org/schema"}', "grammar.json_schema"),
    "too large": (json.dumps({"description": "x" * 65536}), "grammar.json_schema"),
}


async def test_what_was_read_of_an_answer_is_not_read_again(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, inner = list[tuple[int, list[int]]](), AnswerGrammar.allowed

    def allowed(self: AnswerGrammar, tokens: Any, num_same: int, num: int) -> Any:
        looks.append((num_same, list(tokens)))
        return inner(self, tokens, num_same, num)

    monkeypatch.setattr(AnswerGrammar, "allowed", allowed)
    _, stub = await start_worker(measure_ms=0)
    looks.clear()
    tokens, _ = await decode_once(stub, request("s", PROMPTS[0], PERSON, max_tokens=30))
    await decode_once(
        stub, request("s", [], PERSON, position=len(PROMPTS[0]) + 20, start=len(PROMPTS[0]), max_tokens=9)
    )
    before: list[int] = []
    for num_same, seen in looks:
        assert seen[:num_same] == before[:num_same]
        assert len(seen) - num_same == 1 or not before or len(before) == len(PROMPTS[0]) + 29
        before = seen
    assert len(looks) >= len(tokens) + 9


async def test_what_cannot_be_held_to_is_refused(start_worker: StartWorker) -> None:
    _, stub = await start_worker(measure_ms=0)
    for name, (schema, field) in BAD.items():
        grammar = pb.Grammar(json_schema=schema, start=1)
        asked = pb.DecodeRequest(session_id="s", tokens=[5], max_tokens=2, grammar=grammar)
        error = await error_of(decode_once(stub, asked))
        assert (error.code.name, error.field) == ("INVALID_ARGUMENT", field), name
        assert error.remedy, name


async def test_what_would_take_all_memory_is_refused_beside_other_answers(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty bytes; nobody tried them before, as a router does."""

    def never(schema: str, field: str) -> str:
        assert "9999991" not in schema, "read in the worker's own process"
        return grammar_of(schema, field)

    monkeypatch.setattr("model_worker.grammars.grammar_of", never)
    _, stub = await start_worker(measure_ms=0)
    hostile = request("s", [5], {"type": "integer", "multipleOf": 9999991})
    trial = asyncio.create_task(error_of(decode_once(stub, hostile)))
    beside = [decode_once(stub, pb.DecodeRequest(session_id="t", tokens=[5, index], max_tokens=20)) for index in (6, 7)]
    assert all([len((await each)[0]) == 20 for each in beside])
    error = await trial
    assert (error.code.name, error.reason, error.field) == ("INVALID_ARGUMENT", "SCHEMA_REFUSED", "grammar.json_schema")
    assert (await decode_once(stub, request("s", PROMPTS[0], MARKS)))[0][-1] == STOP_TOKEN


async def test_only_so_many_schemas_wait(start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_worker.grammars._MAX_WAITING", 2)
    _, stub = await start_worker(measure_ms=0)
    asked = [request(f"s{num}", [5], {"enum": [num]}) for num in range(8)]
    found = await asyncio.gather(*(decode_once(stub, each) for each in asked), return_exceptions=True)
    refused = [from_rpc_error(each) for each in found if isinstance(each, grpc.aio.AioRpcError)]
    assert {error.reason for error in refused} == {"TOO_MANY_SCHEMAS"}
    assert all(error.retry_after_s for error in refused)
    assert 2 <= len(found) - len(refused) < 8


async def test_who_leaves_does_not_let_another_schema_be_tried_beside_his(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be ended: whoever asked and left, again and again, would have as many of them as there are."""
    begun, ends, at_once, most = threading.Semaphore(0), threading.Event(), Counter[str](), 0

    def tried(schema: str, field: str) -> None:
        nonlocal most
        at_once["now"] += 1
        most = max(most, at_once["now"])
        begun.release()
        ends.wait(30)
        at_once["now"] -= 1

    monkeypatch.setattr("model_worker.grammars.check_schema", tried)
    _, stub = await start_worker(measure_ms=0)
    left = asyncio.create_task(decode_once(stub, request("s", [5], {"enum": [1]})))
    await until(lambda: begun.acquire(blocking=False))
    left.cancel()
    asked = [asyncio.create_task(decode_once(stub, request(f"t{num}", [5], {"enum": [num]}))) for num in (2, 3)]
    # Whoever could begin beside it has begun by then.
    await decode_once(stub, pb.DecodeRequest(session_id="u", tokens=[5], max_tokens=20))
    assert at_once["now"] == 1
    ends.set()
    for each in asked:
        assert (await each)[0][-1] == STOP_TOKEN
    assert most == 1


async def test_an_answer_that_is_not_of_the_schema_cannot_go_on_and_others_do(start_worker: StartWorker) -> None:
    _, stub = await start_worker(measure_ms=0)
    behind = request("s", [5], PERSON, start=2)
    assert (await error_of(decode_once(stub, behind))).field == "grammar.start"
    no_stop = request("s", [5], PERSON, masked_tokens=[STOP_TOKEN])
    assert (await error_of(decode_once(stub, no_stop))).field == "grammar"
    wrong = request("s", [5, 6, 7, 8], PERSON, start=1)
    beside = request("t", PROMPTS[0], MARKS)
    error, (tokens, _) = await asyncio.gather(error_of(decode_once(stub, wrong)), decode_once(stub, beside))
    assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", "GRAMMAR_STUCK")
    assert tokens[-1] == STOP_TOKEN
    again, _ = await decode_once(stub, request("s", PROMPTS[0], MARKS))
    assert again == tokens
