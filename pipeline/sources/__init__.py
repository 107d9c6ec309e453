"""Folder, CSV, JSONL or Parquet -> Rows."""
