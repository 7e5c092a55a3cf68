"""What the SLM would have thought along an answer: toy models on a real wire, beside the toys asked by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from router_svc.observers.observing import ObservingTrace
from router_svc.text.conversation import first_prompt, stop_token
from router_svc.text.matching import Vocabulary
from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from router_svc.text.turns import Message, Turn
from router_svc.trajectory.types import Model
from rstitch.errors import RstitchError
from rstitch.service import semconv
from rstitch.service.consulting import in_half_precision
from rstitch.service.metrics import setup_metrics
from rstitch.v1 import common_pb2, router_pb2
from tests.support.asking import Answer, Reading, ask_for, chat, refused, stored, take, threshold, until
from tests.support.otlp_receiver import MetricsReceiver
from tests.support.spans import named, recording
from tests.support.toy import SPECIAL, STOP, ToyModel, make_tokenizer_files
from tests.support.toy_stack import Stack
from tests.support.unrelated import CLOSE, END, byte_level, sentencepiece, writing

# Position, token, writer, and what the SLM thought: entropy, proposal, hidden state, context length.
Seen = tuple[int, int, int, float, int, bytes, int]
SLM, LLM, NOBODY = common_pb2.MODEL_SLM, common_pb2.MODEL_LLM, common_pb2.MODEL_UNSPECIFIED
BY_NAME = {"slm": SLM, "llm": LLM}


async def observed(stub: Any, tau: float, **answer: Any) -> list[Seen]:
    """All positions that are told, each checked to be without a head's part."""
    found: list[Seen] = []
    num = 0
    async for part in stub.ObserveAnswer(router_pb2.ObserveAnswerRequest(tau=tau, **answer)):
        num += part.num_positions
        assert len(part.consultations) == len(part.tokens) == len(part.writers) <= part.num_positions
        for asked, token, writer in zip(part.consultations, part.tokens, part.writers, strict=True):
            assert (list(asked.features), asked.probability, asked.to_llm) == ([], 0, False)
            thought = (asked.entropy, asked.proposal, asked.hidden_state, asked.context_length)
            found.append((asked.position, token, writer, *thought))
    assert num >= len(found)
    return found


def thoughts(
    model: ToyModel, read: Sequence[int], start: int, tau: float, positions: Sequence[int], writers: Sequence[int]
) -> list[Seen]:
    """What the model itself says along all that it is to read, of which the answer begins at `start`."""
    made: list[Seen] = []
    for at, (position, writer) in enumerate(zip(positions, writers, strict=True), start):
        before = list(read[:at])
        entropy, state = model.entropy(before), in_half_precision(model.hidden_state(before))
        if entropy > tau:
            made.append((position, read[at], writer, entropy, model.token(before), state, at))
    return made


def of_answer(answer: Answer) -> tuple[range, list[int]]:
    return range(answer.position, answer.next), [BY_NAME[author] for author in answer.authors]


def given(text: str, *messages: tuple[str, str]) -> router_pb2.GivenAnswer:
    return router_pb2.GivenAnswer(chat=chat(*messages), text=text)


async def test_a_kept_answer_is_what_the_slm_says_along_it(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())

    async def one(tau: float, index: int) -> None:
        answer = await take(stub, ask_for((7, 8, 9 + index), policy=threshold(0.5), max_new_tokens=50))
        assert set(answer.authors) == {"slm", "llm"}
        read = [7, 8, 9 + index, *answer.tokens]
        expected = thoughts(stack.slm.model, read, 3, tau, *of_answer(answer))
        assert await observed(stub, tau, session_id=answer.session_id) == expected
        # The next answer is the one that is observed then, behind all that came before.
        again = await take(stub, ask_for((5, 6), session_id=answer.session_id, policy=threshold(0.3), max_new_tokens=9))
        read = [*read, 5, 6, *again.tokens]
        expected = thoughts(stack.slm.model, read, again.position, tau, *of_answer(again))
        assert await observed(stub, tau, session_id=answer.session_id) == expected

    await asyncio.gather(*(one(tau, index) for index, tau in enumerate([-1, 0.3, 1])))


