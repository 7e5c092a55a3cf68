"""Details of tokens as messages of router.proto: with the text of each, which nothing else keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router_svc.text.tokenizer import Tokenizer
from router_svc.trajectory.details import unpack_details
from rstitch.v1 import router_pb2


def encode_details(
    tokens: Sequence[int], details: bytes, tokenizer: Tokenizer | None
) -> Iterable[router_pb2.TokenDetail]:
    """The packed details of tokens, none if there are none; without a tokenizer they have no texts."""
    if not details:
        return
    for token, detail in zip(tokens, unpack_details(details), strict=True):
        text = b"" if tokenizer is None or token in tokenizer.special else tokenizer.bytes_of(token)
        others = [_encode_alternative(*other, tokenizer) for other in detail.alternatives]
        yield router_pb2.TokenDetail(logprob=detail.logprob, text=text, alternatives=others)


def _encode_alternative(token: int, logprob: float, tokenizer: Tokenizer | None) -> router_pb2.Alternative:
    text = b"" if tokenizer is None else tokenizer.bytes_of(token)
    return router_pb2.Alternative(token=token, logprob=logprob, text=text)
