"""File or URL -> upright picture within bounds. An edge of several rooms; the one place that sees Pillow.

files    the bytes of a regular file
remote   ... or of a URL
decode   bytes -> upright, 8-bit, in sRGB, without transparency, in the size that is sent
colour   CMYK, LAB and embedded profiles -> sRGB
encode   JPEG or PNG, whichever is smaller, within the bytes
metadata the same bytes without where, when and by whom
cache    the same picture twice is prepared once
prepare  a row's pictures: the file's own bytes where nothing has to change, else all of this
pool     ... in threads, ahead of the requests
"""
