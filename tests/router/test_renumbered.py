"""Two numberings of one vocabulary: each model has its own ids, markers and template; toy models on a real wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from evals.algorithm.reference import Proposal, Threshold, stitch
from router_svc.text.conversation import answered, first_prompt, next_prompt
from router_svc.text.tokenizer import Tokenizer
from router_svc.text.turns import Message, Turn
from router_svc.trajectory.types import tokens_of
from rstitch.v1 import router_pb2
from tests.support.asking import Reading, ask_for, chat, check_kept, refused, stored, take, threshold
from tests.support.toy import SPECIAL, STOP, ToyModel, make_tokenizer_files
from tests.support.toy_stack import Stack


def id_of(tokenizer: Tokenizer, spelling: str) -> int:
    found = tokenizer.token(spelling)
    assert found is not None
    return found


LLM_SPECIAL = ("<|pad|>", "<|im_end|>", "<|User|>", "<|Assistant|>", "<|end|>", "<|system|>")
LLM_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]<|{{ m['role'] | capitalize }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]<|Assistant|>{% endif %}"
)
SLM_FILES = make_tokenizer_files()
LLM_FILES = make_tokenizer_files(chat_template=LLM_TEMPLATE, special=LLM_SPECIAL, seed=5)
OF_SLM, OF_LLM = Tokenizer(SLM_FILES), Tokenizer(LLM_FILES)
STOP_OF_LLM = id_of(OF_LLM, "<|end|>")
COMMON = [OF_LLM.token(OF_SLM.spelling(token) or "") for token in range(OF_SLM.size())]  # by id of the SLM


@dataclass(frozen=True)
class Renumbered(ToyModel):
    """A toy that thinks in the SLM's ids and speaks in the LLM's; what it cannot know it hears as a number beyond."""

    def inner(self, prefix: Sequence[int]) -> list[int]:
        known = {there: here for here, there in enumerate(COMMON) if there is not None}
        return [known.get(token, 1000 + token) for token in prefix]

    def token(self, prefix: Sequence[int]) -> int:
        found = COMMON[super().token(self.inner(prefix))]
        assert found is not None, "its tokens are bytes and the stop token"
        return found

    def entropy(self, prefix: Sequence[int]) -> float:
        return super().entropy(self.inner(prefix))


class Reader:
    """A model as Algorithm 1 asks it: given the LLM's prompt and the answer in the LLM's ids, it reads its own."""

    def __init__(self, model: ToyModel, start: int, own_prompt: list[int], to_own: dict[int, int]) -> None:
        self.model, self.start, self.own_prompt, self.to_own = model, start, own_prompt, to_own
        self.to_answer = {own: answer for answer, own in to_own.items()}

    def next(self, tokens: Sequence[int]) -> Proposal:
        own = [*self.own_prompt, *(self.to_own[token] for token in tokens[self.start :])]
        proposal = self.model.next(own)
        return proposal._replace(token=self.to_answer[proposal.token])


@pytest.fixture
async def mapped(stack: Stack) -> Stack:
    """The toy stack, its LLM renumbered."""
    await stack.llm.stop()
    stack.llm.files, stack.llm.stop_token = LLM_FILES, STOP_OF_LLM
    stack.llm.vocab_size = OF_LLM.size()
    stack.llm.model = Renumbered(seed=2)
    await stack.llm.start()
    return stack


def expected(stack: Stack, prompts: tuple[list[int], list[int]], tau: float, num: int) -> tuple[list[int], list[str]]:
    """What the reference writes behind the SLM's and the LLM's prompt, in the LLM's ids."""
    of_slm, of_llm = prompts
    to_slm = {there: here for here, there in enumerate(COMMON) if there is not None}
    slm = Reader(stack.slm.model, len(of_llm), of_slm, to_slm)
    llm = Reader(stack.llm.model, len(of_llm), of_llm, {token: token for token in range(OF_LLM.size())})
    written = stitch(slm, llm, of_llm, Threshold(tau), max_new_tokens=num, stop_tokens={STOP_OF_LLM}).written
    return [token.id for token in written], [token.model for token in written]


def prompts_of(*texts: str) -> tuple[list[int], list[int]]:
    said = [Message(role, text) for role, text in zip(["user", "assistant"] * len(texts), texts, strict=False)]
    return list(first_prompt(OF_SLM, Turn(tuple(said)))), list(first_prompt(OF_LLM, Turn(tuple(said))))


