"""File or URL -> upright picture within bounds. The one edge that uses Pillow.

files     the bytes of a regular file
remote    the bytes of a URL
segments  the structure of a JPEG or PNG
header    what a file's bytes say it is: format, size, orientation
metadata  the same picture without position, time, author and camera
decode    bytes -> upright, 8-bit, in sRGB, without transparency, in the size that is sent
colour    CMYK, LAB and embedded profiles -> sRGB
encode    JPEG or PNG, the smaller of the two, within a number of bytes
cache     equal pictures of a run are prepared once
prepare   the pictures of a row: the file's own bytes if nothing has to change, else all of the above
pool      the same in threads, ahead of the requests
measure   what a picture will be sent as, by its header alone
"""
