"""What is on disk: the run folder, the journal, the parts of the dataset."""