@pytest.fixture
async def mapped(stack: Stack) -> Stack:
    """The stack's LLM has the same texts under other ids, other special tokens and a template of its own."""
    special = ("<|pad|>", "<|im_end|>", "<|User|>", "<|Assistant|>", "<|end|>", "<|system|>")
    template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}[assistant]"
    await stack.llm.stop()
    stack.llm.files = make_tokenizer_files(chat_template=template, special=special, seed=5)
    ours, theirs, toy = Tokenizer(stack.slm.files), Tokenizer(stack.llm.files), ToyModel(seed=2)
    to_llm = [theirs.token(ours.spelling(token) or "") for token in range(ours.size())]

    def choose(prefix: Sequence[int]) -> int:
        found = to_llm[toy.token(prefix)]
        assert found is not None
        return found

    stack.llm.model, stack.llm.vocab_size = ToyModel(seed=2, choose=choose), theirs.size()
    end = theirs.token("<|end|>")
    assert end is not None
    stack.llm.stop_token = end
    await stack.llm.start()
    return stack


def own_prompt(stack: Stack, *messages: tuple[str, str]) -> list[int]:
    turn = Turn(tuple(Message(role, text) for role, text in messages))
    return list(first_prompt(Tokenizer(stack.slm.files), turn))


async def test_under_other_ids_the_slm_reads_its_own_prompt_and_ids(mapped: Stack) -> None:
    stub = await mapped.stub(await mapped.router())
    ours, theirs = Tokenizer(mapped.slm.files), Tokenizer(mapped.llm.files)
    answer = await take(stub, ask_for(chat=chat(("user", "Hallo")), policy=threshold(0.5), max_new_tokens=60))
    assert set(answer.authors) == {"slm", "llm"}
    prompt = own_prompt(mapped, ("user", "Hallo"))
    assert len(prompt) != answer.position
    read = [*prompt, *(ours.token(theirs.spelling(token) or "") for token in answer.tokens)]
    for tau in (-1, 0.6):
        expected = thoughts(mapped.slm.model, read, len(prompt), tau, *of_answer(answer))  # type: ignore[arg-type]
        assert await observed(stub, tau, session_id=answer.session_id) == expected
    masked = {tuple(run.masked_tokens) for run in mapped.slm.requests if run.max_tokens}
    assert masked == {tuple(asked.masked_tokens) for asked in mapped.slm.observed} != {()}


async def test_without_ids_in_common_the_slm_reads_the_text(stack: Stack) -> None:
    """Byte-level tokens: what each of them is of the text can be counted in bytes."""
    for worker, role, tokenizer, end in (
        (stack.slm, "slm", byte_level(), END),
        (stack.llm, "llm", sentencepiece(), CLOSE),
    ):
        worker.files = TokenizerFiles(tokenizer.to_str().encode())
        worker.vocab_size, worker.stop_token = tokenizer.get_vocab_size(), tokenizer.token_to_id(end)
        worker.model = writing(role, 11)  # type: ignore[arg-type]
    stub = await stack.stub(await stack.router())
    ours = byte_level()
    ends = set()
    for index in range(8):
        answer = await take(stub, ask_for(text=f"the stones {index}", policy=threshold(0.4), max_new_tokens=40))
        found = await observed(stub, -1, session_id=answer.session_id)
        request = stack.slm.observed[-1]
        assert list(request.tokens[: request.start]) == ours.encode(f"the stones {index}").ids
        own = list(request.tokens[request.start :])
        segments = [segment for segment in (await stored(stub, answer.session_id)).segments if segment.source != 1]
        texts = ["".join(segment.text for segment in segments[: num + 1]) for num in range(len(segments))]
        bounds = [(len(text.encode()), s.source - 1) for text, s in zip(texts, segments, strict=True)]
        if "\ufffd" not in answer.text:
            assert ours.decode(own) == answer.text
        stopped = answer.finished.reason == router_pb2.FINISH_REASON_STOP
        assert (own[-1] == stack.slm.stop_token) == stopped
        ends.add((stopped, answer.authors[-1]))
        writers, num_bytes = [], 0
        for token in own:
            begin = num_bytes
            while begin > 0 and (text := answer.text.encode())[begin : begin + 1] and text[begin] & 0xC0 == 0x80:
                begin -= 1  # within a character
            writers.append(next((source for end, source in bounds if begin < end), bounds[-1][1]))
            num_bytes += 0 if token == stack.slm.stop_token else len(ours.id_to_token(token))
        positions = range(request.start, len(request.tokens))
        if "\ufffd" in answer.text:
            writers = [seen[2] for seen in found]  # bytes that are no text cannot be counted in it
        assert found == thoughts(stack.slm.model, request.tokens, request.start, -1, positions, writers)
    assert {(True, "llm"), (True, "slm")} <= ends, "no answer was ended by each"


