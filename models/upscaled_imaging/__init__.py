"""Pictures: file to rows of pixels, and rows of pixels to file.

Engines read rows from a `Source` (`read.open_source`) and write rows to a `Sink`
(`write.open_sink`). Neither holds a whole picture, so memory does not grow with its height.
"""