async def test_alternatives_of_either_model_are_ids_of_the_llm(mapped: Stack) -> None:
    stub = await mapped.stub(await mapped.router())
    question = ask_for(
        text="What?", policy=threshold(0.4), max_new_tokens=40, details=router_pb2.Details(top_logprobs=5)
    )
    answer = await take(stub, question)
    assert {"slm", "llm"} == set(answer.authors)
    slm_prompt, llm_prompt = ([*tokenizer.encode("What?", begins=True)] for tokenizer in (OF_SLM, OF_LLM))
    to_slm = {there: here for here, there in enumerate(COMMON) if there is not None}
    for index, (author, detail) in enumerate(zip(answer.authors, answer.details, strict=True)):
        written = answer.tokens[:index]
        if author == "slm":
            own = mapped.slm.model.alternatives([*slm_prompt, *(to_slm[token] for token in written)], 5)
            found = [(COMMON[token], value) for token, value in own if COMMON[token] is not None]
        else:
            found = mapped.llm.model.alternatives([*llm_prompt, *written], 5)
            found = [(token, value) for token, value in found if token in to_slm]
        assert [(other.token, other.logprob) for other in detail.alternatives] == found
        assert all(other.text == OF_LLM.bytes_of(other.token) for other in detail.alternatives)
    assert b"".join(each.text for each in answer.details).decode(errors="replace") == answer.text


def after(tokenizer: Tokenizer, said: str, read: list[int], num_answered: int, ended: bool) -> list[int]:
    """What a model is given behind an answer to what was `said`, as all that it has read stays."""
    answer = answered(tokenizer, tokens_of(read[-num_answered:]), ended=ended)
    turns = [Turn((Message("user", said),), answer=answer), Turn((Message("user", "Und?"),))]
    made = next_prompt(tokenizer, turns, tokens_of(read))
    assert made.num_before == len(read)
    return list(made.tokens)


@pytest.mark.parametrize("tau", [-1, 0.1, 0.3, 0.5, 0.8, 1])
@pytest.mark.parametrize("run_ahead", ["on", "off"])
async def test_each_model_reads_its_own_prompt_in_its_own_ids(mapped: Stack, tau: float, run_ahead: str) -> None:
    mapped.slm.evict_share = mapped.llm.evict_share = 0.2
    stub = await mapped.stub(await mapped.router(run_ahead=run_ahead))
    for text in ("Hallo", "Grüße 👩‍👩‍👧!", "the then"):
        prompts = prompts_of(text)
        assert len(prompts[0]) != len(prompts[1])
        policy = threshold(tau, tau)
        answer = await take(stub, ask_for(chat=chat(("user", text)), policy=policy, max_new_tokens=60))
        assert answer.error is None
        assert (answer.tokens, answer.authors) == expected(mapped, prompts, tau, 60)
        assert answer.position == len(prompts[1])
        trajectory = await check_kept(stub, answer)
        assert list(trajectory.segments[0].tokens) == prompts[1]
        assert list(trajectory.segments[0].slm_prompt.tokens) == prompts[0]


async def test_what_only_one_of_them_has_is_masked(mapped: Stack) -> None:
    mapped.slm.model, mapped.llm.model = ToyModel(1, stop_every=0), Renumbered(2, stop_every=0)
    stub = await mapped.stub(await mapped.router())
    policy = {"random": {"slm_probability": 0.5, "seed": 5}}
    await take(stub, ask_for(chat=chat(("user", "x")), policy=policy, max_new_tokens=40))
    of_slm = [id_of(OF_SLM, spelling) for spelling in ("<|user|>", "<|assistant|>")]
    of_llm = [id_of(OF_LLM, spelling) for spelling in ("<|im_end|>", "<|User|>", "<|Assistant|>")]
    for worker, masked in ((mapped.slm, of_slm), (mapped.llm, of_llm)):
        runs = [request for request in worker.requests if request.max_tokens]
        assert runs
        assert all(list(request.masked_tokens) == sorted(masked) for request in runs)
    found = await stub.GetStatus(router_pb2.GetStatusRequest())
    assert str(sorted(of_slm)[0]) in found.vocabularies


@pytest.mark.parametrize(
    "policy", [{"slm_only": {}}, {"llm_only": {}}, {"speculative": {"draft_tokens": 4}}, {"threshold": {"tau": 0.4}}]
)
async def test_two_turns_go_on_in_each_model_s_own_ids(mapped: Stack, policy: dict[str, Any]) -> None:
    stub = await mapped.stub(await mapped.router())
    first = await take(stub, ask_for(chat=chat(("user", "Hallo")), policy=policy, max_new_tokens=12))
    second = await take(
        stub, ask_for(chat=chat(("user", "Und?")), policy=policy, max_new_tokens=12, session_id=first.session_id)
    )
    assert second.error is None
    await check_kept(stub, second)
    again = prompts_of("Hallo")
    ended = first.tokens[-1] == STOP_OF_LLM
    own = [
        [*again[0], *(COMMON.index(token) for token in first.tokens)],
        [*again[1], *first.tokens],
    ]
    for tokens, tokenizer in zip(own, (OF_SLM, OF_LLM), strict=True):
        tokens += after(tokenizer, "Hallo", tokens, len(first.tokens), ended)
    tau = {"slm_only": 1.0, "threshold": 0.4}.get(next(iter(policy)), -1.0)
    assert second.tokens == expected(mapped, (own[0], own[1]), tau, 12)[0]


