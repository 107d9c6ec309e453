"""Where the run touches the world: files, HTTP, SQLite, Parquet. Each imports nouns only."""
