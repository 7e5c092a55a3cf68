"""What an engine has done since it started, and what room it has now. Plain data; it does not know who counts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """What the engine has done since it started. Delayed steps were held back for a fuller batch.

    Cached tokens were taken over from other sessions, by runs that are the hits; a cache eviction is of a kept page.

    `num_steps_by_rows[b]` counts the steps with 2^b to 2^(b+1) - 1 rows, `num_steps_by_us[b]` those that took more than
    2^(b-1) and at most 2^b microseconds, from their scheduling to their last event; the last of these, all longer ones.
    """

    num_steps: int = 0
    num_computed_tokens: int = 0
    num_kept_tokens: int = 0
    num_evictions: int = 0
    num_refusals: int = 0
    forward_us: int = 0
    num_graph_steps: int = 0
    num_graph_misses: int = 0
    num_delayed_steps: int = 0
    delayed_us: int = 0
    num_cached_tokens: int = 0
    num_cache_hits: int = 0
    num_cache_evictions: int = 0
    num_steps_by_rows: list[int] = field(default_factory=lambda: [0] * 16)
    num_steps_by_us: list[int] = field(default_factory=lambda: [0] * 26)
    step_us: int = 0

    def reset(self) -> None:
        """Sets every count to zero, in place: those who count and those who read hold the same object."""
        fresh = Counters()
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))


@dataclass(frozen=True, slots=True)
class Capacity:
    """The KV cache's room and who is in it, at one moment."""

    page_size: int
    num_pages: int
    num_free_pages: int  # that no session holds
    num_cached_pages: int  # of these, those that are kept for whoever comes with their tokens
    num_shared_pages: int  # that several sessions hold
    num_sessions: int
    num_runs: int
    max_batch_tokens: int
    num_window_pages: int  # pages with room in layers that see a window only; 0: all of them
    num_free_window_pages: int
    num_states: int  # slots for states of recurrent layers; 0: there are none
    num_free_states: int
    num_available_pages: int  # what somebody new could get of all that, in pages
    num_waiting_runs: int  # that were not in the last step
