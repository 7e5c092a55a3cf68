"""What a run is refused for before anything of a session is touched. No torch."""

from __future__ import annotations

from model_worker.engine.bookkeeping.session import Session
from model_worker.engine.errors import (
    ContextFull,
    HeldTooShort,
    InvalidRun,
    PrefixMismatch,
    SaltMismatch,
    SessionBusy,
    SessionUnknown,
)
from model_worker.engine.types import MAX_MASKED_TOKENS, ForkRequest, Limits, RunRequest


def check_request(request: RunRequest, limits: Limits) -> None:
    """Raises InvalidRun or ContextFull, naming the field, if the request is wrong whatever the session holds."""
    vocab_size, masked = limits.vocab_size, request.masked_tokens
    biased = [token for token, _ in request.sampling.logit_bias]
    of_fields = (("draft", request.draft), ("masked_tokens", masked), ("sampling.logit_bias", biased))
    for field, tokens in (("tokens", request.tokens), *of_fields):
        if tokens and max(tokens) >= vocab_size:
            bad = next(token for token in tokens if token >= vocab_size)
            raise InvalidRun(
                f"token id {bad} is outside the vocabulary of {vocab_size}.",
                field=field,
                remedy=f"Send ids below {vocab_size}, which the tokenizer has and the model has rows for (GetInfo).",
            )
    if masked:
        _check_masked(masked, vocab_size)
    end, offset = request.end, request.sampling.position_offset
    if request.wants_token and end + offset < 0:
        raise InvalidRun(
            f"position {end} and an offset of {offset} come to less than 0.",
            field="sampling.position_offset",
            remedy=f"Send an offset of {-end} or more.",
        )
    if request.grammar is not None and request.grammar.start > end:
        raise InvalidRun(
            f"the answer begins at {request.grammar.start}, behind what is held and sent: {end} tokens.",
            field="grammar.start",
            remedy="Send the position of the answer's first token.",
        )
    decodes = request.max_tokens > 0  # then there must be room for a token more than it sends
    if end == 0:
        raise InvalidRun(
            "there is no token to go on from.", field="tokens", remedy="Send at least one token, or a position over 0."
        )
    if end + decodes > limits.context_length:
        raise ContextFull(
            f"position {request.position} and {len(request.tokens)} tokens do not fit the context of "
            f"{limits.context_length}{' with room for one more' if decodes else ''}.",
            field="position" if request.position > limits.context_length else "tokens",
            remedy=f"Keep a session, and what is to be decoded, within {limits.context_length} tokens.",
        )


def _check_masked(masked: tuple[int, ...], vocab_size: int) -> None:
    if len(masked) > MAX_MASKED_TOKENS:
        raise InvalidRun(
            f"{len(masked)} tokens are masked, and {MAX_MASKED_TOKENS} may be.",
            field="masked_tokens",
            remedy="Send fewer.",
        )
    num_left = vocab_size - len(set(masked))
    if num_left < 2:  # of one token alone there is no entropy: it is divided by the logarithm of their number
        raise InvalidRun(
            f"of the vocabulary of {vocab_size} the masked tokens leave {num_left}.",
            field="masked_tokens",
            remedy="Leave at least 2 tokens unmasked.",
        )


def check_idle(session: Session) -> None:
    """Raises SessionBusy if a run of the session is going on."""
    if session.running:
        raise SessionBusy(
            f"another run of session {session.session_id} is going on.",
            field="session_id",
            remedy="Wait for its finish, or cancel its stream.",
        )


def check_fork(fork: ForkRequest, source: Session | None, num_held: int) -> None:
    """Raises InvalidRun, SessionUnknown, SaltMismatch or HeldTooShort unless the source can be forked there.

    `num_held` is how many tokens it holds for certain: those of a draft may still be dropped.
    """
    if fork.source_id == fork.session_id:
        raise InvalidRun("a session is no copy of itself.", field="session_id", remedy="Choose another id.")
    if fork.position == 0:
        raise InvalidRun(
            "nothing is before position 0.", field="position", remedy="Send a position over 0, or open a new session."
        )
    if source is None:
        raise SessionUnknown(
            f"there is no session {fork.source_id} here.",
            field="source_session_id",
            remedy="Send all tokens to the new session, from position 0 on.",
        )
    if source.salt != fork.cache_salt:
        raise SaltMismatch(
            f"session {fork.source_id} was not made under this salt.",
            field="cache_salt",
            remedy="Send the salt of the source's requests, or all tokens to the new session.",
        )
    if fork.position > num_held:
        raise HeldTooShort(
            f"session {fork.source_id} holds {num_held} tokens, not {fork.position}.",
            field="position",
            remedy=f"Fork it at {num_held} or before, and send the tokens from there on to the new session.",
            held=num_held,
        )


def check_held(request: RunRequest, session: Session) -> None:
    """Raises HeldTooShort or PrefixMismatch unless the session holds the caller's tokens before `position`."""
    # Both tell `held`: the caller then sends the tokens from there on, or all of them, and loses nothing but time.
    if request.position > session.held:
        raise HeldTooShort(
            f"the session holds {session.held} tokens, not {request.position}.",
            field="position",
            remedy=f"Send the tokens from position {session.held} on.",
            held=session.held,
        )
    expected = request.prefix_checksum
    if expected is not None and session.checksum(request.position) != expected:
        raise PrefixMismatch(
            f"the session's first {request.position} tokens are not the caller's.",
            field="prefix_checksum",
            remedy="Send all tokens from position 0 on.",
            held=session.held,
        )
