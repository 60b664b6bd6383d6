"""A host in a page: it pipes JSON lines into `upscaled run` and shows each line, both ways.

python examples/demo.py [PICTURE]
"""

import json
import subprocess
import sys
from pathlib import Path

import pyvips

PICTURE = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("astronaut.jpg"))
OUTPUT = Path("demo-output").absolute()

# The side of the detail that before-after.jpg shows, in the picture's pixels.
DETAIL = 112

JOBS = [
    {
        "job_id": "four-times",
        "method": "esrgan",
        "config": {
            "image_path": str(PICTURE.absolute()),
            "output_path": str(OUTPUT / f"{PICTURE.stem}_4x.png"),
        },
    },
    {
        "job_id": "for-print",
        "method": "esrgan",
        "config": {
            "image_path": str(PICTURE.absolute()),
            "output_path": str(OUTPUT / f"{PICTURE.stem}_4x5in.jpg"),
            "target_width_inches": 4,
            "target_height_inches": 5,
            "target_dpi": 200,
            "crop": "center",
        },
    },
]


def show_before_and_after(upscaled: str) -> Path:
    """A detail of the picture, enlarged as a browser does and beside it by the model."""
    before = pyvips.Image.new_from_file(str(PICTURE)).autorot()
    after = pyvips.Image.new_from_file(upscaled)
    factor = after.width // before.width
    side = min(DETAIL, before.width, before.height)
    left, top = (before.width - side) // 2, (before.height - side) // 16
    box = (factor * left, factor * top, factor * side, factor * side)
    halves = [one.crop(*box) for one in (before.resize(factor, kernel="cubic"), after)]
    path = OUTPUT / "before-after.jpg"
    both = pyvips.Image.arrayjoin(halves, across=2, shim=6, background=[255])
    both.write_to_file(str(path), Q=90)
    return path


def main() -> int:
    """Run the jobs. Returns 0 if each has its picture."""
    OUTPUT.mkdir(exist_ok=True)
    pictures = []
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "upscaled_cli", "run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        for job in JOBS:
            line = json.dumps(job)
            print(f"host   -> {line}", flush=True)
            daemon.stdin.write(line + "\n")
        # The end of the input: finish what was sent, and go.
        daemon.stdin.close()
        for line in daemon.stdout:
            print(f"daemon <- {line}", end="", flush=True)
            message = json.loads(line)
            if message["type"] == "result":
                pictures.append(message)
    print()
    for message in pictures:
        before, after = message["input_size"], message["output_size"]
        print(
            f"{PICTURE.name}, {before['width']}x{before['height']}, is now "
            f"{after['width']}x{after['height']}: {message['output_path']}"
        )
    if len(pictures) < len(JOBS):
        return 1
    enlarged = next(one for one in pictures if one["job_id"] == "four-times")
    print(f"A detail, before and after: {show_before_and_after(enlarged['output_path'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
