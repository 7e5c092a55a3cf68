"""What each layer of a model asks of attention and keeps as states, found by running it once with probes for both.

What the engine does not do is refused by name: anything beyond causal attention, over everything or a window or a
chunk, with a score cap or sinks, and states in transformers' cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DummyLayer

from model_worker.engine.errors import UnsupportedModel
from model_worker.engine.forward.dispatch import probed
from model_worker.engine.forward.kv_cache import NO_ATTENTION, LayerShape
from model_worker.engine.forward.masks_seen import SeenMasks
from model_worker.engine.forward.reach import Reach
from model_worker.engine.forward.state_layers import StateLayer, StateNotes
from model_worker.engine.forward.step_cache import cache_keyword

# Keywords that layers pass and that do not change the result of causal attention at inference. A window is told by the
# mask, which the model's own attention goes by, too.
_HARMLESS = {
    "cache",
    "cache_position",
    "dropout",
    "head_mask",
    "is_causal",
    "layer_idx",
    "logits_to_keep",
    "output_attentions",
    "output_router_logits",
    "past_key_value",
    "past_key_values",
    "position_embeddings",
    "position_ids",
    "sliding_window",
    "target_dtype",
    "token_type_ids",
    "use_cache",
}


@dataclass(frozen=True, slots=True)
class Probed:
    """What a run of two tokens has shown."""

    shapes: list[LayerShape]  # by layer
    hidden_size: int  # width of the LM head's input
    num_logits: int  # rows of the LM head
    counts_positions: bool  # whether layers count positions themselves, by the length of a cache
    wants_mask: bool  # whether it is to be given a mask of ones, [1, tokens], as it would make one of another size
    states: list[StateLayer]  # parts that keep states


def probe(module: Any, name: str, context_length: int) -> Probed:
    """Runs two tokens with an attention that notes what each layer asks for. Raises UnsupportedModel by `name`."""
    head = module.get_output_embeddings()
    if head is None:
        raise UnsupportedModel(f"{name}: it has no LM head")
    hidden_sizes: list[int] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: hidden_sizes.append(inputs[0].shape[-1]))
    try:
        run, logits = _first_that_runs(module, name, context_length)
    finally:
        hook.remove()
    if not run.shapes and not run.states:
        raise UnsupportedModel(f"{name}: its attention does not go through transformers' AttentionInterface")
    layers = range(module.config.get_text_config().num_hidden_layers)
    _refuse_unknown_layers(module.config, name, run, layers)
    _refuse_shorter_caches(module.config, name, run.shapes, context_length)
    return Probed(
        [run.shapes.get(layer, NO_ATTENTION) for layer in layers],
        hidden_sizes[0],
        logits.shape[-1],
        run.counts_positions,
        run.is_masked,
        run.states,
    )


def _first_that_runs(module: Any, name: str, context_length: int) -> tuple[_Run, Tensor]:
    """Returns the first way of calling the model in which it runs, and its logits.

    Some make a mask as long as cache and tokens, for which a length per token is no size; some do not take one at all,
    and go by the positions that they are given. Whether they do is seen where logits are compared (parity.py).
    """
    failure: Exception | None = None
    for is_cached, is_masked in ((True, False), (True, True), (False, False)):
        run = _Run(module, name, context_length, is_cached=is_cached, is_masked=is_masked)
        try:
            return run, run.logits()
        except UnsupportedModel:
            raise
        except Exception as error:  # noqa: BLE001 - whatever its code raises: it does not run so
            failure = failure or error
    raise UnsupportedModel(f"{name}: a forward in {next(module.parameters()).dtype} failed: {failure}") from failure


def _refuse_unknown_layers(config: Any, name: str, run: _Run, layers: range) -> None:
    """Refuses a model with layers that keep what was not seen: all but those for which `generate` keeps nothing."""
    keeping = run.shapes.keys() | {state.layer for state in run.states}
    missing = [layer for layer in layers if layer not in keeping]
    kept = DynamicCache(config=config).layers if missing else []
    unknown = [layer for layer in missing if layer >= len(kept) or not isinstance(kept[layer], DummyLayer)]
    if unknown or not keeping <= set(layers):
        raise UnsupportedModel(
            f"{name}: layers {unknown} have neither attention through transformers' AttentionInterface nor states in "
            "transformers' cache"
        )


def _refuse_shorter_caches(config: Any, name: str, shapes: Mapping[int, LayerShape], context_length: int) -> None:
    """Refuses a model at odds with itself: by its mask a layer sees all keys, and `generate` keeps the last ones."""
    for index, layer in enumerate(DynamicCache(config=config).layers):
        kept = getattr(layer, "sliding_window", None)
        if index in shapes and kept and kept < context_length and not shapes[index].reach.is_limited:
            raise UnsupportedModel(
                f"{name}: layer {index} sees everything, and generate keeps its last {kept} keys; "
                f"give --context-length {kept}"
            )


class _Run:
    """A forward of two tokens, because a mask of one token shows nothing."""

    def __init__(self, module: Any, name: str, context_length: int, *, is_cached: bool, is_masked: bool) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self._module, self._name, self._context_length = module, name, context_length
        self._masks = SeenMasks()
        device = next(module.parameters()).device
        self._positions = torch.arange(2, device=device)[None]
        self._cache = StateNotes(self._positions, module.config, name) if is_cached else None
        self.states: list[StateLayer] = []
        self.is_masked = is_masked

    @property
    def counts_positions(self) -> bool:
        return self._cache is not None and self._cache.was_asked

    def logits(self) -> Tensor:
        """Returns the logits of the two tokens."""
        ids = torch.zeros_like(self._positions)
        probing = probed(self._module, self._attend, self._masks.make)
        noting = self._cache.noting(self._module) if self._cache is not None else nullcontext()
        with probing, noting, torch.inference_mode():
            more: dict[str, Any] = {cache_keyword(self._module): self._cache} if self._cache is not None else {}
            if self.is_masked:
                more["attention_mask"] = torch.ones_like(ids)
            logits: Tensor = self._module(input_ids=ids, position_ids=self._positions, use_cache=False, **more).logits
        if self._cache is not None:
            self.states = self._cache.found()
        return logits

    def _attend(
        self,
        layer: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        if self._cache is not None:
            self._cache.attends()
        scaling, softcap, sinks = (kwargs.pop(name, None) for name in ("scaling", "softcap", "s_aux"))
        reach = self._reach(layer, attention_mask, kwargs)
        unknown = sorted(key for key, item in kwargs.items() if key not in _HARMLESS and item is not None)
        if unknown:
            raise UnsupportedModel(f"{self._name}: attention with {', '.join(unknown)} is not supported")
        if sinks is not None and not (isinstance(sinks, Tensor) and sinks.shape == (query.shape[1],)):
            raise UnsupportedModel(f"{self._name}: attention sinks that are not one per head are not supported")
        index = getattr(layer, "layer_idx", None)
        if index is None or index in self.shapes:
            raise UnsupportedModel(f"{self._name}: attention layers without an index of their own are not supported")
        self.shapes[index] = LayerShape(
            key.shape[1], key.shape[3], value.shape[3], softcap, reach.within(self._context_length), sinks is not None
        )
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
        )
        return out.transpose(1, 2).contiguous(), None

    def _reach(self, layer: nn.Module, mask: Tensor | None, kwargs: dict[str, Any]) -> Reach:
        if getattr(layer, "is_causal", True) is False or kwargs.get("is_causal") is False:
            raise UnsupportedModel(f"{self._name}: attention that is not causal is not supported")
        reach = self._masks.reach_of(mask)
        if reach is None:
            raise UnsupportedModel(
                f"{self._name}: attention under a mask that is neither causal nor a window nor chunks is not supported"
            )
        return reach
