"""How a candidate's vocabulary belongs to the LLM's, from the models' folders, before a weight is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import AutoConfig, GenerationConfig

from model_worker.tokenizer import load_tokenizer
from router_svc.text.matching import Kind, Vocabulary
from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from router_svc.text.vocabularies import Vocabularies
from rstitch.errors import RstitchError, invalid


def stitchable(llm: str, slms: Sequence[str]) -> dict[str, Vocabularies]:
    """The vocabularies of each SLM and the LLM. Raises: RstitchError, naming the candidate that cannot be predicted."""
    of_llm = _vocabulary(llm)
    found = {}
    for slm in slms:
        try:
            both = Vocabularies.of(_vocabulary(slm), of_llm)
        except RstitchError as error:
            remedy = "Leave it out: no setting makes this a pair."
            raise invalid("--slm", f"{slm} cannot be stitched with {llm}: {error.message}", remedy) from error
        if both.matching.kind is Kind.UNRELATED:
            raise invalid(
                "--slm",
                f"{slm} and {llm} share no vocabulary ({both.matching.told}), and what such a pair does is not "
                "predicted.",
                "Leave it out, or serve the two and measure them: rstitch up, then rstitch eval (docs/pairs.md).",
            )
        found[slm] = both
    return found


def _vocabulary(name: str) -> Vocabulary:
    files = load_tokenizer(name)
    tokenizer = Tokenizer(TokenizerFiles(files.data, files.chat_template, files.special_tokens))
    config = AutoConfig.from_pretrained(name).get_text_config()
    ends = {*_ids(config.eos_token_id), *_ids(_generation_end(name)), *_ids(tokenizer.eos_token())}
    size = min(files.vocab_size, config.vocab_size)
    return Vocabulary(tokenizer, size, frozenset(token for token in ends if token < size))


def _generation_end(name: str) -> int | list[int] | None:
    try:
        end: int | list[int] | None = GenerationConfig.from_pretrained(name).eos_token_id
    except OSError:  # there is no such file
        return None
    return end


def _ids(given: int | Iterable[int] | None) -> list[int]:
    return [] if given is None else [given] if isinstance(given, int) else list(given)