@pytest.mark.parametrize("prompt", ["own", "llm"])
async def test_a_given_answer_is_prompt_text_and_stop_token(mapped: Stack, prompt: str) -> None:
    stub = await mapped.stub(await mapped.router(prompt=prompt))
    ours = Tokenizer(mapped.slm.files)
    text = "the answer: Grüße 👩‍👩‍👧"
    read = own_prompt(mapped, ("user", "Hallo"))
    if prompt == "llm":
        read = list(ours.encode("[user]Hallo<|end|>[assistant]", begins=True))
    start = len(read)
    read += [*ours.encode(text, begins=False), STOP]
    positions = range(start, len(read))
    for tau in (-1, 0.5):
        expected = thoughts(mapped.slm.model, read, start, tau, positions, [NOBODY] * len(positions))
        assert await observed(stub, tau, given=given(text, ("user", "Hallo"))) == expected
    # One that is spelled there is not put twice.
    await observed(stub, -1, given=given(text + SPECIAL[STOP], ("user", "Hallo")))
    assert list(mapped.slm.observed[-1].tokens) == read


async def test_behind_a_given_answer_comes_nothing_of_an_slm_that_has_no_stop_token(stack: Stack) -> None:
    stack.slm.stop_token = stack.slm.vocab_size  # none that its tokenizer knows
    stub = await stack.stub(await stack.router())
    read = own_prompt(stack, ("user", "Hallo"))
    start = len(read)
    read += Tokenizer(stack.slm.files).encode("So", begins=False)
    positions = range(start, len(read))
    expected = thoughts(stack.slm.model, read, start, -1, positions, [NOBODY] * len(positions))
    assert await observed(stub, -1, given=given("So", ("user", "Hallo"))) == expected


@pytest.mark.parametrize(
    ("behind", "turn", "expected"),
    [
        ("<|end|>\n", Turn((Message("user", "-"),)), "<|end|>"),
        ("\n<|pad|>", Turn((Message("user", "-"),)), "<|pad|>"),
        ("<|pad|>", Turn((Message("user", "-"), Message("assistant", "So"))), "<|pad|>"),
        ("", Turn((Message("user", "-"),)), "<|end|>"),
        ("<|pad|>", Turn(), "<|pad|>"),
        ("{{ raise_exception('no') }}", Turn((Message("user", "-"),)), "<|end|>"),
    ],
)
def test_the_stop_token_is_the_one_that_the_template_puts_behind_an_answer(
    behind: str, turn: Turn, expected: str
) -> None:
    template = f"{{% for m in messages %}}[{{{{ m.role }}}}]{{{{ m.content }}}}{behind}{{% endfor %}}"
    tokenizer = Tokenizer(make_tokenizer_files(chat_template=template))
    end, pad = tokenizer.token("<|end|>"), tokenizer.token("<|pad|>")
    assert end is not None
    assert pad is not None
    found = stop_token(Vocabulary(tokenizer, tokenizer.size(), frozenset({end, pad}), "f"), turn)
    assert found is not None
    assert tokenizer.spelling(found) == expected


async def test_a_worker_that_is_lost_on_the_way_is_gone_on_with(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=60))
    whole = await observed(stub, -1, session_id=answer.session_id)
    stack.slm.observed.clear()
    full = RstitchError(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_ROOM", "no pages")
    stack.slm.observe_errors = [full, RstitchError(grpc.StatusCode.UNAVAILABLE, "TRANSPORT", "gone")]
    stack.slm.break_after = [3, 1, 5]
    assert await observed(stub, -1, session_id=answer.session_id) == whole
    starts = [request.start for request in stack.slm.observed]
    assert starts == [answer.position + told for told in (0, 0, 0, 3, 4, 9)], "nothing is told twice"


async def test_a_worker_that_is_away_is_waited_for(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=60))
    whole = await observed(stub, 0.2, session_id=answer.session_id)
    await stack.slm.stop()
    waiting = asyncio.create_task(observed(stub, 0.2, session_id=answer.session_id))
    impatient = await stack.router(ready=False, worker_patience_s=0.3)
    await stack.slm.start()
    assert await waiting == whole
    await until(lambda: impatient.fleet.ready)
    stub = await stack.stub(impatient)
    await stack.slm.stop()
    error = await refused(stub.ObserveAnswer(_request(session_id=answer.session_id)))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE")
    assert "ask again" in (error.remedy or "")


