"""The one path of every picture: file to rows of pixels, rows of pixels to file.

Engines read rows from a `Source` (`read.open_source`) and write rows to a `Sink`
(`write.open_sink`); neither holds a whole picture, so memory does not grow with its height.
"""
