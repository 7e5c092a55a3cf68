"""The page in a real browser: what a reader asks, sees, points at and finds again."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from playwright.sync_api import Page, expect

from rstitch.client import Client, LlmOnly, Sampling
from rstitch.errors import RstitchError
from rstitch.local.stack import LocalStack
from rstitch.v1 import router_pb2 as pb
from tests.support.fake_router import FakeRouter
from tests.support.gateways import QUESTION
from tests.support.scripted_answer import NUM_PROMPT_TOKENS, SLM, script
from tests.support.visitor import PATIENCE_MS, Visit

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> &amp; </div>"

expect.set_options(timeout=PATIENCE_MS)


def ask(page: Page, question: str = QUESTION, policy: str = "threshold") -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_label("Who writes").select_option(policy)
    page.get_by_role("button", name="Ask", exact=True).click()


def strip(page: Page) -> Any:
    return page.get_by_role("slider", name=re.compile("^Entropy of each token"))


def shown(page: Page) -> str:
    """The text of the answer, its thinking and all."""
    return "".join(page.locator(".block:visible > span, details .block > span").all_text_contents())


def details_of(address: str, session: str) -> list[Any]:
    """The details of an answer's tokens."""
    kept = httpx2.get(f"{address}/v1/rstitch/trajectories/{session}", params={"details": True}).json()
    return [each for segment in kept["segments"] for each in segment["details"]]


def figure(page: Page, name: str) -> str:
    return page.locator(".usage div").filter(has=page.get_by_text(name, exact=True)).locator("dd").inner_text()


def test_an_answer_grows_in_two_colours_over_its_entropies(real: str, visit: Visit) -> None:
    page = visit(real)
    ask(page)
    page.locator(".usage").wait_for()
    assert page.locator("span.slm").count() > 1
    assert page.locator(".block span.llm").count() > 1
    session = page.locator(".live .links code").inner_text()
    kept = httpx2.get(f"{real}/v1/rstitch/trajectories/{session}").json()
    answer = [segment for segment in kept["segments"] if segment["source"] != "prompt"]
    num = sum(len(segment["tokens"]) for segment in answer)
    assert figure(page, "tokens") == strip(page).get_attribute("aria-valuemax") == str(num)
    # One element for each token but for the marks of the thinking and what ends it, which have none.
    silent = sum(each["text"] in ("", "<think>", "</think>", "\n") for each in details_of(real, session))
    assert num - silent <= page.locator(".block > span").count() <= num
    text = "".join(segment["text"] for segment in answer)
    marks = re.sub(r"^\s*<think>\n*|</think>\n*", "", text)
    assert shown(page) == marks
    assert not page.locator("details.thinking").evaluate("element => element.open"), "it is over, and folded"
    llm = "".join(page.locator(".block > span.llm").all_text_contents())
    assert re.sub(r"\s", "", llm) == re.sub(
        r"\s|<think>|</think>", "", "".join(segment["text"] for segment in answer if segment["source"] == "llm")
    )

    word = page.locator(".block > span", has_text="boxed")
    word.first.click()
    card = page.get_by_label("Token", exact=True)
    expect(card).to_contain_text("probability")
    expect(card.locator(".alternatives tr")).to_have_count(5)
    expect(card.locator(".alternatives tr.taken")).to_have_count(1)
    # The estimate at the tau that it was written with is what was written.
    page.get_by_label("What if tau were").fill("57.5")
    told = page.locator(".whatif p").first.inner_text()
    share, switches, as_written = re.findall(r"(\d+) % SLM, (\d+) switches.*written: (.*)", told)[0]
    assert page.locator(".whatif output").inner_text() == "0.02"
    assert as_written == f"{share} % SLM, {switches} switches"
    page.get_by_label("What if tau were").fill("100")
    expect(page.locator(".whatif")).to_contain_text("100 % SLM, 0 switches")


