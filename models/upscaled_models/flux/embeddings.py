"""Keeps prompt embeddings on disk, so that the text encoders load only for a new prompt."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors
import safetensors.torch

from upscaled_models.flux.files import Files
from upscaled_models.flux.text import Embeddings, Tokens
from upscaled_models.keptfiles import KeptFiles

# Not `embeddings`: in ComfyUI's folder `models` that one holds the user's files.
_FOLDER = "flux_embeddings"
# Files of 4 MiB each. The oldest are removed first.
_KEPT = 256
# So many evenly spaced samples of an encoder's file are hashed, with its size and its time, which
# changes if damage between the samples is repaired. To hash all 5 GB would take longer than to
# encode the prompt.
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024


class EmbeddingCache:
    """Embeddings, by the tokens, the encoders' files and configs, and the dtype."""

    def __init__(self, files: Files) -> None:
        self._kept = KeptFiles(files.model_dir / _FOLDER, ".safetensors", _KEPT)
        self._files = files

    def find(self, tokens: Tokens) -> Embeddings | None:
        """The embeddings of these tokens; None if they are not kept."""
        try:
            tensors = safetensors.torch.load_file(self._kept.path(self._name(tokens)))
            found = Embeddings(tensors["sequence"], tensors["pooled"])
        except (OSError, KeyError, safetensors.SafetensorError):  # absent, or not ours
            return None
        return found if _is_whole(found, tokens) else None

    def keep(self, tokens: Tokens, embeddings: Embeddings) -> bool:
        """Write the embeddings. False if they cannot be written; then only time is lost."""
        data = safetensors.torch.save(
            {"sequence": embeddings.sequence.contiguous(), "pooled": embeddings.pooled.contiguous()}
        )
        return self._kept.keep(self._name(tokens), data)

    def _name(self, tokens: Tokens) -> str:
        key = hashlib.sha256(b"float32")
        for row in (tokens.clip, tokens.t5):
            key.update(row.numpy().tobytes() + b"|")
        for path, part in ((self._files.clip, "text_encoder"), (self._files.t5, "text_encoder_2")):
            key.update(_digest(path))
            key.update(repr(sorted(self._files.config(part).items())).encode())
        return key.hexdigest()


def _is_whole(found: Embeddings, tokens: Tokens) -> bool:
    return (
        found.sequence.shape[:2] == tokens.t5.shape
        and found.pooled.shape[:1] == tokens.clip.shape[:1]
        and all(bool(tensor.isfinite().all()) for tensor in (found.sequence, found.pooled))
    )


def _digest(path: Path) -> bytes:
    status = path.stat()
    size = status.st_size
    digest = hashlib.sha256(f"{size} {status.st_mtime_ns}".encode())
    with path.open("rb") as file:
        # The first sample is the beginning of the header, the last one the end of the file.
        for index in range(_SAMPLES):
            file.seek(max(size - _SAMPLE_BYTES, 0) * index // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()
