"""Pictures that an Imagen job gives, through `upscaled run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pyvips

from imagen_host import (
    Host,
    load,
    photo,
    save,
)
from tiny_networks import psnr
from upscaled_models.imagen.loopback import Loopback, enlarged

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_picture_comes_back_enlarged(
    host: Host, server: Loopback, tmp_path: Path, factor: int
) -> None:
    path = save(tmp_path / "in.png", photo())
    result = host.run(path, upscale_factor=f"x{factor}")
    assert result["type"] == "result", result
    assert result["output_size"] == {"width": 80 * factor, "height": 60 * factor}
    assert (result["scale_factor"], result["upstream_calls"]) == (factor, 1)
    assert (result["model"], result["device"]) == ("imagen-4.0-upscale-preview", "remote")
    assert result["output_path"] == str(tmp_path / f"in_imagen_{factor}x.png")
    assert np.array_equal(load(result["output_path"]), enlarged(photo(), factor))
    # The server lets only what it knows through, down to each field.
    assert server.refusals == []
    assert [question.factor for question in server.questions] == [factor]
    assert np.array_equal(server.questions[0].rgb, photo())


def test_alpha_profile_exif_and_dpi_survive_a_service_that_sees_rgb(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    alpha = np.zeros((60, 80, 1), np.uint8)
    alpha[10:50, 20:60] = 255
    picture = pyvips.Image.new_from_array(np.concatenate([photo(), alpha], axis=2))
    picture = picture.copy(interpretation="srgb", xres=300 / 25.4, yres=300 / 25.4)
    profile = bytes(pyvips.Operation.call("profile_load", "p3"))
    picture.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    picture.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Artist", "A. Painter")
    picture.write_to_file(str(tmp_path / "in.png"))
    result = host.run(tmp_path / "in.png", upscale_factor="x2")
    assert result["type"] == "result", result
    output = pyvips.Image.new_from_file(result["output_path"])
    pixels = output.numpy()
    assert pixels.shape == (120, 160, 4)
    assert bytes(output.get("icc-profile-data")) == profile
    assert "A. Painter" in output.get("exif-ifd0-Artist")
    assert output.xres * 25.4 == pytest.approx(300, rel=0.001)
    assert (pixels[22:98, 42:118, 3] == 255).all()
    assert (pixels[:16, :, 3] == 0).all()
    inside = np.abs(pixels[24:96, 44:116, :3].astype(int) - enlarged(photo(), 2)[24:96, 44:116])
    assert inside.max() <= 1
    assert server.questions[0].rgb.shape == (60, 80, 3)


def test_profile_exif_and_dpi_survive_a_service_that_sends_none_of_them(
    host: Host, tmp_path: Path
) -> None:
    picture = pyvips.Image.new_from_array(photo()).copy(xres=300 / 25.4, yres=300 / 25.4)
    profile = bytes(pyvips.Operation.call("profile_load", "p3"))
    picture.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    picture.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Artist", "A. Painter")
    picture.write_to_file(str(tmp_path / "in.png"))
    result = host.run(tmp_path / "in.png", upscale_factor="x2")
    assert result["type"] == "result", result
    output = pyvips.Image.new_from_file(result["output_path"])
    assert np.array_equal(output.numpy(), enlarged(photo(), 2))
    assert bytes(output.get("icc-profile-data")) == profile
    assert "A. Painter" in output.get("exif-ifd0-Artist")
    assert output.xres * 25.4 == pytest.approx(300, rel=0.001)


def test_sixteen_bits_become_eight_with_a_warning(host: Host, tmp_path: Path) -> None:
    deep = photo().astype(np.uint16) * 257
    image = pyvips.Image.new_from_array(deep).copy(interpretation="rgb16")
    image.write_to_file(str(tmp_path / "in.tif"))
    result = host.run(tmp_path / "in.tif", upscale_factor="x2")
    assert "8 bits a channel" in result["warnings"][0]
    assert np.array_equal(load(result["output_path"]), enlarged(photo(), 2))


def test_a_gray_picture_stays_gray(host: Host, server: Loopback, tmp_path: Path) -> None:
    gray = photo()[:, :, :1]
    result = host.run(save(tmp_path / "in.png", gray), upscale_factor="x2")
    wanted = enlarged(np.repeat(gray, 3, axis=2), 2)[:, :, 0]
    assert np.array_equal(load(result["output_path"]).reshape(wanted.shape), wanted)
    assert server.questions[0].rgb.shape == (60, 80, 3)


def test_a_print_size_is_reached_by_the_least_factor_a_resample_and_a_crop(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    path = save(tmp_path / "in.png", photo())
    result = host.run(
        path, target_width_inches=2.0, target_height_inches=2.0, target_dpi=70, crop="center"
    )
    assert result["output_size"] == {"width": 140, "height": 140}
    assert result["crop_info"]["direction"] == "horizontal"
    output = pyvips.Image.new_from_file(result["output_path"])
    assert (output.width, output.height) == (140, 140)
    assert output.xres * 25.4 == pytest.approx(70, rel=0.01)
    assert [question.factor for question in server.questions] == [3]


def test_a_target_no_larger_than_the_picture_needs_no_call(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    result = host.run(save(tmp_path / "in.png", photo()), target_width=40)
    assert (result["output_size"]["width"], result["upstream_calls"]) == (40, 0)
    assert server.questions == []


def test_a_target_beyond_the_factor_is_resampled_with_a_warning(host: Host, tmp_path: Path) -> None:
    result = host.run(save(tmp_path / "in.png", photo()), target_width=200, upscale_factor="x2")
    assert result["output_size"] == {"width": 200, "height": 150}
    assert "larger than x2" in result["warnings"][0]


def test_a_picture_over_the_limit_is_refused_before_any_call(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    path = save(tmp_path / "in.png", np.zeros((1500, 1500, 3), np.uint8))
    error = host.run(path)
    assert error["code"] == "input_too_large"
    assert "x2, the largest that fits" in error["error"]
    assert (server.questions, server.refusals) == ([], [])
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_is_cut_into_tiles_if_the_job_allows_that(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    pixels = photo(500, 400)
    alpha = np.full((400, 500, 1), 255, np.uint8)
    path = save(tmp_path / "in.png", np.concatenate([pixels, alpha], axis=2))
    result = host.run(path, upscale_factor="x2", tile=True, tile_size=256)
    assert result["type"] == "result", result
    assert result["upstream_calls"] == len(server.questions) == 6
    assert all(max(question.rgb.shape) <= 256 for question in server.questions)
    joined = load(result["output_path"])
    assert (joined[:, :, 3] == 255).all()
    # The kernel sees less at a tile's edge; the blend leaves next to nothing of that.
    assert psnr(joined[:, :, :3], enlarged(pixels, 2), top=255) > 55
