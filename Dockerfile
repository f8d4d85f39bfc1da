# The package in an image, from the wheel. Build the wheel first:
#
#   make package
#   docker build -t nuggets .
#   docker build -t nuggets --build-arg BASE=pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime .
#   docker run --rm nuggets train --demo --use_cpu true
#
# The first base has no CUDA libraries; torch brings its own. The second one has torch and CUDA already.
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG EXTRAS=s3,gcs
COPY dist/*.whl /tmp/wheel/
RUN python -m pip install --no-cache-dir "$(ls /tmp/wheel/*.whl)[${EXTRAS}]" && rm -r /tmp/wheel
WORKDIR /work
ENTRYPOINT ["nuggets"]
CMD ["--help"]
