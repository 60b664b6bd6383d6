"""Files that are damaged, malicious or of another model are refused, each in one sentence."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("diffusers", reason="needs the flux extra")
# isort: split
import safetensors.torch

from upscaled_bench.flux_replicas import Replica, job_files, write_replica, write_transformer
from upscaled_models.catalog import Catalog
from upscaled_models.flux.autoencoder import check_autoencoder
from upscaled_models.flux.files import find_files
from upscaled_models.flux.gguf_file import open_gguf
from upscaled_models.flux.header import WeightsFile, open_safetensors
from upscaled_models.flux.text import encode, tokenize
from upscaled_models.flux.transformer import check_transformer, load_transformer
from upscaled_protocol.errors import ErrorCode, JobError

CPU = torch.device("cpu")


def silent(done: int, total: int) -> None: ...


def damage_gguf(damage: Callable[[Replica], None], folder: Path) -> JobError:
    replica = write_replica(folder / "models")
    damage(replica)
    with pytest.raises(JobError) as refused:
        check_transformer(job_files(replica.folder))
    assert refused.value.code == ErrorCode.MODEL_CORRUPT
    assert "\n" not in refused.value.message
    return refused.value


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[Replica], None]:
    def damage(replica: Replica) -> None:
        replica.gguf.write_bytes(change(replica.gguf.read_bytes()))

    return damage


def remodel(**fields: Any) -> Callable[[Replica], None]:
    """Describe another model than the file has."""

    def damage(replica: Replica) -> None:
        config = replica.configs["transformer"] | fields
        path = replica.folder / "configs" / "transformer" / "config.json"
        path.write_text(json.dumps(config))

    return damage


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (rewrite(lambda data: b""), "it is empty: fetch the file again"),
        (rewrite(lambda data: b"JUNK" + data[4:]), "it is no GGUF file"),
        (rewrite(lambda data: data[:4] + b"\x07" + data[5:]), "its GGUF version is 7"),
        (rewrite(lambda data: data[:3000]), "it is truncated within its header"),
        (rewrite(lambda data: data[:-100]), r"it is truncated: the tensor \S+ ends at byte"),
        (
            lambda replica: write_transformer(replica, architecture="sd3"),
            "its architecture is 'sd3', and 'flux' is needed",
        ),
        (
            rewrite(lambda data: data.replace(b"img_in.weight", b"img_in.wright")),
            "it lacks the tensor img_in.weight",
        ),
        (
            remodel(num_layers=1),
            r"it has a tensor double_blocks.1.\S+ that this model does not know",
        ),
        (remodel(num_single_layers=3), r"it lacks the tensor single_blocks.2.\S+"),
        (remodel(pooled_projection_dim=16), r"vector_in.in_layer.weight has the shape \(32, 32\)"),
        (remodel(guidance_embeds=False), "takes guidance"),
        (remodel(num_layers="two"), "config"),
    ],
)
def test_a_transformer_that_does_not_fit_is_refused_in_one_sentence(
    damage: Callable[[Replica], None], sentence: str, tmp_path: Path
) -> None:
    assert re.search(sentence, damage_gguf(damage, tmp_path).message)


def refuse_or_open(path: Path, opened: Callable[[Path], WeightsFile]) -> None:
    """Whatever the file holds: it is opened, or refused in one short line."""
    try:
        with opened(path) as file:
            assert sum(entry.size_bytes for entry in file.entries.values()) < 10**9
    except JobError as error:
        assert error.code == ErrorCode.MODEL_CORRUPT  # noqa: PT017 - any other exception fails
        assert error.message.isprintable()  # noqa: PT017
        assert len(error.message) < 500  # noqa: PT017


def open_flux(path: Path) -> WeightsFile:
    return open_gguf(path, "flux")


def alter(data: st.DataObject, original: bytes, header: int) -> bytes:
    """Some bytes of the header replaced, and the file cut."""
    altered = bytearray(original)
    for position in data.draw(st.lists(st.integers(0, header), min_size=1, max_size=4)):
        altered[position] = data.draw(st.integers(0, 255))
    return bytes(altered[: data.draw(st.integers(0, len(altered)))])


@given(st.data())
def test_no_altered_gguf_does_more_than_be_refused(replica: Replica, data: st.DataObject) -> None:
    with open_flux(replica.gguf) as file:
        header = min(entry.offset for entry in file.entries.values())
    path = replica.folder / "altered.gguf"
    path.write_bytes(alter(data, replica.gguf.read_bytes(), header))
    refuse_or_open(path, open_flux)


@given(st.data())
def test_no_altered_safetensors_does_more_than_be_refused(
    replica: Replica, data: st.DataObject
) -> None:
    original = replica.vae.read_bytes()
    path = replica.folder / "altered.sft"
    path.write_bytes(alter(data, original, 8 + int.from_bytes(original[:8], "little")))
    refuse_or_open(path, open_safetensors)


# JSON that a header may hold, and some that it must not.
ANY_NUMBER: st.SearchStrategy[Any] = st.one_of(
    st.integers(-2, 70),
    st.sampled_from([2**31, 2**63, 2**64, 10**4000, -(10**4000)]),
    st.floats(),
    st.booleans(),
    st.sampled_from(["4", "", None, [], {}]),
)
ANY_ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "I64", "F8_E4M3", "F4", "", None, 7, []]),
        "shape": st.one_of(st.lists(ANY_NUMBER, max_size=12), ANY_NUMBER),
        "data_offsets": st.one_of(st.lists(ANY_NUMBER, max_size=3), ANY_NUMBER),
    }
)


@given(st.dictionaries(st.text(), st.one_of(ANY_ENTRY, ANY_NUMBER), max_size=4))
def test_no_header_of_a_safetensors_does_more_than_be_refused(
    replica: Replica, header: dict[str, Any]
) -> None:
    described = json.dumps(header).encode()
    path = replica.folder / "made.sft"
    path.write_bytes(struct.pack("<Q", len(described)) + described + bytes(64))
    refuse_or_open(path, open_safetensors)


def test_numbers_of_thousands_of_digits_are_not_computed_with(tmp_path: Path) -> None:
    number = "7" * 4000
    shape = ",".join([number] * 900)
    described = f'{{"w":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}}}'.encode()
    path = tmp_path / "made.sft"
    path.write_bytes(struct.pack("<Q", len(described)) + described + bytes(4))
    with pytest.raises(JobError, match="its header is altered"):
        open_safetensors(path)


HUGE = 2**63
# Kinds of values in a GGUF header.
UINT8, UINT32, STRING, ARRAY, UINT64, UNKNOWN = 0, 4, 8, 9, 10, 77


def text(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


def field(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return field(b"key", ARRAY, struct.pack("<IQ", kind, count) + values)


def tensor(name: bytes, *shape: int, kind: int = 0) -> bytes:
    numbers = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + numbers + struct.pack("<IQ", kind, 0)


def gguf(*parts: bytes, fields: int, tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + b"".join(parts)


FLUX = field(b"general.architecture", STRING, text(b"flux"))


@pytest.mark.parametrize(
    "content",
    [
        gguf(FLUX, fields=HUGE),
        gguf(FLUX, fields=1, tensors=HUGE),
        gguf(text(b"", HUGE), fields=1),
        gguf(field(b"key", UNKNOWN, b""), fields=1),
        gguf(field(b"key", STRING, text(b"", HUGE)), fields=1),
        *(gguf(array(kind, HUGE), fields=1) for kind in (UINT8, STRING, ARRAY, UINT64, UNKNOWN)),
        gguf(field(b"general.architecture", STRING, text(b"\n" * 10**6)), fields=1),
        gguf(FLUX, tensor(b"\x00\n" * 10**6, 1, kind=99), fields=1, tensors=1),
        gguf(FLUX, tensor(b"w", *[2**64 - 1] * 4), fields=1, tensors=1),
        gguf(FLUX, tensor(b"w", *[1] * 5), fields=1, tensors=1),
        gguf(
            FLUX,
            field(b"general.alignment", UINT64, struct.pack("<Q", 2**64 - 1)),
            tensor(b"w", 1),
            fields=2,
            tensors=1,
        ),
    ],
    ids=range(15),
)
def test_a_gguf_that_claims_the_impossible_is_refused_in_a_short_line(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "made.gguf"
    path.write_bytes(content)
    with pytest.raises(JobError) as refused:
        open_flux(path)
    assert refused.value.code == ErrorCode.MODEL_CORRUPT
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 500


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "a ZIP archive: unpack it"),
        (b"\x03\x8f" * 100, ""),
    ],
)
@pytest.mark.parametrize("open_file", [open_flux, open_safetensors])
def test_what_stands_in_place_of_weights_is_named(
    content: bytes, told: str, open_file: Callable[[Path], WeightsFile], tmp_path: Path
) -> None:
    path = tmp_path / "made.gguf"
    path.write_bytes(content)
    with pytest.raises(JobError) as refused:
        open_file(path)
    assert refused.value.code == ErrorCode.MODEL_CORRUPT
    assert told in refused.value.message


def test_what_other_programs_tell_in_a_gguf_is_passed_over(tmp_path: Path) -> None:
    words = array(STRING, 1000, text(b"word") * 1000)
    numbers = array(UINT32, 10**6, bytes(4 * 10**6))
    path = tmp_path / "made.gguf"
    path.write_bytes(gguf(words, numbers, FLUX, fields=3))
    with open_flux(path) as file:
        assert file.entries == {}


def change_vae(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "vae" / "ae.sft"
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def test_an_autoencoder_that_does_not_fit_is_refused_in_one_sentence(copy: Path) -> None:
    def refusal() -> str:
        with pytest.raises(JobError) as refused:
            check_autoencoder(job_files(copy))
        assert refused.value.code == ErrorCode.MODEL_CORRUPT
        return refused.value.message

    change_vae(copy, lambda tensors: tensors.update(stray=torch.zeros(1)))
    assert "it has a tensor stray" in refusal()
    change_vae(copy, lambda tensors: tensors.pop("stray"))
    change_vae(copy, lambda tensors: tensors.pop("decoder.mid.attn_1.q.bias"))
    assert "it lacks the tensor decoder.mid.attn_1.q.bias" in refusal()
    path = copy / "vae" / "ae.sft"
    data = path.read_bytes()
    path.write_bytes(data[:-10])
    assert "it is truncated: the tensor" in refusal()
    path.write_bytes(data[:100])
    assert "it is truncated within its header" in refusal()
    path.write_bytes(b"\xff" * 200)
    assert "it has no header of a safetensors file" in refusal()
    path.write_bytes(data[:8] + b"[" + data[9:])
    assert "its header is altered" in refusal()


def test_text_encoders_that_do_not_fit_are_refused(copy: Path) -> None:
    path = copy / "clip" / "clip_l.safetensors"
    shutil.copy(copy / "clip" / "t5xxl_fp8_e4m3fn.safetensors", path)
    files = job_files(copy)
    with pytest.raises(JobError, match=r"clip_l.safetensors .* lacks the tensor text_model"):
        encode(tokenize("", files), files, CPU, silent)


def test_a_file_that_shrinks_while_it_is_read_is_refused(copy: Path) -> None:
    files = job_files(copy)

    def each(done: int, total: int) -> None:
        if done == 1:
            files.transformer.write_bytes(files.transformer.read_bytes()[:20_000])

    with pytest.raises(JobError, match=r"it ended within the tensor \S+ while it was read"):
        load_transformer(files, CPU, torch.float32, "expanded", each)


def test_what_is_not_installed_is_said_with_what_to_do(copy: Path) -> None:
    (copy / "vae" / "ae.sft").unlink()
    with pytest.raises(JobError, match=r"vae/ae.sft.*`upscaled models pull flux`") as refused:
        job_files(copy)
    assert refused.value.code == ErrorCode.MODEL_NOT_FOUND
    (copy / "unet" / "flux1-dev-Q8_0.gguf").unlink()
    with pytest.raises(JobError, match="`upscaled models pull flux1-dev-Q8_0`"):
        job_files(copy)
    with pytest.raises(JobError, match=r"use a \.gguf") as refused:
        find_files(Catalog.load(), "compact-x4", copy)
    assert refused.value.code == ErrorCode.INVALID_JOB


def test_a_tokenizer_of_another_vocabulary_is_refused(copy: Path) -> None:
    path = copy / "clip" / "t5xxl.tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"] |= {f"more{index}": 60 + index for index in range(9)}
    path.write_text(json.dumps(document))
    with pytest.raises(JobError, match=r"t5xxl.tokenizer.json .* 69 tokens"):
        tokenize("a cat", job_files(copy))
    path.write_text("{}")
    with pytest.raises(JobError, match="it is no tokenizer"):
        tokenize("a cat", job_files(copy))


def test_a_token_that_the_encoder_does_not_have_is_refused(copy: Path) -> None:
    path = copy / "clip" / "t5xxl.tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"]["cat"] = 60
    path.write_text(json.dumps(document))
    with pytest.raises(JobError, match=r"its token 60 is past the encoder's 60"):
        tokenize("a cat", job_files(copy))


def test_a_tokenizer_that_its_library_panics_over_is_refused(copy: Path) -> None:
    path = copy / "clip" / "t5xxl.tokenizer.json"
    document = json.loads(path.read_text())
    document["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    path.write_text(json.dumps(document))
    with pytest.raises(JobError, match=r"t5xxl.tokenizer.json .* it is no tokenizer"):
        tokenize("a cat", job_files(copy))


@pytest.mark.parametrize(
    ("part", "fields", "sentence"),
    [
        ("scheduler", {"shift": "much"}, "its shift is 'much'"),
        ("scheduler", {"shift": 0}, "its shift is 0"),
        ("vae", {"scaling_factor": 0}, "its scaling_factor is 0"),
        ("vae", {"shift_factor": "none"}, "its shift_factor is 'none'"),
        ("text_encoder", {"vocab_size": None}, "its vocab_size is None"),
        ("text_encoder", {"max_position_embeddings": "77"}, "its max_position_embeddings is '77'"),
        ("text_encoder_2", {"eos_token_id": [1]}, r"its eos_token_id is \[1\]"),
        ("text_encoder_2", {"pad_token_id": 10**9}, "its vocab_size is 60"),
    ],
)
def test_a_config_without_what_a_job_needs_is_refused(
    copy: Path, part: str, fields: dict[str, Any], sentence: str
) -> None:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    path = copy / "configs" / part / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    files = job_files(copy)
    needs: Callable[[], object] = partial(tokenize, "", files)
    if part == "scheduler":
        needs = files.noise_shift
    elif part == "vae":
        needs = partial(check_autoencoder, files)
    with pytest.raises(JobError, match=f"configs/{part} is not usable: {sentence}") as refused:
        needs()
    assert refused.value.code == ErrorCode.MODEL_CORRUPT


def test_a_config_is_refused_once_and_however_deep_it_is(copy: Path) -> None:
    path = copy / "configs" / "vae" / "config.json"
    for text in ("[" * 100_000, "[]", "{"):
        path.write_text(text)
        with pytest.raises(JobError) as refused:
            check_autoencoder(job_files(copy))
        assert refused.value.code == ErrorCode.MODEL_CORRUPT
        assert refused.value.message.count("is not usable") == 1
