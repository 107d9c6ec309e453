"""What captionmill costs beside a minimal client, and how much of a limit it uses. `python -m benchmarks`."""
