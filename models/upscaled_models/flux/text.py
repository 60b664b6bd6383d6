"""Prompts to embeddings: CLIP and T5 are loaded for a new prompt, and released after it.

They compute in float32. Their weights stay in the file's format (fp8, fp16) and are expanded layer
by layer. Each weight is used once, so this takes no more time than to expand all beforehand, takes
half the memory, and is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor, nn

from upscaled_models.flux.files import Files, bad_config, require
from upscaled_models.flux.header import corrupt, open_safetensors
from upscaled_models.flux.libraries import (
    CLIPTextConfig,
    CLIPTextModel,
    T5Config,
    T5EncoderModel,
)
from upscaled_models.flux.names import OriginOf, clip_origin, t5_origin
from upscaled_models.flux.weights import EachTensor, check_weights, load_weights

# T5 tokens of a prompt: ComfyUI pads to the first, FLUX.1-dev was trained with up to the second.
T5_LENGTHS = (256, 512)
# Vocabularies are padded to a multiple of this many rows of the embedding.
_VOCABULARY_STEP = 128
# Tensors in some of the published files that FLUX does not use.
_IGNORED_CLIP = ("text_model.embeddings.position_ids", "text_projection.weight", "logit_scale")
_IGNORED_T5 = ("encoder.embed_tokens.weight",)  # the embedding once more


@dataclass(frozen=True)
class Tokens:
    """Ids for both encoders, (1, length) each, padded. truncated: the prompt was too long."""

    clip: Tensor
    t5: Tensor
    truncated: bool


@dataclass(frozen=True)
class Embeddings:
    """A prompt as the transformer takes it, in float32: sequence (1, T5 length, T5 width) and
    pooled (1, CLIP width)."""

    sequence: Tensor
    pooled: Tensor


def tokenize(prompt: str, files: Files) -> Tokens:
    """The tokens of a prompt. The empty prompt needs no tokenizer.

    Raises `JobError`: model_not_found or model_corrupt, of a tokenizer's file or a config.
    """
    clip_size = files.whole_number("text_encoder", "vocab_size")
    clip_length = files.whole_number("text_encoder", "max_position_embeddings")
    t5_size = files.whole_number("text_encoder_2", "vocab_size")
    t5_end, t5_padding = (
        files.whole_number("text_encoder_2", field, default)
        for field, default in (("eos_token_id", 1), ("pad_token_id", 0))
    )
    if max(t5_end, t5_padding) >= t5_size:
        folder = files.model_dir / "configs" / "text_encoder_2"
        raise bad_config(folder, f"its vocab_size is {t5_size}, and a token of it is more")
    # The last two of CLIP's vocabulary begin and end a text.
    begin, end = clip_size - 2, clip_size - 1
    clip_ids, t5_ids = [], []
    if prompt:
        for path in (files.clip_tokenizer, files.t5_tokenizer):
            require(path, files.model_dir)
        clip_ids = _encode(prompt, files.clip_tokenizer, clip_size)
        t5_ids = _encode(prompt, files.t5_tokenizer, t5_size)
    t5_length = T5_LENGTHS[len(t5_ids) >= T5_LENGTHS[0]]
    truncated = len(t5_ids) >= t5_length
    clip_row = [begin, *clip_ids[: clip_length - 2], end]
    clip_row += [end] * (clip_length - len(clip_row))
    t5_row = [*t5_ids[: t5_length - 1], t5_end]
    t5_row += [t5_padding] * (t5_length - len(t5_row))
    return Tokens(torch.tensor([clip_row]), torch.tensor([t5_row]), truncated)


@torch.inference_mode()
def encode(tokens: Tokens, files: Files, device: torch.device, each: EachTensor) -> Embeddings:
    """Load each encoder, run it, and release it before the next one.

    Raises `JobError` (model_corrupt), and what `each` raises.
    """
    clip = _load(
        _build(CLIPTextConfig, CLIPTextModel, files, "text_encoder"),
        files.clip,
        clip_origin,
        ignored=_IGNORED_CLIP,
        device=device,
        each=each,
    )
    positions = torch.arange(tokens.clip.shape[1], device=device)
    pooled = clip(tokens.clip.to(device), position_ids=positions.unsqueeze(0)).pooler_output
    _check_numbers(pooled, files.clip)
    del clip
    encoder = _build(T5Config, T5EncoderModel, files, "text_encoder_2")
    # One embedding under two names.
    encoder.encoder.embed_tokens = encoder.shared
    t5 = _load(encoder, files.t5, t5_origin, ignored=_IGNORED_T5, device=device, each=each)
    sequence = t5(tokens.t5.to(device)).last_hidden_state
    _check_numbers(sequence, files.t5)
    return Embeddings(sequence.cpu(), pooled.cpu())


def _check_numbers(embeddings: Tensor, path: Path) -> None:
    if not embeddings.isfinite().all():
        raise corrupt(path, "what it makes of a prompt is no numbers: its weights are damaged")


def _encode(prompt: str, path: Path, vocabulary: int) -> list[int]:
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        size = tokenizer.get_vocab_size()
        ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids
    except BaseException as error:  # noqa: BLE001 - the library raises no special class, and its
        # panics are not an `Exception`; in a job's thread no other exception is of that kind.
        raise corrupt(path, f"it is no tokenizer ({error})") from None
    if not vocabulary - _VOCABULARY_STEP < size <= vocabulary:
        raise corrupt(path, f"it has {size} tokens, and the encoder has {vocabulary}")
    if max(ids, default=0) >= vocabulary:
        raise corrupt(path, f"its token {max(ids)} is past the encoder's {vocabulary}")
    return ids


def _build(config_class: Any, model_class: Any, files: Files, part: str) -> Any:
    fields = files.config(part)
    try:
        with torch.device("meta"):
            return model_class(config_class(**fields))
    except Exception as error:  # a library may fail anywhere in foreign fields
        raise bad_config(files.model_dir / "configs" / part, error) from error


def _load(
    module: nn.Module,
    path: Path,
    origin_of: OriginOf,
    *,
    ignored: tuple[str, ...],
    device: torch.device,
    each: EachTensor,
) -> Any:
    with open_safetensors(path) as file:
        check_weights(module, file, origin_of, ignored)
        load_weights(
            module,
            file,
            origin_of,
            device=device,
            dtype=torch.float32,
            keep_stored=True,
            each=each,
        )
    return module
