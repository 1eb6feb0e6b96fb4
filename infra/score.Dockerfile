# score in a container (docs/containers.md), from the folder of the project:
#   docker build -f infra/score.Dockerfile -t registry.example.com/larder-score:0.1.0 .
# BASE has python3 (3.11 or newer) with pip, and glibc.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
COPY score/requirements.txt /locks/score.txt
COPY server/requirements.txt /locks/server.txt
COPY infra/trim.py /trim.py
# The secret is optional: a pip.conf that names another registry.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,mode=0444 \
    python3 -m pip install --quiet --no-cache-dir --no-compile --require-hashes --no-deps --only-binary :all: \
      --target /app --requirement /locks/score.txt --requirement /locks/server.txt \
    && python3 /trim.py /app
COPY . /project
WORKDIR /project
RUN cp -r wire serve score server /app/ \
    && rm -r /app/serve/dev /app/score/dev /app/score/publish /app/score/keep /app/score/models.py /app/score/__main__.py \
    && python3 -m enrich.datasets > /app/serve/datasets.json \
    && python3 -m score.models > /app/score/models.json \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE}
COPY --from=build /app /app
WORKDIR /app
ENV PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "server"]
CMD ["score"]
