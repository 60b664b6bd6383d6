"""What upscales: engines, the catalogue, image reading and writing."""