async def test_a_call_that_is_cancelled_ends_the_workers(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=60))
    went_on = asyncio.Event()

    async def pace() -> None:
        if stack.slm.num_observing:
            await went_on.wait()

    stack.slm.pace = pace
    call = stub.ObserveAnswer(_request(session_id=answer.session_id))
    reading = asyncio.create_task(call.read())
    await until(lambda: stack.slm.num_observing)
    call.cancel()
    await until(lambda: not stack.slm.num_observing)
    await asyncio.wait({reading})


async def test_what_was_observed_is_traced_and_counted(stack: Stack) -> None:
    """Also of one that is refused, and of one whose caller leaves."""
    telemetry, exporter = recording()
    with MetricsReceiver() as receiver:
        metrics = setup_metrics("router", receiver.endpoint)
        stub = await stack.stub(await stack.router(telemetry=telemetry, metrics=metrics))
        answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=60, session_id="s"))
        stack.slm.break_after = [3]
        seen = await observed(stub, 0.4, session_id="s")
        await refused(stub.ObserveAnswer(_request(session_id="t")))
        stack.slm.pace = asyncio.Event().wait
        call = stub.ObserveAnswer(_request(session_id="s"))
        reading = asyncio.create_task(call.read())
        await until(lambda: stack.slm.num_observing)
        call.cancel()
        await asyncio.wait({reading})
        await until(lambda: len(named(exporter, "rstitch.v1.RouterService/ObserveAnswer")) == 3)
        metrics.shutdown()
    num, start = len(answer.tokens), answer.position
    whole, unknown, left = named(exporter, "rstitch.observe")
    attributes = {semconv.RSTITCH_SESSION_ID: "s", semconv.RSTITCH_OBSERVE_TAU: 0.4}
    attributes |= {semconv.RSTITCH_OBSERVE_POSITION: start, semconv.RSTITCH_OBSERVE_NUM_POSITIONS: num}
    assert whole.attributes == attributes | {semconv.RSTITCH_OBSERVE_NUM_TOLD: len(seen)}
    assert (left.attributes or {})[semconv.RSTITCH_OBSERVE_NUM_POSITIONS] == 0
    spans = whole, unknown, left
    assert [span.status.is_ok for span in spans] == [True, False, True]
    calls = named(exporter, "rstitch.v1.RouterService/ObserveAnswer")
    assert [span.parent and span.parent.span_id for span in spans] == [call.context.span_id for call in calls]
    workers = [call.parent for call in named(exporter, "rstitch.v1.WorkerService/Observe")]
    assert [parent and parent.span_id for parent in workers] == [span.context.span_id for span in (whole, whole, left)]
    ends = {told.get(semconv.ERROR_TYPE): value for told, value in receiver.points(semconv.METRIC_OBSERVED)}
    assert ends == {None: 1, "UNKNOWN_SESSION": 1, "CANCELLED": 1}
    assert receiver.total(semconv.METRIC_OBSERVED_POSITIONS) == num


def test_what_a_bug_ends_counts_as_an_error() -> None:
    telemetry, exporter = recording()
    with MetricsReceiver() as receiver:
        metrics = setup_metrics("router", receiver.endpoint)
        observing = ObservingTrace(telemetry, metrics)

        def broken() -> None:
            with observing.observation("s", 0.4) as observation:
                observation.add(5, 2)
                raise ZeroDivisionError("ours")

        with pytest.raises(ZeroDivisionError):
            broken()
        metrics.shutdown()
    (span,) = named(exporter, "rstitch.observe")
    assert not span.status.is_ok
    assert "ours" in (span.status.description or "")
    assert [told.get(semconv.ERROR_TYPE) for told, _ in receiver.points(semconv.METRIC_OBSERVED)] == ["INTERNAL"]
    assert receiver.total(semconv.METRIC_OBSERVED_POSITIONS) == 5


