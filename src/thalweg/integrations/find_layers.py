"""Finding the parts of a Hugging Face decoder that looping needs: its list of layers, its final norm and its head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from thalweg.errors import BadInputError, require
from thalweg.integrations.extras import require_extra

require_extra("hf", "transformers")
from transformers import PreTrainedModel  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

_FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm", "embedding_norm", "norm_f")
"""Names that decoders give to the norm after their last layer."""


class Reader:
    """Maps states ``(B, L, D)`` to logits ``(B, L, V)`` with a model's final norm and head."""

    def __init__(self, norm: nn.Module | None, head: nn.Module | None) -> None:
        self.norm, self.head = norm, head

    def __call__(self, states: Tensor) -> Tensor:
        if self.head is None or self.norm is None:
            missing = "final norm" if self.norm is None else "head"
            raise BadInputError(
                f"Confidence: given a model without a {missing} that is known, expected one; use SmallChange instead"
            )
        return self.head(self.norm(states))


def base_of(model: Any) -> PreTrainedModel:
    """The Hugging Face model inside of wrappers such as PEFT's.

    Raises:
        BadInputError: it is no decoder of transformers.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    require(
        isinstance(base, PreTrainedModel),
        "loop",
        type(base),
        "a decoder of transformers; for thalweg's own models set loops per call",
    )
    config = base.config
    encoder = getattr(config, "is_encoder_decoder", False)
    masked = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    causal = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or base.can_generate()
    expected = "a decoder with causal attention, such as Llama or GPT-2; encoders and encoder-decoders cannot be looped"
    require(causal and not masked and not encoder, "loop", type(base), expected)
    return base


def layers_of(base: PreTrainedModel) -> tuple[nn.Module, nn.ModuleList]:
    """The module that holds a decoder's list of layers, and the list.

    Raises:
        BadInputError: there is no such list, or more than one.
    """
    count = base.config.get_text_config().num_hidden_layers
    found = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and not any(part.isdigit() for part in name.split("."))
    }
    names = ", ".join(found) or "none"
    require(len(found) == 1, "loop", names, f"a model with one list of its {count} layers; this architecture cannot be looped")
    name, layers = next(iter(found.items()))
    return base.get_submodule(name.rpartition(".")[0]), layers


def reader_of(base: PreTrainedModel, owner: nn.Module) -> Reader:
    """The final norm and head of a decoder, as far as they are found."""
    norm = next((getattr(owner, name) for name in _FINAL_NORMS if isinstance(getattr(owner, name, None), nn.Module)), None)
    return Reader(norm, base.get_output_embeddings())