def test_tokens_are_read_by_keys_and_by_pointer(router: FakeRouter, scripted: str, visit: Visit) -> None:
    page = visit(scripted)
    ask(page)
    page.locator(".usage").wait_for()
    card = page.get_by_label("Token", exact=True)
    strip(page).focus()
    page.keyboard.press("Home")
    expect(card).to_contain_text("token1 of 60")
    page.keyboard.press("ArrowRight")
    expect(card).to_contain_text("position6")
    assert strip(page).get_attribute("aria-valuetext") == "token 2, SLM, entropy 0.600"
    link = page.get_by_role("link", name="trace in Jaeger")
    assert link.get_attribute("href") == f"https://jaeger.example/ui/trace/{'ab' * 16}"
    kept = visit(f"{scripted}/t/{page.locator('.live .links code').inner_text()}")
    link = kept.get_by_role("link", name="trace in Jaeger")
    expect(link).to_have_attribute("href", f"https://jaeger.example/ui/trace/{'ab' * 16}")
    first = next(event.switch for event in router.answer if event.HasField("switch"))
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    expect(card).to_contain_text(f"position{first.position}")
    expect(page.locator(".block > span.chosen")).to_have_count(1)
    page.locator(".block > span", has_text="w64").click()
    expect(card).to_contain_text("position64")
    assert strip(page).get_attribute("aria-valuenow") == "60"
    box = strip(page).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 2, box["y"] + 40)
    expect(card).to_contain_text("position5")
    expect(page.locator(".block > span.hover")).to_have_text(re.compile("w5"))
    page.mouse.move(box["x"] + 2, box["y"] + 400)
    expect(card).to_contain_text("position64")


def test_hostile_text_stays_text(router: FakeRouter, scripted: str, visit: Visit) -> None:
    """From the model, from the question, and from what is stored: whatever ran would be seen by the visitor."""
    position = NUM_PROMPT_TOKENS
    chunk = pb.Chunk(model=SLM, position=position, tokens=[1], entropies=[0.5], text=HOSTILE)
    finished = pb.Finished(reason=pb.FINISH_REASON_STOP, length=position + 1, guard_reason=HOSTILE)
    router.answer = [pb.GenerateResponse(chunk=chunk), pb.GenerateResponse(finished=finished)]
    page = visit(scripted)
    ask(page, HOSTILE)
    expect(page.locator(".block > span").first).to_be_visible()
    assert shown(page) == HOSTILE
    expect(page.locator(".note")).to_contain_text(HOSTILE)
    page.get_by_role("link", name="its own page").click()
    expect(page.locator(".one .text")).to_contain_text(HOSTILE)
    assert page.locator("#page img, #page script").count() == 0


def test_models_stand_side_by_side(router: FakeRouter, scripted: str, visit: Visit) -> None:
    page = visit(scripted)
    page.get_by_label("beside each model alone").check()
    ask(page)
    expect(page.locator(".three .usage")).to_have_count(3)
    assert page.locator(".three h2").all_inner_texts() == ["Routed", "SLM alone", "LLM alone"]
    kinds = {question.policy.WhichOneof("kind") for question in router.questions}
    assert kinds == {"threshold", "slm_only", "llm_only"}
    assert all(question.guard == pb.GUARD_OFF for question in router.questions)


def test_what_is_refused_is_told_with_its_remedy(router: FakeRouter, scripted: str, visit: Visit) -> None:
    page = visit(scripted, expects=("400",))
    page.get_by_text("Sampling and limits").click()
    page.get_by_label("continue the text as it is").check()
    ask(page, "refuse", "")
    expect(page.get_by_role("alert")).to_contain_text("Give a number in [-1, 2].")


def test_an_answer_that_breaks_off_is_gone_on_with(router: FakeRouter, scripted: str, visit: Visit) -> None:
    broken = [False]

    def breaks(number: int) -> None:
        if not broken[0] and number > 20:
            broken[0] = True
            raise RstitchError(grpc.StatusCode.CANCELLED, "CANCELLED", "the answer was cancelled.")

    router._count = iter(range(10**6))  # type: ignore[assignment]
    router.before_event = breaks
    page = visit(scripted)
    ask(page)
    page.get_by_role("button", name="Go on with it").click()
    page.locator(".usage").wait_for()
    words = [f"w{position}" for position in range(NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS + 60)]
    assert shown(page).split() == words


