"""Is what a model folder holds what was loaded? Adapters, quantized weights, and what transformers reports of loading.

transformers goes on where weights and config disagree: it leaves weights out, or makes up those that are missing, and
says so in a report. Here each such report is a refusal that names the weight. It knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.utils.peft_utils import find_adapter_config_file

from model_worker.engine.errors import UnsupportedModel

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def refuse_adapter(model: str, source: str) -> None:
    """Raises UnsupportedModel if a folder or hub id is an adapter, or a model with one: it would be served without."""
    folder = Path(source)
    if folder.is_dir():
        found = next((name for name in _ADAPTER if (folder / name).exists()), None)
    else:
        found = _ADAPTER[0] if find_adapter_config_file(source) is not None else None
    if found is not None:
        raise UnsupportedModel(
            f"{model}: it holds an adapter ({found}), which is not applied here; merge it into its base model "
            "(peft: merge_and_unload, then save_pretrained) and serve that folder"
        )


def stored_format(model: str, config: Any) -> str:
    """Returns how a folder's weights are quantized, as its config says; empty if they are not.

    Raises UnsupportedModel if transformers knows no such format: it would read the weights as if they were none.
    """
    stored = getattr(config, "quantization_config", None)
    if not stored:
        return ""
    facts = stored if isinstance(stored, Mapping) else stored.to_dict()
    method = str(getattr(facts.get("quant_method"), "value", facts.get("quant_method")) or "")
    if not method and (facts.get("load_in_8bit") or facts.get("load_in_4bit")):
        method = "bitsandbytes"
    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    if method not in known:
        raise UnsupportedModel(
            f"{model}: quantization_config.quant_method in its config.json is {method or 'missing'}; transformers "
            f"knows {', '.join(sorted(known))}"
        )
    return method


def not_loadable(model: str, stored: str, error: Exception) -> UnsupportedModel:
    """Makes the refusal of a model that transformers could not load; of a quantized one it says what that needs."""
    if not stored:
        return UnsupportedModel(f"{model}: not loadable by transformers: {error}")
    said = " ".join(str(error).split())
    if isinstance(error, ImportError):
        return UnsupportedModel(
            f"{model}: its weights are quantized ({stored}), and a package for that is not installed here: {said}; "
            "install it into the worker's environment, or serve the model's folder in 16 bits"
        )
    return UnsupportedModel(
        f"{model}: its weights are quantized ({stored}), which transformers does not load here: {said}; "
        "serve the model's folder in 16 bits, with --quantize if that does not fit"
    )


def check_report(model: str, report: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel if weights and config disagree, by what transformers reports of loading.

    Weights that the model's class leaves out on purpose (rotary tables of old files, heads for several tokens at once)
    are not in its report.
    """
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random numbers in their place
        raise UnsupportedModel(f"{model}: {len(missing)} of its weights are missing, such as {missing[0]}")
    if mismatched := sorted(report["mismatched_keys"]):
        key, *sizes = mismatched[0]
        held, wanted = (tuple(size) for size in sizes)
        raise UnsupportedModel(
            f"{model}: {len(mismatched)} of its weights have other sizes than its config.json says, such as {key}: "
            f"{held} instead of {wanted}"
        )
    if unexpected := sorted(report["unexpected_keys"]):
        hint = "attention_bias or another switch in config.json is off" if unexpected[0].endswith(".bias") else ""
        raise UnsupportedModel(
            f"{model}: {len(unexpected)} of its weights would be left out, such as {unexpected[0]}, as its config.json "
            f"has no place for them{f' ({hint})' if hint else ''}; mend the config, or remove them from the file"
        )
    if errors := report["error_msgs"]:
        raise UnsupportedModel(f"{model}: transformers reports of loading: {'; '.join(map(str, errors))}")