async def test_ids_that_one_model_lacks_are_refused_by_their_place(mapped: Stack) -> None:
    stub = await mapped.stub(await mapped.router())
    only_llm = id_of(OF_LLM, "<|User|>")
    answer = await take(stub, ask_for(tokens=router_pb2.TokenIds(ids=[id_of(OF_LLM, "a"), only_llm])))
    assert answer.error is not None
    assert answer.error.field == "tokens.ids[1]"
    assert "<|User|>" in answer.error.message


@pytest.mark.parametrize("cut", [1, 7, 20])
async def test_another_router_goes_on_in_the_same_views(mapped: Stack, cut: int) -> None:
    mapped.slm.delay_s = mapped.llm.delay_s = 0.002
    first, second = await mapped.router(), await mapped.router()
    prompts = prompts_of("Hallo")
    request = ask_for(session_id="s", chat=chat(("user", "Hallo")), policy=threshold(0.4, 0.4), max_new_tokens=60)
    call = (await mapped.stub(first)).Generate(request)
    got = 0
    async for event in call:
        got += len(event.chunk.tokens)
        if got >= cut:
            break
    call.cancel()
    await first.sessions.drain()
    answer = await take(await mapped.stub(second), ask_for(session_id="s", resume_from=len(prompts[1])))
    assert answer.error is None
    assert (answer.tokens, answer.authors) == expected(mapped, prompts, 0.4, 60)


async def test_a_worker_that_comes_back_with_another_numbering_does_not_write_into_the_answer(mapped: Stack) -> None:
    mapped.slm.delay_s = mapped.llm.delay_s = 0.005
    mapped.slm.evict_share = mapped.llm.evict_share = 0
    stub = await mapped.stub(await mapped.router())
    request = ask_for(session_id="s", chat=chat(("user", "Hallo")), policy={"llm_only": {}}, max_new_tokens=200)
    mapped.llm.model = Renumbered(seed=2, stop_every=0)
    reading = await Reading(stub, request).has(5)
    await mapped.llm.stop()
    mapped.llm.files = make_tokenizer_files(chat_template=LLM_TEMPLATE, special=LLM_SPECIAL, seed=6)
    await mapped.llm.start()
    answer = await reading
    assert answer.error is not None
    assert answer.error.reason == "TOKENIZER_CHANGED"


@pytest.mark.parametrize("prompt", ["own", "llm"])
async def test_one_vocabulary_with_two_templates(stack: Stack, prompt: str) -> None:
    """A base model beside an instruct model: each is fed by its own template, unless the router says otherwise."""
    await stack.slm.stop()
    stack.slm.files = make_tokenizer_files(chat_template="{% for m in messages %}{{ m['content'] }}: {% endfor %}")
    await stack.slm.start()
    of_slm = Tokenizer(stack.slm.files)
    stub = await stack.stub(await stack.router(prompt=prompt))
    of_llm = list(first_prompt(OF_SLM, Turn((Message("user", "Hallo"),))))
    own = list(first_prompt(of_slm, Turn((Message("user", "Hallo"),)))) if prompt == "own" else of_llm
    same = {token: token for token in range(OF_SLM.size())}
    for tau in (-1, 0.4, 1):
        slm = Reader(stack.slm.model, len(of_llm), own, same)
        rule = Threshold(tau)
        written = stitch(slm, stack.llm.model, of_llm, rule, max_new_tokens=40, stop_tokens={STOP}).written
        request = ask_for(chat=chat(("user", "Hallo")), policy=threshold(tau, tau), max_new_tokens=40)
        answer = await take(stub, request)
        assert answer.tokens == [token.id for token in written]
        assert answer.authors == [token.model for token in written]
        trajectory = await check_kept(stub, answer)
        assert trajectory.segments[0].HasField("slm_prompt") == (prompt == "own")
    second = await take(
        stub, ask_for(chat=chat(("user", "Und?")), policy={"slm_only": {}}, session_id=answer.session_id)
    )
    tokenizer, read = (of_slm if prompt == "own" else OF_SLM), [*own, *answer.tokens]
    more = after(tokenizer, "Hallo", read, len(answer.tokens), answer.tokens[-1] == STOP)
    alone = slm_alone(stack.slm.model, [*read, *more])
    assert second.tokens == alone[: len(second.tokens)]


def slm_alone(model: ToyModel, tokens: list[int]) -> list[int]:
    """What a toy writes by itself behind some tokens, up to its stop token or a thousand."""
    start = len(tokens)
    while len(tokens) - start < 1000:
        tokens = [*tokens, model.token(tokens)]
        if tokens[-1] == STOP:
            break
    return tokens[start:]


