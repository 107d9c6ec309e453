"""Rules and edges put together: from one attempt at one endpoint up to a whole run."""
