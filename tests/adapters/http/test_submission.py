"""From fields to a job: other services' names, types, limits, sizes; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upscaled_http.config import Settings
from upscaled_http.problems import ProblemError
from upscaled_http.records import Pixels
from upscaled_http.submission import Submission, SubmissionReader


def reader(**sections: Any) -> SubmissionReader:
    sections.setdefault("workers", {"methods": ("esrgan", "flux", "imagen")})
    return SubmissionReader(Settings.model_validate(sections))


def read(
    fields: dict[str, Any],
    method: str | None = None,
    *,
    is_text: bool = True,
    has_upload: bool = True,
    **sections: Any,
) -> Submission:
    given = reader(**sections)
    return given.read(fields, method, is_text=is_text, has_upload=has_upload)


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({"scale": "2"}, {"upscale_factor": 2.0}),
        ({"model_name": "compact-x2"}, {"model": "compact-x2"}),
        ({"format": "JPG"}, {"output_format": "jpeg"}),
        ({"output_format": "tif"}, {"output_format": "tiff"}),
        ({"tile_size": "0"}, {}),
        ({"tile_size": "512"}, {"tile_size": 512}),
        ({"use_fp16": "false"}, {"use_fp16": False}),
    ],
)
def test_a_forms_texts_become_the_protocols_config(
    fields: dict[str, Any], config: dict[str, Any]
) -> None:
    found = read(fields)
    assert found.method == "esrgan"
    assert {k: v for k, v in found.config.items() if k != "image_path"} == config


def test_jsons_values_are_taken_as_they_are() -> None:
    found = read({"scale": 2, "tile_size": 0, "timeout_s": 9, "priority": 5}, "flux", is_text=False)
    assert (found.config["upscale_factor"], found.timeout_s, found.priority) == (2.0, 9.0, 5)
    with pytest.raises(ProblemError, match="scale"):
        read({"scale": "2"}, is_text=False)


@pytest.mark.parametrize(("told", "factor"), [("2", "x2"), ("x3", "x3"), (4, "x4")])
def test_imagens_factor_may_be_a_number(told: Any, factor: str) -> None:
    found = read({"scale": told}, "imagen", is_text=isinstance(told, str))
    assert found.config["upscale_factor"] == factor


@pytest.mark.parametrize(
    ("format_", "suffix"), [(None, "png"), ("jpeg", "jpg"), ("webp", "webp"), ("tiff", "tiff")]
)
def test_the_results_suffix_follows_the_format(format_: str | None, suffix: str) -> None:
    assert read({"format": format_} if format_ else {}).suffix == suffix


def test_the_model_that_suits_the_picture_may_be_named_and_is_no_first_step() -> None:
    assert read({"model": "auto"}).config["model"] == "auto"
    with pytest.raises(ProblemError):
        read({"pre_model": "auto"})


def test_a_url_stands_for_an_upload() -> None:
    for url in ("https://example.org/a.png", "HTTP://EXAMPLE.ORG/A.PNG"):
        for name in ("image_url", "img_url"):
            assert read({name: url}, has_upload=False).config["image_url"] == url


def test_settings_fill_what_a_request_leaves_out() -> None:
    sections: dict[str, Any] = {
        "defaults": {"model": "compact-x2", "upscale_factor": 3, "dpi": 200},
        "storage": {"retention": "delete_after_download"},
        "limits": {"job_timeout_s": 60},
    }
    found = read({"target_width_inches": "2"}, **sections)
    config = found.config
    assert (config["model"], config["upscale_factor"], config["target_dpi"]) == (
        "compact-x2",
        3.0,
        200,
    )
    assert (found.retention, found.timeout_s) == ("delete_after_download", 60)
    own = read({"model": "compact-x4", "scale": "2"}, **sections).config
    assert (own["model"], own["upscale_factor"]) == ("compact-x4", 2.0)
    assert "target_dpi" not in own


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"sclae": "2"}, "invalid_job", "sclae"),
        ({"scale": "99"}, "invalid_job", "scale"),
        ({"scale": "two"}, "invalid_job", "scale"),
        ({"scale": "2", "upscale_factor": "2"}, "invalid_request", "scale"),
        ({"image_path": "/etc/passwd"}, "invalid_job", "image_path"),
        ({"output_path": "/tmp/x"}, "invalid_job", "output_path"),
        ({"output_base64": "true"}, "invalid_job", "output_base64"),
        ({"image_url": "https://example.org/a.png"}, "invalid_request", "image_url"),
        ({"label": "x" * 101}, "invalid_job", "label"),
        ({"label": "a\nb"}, "invalid_job", "label"),
        ({"timeout_s": "0"}, "invalid_job", "timeout_s"),
        ({"timeout_s": "nan"}, "invalid_job", "timeout_s"),
        ({"timeout_s": "1e9"}, "invalid_job", "timeout_s"),
        ({"timeout_s": 10**400}, "invalid_job", "timeout_s"),
        ({"priority": "1.5"}, "invalid_job", "priority"),
        ({"priority": "-1000001"}, "invalid_job", "priority"),
        ({"priority": 10**400}, "invalid_job", "priority"),
        ({"method": "imagen", "scale": "\u00b2"}, "invalid_job", "scale"),
        ({"method": "imagen", "scale": 10**400}, "invalid_job", "scale"),
        ({"retention": "x"}, "invalid_job", "retention"),
        ({"target_width": "9", "target_width_inches": "2"}, "invalid_job", ""),
        ({"model": "nope"}, "model_not_found", "model"),
        ({"model": "../x"}, "model_not_found", "model"),
        ({"model": "/etc/passwd"}, "model_not_found", "model"),
        ({"model_name": ".."}, "model_not_found", "model_name"),
        ({"model": "a\0b"}, "model_not_found", "model"),
        ({"upscale_model": "../x"}, "model_not_found", "upscale_model"),
        ({"pre_model": "../x"}, "model_not_found", "pre_model"),
        ({"method": "nope"}, "unknown_method", "method"),
        ({"method": "fake"}, "unknown_method", "method"),
    ],
)
def test_a_wrong_field_is_refused_and_named(fields: dict[str, Any], code: str, field: str) -> None:
    is_text = all(isinstance(value, str) for value in fields.values())
    with pytest.raises(ProblemError) as caught:
        read(fields, is_text=is_text)
    assert caught.value.code == code
    assert [fault.field for fault in caught.value.problem.errors] == [field]


@pytest.mark.parametrize(
    "url", [None, "", "ftp://a/b", "file:///etc/passwd", "http://" + "a" * 9000]
)
def test_without_a_picture_an_address_is_needed(url: str | None) -> None:
    fields = {} if url is None else {"image_url": url}
    with pytest.raises(ProblemError) as caught:
        read(fields, has_upload=False)
    assert caught.value.status == 400


def test_the_method_in_the_address_and_in_the_form_must_agree() -> None:
    assert read({"method": "flux"}, "flux").method == "flux"
    with pytest.raises(ProblemError):
        read({"method": "flux"}, "esrgan")


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (400, 200)),
        ({"scale": "2"}, (200, 100)),
        ({"target_width": "300"}, (300, 150)),
        ({"target_width_inches": "2", "target_dpi": "100"}, (200, 100)),
    ],
)
def test_the_outputs_size_is_planned(fields: dict[str, Any], size: tuple[int, int]) -> None:
    given = reader()
    model = given.read(fields, None, is_text=True, has_upload=True).model
    assert given.planned_size(model, Pixels(100, 50)) == size


def test_the_size_of_an_own_model_without_a_factor_is_not_known_yet(tmp_path: Path) -> None:
    (tmp_path / "upscale_models").mkdir()
    (tmp_path / "upscale_models" / "clean.safetensors").write_bytes(b"")
    given = reader(workers={"methods": ("esrgan",), "model_dir": tmp_path})

    def planned(**fields: str) -> tuple[int, int] | None:
        model = given.read({"model": "clean", **fields}, None, is_text=True, has_upload=True).model
        return given.planned_size(model, Pixels(100, 50))

    assert planned() is None
    assert planned(scale="1") == (100, 50)
    assert planned(target_width="300") == (300, 150)


def test_a_size_that_is_not_possible_is_refused() -> None:
    given = reader(limits={"max_output_megapixels": 1})
    for fields, code in (({"target_width": "9000"}, "invalid_job"), ({}, "input_too_large")):
        model = given.read(fields, None, is_text=True, has_upload=True).model
        with pytest.raises(ProblemError) as caught:
            given.planned_size(model, Pixels(500, 500))
        assert caught.value.code == code


FACES: dict[str, Any] = {
    "workers": {"methods": ("esrgan", "face")},
    "defaults": {"upscale_factor": 3},
}


@pytest.mark.parametrize("method", ["face", "face-enhance"])
def test_faces_have_two_names_and_keep_the_pictures_size(method: str) -> None:
    found = read({"strength": "0.5"}, method, **FACES)
    assert (found.method, found.config["strength"]) == ("face", 0.5)
    assert "upscale_factor" not in found.config
    size = Pixels(100, 80)
    assert reader(**FACES).planned_size(found.model, size) == size
    assert read({"method": method}, **FACES).method == "face"


def test_a_picture_whose_enlargement_has_a_model_gets_the_servers_factor() -> None:
    found = read({"upscale_model": "compact-x2"}, "face", **FACES)
    assert found.config["upscale_factor"] == 3


@pytest.mark.parametrize(
    ("method", "field"), [("face", "model"), ("face", "upscale_model"), ("esrgan", "face_model")]
)
def test_a_model_for_faces_is_no_path(method: str, field: str) -> None:
    with pytest.raises(ProblemError, match="is the name of a model"):
        read({field: "../weights.pth"}, method, **FACES)
