"""A model's config, its rope types by the names that transformers knows: old ones are renamed, others refused.

transformers renames some for some classes, and else stops at a bare name, or leaves a factor without a type out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model_worker.engine.errors import UnsupportedModel

_OLD = {"su": "longrope"}  # of Phi-3 until mid 2024
_FIELDS = ("rope_scaling", "rope_parameters")
_KNOWN = {"default", *ROPE_INIT_FUNCTIONS}


def read_config(model: str, source: str) -> Any:
    """Reads the config of a folder or hub id. Raises UnsupportedModel if it names a rope type that nobody knows.

    What else its files may raise is transformers' own.
    """
    facts, _ = PreTrainedConfig.get_config_dict(source)
    mended = copy.deepcopy(facts)
    for field, part in _ropes(mended):
        name = part.get("rope_type", part.get("type"))
        if name is None and part.get("factor") not in (None, 1.0):
            raise UnsupportedModel(
                f"{model}: {field} in its config.json has a factor and no rope_type, so that it would be left out; "
                f"known types: {_known()}"
            )
        if name in _OLD:
            part.pop("type", None)
            part["rope_type"] = _OLD[name]
    try:
        if mended == facts:
            config = AutoConfig.from_pretrained(source)
        else:
            config = AutoConfig.for_model(**mended, name_or_path=source)
    except Exception as error:
        _refuse_unknown(model, facts, error)
        raise
    _refuse_unknown(model, {"rope_parameters": getattr(config.get_text_config(), "rope_parameters", None)}, None)
    return config


def _refuse_unknown(model: str, facts: dict[str, Any], error: Exception | None) -> None:
    for field, part in _ropes(facts):
        name = part.get("rope_type", part.get("type"))
        if name is not None and name not in _KNOWN | _OLD.keys():
            raise UnsupportedModel(
                f"{model}: {field} in its config.json is of the rope type {name}, which transformers does not know; "
                f"known types: {_known()}"
            ) from error


def _ropes(facts: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rotary parameters of a config and its part for text, with their field: one, or one by layer type."""
    text = facts.get("text_config")
    for prefix, part in (("", facts), ("text_config.", text if isinstance(text, dict) else {})):
        for field in _FIELDS:
            given = part.get(field)
            if isinstance(given, dict):
                yield f"{prefix}{field}", given
                for key, value in given.items():
                    if isinstance(value, dict):
                        yield f"{prefix}{field}.{key}", value


def _known() -> str:
    return ", ".join(sorted(_KNOWN))