@pytest.mark.parametrize("policy", [{"threshold": {"tau": 0.4}}, {"llm_only": {}}, {"slm_only": {}}])
async def test_an_answer_ends_at_what_ends_it_for_either_model(stack: Stack, policy: dict[str, Any]) -> None:
    """The SLM names one stop token and the LLM another: whoever writes either of them, the answer is over."""
    ends = {STOP, SPECIAL.index("<|pad|>")}
    for worker, stop in ((stack.slm, 0), (stack.llm, 1)):
        worker.stop_token = stop
        worker.model = ToyModel(
            3 + stop, stop_every=0, choose=lambda prefix: 1 if len(prefix) == 30 else 0 if len(prefix) == 40 else 9
        )
    await stack.slm.stop()
    await stack.llm.stop()
    await stack.slm.start()
    await stack.llm.start()
    stub = await stack.stub(await stack.router())
    for first in range(7, 30, 11):
        request = ask_for(list(range(5, 5 + first)), policy=policy, max_new_tokens=100)
        answer = await take(stub, request)
        assert answer.error is None
        assert answer.position + len(answer.tokens) == 31
        assert answer.tokens[-1] in ends
        assert answer.finished.reason == router_pb2.FINISH_REASON_STOP


async def test_both_draw_by_the_positions_of_the_llm(mapped: Stack) -> None:
    stub = await mapped.stub(await mapped.router())
    prompts = prompts_of("Hallo")
    mapped.slm.model, mapped.llm.model = ToyModel(1, stop_every=0), Renumbered(2, stop_every=0)
    sampling = {"temperature": 0.7, "seed": 3}
    policy = {"random": {"slm_probability": 0.5, "seed": 5}}
    await take(stub, ask_for(chat=chat(("user", "Hallo")), sampling=sampling, policy=policy, max_new_tokens=40))
    offsets = [
        {run.sampling.position_offset for run in worker.requests if run.max_tokens}
        for worker in (mapped.slm, mapped.llm)
    ]
    assert offsets == [{len(prompts[1]) - len(prompts[0])}, {0}]


async def test_a_session_is_not_gone_on_with_in_other_ids_than_it_is_kept_in(mapped: Stack) -> None:
    stub = await mapped.stub(await mapped.router())
    first = await take(stub, ask_for(chat=chat(("user", "Hallo")), policy={"llm_only": {}}, max_new_tokens=5))
    assert "".join(segment.text for segment in (await stored(stub, first.session_id)).segments[1:]) == first.text
    await mapped.slm.stop()
    mapped.slm.files = make_tokenizer_files(seed=9)
    mapped.slm.stop_token = id_of(Tokenizer(mapped.slm.files), "<|end|>")
    await mapped.slm.start()
    other = await mapped.stub(await mapped.router())
    for request in (
        ask_for(chat=chat(("user", "Und?")), session_id=first.session_id),
        ask_for(session_id=first.session_id, resume_from=0),
    ):
        error = await refused(other.Generate(request))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OTHER_VOCABULARY")
        assert error.remedy
    segments = (await stored(other, first.session_id)).segments
    assert [token for segment in segments[1:] for token in segment.tokens] == first.tokens
    assert [segment.text for segment in segments] == [""] * len(segments)


async def test_with_the_llm_s_prompt_what_the_slm_cannot_read_is_refused(mapped: Stack) -> None:
    stub = await mapped.stub(await mapped.router(prompt="llm"))
    error = await refused(stub.Generate(ask_for(chat=chat(("user", "Hallo")))))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "chat")
    assert "--prompt own" in str(error.remedy)
    assert (await take(stub, ask_for(text="Hallo", max_new_tokens=5))).error is None


async def test_a_token_that_the_slm_has_no_row_for_is_neither_read_nor_looked_out_for(stack: Stack) -> None:
    await stack.slm.stop()
    stack.slm.vocab_size = OF_SLM.size() - 1
    await stack.slm.start()
    stub = await stack.stub(await stack.router())
    last = OF_SLM.size() - 1
    error = await refused(stub.Generate(ask_for(text="abzz")))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "text")
    assert "zz" in error.message
    policy = {"random": {"slm_probability": 0.5, "seed": 5}}
    stack.slm.model = stack.llm.model = ToyModel(1, stop_every=0, choose=lambda prefix: 9)
    answer = await take(stub, ask_for(stop_token_ids=[last], policy=policy, max_new_tokens=12))
    assert answer.error is None
    assert set(answer.authors) == {"slm", "llm"}
    assert all(last not in request.stop_tokens for request in stack.slm.requests)
    assert any(last in request.stop_tokens for request in stack.llm.requests)
