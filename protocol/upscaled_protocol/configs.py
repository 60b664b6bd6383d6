"""The `config` of a job: one model per method.

Unknown fields are refused by name, so that a misspelt option is never ignored. Field names and
defaults are those that hosts already use. Paths are plain strings, which the worker resolves.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticKnownError

from upscaled_protocol.choices import DEFAULT_MODEL, Crop, ImagenFactor, OutputFormat
from upscaled_protocol.errors import ErrorCode
from upscaled_protocol.lines import has_half_pair

Precision = Literal["auto", "fp32", "fp16", "bf16"]

_PRE_MODEL = (
    "A model of scale 1, such as a denoiser, that the picture passes before the upscaling one."
)
DEFAULT_FACE_MODEL = "GFPGANv1.4"


def _check_unicode(text: str) -> str:
    if has_half_pair(text):
        raise PydanticKnownError("string_unicode")
    return text


def _take_file_name(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Accept a file name that is not UTF-8. It has U+DC80 to U+DCFF for the bytes that are not
    UTF-8, as Python's `surrogateescape` has, and so it would fail the check of Unicode."""
    if isinstance(value, str) and has_half_pair(value):
        try:
            value.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            raise PydanticKnownError("string_unicode") from None
        return value
    return handler(value)


Text = Annotated[str, AfterValidator(_check_unicode)]
FilePath = Annotated[str, Field(min_length=1), WrapValidator(_take_file_name)]
Pixels = Annotated[int, Field(ge=1, le=200_000)]
Inches = Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Config(BaseModel):
    """A config as a host writes it. Strings and numbers are not converted into each other."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ImageConfig(Config):
    """The fields of every method with a picture: one input, one output, a size."""

    image_path: FilePath | None = Field(None, description="Input file.")
    image_base64: str | None = Field(None, min_length=1, description="Input file's bytes.")
    image_url: str | None = Field(
        None,
        min_length=1,
        description="Input over http or https, or of an object storage: s3://, gs://, az://.",
    )
    output_path: FilePath | None = Field(
        None,
        description="Output file; one that exists is replaced. Default: {OUTPUT_DIR, or the "
        "input's folder}/{stem}_{method}_{factor}x.{ext}, with a number if that is taken.",
    )
    output_base64: bool = Field(
        False, description="Return the output file's bytes in the result instead of writing a file."
    )
    output_url: str | None = Field(
        None,
        min_length=1,
        description="Write the output there: s3://, gs://, az://, or an https URL that takes a "
        "PUT (presigned).",
    )
    output_format: OutputFormat | None = Field(
        None, description="Default: by the suffix of output_path or output_url, else png."
    )
    quality: int | None = Field(
        None, ge=1, le=100, description="Lossy formats; 100 makes WebP and AVIF lossless."
    )
    target_dpi: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Dots per inch, written to the output. Default: DEFAULT_DPI or 150 if inches "
        "are given, else the input's own.",
    )
    target_width_inches: Inches | None = Field(None, description="Print width.")
    target_height_inches: Inches | None = Field(None, description="Print height.")
    target_width: Pixels | None = Field(None, description="Output width in pixels.")
    target_height: Pixels | None = Field(None, description="Output height in pixels.")
    crop: Crop = Field(
        "none", description="The part to keep if the print size has another aspect ratio."
    )
    tile_size: int | None = Field(
        None,
        ge=32,
        le=8192,
        description="Side of a tile, or height of a band, in input pixels. "
        "Default: by free memory.",
    )
    # Every method has these two, with values and defaults of its own.
    upscale_factor: float | ImagenFactor | None = None
    model: str = ""

    @property
    def factor(self) -> float | None:
        """`upscale_factor` as a number."""
        if isinstance(self.upscale_factor, str):
            return float(self.upscale_factor.removeprefix("x"))
        return self.upscale_factor

    @property
    def has_target(self) -> bool:
        """True if it states a size in inches or in pixels, beside which a factor counts for
        nothing."""
        sides = (self.target_width_inches, self.target_height_inches)
        return any(side is not None for side in (*sides, self.target_width, self.target_height))

    @model_validator(mode="after")
    def check_one_input(self) -> Self:
        """Refuse no input and two inputs: a job has exactly one picture."""
        inputs = (self.image_path, self.image_base64, self.image_url)
        if sum(value is not None for value in inputs) != 1:
            raise ValueError("give exactly one of image_path, image_base64, image_url")
        return self

    @model_validator(mode="after")
    def check_one_target(self) -> Self:
        """Refuse a target in inches beside one in pixels: they may disagree."""
        inches = self.target_width_inches is not None or self.target_height_inches is not None
        pixels = self.target_width is not None or self.target_height is not None
        if inches and pixels:
            raise ValueError("give the target size in inches or in pixels, not both")
        return self

    @model_validator(mode="after")
    def check_one_output(self) -> Self:
        """Refuse several outputs: the result names one."""
        named = (self.output_path is not None, self.output_base64, self.output_url is not None)
        if sum(named) > 1:
            raise ValueError("give only one of output_path, output_base64, output_url")
        return self


class EsrganConfig(ImageConfig):
    """ESRGAN, and every other single-image network that spandrel supports."""

    upscale_factor: float | None = Field(
        None,
        ge=1,
        le=16,
        description="Default: DEFAULT_UPSCALE_FACTOR or 4; 1 if `model` does not enlarge.",
    )
    model: FilePath = Field(
        DEFAULT_MODEL,
        description="A catalogue name, the path of a weights file, or `auto`: the bundled model "
        "that suits the picture.",
    )
    upscale_model: FilePath | None = Field(
        None, description="The same, under the name that FLUX uses; `model` takes precedence."
    )
    pre_model: FilePath | None = Field(None, description=_PRE_MODEL)
    use_fp16: bool = Field(True, description="False forces fp32, whatever `precision` says.")
    precision: Precision = Field(
        "auto", description="auto: the fastest one that is faithful on this device."
    )
    faces: bool = Field(
        False, description="Restore the faces of the enlarged picture, as the method face does."
    )
    face_model: FilePath = Field(DEFAULT_FACE_MODEL, description="The `model` of the method face.")
    face_strength: Strength = Field(1.0, description="The `strength` of the method face.")

    @model_validator(mode="before")
    @classmethod
    def take_upscale_model(cls, fields: Any) -> Any:
        """Use `upscale_model` as `model`: hosts may have one form for both methods."""
        if isinstance(fields, dict) and fields.get("upscale_model") is not None:
            return {"model": fields["upscale_model"], **fields}
        return fields


class FluxConfig(ImageConfig):
    """FLUX.1-dev: an ESRGAN upscale, then image-to-image in tiles."""

    upscale_factor: float | None = Field(
        None, ge=1, le=16, description="Default: DEFAULT_UPSCALE_FACTOR or 4."
    )
    model: FilePath = Field("flux1-dev-Q8_0", description="Catalogue name or GGUF path.")
    upscale_model: FilePath = Field(
        "4x-UltraSharp", description="First-stage model, as the `model` of the method esrgan."
    )
    pre_model: FilePath | None = Field(None, description=_PRE_MODEL)
    denoise: float = Field(0.2, ge=0, le=1, description="0 keeps the first stage unchanged.")
    steps: int = Field(20, ge=1, le=200, description="Model calls that are made per tile.")
    guidance: float = Field(3.5, ge=0, le=100)
    prompt: str = Field("", max_length=10_000)
    seed: int = Field(0, ge=0, le=2**63 - 1)
    tile_size: int | None = Field(
        512, ge=128, le=4096, description="Side of a tile in output pixels."
    )
    # A field of earlier versions: accepted, so that their jobs still run, and ignored.
    block_cache: SkipJsonSchema[float | None] = Field(None, exclude=True)


class ImagenConfig(ImageConfig):
    """Imagen on Vertex AI."""

    upscale_factor: ImagenFactor = "x4"
    model: str = Field("imagen-4.0-upscale-preview", min_length=1)
    tile: bool = Field(
        False,
        description="Cut a picture that is too large for one call into parts; each call is billed.",
    )
    gcp_project_id: str | None = Field(
        None, min_length=1, description="Default: GCP_PROJECT_ID from the environment."
    )
    gcp_region: str | None = Field(
        None, min_length=1, description="Default: GCP_REGION or us-central1."
    )


class FaceConfig(ImageConfig):
    """Restores the faces of a picture, and enlarges the picture if a size is asked for."""

    upscale_factor: float | None = Field(
        None,
        ge=1,
        le=16,
        description="Default: 1; with upscale_model, DEFAULT_UPSCALE_FACTOR or 4.",
    )
    model: FilePath = Field(
        DEFAULT_FACE_MODEL,
        description="GFPGANv1.4, GFPGANv1.3, RestoreFormer or CodeFormer, or the path of such a "
        "weights file.",
    )
    upscale_model: FilePath | None = Field(
        None,
        description="The ESRGAN model that enlarges the picture. Default: auto if the output "
        "is larger than the input.",
    )
    strength: Strength = Field(
        1.0, description="How much of a restored face is taken; 0 changes no pixel."
    )
    only_largest: bool = Field(False, description="Restore the largest face alone.")
    min_face_px: int = Field(
        24,
        ge=1,
        le=200_000,
        description="A face whose longer side has fewer pixels of the input is not restored.",
    )
    max_faces: int = Field(
        100, ge=1, le=10_000, description="The largest faces are restored, at most so many."
    )
    detector_threshold: float = Field(
        0.97,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="The least score of a face: a lower value finds more faces, and more that are "
        "none.",
    )
    precision: Precision = Field(
        "auto", description="auto: the fastest one that is faithful on this device."
    )

    @property
    def factor(self) -> float | None:
        """1 if neither a factor nor a model that enlarges is given."""
        return 1.0 if self.upscale_factor is None and not self.upscale_model else super().factor


class FakeConfig(Config):
    """The fake engine, for people who write hosts: every way in which a worker can behave.

    Runs `steps` steps of `step_s` seconds. The other fields say what happens at step `at_step`.
    """

    steps: int = Field(1, ge=0, le=1_000_000)
    step_s: float = Field(0.0, ge=0, le=3600, allow_inf_nan=False)
    load_s: float = Field(0.0, ge=0, le=3600, allow_inf_nan=False, description="Model load time.")
    model: str = Field("fake", min_length=1, description="Named in the result; see load_s.")
    at_step: int = Field(0, ge=0)
    print_text: Text | None = Field(None, description="print() it to stdout.")
    c_print_text: Text | None = Field(None, description="The same from C: puts() and write(1).")
    subprocess_text: Text | None = Field(None, description="The same from a child process.")
    raise_text: Text | None = Field(None, description="Raise a RuntimeError with this text.")
    error_code: ErrorCode | None = Field(
        None, strict=False, description="Fail with this code of the protocol."
    )
    exit_code: int | None = Field(None, ge=0, le=255, description="Exit the process at once.")
    signal: int | None = Field(None, ge=1, le=64, description="Kill the process with a signal.")
    hang: bool = Field(False, description="Make no more progress.")
    hang_native: bool = Field(False, description="The same in native code that holds the GIL.")
    ignore_cancel: bool = False
    spawn_sleeper: bool = Field(False, description="Start a process that outlives the job.")
    grow_mb: int = Field(0, ge=0, le=65536, description="Memory to allocate and never free.")
    out_of_memory: bool = Field(False, description="Fail as if memory had run out.")
    output_path: FilePath | None = Field(None, description="Write `output_text` there.")
    output_text: Text = ""
    only_on_attempt: int | None = Field(
        None, ge=1, description="Misbehave only on this attempt: 1 shows a recovery."
    )
