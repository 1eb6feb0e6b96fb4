"""The third Lambda: token and features in, a prediction out, computed by a model at the time of the request."""
