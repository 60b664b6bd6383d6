"""Prompt embeddings on the disk, so that the text encoders load only for a prompt that is new."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors
import safetensors.torch

from upscaled_models.flux.files import Files
from upscaled_models.flux.text import Embeddings, Tokens
from upscaled_models.pendingfile import PendingFile
from upscaled_protocol.errors import JobError

# Files of 4 MiB; the oldest go first.
_KEPT = 256
# Of an encoder's file this many evenly spaced samples are hashed, with its header and its size: to
# hash 5 GB would take longer than to encode the prompt.
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024


class EmbeddingCache:
    """Embeddings by what they depend on: the tokens, the encoders' files and configs, the dtype."""

    def __init__(self, files: Files) -> None:
        self._folder = files.model_dir / "embeddings"
        self._files = files

    def find(self, tokens: Tokens) -> Embeddings | None:
        """The embeddings of these tokens, or None where they have to be computed."""
        try:
            tensors = safetensors.torch.load_file(self._path(tokens))
            return Embeddings(tensors["sequence"], tensors["pooled"])
        except (OSError, KeyError, safetensors.SafetensorError):  # absent, or not ours
            return None

    def keep(self, tokens: Tokens, embeddings: Embeddings) -> bool:
        """Write them; False where that is not possible, which costs no more than time."""
        data = safetensors.torch.save(
            {"sequence": embeddings.sequence.contiguous(), "pooled": embeddings.pooled.contiguous()}
        )
        try:
            self._folder.mkdir(exist_ok=True)
            pending = PendingFile(self._path(tokens))
        except (OSError, JobError):
            return False
        try:
            pending.file.write(data)
            pending.file.flush()
            pending.publish()
        except (OSError, JobError):
            return False
        finally:
            pending.close()
        self._forget_oldest()
        return True

    def _path(self, tokens: Tokens) -> Path:
        key = hashlib.sha256(b"float32")
        for row in (tokens.clip, tokens.t5):
            key.update(row.numpy().tobytes() + b"|")
        for path, part in ((self._files.clip, "text_encoder"), (self._files.t5, "text_encoder_2")):
            key.update(_digest(path))
            key.update(repr(sorted(self._files.config(part).items())).encode())
        return self._folder / f"{key.hexdigest()}.safetensors"

    def _forget_oldest(self) -> None:
        def age(path: Path) -> float:
            try:
                return path.stat().st_mtime
            except OSError:  # another worker was faster
                return 0.0

        for path in sorted(self._folder.glob("*.safetensors"), key=age)[:-_KEPT]:
            path.unlink(missing_ok=True)


def _digest(path: Path) -> bytes:
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        # The first sample is the beginning of the header, the last the end of the file.
        for index in range(_SAMPLES):
            file.seek(max(size - _SAMPLE_BYTES, 0) * index // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()
