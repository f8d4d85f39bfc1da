# The package in an image, from the wheel. Build the wheel first:
#
#   make package
#   docker build -t nuggets .
#   docker build -t nuggets --build-arg BASE=pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime .
#   docker run --rm -v "$PWD":/work nuggets train --demo --use_cpu true
#   docker run --rm -v "$PWD":/work --user "$(id -u):$(id -g)" nuggets train --demo --use_cpu true
#
# The first base has no CUDA libraries; torch brings its own. The second one has torch and CUDA already. With `-v`, files,
# results and caches are in your directory; with `--user`, they belong to you and not to root.
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG EXTRAS=s3,gcs
# Triton, which builds the attention on a GPU, calls a C compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY dist/*.whl /tmp/wheel/
RUN python -m pip install --no-cache-dir "$(ls /tmp/wheel/*.whl)[${EXTRAS}]" && rm -r /tmp/wheel && mkdir -m 1777 /work
# Any user of `--user` has a name and a home to write to, which torch and huggingface_hub need.
ENV HOME=/work USER=nuggets
WORKDIR /work
ENTRYPOINT ["nuggets"]
CMD ["--help"]
