module github.com/upscaled/upscaled/adapters/go

go 1.19
