# serve in a container (docs/containers.md), from the folder of the project:
#   docker build -f infra/serve.Dockerfile -t registry.example.com/larder-serve:0.1.0 .
# BASE has python3 (3.11 or newer) with pip.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
COPY serve/requirements.txt /locks/serve.txt
COPY server/requirements.txt /locks/server.txt
COPY infra/trim.py /trim.py
# The secret is optional: a pip.conf that names another registry.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,mode=0444 \
    python3 -m pip install --quiet --no-cache-dir --no-compile --require-hashes --no-deps --only-binary :all: \
      --target /app --requirement /locks/serve.txt --requirement /locks/server.txt \
    && python3 /trim.py /app
COPY . /project
WORKDIR /project
RUN cp -r wire serve server /app/ \
    && rm -r /app/serve/dev \
    && python3 -m enrich.datasets > /app/serve/datasets.json \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /app

FROM ${BASE}
COPY --from=build /app /app
WORKDIR /app
# As in template.yaml.
ENV PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 MALLOC_TOP_PAD_=16777216
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "server"]
CMD ["serve"]
