"""May a request go now? The rules of one endpoint's flow control."""
