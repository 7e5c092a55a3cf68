"""The domains that tiny pairs exist for, by name."""

from __future__ import annotations

from typing import Any

from evals.tasks.tiny.domain import Domain
from evals.tasks.tiny.programs import PROGRAMS
from evals.tasks.tiny.words import WORDS

DOMAINS: dict[str, Domain[Any]] = {domain.name: domain for domain in (WORDS, PROGRAMS)}
