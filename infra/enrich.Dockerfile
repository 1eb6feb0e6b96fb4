# enrich as an image, for deployments with a dataset that has a `derive` step: pandas exceeds the quota of a zip.
# Build from the repository's root: docker build -f infra/enrich.Dockerfile --platform linux/arm64 .
# EnrichFunction in infra/template.yaml then needs PackageType: Image and ImageUri, without Handler, Runtime and CodeUri.
FROM public.ecr.aws/lambda/python:3.13-arm64
COPY enrich/requirements.txt infra/enrich-image.txt /tmp/
RUN python -m pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes \
      -r /tmp/requirements.txt -r /tmp/enrich-image.txt \
 && rm /tmp/requirements.txt /tmp/enrich-image.txt
COPY enrich ${LAMBDA_TASK_ROOT}/enrich
COPY datasets ${LAMBDA_TASK_ROOT}/datasets
COPY wire ${LAMBDA_TASK_ROOT}/wire
COPY serve/__init__.py serve/item.py serve/datasets.py ${LAMBDA_TASK_ROOT}/serve/
COPY notify/__init__.py notify/bus.py ${LAMBDA_TASK_ROOT}/notify/
CMD ["enrich.handler.handler"]