def test_a_conversation_goes_on(router: FakeRouter, scripted: str, visit: Visit) -> None:
    page = visit(scripted)
    ask(page)
    session = page.locator(".live .links code").inner_text()
    page.get_by_role("button", name="ask on in this conversation").click()
    expect(page.get_by_label("Question")).to_be_focused()
    ask(page, "And then?")
    page.locator(".usage").wait_for()
    assert [question.session_id for question in router.questions][1:] == [session]
    page.get_by_role("button", name="begin a new one").click()
    ask(page, "Another one?")
    expect(page.locator(".live .links code")).not_to_have_text(session)


def test_an_answer_is_gone_on_with_from_any_of_its_tokens(real: str, visit: Visit) -> None:
    """Greedily, by the same policy: the same rest; by the LLM alone, what it makes of it. Of a kept answer, too."""
    page = visit(real)
    ask(page)
    page.locator(".usage").wait_for()
    session = page.locator(".live .links code").inner_text()
    kept = httpx2.get(f"{real}/v1/rstitch/trajectories/{session}").json()
    tokens = [token for segment in kept["segments"] for token in segment["tokens"]]
    start = len(kept["segments"][0]["tokens"])
    card = page.get_by_label("Token", exact=True)
    strip(page).focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    expect(card).to_contain_text("token12 of")
    card.get_by_role("button", name="go on from here").click()
    expect(page.locator(".chip.on")).to_have_text(f"goes on from token 12 of {session}")
    expect(page.get_by_label("Question")).to_be_hidden()
    expect(page.get_by_label("Who writes")).to_be_focused()
    for policy in ("threshold", "llm_only"):
        page.get_by_label("Who writes").select_option(policy)
        before = page.locator(".live .links code").inner_text()
        page.get_by_role("button", name="Go on", exact=True).click()
        expect(page.locator(".live .links code")).not_to_have_text(before)
        page.locator(".usage").wait_for()
        other = page.locator(".live .links code").inner_text()
        made = httpx2.get(f"{real}/v1/rstitch/trajectories/{other}").json()
        prompt, *answer = made["segments"]
        assert (prompt["source"], prompt["tokens"]) == ("prompt", tokens[: start + 12])
        rest = [token for segment in answer for token in segment["tokens"]]
        if policy == "threshold":
            assert rest == tokens[start + 12 :]
        else:
            assert {segment["source"] for segment in answer} == {"llm"}
        expect(page.locator("details.thinking"), "the thinking goes on, folded as before").to_have_count(1)
        assert "</think>" not in shown(page)
    again = visit(f"{real}/t/{other}")
    expect(again.locator("details.thinking")).to_have_count(1)
    strip(again).focus()
    again.keyboard.press("Home")
    again.get_by_role("button", name="go on from here").click()
    expect(again.locator(".chip.on")).to_have_text(f"goes on from token 1 of {other}")
    again.get_by_role("button", name="ask a question instead").click()
    expect(again.get_by_label("Question")).to_be_visible()


def test_an_answer_that_is_being_written_is_watched_and_cancelled(
    tiny_stack: LocalStack, real: str, visit: Visit
) -> None:
    # Hardly more than dice, which give the stop token late: it does not end by itself before somebody has seen it.
    long: dict[str, Any] = {"policy": LlmOnly(), "sampling": Sampling(temperature=100, seed=1), "max_new_tokens": 1900}
    with Client(tiny_stack.router_address) as client:
        events = client.generate("Once", session_id="watched", on_disconnect="continue", guard=False, **long)
        next(events)
        page = visit(f"{real}/t/watched")
        page.locator(".block > span").nth(5).wait_for()
        page.get_by_role("button", name="Cancel the answer").click()
        expect(page.locator(".state")).to_have_text("interrupted")
        with pytest.raises(RstitchError, match="cancelled"):
            list(events)
        kept = client.trajectory("watched")
    expect(strip(page)).to_have_attribute("aria-valuemax", str(kept.length - len(kept.segments[0].tokens)))


