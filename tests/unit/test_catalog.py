"""The catalogue is complete and honest, and finds the file that a job's `model` means."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from upscaled_models.catalog import FOLDERS, Catalog, Model, bundled_weights_dir
from upscaled_models.esrgan.automatic import AUTO, PAIRS
from upscaled_protocol.configs import EsrganConfig, FluxConfig
from upscaled_protocol.errors import ErrorCode, JobError

CATALOG = Catalog.load()

WANTED = [
    "compact-x4",
    "compact-x4-clean",
    "compact-x2",
    "4x-UltraSharp",
    "4x_foolhardy_Remacri",
    "4x-AnimeSharp",
    "RealESRGAN_x4plus",
    "RealESRGAN_x2plus",
    "RealESRGAN_x4plus_anime_6B",
    "RealESRNet_x4plus",
    "realesr-animevideov3",
    "realesr-general-x4v3",
    "realesr-general-wdn-x4v3",
    "4xNomos2_hq_mosr",
    "4xNomosWebPhoto_RealPLKSR",
    "4xNomosWebPhoto_esrgan",
    "4xRealWebPhoto_v4_dat2",
    "4xLSDIRplus",
    "4xPurePhoto-span",
    "4x-PBRify_RPLKSRd_V3",
    "BSRGAN",
    "2x_ModernSpanimationV1",
    "4x-UltraSharpV2",
    "flux1-dev-Q8_0",
    "ae.sft",
    "clip_l.safetensors",
    "t5xxl_fp8_e4m3fn.safetensors",
]


def refusal(name: str, model_dir: Path, *roots: Path) -> JobError:
    with pytest.raises(JobError) as caught:
        CATALOG.locate(name, model_dir, roots)
    return caught.value


def install(model_dir: Path, folder: str, name: str) -> Path:
    path = model_dir / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("name", WANTED)
def test_every_wanted_model_is_known(name: str) -> None:
    assert CATALOG.find(name) is not None


def test_the_default_models_of_the_configs_are_known() -> None:
    assert EsrganConfig(image_path="x").model == AUTO
    for name in (
        *(pair.clean for pair in PAIRS),
        PAIRS[-1].damaged,
        FluxConfig(image_path="x").model,
        FluxConfig(image_path="x").upscale_model,
    ):
        assert CATALOG.find(name) is not None


@pytest.mark.parametrize("model", CATALOG.models, ids=lambda model: model.name)
def test_an_entry_is_complete(model: Model) -> None:
    assert model.folder in FOLDERS
    assert Path(model.file).name == model.file
    assert model.description.endswith(".")
    assert model.licence
    assert bool(model.sources) is not model.bundled, "either fetched or bundled"
    assert all(source.startswith("https://") for source in model.sources)
    assert model.sha256 is None or re.fullmatch("[0-9a-f]{64}", model.sha256)
    assert all(CATALOG.find(name) for name in model.requires)
    assert (model.scale is not None) is (model.folder == "upscale_models")


def test_names_and_files_are_unique() -> None:
    names = [model.name for model in CATALOG]
    files = [model.file for model in CATALOG]
    assert len(set(names)) == len(names)
    assert len(set(files)) == len(files)
    checksums = [model.sha256 for model in CATALOG if model.sha256]
    assert len(set(checksums)) == len(checksums), "two entries must not claim the same bytes"


@pytest.mark.parametrize("model", [m for m in CATALOG if m.bundled], ids=lambda model: model.name)
def test_a_bundled_file_has_the_size_and_checksum_that_the_catalogue_says(model: Model) -> None:
    data = (bundled_weights_dir() / model.file).read_bytes()
    assert (model.size_bytes, model.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_everything_that_the_flux_method_needs_is_pulled_with_it() -> None:
    flux = CATALOG.find("flux")
    assert flux is CATALOG.find("flux1-dev-Q8_0")
    assert flux is not None
    files = [model.file for model in CATALOG.with_requirements(flux)]
    assert files[0] == "flux1-dev-Q8_0.gguf"
    assert {
        "ae.sft",
        "clip_l.safetensors",
        "t5xxl_fp8_e4m3fn.safetensors",
        "clip_l.tokenizer.json",
        "t5xxl.tokenizer.json",
        "4x-UltraSharp.pth",
    } <= set(files)


@pytest.mark.parametrize("name", ["4x-UltraSharp", "4x-UltraSharp.pth"])
def test_a_pulled_model_is_found_by_its_name_and_by_its_file_name(
    tmp_path: Path, name: str
) -> None:
    path = install(tmp_path, "upscale_models", "4x-UltraSharp.pth")
    assert CATALOG.locate(name, tmp_path) == path


def test_a_bundled_model_and_one_whose_file_has_another_name_are_found(tmp_path: Path) -> None:
    assert (
        CATALOG.locate("compact-x4", tmp_path) == bundled_weights_dir() / "compact-x4.safetensors"
    )
    autoencoder = install(tmp_path, "vae", "ae.sft")
    assert CATALOG.locate("flux-ae", tmp_path) == autoencoder


def test_comfyuis_names_and_folders_are_read(tmp_path: Path) -> None:
    autoencoder = install(tmp_path, "vae", "ae.safetensors")
    transformer = install(tmp_path, "diffusion_models", "flux1-dev-Q8_0.gguf")
    encoder = install(tmp_path, "text_encoders", "clip_l.safetensors")
    assert CATALOG.locate("flux-ae", tmp_path) == autoencoder
    assert CATALOG.locate("ae.safetensors", tmp_path) == autoencoder
    assert CATALOG.locate("flux", tmp_path) == transformer
    assert CATALOG.locate("clip_l", tmp_path) == encoder
    own = install(tmp_path, "diffusion_models", "mine.gguf")
    assert CATALOG.locate("mine", tmp_path) == own
    flux = CATALOG.find("flux")
    assert flux is not None
    assert flux.target(tmp_path) == tmp_path / "unet" / "flux1-dev-Q8_0.gguf"


def test_a_known_model_in_another_format_is_found_by_its_name(tmp_path: Path) -> None:
    path = install(tmp_path, "upscale_models", "4x-UltraSharp.safetensors")
    assert CATALOG.locate("4x-UltraSharp", tmp_path) == path


def test_another_programs_spelling_is_known_unless_a_file_has_just_that_name(
    tmp_path: Path,
) -> None:
    known = install(tmp_path, "upscale_models", "RealESRGAN_x4plus.pth")
    assert CATALOG.locate("realesrgan-x4plus", tmp_path) == known
    anime = CATALOG.find("realesrgan-x4plus-anime")
    assert anime is CATALOG.find("RealESRGAN_x4plus_anime_6B")
    own = install(tmp_path, "upscale_models", "realesrgan-x4plus.pth")
    assert CATALOG.locate("realesrgan-x4plus", tmp_path) == own


def test_a_model_that_is_not_installed_says_how_to_get_it(tmp_path: Path) -> None:
    error = refusal("4x-UltraSharp", tmp_path)
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert "upscaled models pull 4x-UltraSharp" in error.message


def test_an_unknown_model_is_answered_with_the_closest_name(tmp_path: Path) -> None:
    error = refusal("4x-Ultrasharpe", tmp_path)
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert "did you mean 4x-UltraSharp?" in error.message
    assert "upscaled models list" in refusal("zzz", tmp_path).message


@pytest.mark.parametrize("name", ["mine", "mine.pth"])
def test_a_file_of_ones_own_in_the_model_folder_is_found_by_stem_and_by_name(
    tmp_path: Path, name: str
) -> None:
    path = install(tmp_path, "upscale_models", "mine.pth")
    assert CATALOG.locate(name, tmp_path) == path


def test_a_stem_prefers_the_format_that_cannot_hold_code(tmp_path: Path) -> None:
    install(tmp_path, "upscale_models", "mine.pth")
    safe = install(tmp_path, "upscale_models", "mine.safetensors")
    assert CATALOG.locate("mine", tmp_path) == safe


def test_a_half_pulled_file_is_no_model(tmp_path: Path) -> None:
    install(tmp_path, "upscale_models", "4x-UltraSharp.pth.part")
    assert refusal("4x-UltraSharp", tmp_path).code is ErrorCode.MODEL_NOT_FOUND
    assert refusal("4x-UltraSharp.pth.part", tmp_path).code is ErrorCode.MODEL_NOT_FOUND


def test_a_weights_file_is_found_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install(tmp_path, "elsewhere", "mine.pth")
    assert CATALOG.locate(str(path), tmp_path / "models") == path
    monkeypatch.chdir(tmp_path)
    assert CATALOG.locate("elsewhere/mine.pth", tmp_path / "models") == Path("elsewhere/mine.pth")
    error = refusal(str(tmp_path / "nothing.pth"), tmp_path / "models")
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert str(tmp_path / "nothing.pth") in error.message


def test_a_path_outside_the_allowed_roots_is_refused_whether_it_exists_or_not(
    tmp_path: Path,
) -> None:
    outside = install(tmp_path, "outside", "mine.pth")
    inside = install(tmp_path, "inside", "mine.pth")
    models = tmp_path / "models"
    roots = tmp_path / "inside"
    assert CATALOG.locate(str(inside), models, [roots]) == inside
    for path in (
        outside,
        tmp_path / "outside" / "nothing.pth",
        roots / ".." / "outside" / "mine.pth",
    ):
        assert refusal(str(path), models, roots).code is ErrorCode.PATH_NOT_ALLOWED


def test_a_link_out_of_the_allowed_roots_is_refused(tmp_path: Path) -> None:
    outside = install(tmp_path, "outside", "mine.pth")
    roots = tmp_path / "inside"
    roots.mkdir()
    (roots / "link.pth").symlink_to(outside)
    error = refusal(str(roots / "link.pth"), tmp_path / "models", roots)
    assert error.code is ErrorCode.PATH_NOT_ALLOWED


def test_names_are_found_also_where_paths_are_confined(tmp_path: Path) -> None:
    path = install(tmp_path, "upscale_models", "mine.pth")
    assert CATALOG.locate("mine", tmp_path, [tmp_path / "inside"]) == path


def test_a_name_is_unknown_and_no_path_also_where_paths_are_confined(tmp_path: Path) -> None:
    error = refusal("compact-x44", tmp_path, tmp_path / "inside")
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert "did you mean compact-x4?" in error.message


@pytest.mark.parametrize("name", ["..", ".", "/", "a\0b", "x" * 300, "x" * 1_000_000, "a/../b"])
def test_a_strange_name_gets_one_short_error(tmp_path: Path, name: str) -> None:
    error = refusal(name, tmp_path)
    assert error.code is ErrorCode.MODEL_NOT_FOUND
    assert len(error.message) < 500
    confined = refusal(name, tmp_path, tmp_path / "inside")
    assert confined.code in (ErrorCode.MODEL_NOT_FOUND, ErrorCode.PATH_NOT_ALLOWED)


def test_the_catalogue_imports_nothing_heavy() -> None:
    code = (
        "import sys; from upscaled_models.catalog import Catalog; Catalog.load();"
        "print(*{'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
