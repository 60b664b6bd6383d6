"""The ESRGAN engine: any single-image network spandrel knows, exact, in bounded memory."""
