"""The ESRGAN engine: any single-image network of spandrel, in bounded memory."""