def test_the_key_of_a_tab_is_sent_and_kept_nowhere_else(router: FakeRouter, scripted: str, visit: Visit) -> None:
    page = visit(scripted)
    page.get_by_text("API key").click()
    page.get_by_label("Key, kept in this tab").fill("rs_secret")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_text("Key set")).to_be_visible()
    ask(page)
    page.locator(".usage").wait_for()
    assert router.metadata[-1]["authorization"] == "Bearer rs_secret"
    kept = page.evaluate("() => [sessionStorage.length, JSON.stringify(localStorage), document.cookie]")
    assert kept == [1, "{}", ""]
    page.reload()
    expect(page.get_by_text("Key set")).to_be_visible()


def test_who_needs_a_key_is_asked_for_it(router: FakeRouter, scripted: str, visit: Visit) -> None:
    page = visit(scripted, expects=("401",))
    refusal = {"error": {"message": "A key is needed. Send one.", "type": "authentication_error", "code": "NO_KEY"}}
    page.route("**/v1/rstitch/status", lambda route: route.fulfill(status=401, json=refusal))
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("A key is needed. Send one.")
    page.unroute("**/v1/rstitch/status")
    page.get_by_label("Key, kept in this tab").fill("rs_secret")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_text("ready", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert ("GetStatus", "Bearer rs_secret") in [(name, shown.get("authorization")) for name, shown in router.calls]


def test_who_stops_an_answer_leaves_it(router: FakeRouter, scripted: str, visit: Visit) -> None:
    stopped = threading.Event()
    router._count = iter(range(10**6))  # type: ignore[assignment]
    router.ended.clear()
    router.before_event = lambda number: None if number < 12 else (stopped.wait(PATIENCE_MS / 1000), None)[1]
    page = visit(scripted)
    ask(page)
    page.locator(".block > span").nth(3).wait_for()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("alert")).to_contain_text("What is written is kept.")
    assert router.ended.wait(PATIENCE_MS / 1000)
    stopped.set()
    assert router.questions[-1].on_disconnect == pb.ON_DISCONNECT_STOP
    expect(page.get_by_role("button", name="Go on with it")).to_be_visible()


def test_trajectories_are_found_opened_labelled_exported_and_forgotten(
    router: FakeRouter, scripted: str, http: httpx2.Client, visit: Visit, tmp_path: Path
) -> None:
    for number in range(130):
        router._sessions[f"s{number:03}"] = script(24, seed=number)
    page = visit(scripted, expects=("404",))
    page.get_by_role("link", name="Trajectories").click()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(100)
    page.get_by_label("Search").fill("S12 finished")
    expect(rows).to_have_count(10)
    expect(page.get_by_text("10 shown, 130 looked at, that is all")).to_be_visible()
    page.get_by_role("link", name="s127").click()
    assert page.url == f"{scripted}/t/s127"
    page.locator(".usage:visible").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export JSON").click()
    download.value.save_as(tmp_path / "saved.json")
    assert json.loads((tmp_path / "saved.json").read_text()) == http.get("/v1/rstitch/trajectories/s127").json()
    page.get_by_role("button", name="right").click()
    expect(page.get_by_role("button", name="right")).to_have_attribute("aria-pressed", "true")
    assert http.get("/v1/rstitch/trajectories/s127").json()["label"] == "right"
    page.get_by_role("button", name="Forget").click()
    expect(page.get_by_role("heading", name="Trajectories")).to_be_visible()
    assert http.get("/v1/rstitch/trajectories/s127").status_code == 404
    page.go_back()
    expect(page.get_by_role("alert")).to_contain_text("UNKNOWN_SESSION")
