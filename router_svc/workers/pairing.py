"""How the vocabularies of the two roles belong together: matched anew when a role's is another. It asks no worker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import grpc
import structlog

from router_svc.text import render_process
from router_svc.text.matching import Vocabulary
from router_svc.text.tokenizer import Tokenizer, TokenizerFiles
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Model
from router_svc.workers.runs import WorkerInfo
from rstitch.errors import RstitchError

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RoleVocabulary:
    """What the vocabulary of a role is made of."""

    files: TokenizerFiles
    size: int
    stop_tokens: frozenset[int]
    fingerprint: str

    @classmethod
    def of(cls, info: WorkerInfo, files: TokenizerFiles) -> RoleVocabulary:
        return cls(files, info.vocab_size, info.stop_tokens, info.fingerprint)

    def read(self, tokenizer: Tokenizer) -> Vocabulary:
        return Vocabulary(tokenizer, self.size, self.stop_tokens, self.fingerprint)


class Pairing:
    """The vocabularies of both roles.

    Attributes:
        vocabularies: matched; None before both are known, and while new ones are matched.
        mismatch: why they cannot be, if they cannot.
    """

    def __init__(self) -> None:
        self.vocabularies: Vocabularies | None = None
        self.mismatch: RstitchError | None = None
        self._matching = asyncio.Lock()
        self._known: dict[Model, RoleVocabulary] = {}
        self._matched: dict[Model, RoleVocabulary] = {}  # what the vocabularies were made of

    def files_of(self, model: Model, fingerprint: str) -> TokenizerFiles | None:
        """The tokenizer that a role has, if it is that of a fingerprint."""
        known = self._known.get(model)
        return known.files if known is not None and fingerprint and known.fingerprint == fingerprint else None

    async def take(self, model: Model, vocabulary: RoleVocabulary, name: str) -> None:
        """Takes the vocabulary that a role has from now on, by a model of that name.

        Raises RstitchError if it cannot be read; one that cannot be matched becomes the `mismatch`.
        """
        async with self._matching:
            self._known[model] = vocabulary
            found = dict(self._known)
            if len(found) < len(Model):
                return
            if found == self._matched:  # big ones take long to read
                self.mismatch = None
                return
            # What comes now is not what there was: until it is matched nobody is to trust a worker in the old ids.
            self.vocabularies, self._matched = None, {}
            try:
                made = await asyncio.to_thread(_vocabularies, found[Model.SLM], found[Model.LLM])
            except RstitchError as error:
                if error.reason != "TOKENIZER_MISMATCH":
                    del self._known[model]
                    raise
                self.mismatch = error
                _log.error("models cannot be stitched", detail=error.message, role=model.label, model=name)
                return
            self.mismatch, self.vocabularies, self._matched = None, made, found
            _log.info("vocabularies matched", how=made.matching.told)


def _vocabularies(slm: RoleVocabulary, llm: RoleVocabulary) -> Vocabularies:
    """Reads the tokenizers and matches them; one object where they do not differ in anything."""
    style = llm.files.early_exit.over(slm.files.early_exit)
    # A model without a template is given the other's.
    templates = llm.files if llm.files.has_template else slm.files
    files = [
        replace(
            own if own.has_template else replace(templates, data=own.data, special_tokens=own.special_tokens),
            early_exit=style,
        )
        for own in (slm.files, llm.files)
    ]
    of_llm = Tokenizer(files[1])
    of_slm = of_llm if files[0] == files[1] else Tokenizer(files[0])
    if templates.has_template:
        render_process.warm_up()
    try:
        return Vocabularies.of(slm.read(of_slm), llm.read(of_llm))
    except RstitchError:
        raise
    except Exception as error:  # whatever the library raises of a file that it could read
        _log.error("tokenizers cannot be compared", exc_info=error)
        what = "the two tokenizers cannot be compared; the router's log says why"
        remedy = "Give the workers model folders whose tokenizer.json are sound."
        raise RstitchError(grpc.StatusCode.FAILED_PRECONDITION, "BAD_TOKENIZER", what, remedy=remedy) from error
