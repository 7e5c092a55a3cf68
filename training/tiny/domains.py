"""The domains that tiny pairs exist for, by name."""

from __future__ import annotations

from typing import Any

from training.programs.domain import PROGRAMS
from training.tiny.domain import Domain
from training.tiny.words import WORDS

DOMAINS: dict[str, Domain[Any]] = {domain.name: domain for domain in (WORDS, PROGRAMS)}
