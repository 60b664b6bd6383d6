module upscaled

go 1.19
