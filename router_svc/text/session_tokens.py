"""The tokens of a session and both models' views of them, from the trajectory's chunks on. It knows no workers."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from router_svc.text.segments import CharacterWatch, readings
from router_svc.text.text_view import TextView
from router_svc.text.views import MappedView, SameIds, SharedView, View
from router_svc.text.vocabularies import Vocabularies
from router_svc.trajectory.types import Chunk, Model, ModelPrompt, Source, joined_tokens, tokens_of


class SessionTokens:
    """The tokens of a session and both models' views of them; the answer that is being written makes them grow.

    Attributes:
        tokens: the trajectory's, prompts included.
        views: what each model reads.
        through_text: whether the models have no ids in common.
    """

    def __init__(self, chunks: Sequence[Chunk], vocabularies: Vocabularies) -> None:
        self.tokens = joined_tokens(chunks)
        self._vocabularies = vocabularies
        self.through_text = vocabularies.is_through_text
        texts = readings(vocabularies) if self.through_text else {}
        self._watch: CharacterWatch | None = None
        prompts = [chunk.notes for chunk in chunks if chunk.notes is not None]
        has_own = {
            Model.SLM: any(notes.slm is not None for notes in prompts),
            Model.LLM: any(notes.llm_num_before is not None for notes in prompts),
        }
        self.views: Mapping[Model, View] = {
            model: TextView(model, side.tokenizer.below(side.size), texts)
            if texts
            else self._view(model, vocabularies, has_own=has_own[model] or has_own[Model.LLM])
            for model, side in vocabularies.sides.items()
        }
        self._others = [view for view in self.views.values() if not view.is_shared]
        before = Source.PROMPT
        last = max((index for index, chunk in enumerate(chunks) if chunk.source is Source.PROMPT), default=0)
        for index, chunk in enumerate(chunks):
            if texts and index == last:
                # It decodes at each token, and what earlier answers ended within is over.
                self._watch = CharacterWatch(texts)
            self._replay(chunk, begins=bool(chunk.reason) or before is Source.PROMPT)
            before = chunk.source
        for view in self._others:
            view.refresh()

    @property
    def mid_character(self) -> bool:
        """Whether the answer's text ends within a character; only told where the models hand over through text."""
        return self._watch is not None and self._watch.mid_character

    def spelled(self, begin: int) -> tuple[str, int]:
        """Text of the answer from `begin` on, special tokens spelled out, and up to where it will not change.

        Both places count the session's tokens or, where the models hand over through text, the answer's characters.
        """
        view = self.views[Model.LLM]
        if isinstance(view, TextView):
            return view.text_from(begin)
        return self._vocabularies.tokenizer(Model.LLM).spelled(self.tokens[begin:]), len(self.tokens)

    def keep(self, writer: Model, tokens: array[int]) -> None:
        """Takes tokens of the answer, in the answer's ids."""
        self.tokens.extend(tokens)
        self._keep(writer, tokens)

    def begin_segment(self, writer: Model) -> None:
        """Takes note that `writer` writes from here on."""
        for view in self._others:
            view.begin_segment(writer)
        if self._watch is not None:
            self._watch.begin_segment(writer)

    def _keep(self, writer: Model, tokens: array[int]) -> None:
        for view in self._others:
            view.keep(writer, tokens)
        if self._watch is not None:
            self._watch.keep(writer, tokens)

    def _view(self, model: Model, vocabularies: Vocabularies, *, has_own: bool) -> View:
        if vocabularies.is_mapped and model is Model.SLM:
            return MappedView(tokens_of(), vocabularies)
        return SameIds(tokens_of()) if has_own else SharedView(self.tokens)

    def _replay(self, chunk: Chunk, *, begins: bool) -> None:
        """Does with the views what was done when the chunk was written."""
        if chunk.source is Source.PROMPT:
            for model, view in self.views.items():
                view.refresh()  # what is before the prompt counts
                view.add_prompt(self._prompt(model, view, chunk))
            return
        writer = chunk.source.model
        if begins:
            self.begin_segment(writer)
        self._keep(writer, chunk.tokens)

    def _prompt(self, model: Model, view: View, chunk: Chunk) -> ModelPrompt:
        notes = chunk.notes
        if model is Model.SLM and notes is not None and notes.slm is not None:
            return notes.slm
        length = chunk.position if view.is_shared else len(view.tokens)
        if notes is not None and notes.llm_num_before is not None:
            length = notes.llm_num_before  # also where the SLM reads the same
        # Where nothing is noted of the SLM's, its prompt has the LLM's tokens.
        return ModelPrompt(length, view.to_own(chunk.tokens))
