"""One run over one output: prepare, check, publish, close."""
