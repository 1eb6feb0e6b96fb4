"""Flight delays: 336,776 real flights of 2013, a model that predicts their delay, and the demo that serves it."""
