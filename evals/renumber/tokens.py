"""Which ids and which names change, and how a tokenizer's files say so. It knows no weights."""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rstitch.errors import invalid

Ids: TypeAlias = Literal["none", "special", "all"]
Renamed: TypeAlias = Literal["none", "markers", "special"]
Files: TypeAlias = dict[str, Any]  # the content of a JSON file
# Whoever names a token by one of these may find another in its place.
_STAYS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class Renumbering:
    """What becomes of the tokens of a model.

    Attributes:
        ids: new by old, of every token that the tokenizer has.
        names: new by old, of those that are spelled otherwise.
    """

    ids: Mapping[int, int]
    names: Mapping[str, str]

    def id_of(self, token: Any) -> Any:
        """The new id, or ids if there are several; what is none is handed back, such as None or -1."""
        return [self.id_of(one) for one in token] if isinstance(token, list) else self.ids.get(token, token)

    def text_of(self, text: str) -> str:
        """The text with its tokens' new names."""
        for old, new in self.names.items():
            text = text.replace(old, new)
        return text


def choose(
    tokenizer: Files, config: Files, ids: Ids, renamed: Renamed, stops: Collection[int], seed: int
) -> Renumbering:
    """Draws a renumbering in which no id that may change stays.

    Args:
        tokenizer, config: tokenizer.json and tokenizer_config.json.
        ids: which change places: none, those of added tokens (`special`), all.
        renamed: which are spelled otherwise: none, the special tokens that mark turns and the like (`markers`: no stop
            token, no bos_token or its kin), all special tokens.
        stops: the ids that end an answer.

    Raises RstitchError (tokenizer.json) where the vocabulary is not one of ids by token.
    """
    kind, vocab = tokenizer["model"]["type"], tokenizer["model"].get("vocab")
    if not isinstance(vocab, dict):
        raise invalid("tokenizer.json", f"a {kind} vocabulary has no ids of its own.", "Take a model with BPE.")
    added = {token["content"]: token for token in tokenizer.get("added_tokens", [])}
    by_text = {**vocab, **{text: token["id"] for text, token in added.items()}}
    changing = {"none": [], "special": sorted(token["id"] for token in added.values()), "all": sorted(by_text.values())}
    named = {_text(config.get(name)) for name in _STAYS}
    special = [text for text, token in added.items() if token["special"]]
    markers = [text for text in special if text not in named and by_text[text] not in stops]
    names = {text: _other_name(text) for text in {"none": [], "markers": markers, "special": special}[renamed]}
    if taken := sorted(new for new in names.values() if new in by_text):
        raise invalid("tokenizer.json", f"it has {taken[0]!r} already.", "Rename fewer tokens.")
    return Renumbering(_in_one_cycle(changing[ids], seed), names)


def _in_one_cycle(ids: list[int], seed: int) -> dict[int, int]:
    """A permutation that leaves nothing in place (Sattolo's algorithm)."""
    rng, places = random.Random(seed), list(ids)
    for last in range(len(places) - 1, 0, -1):
        other = rng.randrange(last)
        places[last], places[other] = places[other], places[last]
    return dict(zip(ids, places, strict=True))


def _other_name(text: str) -> str:
    """`<|user|>` becomes `<｜User｜>`, as some families write it."""
    words = text.strip("<|>").split("_")
    return f"<｜{'▁'.join(word.capitalize() for word in words)}｜>"


def _text(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


def renumbered_tokenizer(tokenizer: Files, by: Renumbering) -> Files:
    """The content of tokenizer.json under the new ids and names; merges stay, as they name tokens by their text.

    Added tokens become entries of the vocabulary, too: `tokenizers` numbers those that are not by their order.
    """
    made = copy.deepcopy(tokenizer)
    added = made.get("added_tokens", [])
    for token in added:
        token["id"], token["content"] = by.id_of(token["id"]), by.names.get(token["content"], token["content"])
    vocab = {by.names.get(text, text): by.id_of(token) for text, token in tokenizer["model"]["vocab"].items()}
    vocab |= {token["content"]: token["id"] for token in added}
    made["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda entry: entry[1]))
    added.sort(key=lambda token: token["id"])
    made["post_processor"] = _renumbered_processor(made.get("post_processor"), by)
    return made


def _renumbered_processor(part: Any, by: Renumbering) -> Any:
    """What puts tokens around a text names them with their ids: [text, id], or "ids" beside "tokens"."""
    match part:
        case [str(text), int(token)]:
            return [by.names.get(text, text), by.id_of(token)]
        case list():
            return [_renumbered_processor(one, by) for one in part]
        case {"SpecialToken": token}:
            return {"SpecialToken": {**token, "id": by.names.get(token["id"], token["id"])}}
        case {"id": text, "ids": ids, "tokens": tokens}:
            return {
                "id": by.names.get(text, text),
                "ids": by.id_of(ids),
                "tokens": [by.names.get(t, t) for t in tokens],
            }
        case dict():
            return {by.names.get(key, key): _renumbered_processor(value, by) for key, value in part.items()}
    return part


def renumbered_config(config: Files, by: Renumbering) -> Files:
    """The content of tokenizer_config.json or special_tokens_map.json under the new ids and names."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(one) for key, one in value.items()}
        if isinstance(value, list):
            return [renamed(one) for one in value]
        return by.names.get(value, value) if isinstance(value, str) else value

    made: Files = renamed({key: value for key, value in config.items() if key != "added_tokens_decoder"})
    if "added_tokens_decoder" in config:
        decoder = config["added_tokens_decoder"].items()
        made["added_tokens_decoder"] = {str(by.id_of(int(token))): renamed(told) for token, told in decoder}
    return made


def renumbered_template(template: str, by: Renumbering) -> str:
    """A chat template that renders what `template` does, with the tokens' new names, whichever way it makes them up."""
    renames = "".join(f" | replace({old!r}, {new!r})" for old, new in by.names.items())
    return f"{{% set rendered +%}}{template.removesuffix(chr(10))}{{%+ endset %}}{{{{- rendered{renames} -}}}}"
