"""The answers of a run in the formats of other tools: one file a format, one table of formats."""
