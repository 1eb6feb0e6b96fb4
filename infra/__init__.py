"""Where Larder runs: AWS (SAM), and the laptop (`infra.local`)."""
