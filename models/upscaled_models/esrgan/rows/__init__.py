"""Line buffering: networks that run row by row, without tiles and seams."""
