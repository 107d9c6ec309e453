"""Web pages made from a run.

html         templates, the style sheet, how figures are written
plots        charts as SVG
thumbnails   small pictures
report_page  report.html
selection    which rows a page shows, and in which order
paging       rows page by page
gallery      picture beside caption
"""