async def test_only_so_many_are_observed_at_once(stack: Stack) -> None:
    stub = await stack.stub(await stack.router(max_running=2))
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=60))
    went_on = asyncio.Event()

    async def pace() -> None:
        if stack.slm.num_observing:
            await went_on.wait()

    stack.slm.pace = pace
    waiting = [asyncio.create_task(observed(stub, -1, session_id=answer.session_id)) for _ in range(2)]
    await until(lambda: stack.slm.num_observing == 2)
    error = await refused(stub.ObserveAnswer(_request(session_id=answer.session_id)))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ANSWERS")
    assert error.retry_after_s
    went_on.set()
    first, second = await asyncio.gather(*waiting)
    assert first == second == await observed(stub, -1, session_id=answer.session_id)


async def test_a_router_that_is_being_stopped_observes_no_more(stack: Stack) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=9))
    await router.sessions.drain()
    for asked in (_request(session_id=answer.session_id), _request(given=given("Ho", ("user", "Hi")))):
        error = await refused(stub.ObserveAnswer(asked))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "ROUTER_DRAINING")


async def test_a_worker_that_tells_of_other_positions_is_no_help(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    router = await stack.router()
    stub = await stack.stub(router)
    answer = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=20))
    for num in (0, 3, 500):

        async def too_few(*args: Any, num: int = num, **kwargs: Any) -> AsyncIterator[tuple[list[Any], int]]:
            yield [], num

        monkeypatch.setattr(router.fleet.client(Model.SLM), "observe", too_few)
        error = await refused(stub.ObserveAnswer(_request(session_id=answer.session_id)))
        assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "PROTOCOL")


async def test_a_worker_that_observes_nothing_is_said_to(stack: Stack) -> None:
    stub = await stack.stub(await stack.router())
    stack.slm.observe_errors = [RstitchError(grpc.StatusCode.UNIMPLEMENTED, "TRANSPORT", "Method not found!")]
    error = await refused(stub.ObserveAnswer(_request(given=given("Ho", ("user", "Hi")))))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKER_TOO_OLD")
    assert error.remedy


def _request(tau: float = -1, **answer: Any) -> router_pb2.ObserveAnswerRequest:
    return router_pb2.ObserveAnswerRequest(tau=tau, **answer)


@pytest.mark.parametrize(
    ("asked", "field", "says"),
    [
        (_request(), "answer", "there is none"),
        (_request(session_id=""), "session_id", "it is empty"),
        (_request(session_id="a b"), "session_id", "no session id"),
        (_request(tau=2.5, session_id="s"), "tau", "no entropy threshold"),
        (_request(tau=float("nan"), session_id="s"), "tau", "no entropy threshold"),
        (_request(session_id="nobody"), "session_id", "no session nobody"),
        (_request(given=given("", ("user", "Hi"))), "given.text", "empty"),
        (_request(given=given("Hi")), "given.chat.messages", "empty"),
        (_request(given=given("Hi", ("nobody", "Hi"))), "given.chat", "no role nobody"),
        (_request(given=given("a" * 5000, ("user", "Hi"))), "given.text", "context is 4096"),
        (_request(given=given("a", ("user", "a" * 5000))), "given.chat", "context is 4096"),
    ],
)
async def test_what_cannot_be_observed_is_refused(
    stack: Stack, asked: router_pb2.ObserveAnswerRequest, field: str, says: str
) -> None:
    stub = await stack.stub(await stack.router())
    error = await refused(stub.ObserveAnswer(asked))
    assert error.code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
    )
    assert error.field == field
    assert says in str(error)
    assert error.remedy


async def test_only_a_finished_answer_in_the_models_ids_is_observed(stack: Stack) -> None:
    stack.slm.delay_s = stack.llm.delay_s = 0.01
    stub = await stack.stub(await stack.router())
    done = await take(stub, ask_for(policy=threshold(0.5), max_new_tokens=9))
    reading = await Reading(stub, ask_for(session_id="s", policy=threshold(0.5), max_new_tokens=500)).has(3)
    error = await refused(stub.ObserveAnswer(_request(session_id="s")))
    assert (error.code, error.field) == (grpc.StatusCode.FAILED_PRECONDITION, "session_id")
    assert "resume_from" in (error.remedy or "")
    await stub.DeleteTrajectory(router_pb2.DeleteTrajectoryRequest(session_id="s"))
    await reading
    await stack.slm.stop()
    await stack.llm.stop()
    for worker in (stack.slm, stack.llm):
        worker.files = make_tokenizer_files("qq")
        await worker.start()
    other = await stack.stub(await stack.router())
    error = await refused(other.ObserveAnswer(_request(session_id=done.session_id)))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OTHER_VOCABULARY")
    assert error.field == "session_id"
