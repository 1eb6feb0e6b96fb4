"""Compare what two outputs of one dataset would serve."""
