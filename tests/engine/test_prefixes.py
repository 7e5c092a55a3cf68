"""Laws of shared prefixes in the books, without a model: a fake cache says of every slot what was computed there."""

from __future__ import annotations

import itertools
import random

import pytest

from model_worker.engine.bookkeeping.pages import PagePool
from model_worker.engine.bookkeeping.prefixes import PrefixIndex, chained, root
from model_worker.engine.bookkeeping.runs import Run
from model_worker.engine.bookkeeping.scheduler import Schedule, Scheduler
from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.bookkeeping.table import SessionTable
from model_worker.engine.types import Limits, PrefixCache, RunRequest

SIZE = 4
_ids = itertools.count(1)


class Books:
    """A scheduler over a cache of marks: a slot holds the salt and tokens that its KV would be a function of."""

    def __init__(self, num_pages: int, mode: PrefixCache = "share", budget: int = 24) -> None:
        self.pool = PagePool(num_pages, SIZE, side_by_side=mode != "share")
        self.table = SessionTable(self.pool, mode)
        self.scheduler = Scheduler(self.table, Limits(0, 0, num_pages, SIZE, budget))
        self.slots: dict[int, object] = {}
        self.num_computed = 0

    def start(self, name: str, tokens: list[int], salt: str | None = "", asks: bool = True, position: int = 0) -> Run:
        session = self.table.open(name, salt)
        assert session.salt == salt
        self.table.truncate(session, position)
        session.tokens.extend(tokens)
        run = Run(next(_ids), RunRequest(name, position, tokens, max_tokens=100 * asks, cache_salt=salt), session)
        if session.num_pending < run.num_asked:
            self.table.uncompute(session, session.held - run.num_asked)
        self.scheduler.add(run)
        return run

    def step(self, fails: bool = False) -> Schedule:
        for page in self.pool.unclean:
            for offset in range(SIZE):
                self.slots[page * SIZE + offset] = "zero"
        self.pool.cleaned()
        schedule = self.scheduler.schedule()
        self.copy()
        for row in schedule.rows:
            session = row.run.session
            for position in range(row.start, row.start + row.num_tokens):
                page = session.pages[position // SIZE]
                assert self.pool.may_be_written(page), "written where others read"
                self.slots[page * SIZE + position % SIZE] = "broken" if fails else mark(session, position)
        for row in schedule.rows:
            if fails:
                self.scheduler.remove(row.run)
                continue
            row.run.computed(row.num_tokens)
            self.num_computed += row.num_tokens
            self.table.offer(row.run.session)
        self.check()
        return schedule

    def finish(self, run: Run) -> None:
        while run.num_pending:
            self.step()
        self.scheduler.remove(run)

    def copy(self) -> None:
        copies = self.table.take_copies()
        read = {to: [self.slots[page * SIZE + offset] for offset in range(SIZE)] for to, page in copies.items()}
        for to, marks in read.items():
            self.slots.update({to * SIZE + offset: mark for offset, mark in enumerate(marks)})

    def check(self) -> None:
        self.table.check_integrity()
        for session in self.table:
            for position in range(session.num_computed):
                slot = session.pages[position // SIZE] * SIZE + position % SIZE
                assert self.slots[slot] == mark(session, position), f"{session.session_id} reads what is not its own"


def mark(session: Session, position: int) -> object:
    return session.salt, session.tokens[: position + 1].tobytes()


def test_a_digest_alone_decides_nothing() -> None:
    index = PrefixIndex()
    digest = chained(root(""), b"tokens")
    index.add(3, digest, b"tokens")
    assert index.find(digest, b"tokens") == 3
    assert index.find(digest, b"others") is None
    assert chained(root("a"), b"tokens") != chained(root("b"), b"tokens") != chained(root(""), b"tokens")


@pytest.mark.parametrize("mode", ["share", "copy"])
def test_the_same_beginning_is_computed_once(mode: PrefixCache) -> None:
    books = Books(256, mode)
    prompt = list(range(18))
    runs = [books.start(f"s{index}", prompt) for index in range(8)]  # all at once: who needs the same page waits
    for run in runs:
        books.finish(run)
    assert books.num_computed == 16 + 8 * 2
    assert books.scheduler.num_cache_hits == 7
    assert {run.timing.num_cached_tokens for run in runs} == {0, 16}
    if mode == "share":
        assert books.pool.num_shared == 4
        assert books.pool.num_free == 256 - 4 - 8
    else:  # attention reads each of them in place
        assert all(run.session.contiguous for run in runs)


@pytest.mark.parametrize("mode", ["share", "copy"])
def test_tenants_never_meet(mode: PrefixCache) -> None:
    books = Books(64, mode)
    for name, salt in (("a", "tenant"), ("b", "other"), ("c", ""), ("d", None), ("e", None)):
        books.finish(books.start(name, list(range(18)), salt))
    assert books.num_computed == 5 * 18
    assert books.pool.num_shared == 0
    books.finish(books.start("a", [], "other", position=18))  # the same session for another tenant
    assert books.num_computed == 5 * 18 + 18 - 16, "the other tenant has the first 16 tokens of its own"


@pytest.mark.parametrize("mode", ["share", "copy"])
def test_what_was_closed_is_found_again_until_its_room_is_needed(mode: PrefixCache) -> None:
    books = Books(16, mode)
    prompt = list(range(18))
    books.finish(books.start("a", prompt))
    books.table.close(books.table.get("a"))
    assert (books.pool.num_free, books.pool.num_kept) == (16, 4)
    books.finish(books.start("b", prompt))
    assert books.num_computed == 18 + 2
    books.table.close(books.table.get("b"))
    books.finish(books.start("c", list(range(100, 100 + 64))))
    assert books.pool.num_kept == 0
    assert books.pool.num_dropped == 4
    books.table.close(books.table.get("c"))
    books.finish(books.start("d", prompt))
    assert books.num_computed == 18 + 2 + 64 + 18


def test_a_prefix_of_many_outlives_what_idle_sessions_have_for_themselves() -> None:
    books = Books(16)
    system = list(range(8))
    books.finish(books.start("idle", list(range(50, 70))))
    for name in ("a", "b"):
        books.finish(books.start(name, [*system, 30, 31]))
        books.table.close(books.table.get(name))
    books.finish(books.start("big", list(range(200, 236))))  # 9 pages of 16; idle has 5, the system prompt 2
    books.finish(books.start("bigger", list(range(300, 312))))
    assert books.table.get("idle") is None, "evicted first"
    before = books.num_computed
    books.finish(books.start("c", [*system, 40]))
    assert books.num_computed == before + 1
    books.table.close(books.table.get("c"))
    for name in ("big", "bigger"):  # in use again and again, while nobody asks for the prefix
        books.table.touch(books.table.get(name))
    books.finish(books.start("last", list(range(400, 416))))
    assert books.table.get("big") is not None, "left alone for less long than the prefix"
    assert books.pool.oldest_valued is None


def test_who_goes_back_into_a_shared_page_gets_one_of_his_own() -> None:
    books = Books(64)
    prompt = list(range(16))
    a, b = books.start("a", [*prompt, 50]), books.start("b", [*prompt, 60])
    books.finish(a)
    books.finish(b)
    assert a.session.pages[:4] == b.session.pages[:4]
    again = books.start("b", [9], position=13)  # rolled back into a's last shared page
    books.finish(again)
    assert a.session.pages[:3] == b.session.pages[:3]
    assert a.session.pages[3] != b.session.pages[3]
    assert books.num_computed == 17 + 1 + 1, "the page is copied, not computed"


@pytest.mark.parametrize("mode", ["off", "share", "copy"])
def test_a_fork_has_what_its_source_had(mode: PrefixCache) -> None:
    books = Books(64, mode)
    books.finish(books.start("a", list(range(18))))
    made = books.table.fork(books.table.get("a"), "b", 15)
    books.copy()
    books.check()
    assert (made.held, made.num_computed) == (15, 15)
    assert books.pool.num_shared == (3 if mode == "share" else 0)
    books.finish(books.start("b", [70], position=15))
    assert books.num_computed == 18 + 1
    books.finish(books.start("a", [71], position=9))
    assert books.num_computed == 18 + 2


def test_a_fork_that_finds_no_room_is_computed_when_it_is_needed() -> None:
    books = Books(5, "copy")
    running = books.start("a", list(range(14)))
    books.step()
    made = books.table.fork(running.session, "b", 14)
    books.copy()
    books.check()
    assert (made.held, made.num_computed) == (14, 4)
    assert running.session.running


@pytest.mark.parametrize("mode", ["share", "copy"])
def test_poison_is_found_by_nobody_and_zeroed_once_nobody_holds_it(mode: PrefixCache) -> None:
    books = Books(64, mode)
    prompt = list(range(16))
    books.finish(books.start("a", [*prompt, 50]))
    books.finish(books.start("b", [*prompt, 60]))
    pages = set(books.table.get("a").pages) | set(books.table.get("b").pages)
    books.table.poison(books.table.get("b"))
    books.table.check_integrity()
    before = books.num_computed
    books.finish(books.start("c", [*prompt, 70]))
    assert books.num_computed == before + 17, "nothing was taken over"
    books.table.close(books.table.get("a"))
    unclean = set(books.pool.unclean)
    assert unclean <= pages
    assert set(books.table.get("c").pages).isdisjoint(unclean)
    books.table.check_integrity()


def test_copies_of_poisoned_pages_are_zeroed_too() -> None:
    """Their session goes before a forward of its own could have found out."""
    books = Books(8, "copy")
    a = books.start("a", list(range(8)), asks=False)
    books.step()
    b = books.table.open("b", "")
    b.tokens.extend(range(8))
    books.table.adopt(b, 8)
    copies = set(b.pages)
    assert copies
    assert copies.isdisjoint(a.session.pages)
    books.table.poison(a.session)
    books.table.close(b)
    assert copies <= set(books.pool.unclean)


def test_a_run_waits_for_pages_that_are_being_zeroed() -> None:
    books = Books(4)
    books.finish(books.start("a", list(range(16)), asks=False))
    b = books.table.open("b", "")
    b.tokens.extend(range(16))
    books.table.adopt(b, 16)
    books.table.poison(books.table.get("a"))
    asking = books.start("c", [50, 51, 52, 53], asks=False)  # to make room b is evicted, whose pages are to be zeroed
    schedule = books.scheduler.schedule()
    assert not schedule.refused
    assert not schedule.rows
    assert [row.run for row in books.step().rows] == [asking]


def watch_evictions(books: Books, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that grows by how many pages each making of room gained by what it evicted."""
    gained: list[int] = []
    evict, make_room = books.table._evict, books.table._make_room
    depth = 0

    def watched(victims: list[Session]) -> None:
        before = books.pool.num_free
        evict(victims)
        if depth:  # else there were too many sessions, whatever they held
            gained.append(books.pool.num_free - before)

    def making_room(session: Session, num_pages: int) -> bool:
        nonlocal depth
        depth += 1
        made = make_room(session, num_pages)
        depth -= 1
        return made

    monkeypatch.setattr(books.table, "_evict", watched)
    monkeypatch.setattr(books.table, "_make_room", making_room)
    return gained


def test_who_has_no_page_that_would_be_gained_is_not_evicted() -> None:
    books = Books(8)
    prompt = list(range(16))
    running = books.start("running", prompt)
    books.step()
    for index in range(3):
        books.table.fork(running.session, f"idle{index}", 12)
    books.finish(books.start("other", list(range(50, 66)), asks=False))
    books.start("asking", list(range(90, 106)))
    books.step()
    assert [session.session_id for session in books.table] == ["running", "idle0", "idle1", "idle2", "asking"]
    books.start("refused", [1, 2, 3, 4, 5])
    schedule = books.step()
    assert [run.session.session_id for run, _ in schedule.refused] == ["refused"]
    assert all(books.table.get(f"idle{index}") is not None for index in range(3))


def test_sessions_that_only_have_pages_in_common_go_together() -> None:
    """The pair that was left alone for longest, and not the one that shares with a running session."""
    books = Books(10)
    books.start("running", list(range(8)))
    books.step()
    for index, name in enumerate(("b", "a", "c")):
        books.finish(books.start(name, list(range(20 + 50 * index, 28 + 50 * index)), asks=False))
        books.table.fork(books.table.get(name), f"{name}2", 8)
    books.table.fork(books.table.get("running"), "running2", 8)
    books.table.touch(books.table.get("b"))
    books.start("asking", list(range(90, 106)))
    books.step()
    books.step()
    assert books.table.num_evictions == 2
    assert [session.session_id for session in books.table] == ["running", "b2", "c", "c2", "running2", "b", "asking"]


@pytest.mark.parametrize("mode", ["off", "share", "copy"])
@pytest.mark.parametrize("seed", range(12))
def test_any_mix_leaks_nothing_and_everybody_reads_his_own(
    mode: PrefixCache, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions of few different beginnings that open, grow, go back, fork, fail, end and are evicted, at random.

    Whatever is evicted for its pages, pages are gained.
    """
    rng = random.Random(seed)
    books = Books(rng.choice([6, 10, 24]), mode, budget=rng.choice([5, 12, 40]))
    evictions = watch_evictions(books, monkeypatch)
    live: dict[str, Run] = {}
    longest = 4 * SIZE
    for _ in range(400):
        name, action = f"s{rng.randrange(8)}", rng.random()
        session = books.table.get(name)
        if action < 0.35 and name not in live:
            held = session.held if session is not None else 0
            position = rng.choice([0, held, rng.randrange(held + 1)])
            salt = session.salt if session is not None and rng.random() < 0.9 else rng.choice(["", "t", None])
            fed = [rng.randrange(2) for _ in range(rng.randrange(longest - position + 1))]
            if rng.random() < 0.5:
                fed = ([1] * 40)[: len(fed)]
            if position + len(fed):
                live[name] = books.start(name, fed, salt, rng.random() < 0.8, position)
        elif action < 0.42 and name in live:
            books.scheduler.remove(live.pop(name))
        elif action < 0.5 and session is not None and name not in live:
            books.table.close(session)
        elif action < 0.6 and session is not None and session.held:
            other = f"s{rng.randrange(8)}"
            if other not in live and other != name:
                books.table.fork(session, other, rng.randrange(1, session.held + 1))
                books.copy()
                books.check()
        elif action < 0.62 and session is not None and name not in live:
            books.table.poison(session)
        foreground = [run for run in live.values() if not run.is_background]
        schedule = books.step(fails=rng.random() < 0.05)
        ended = [run for run, _ in schedule.refused] + schedule.yielded
        ended += [run for run in live.values() if run.num_pending == 0 and not run.request.wants_token]
        assert not foreground or schedule.rows or ended, "it stands still"
        for run in list(live.values()):
            if run in ended or books.scheduler.get(run.run_id) is None:
                del live[run.session.session_id]
                if books.scheduler.get(run.run_id) is not None:
                    books.scheduler.remove(run)
            elif run.num_pending == 0:
                if run.session.held < longest:
                    run.session.tokens.append(rng.randrange(2))
                else:
                    books.scheduler.remove(run)
                    del live[run.session.session_id]
    for session in list(books.table):
        if session.running:
            books.scheduler.remove(live.pop(session.session_id))
        books.table.close(session)
    books.pool.cleaned()
    books.table.check_integrity()
    assert books.pool.num_free == books.pool.num_pages
    assert min(evictions, default=1) > 0
    if mode == "off":
        assert books.scheduler.num_cached_tokens == books.pool.num_kept == 0
