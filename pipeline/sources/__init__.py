"""Folder, CSV, JSONL or Parquet -> Rows.

record        what every reader yields, and the checks that all formats share
folder        a folder's images; which files count as images
csv_file, jsonl_file, parquet_file   one file a format
prompt        a prompt with {columns} -> the prompt of a row
rows          record -> Row: images, prompt, id
manifest      a source of rows: the table of readers, survey, duplicate ids
"""
