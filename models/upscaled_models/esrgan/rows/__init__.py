"""Networks run row by row, from a recording of their operations, without a seam or a tile."""
