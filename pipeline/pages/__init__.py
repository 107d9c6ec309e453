"""Web pages made from a run: report and gallery."""
