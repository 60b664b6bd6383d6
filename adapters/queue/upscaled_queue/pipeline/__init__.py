"""The pipeline: score a picture, upscale it if it is too small, file it in a folder of a bucket."""
