# mypy: ignore-errors
"""Flask with its own threaded server."""

from flask import Flask, jsonify, request
from score_model import load

app = Flask(__name__)
predict = load()


@app.post("/score")
def score() -> object:
    return jsonify({"prediction": predict(request.get_json())})


if __name__ == "__main__":
    import os

    from werkzeug.serving import WSGIRequestHandler

    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # keep-alive, as with all others
    app.run("127.0.0.1", int(os.environ["BENCH_PORT"]), threaded=True)
