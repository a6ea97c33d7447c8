# The service as an image, for a CPU (the default) or for CUDA; docs/containers.md tells how.
#
#   docker build --target cpu --build-arg TORCH_INDEX=... -t vlv:cpu .
#   docker build --target cuda -t vlv:cuda .

FROM python:3.11-slim-bookworm AS base
ENV PATH=/opt/vlv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

# A virtual environment, which the images take as a whole; compilers and caches stay behind.
FROM base AS build
RUN python -m venv /opt/vlv
WORKDIR /src
COPY constraints.txt ./

FROM build AS build-cpu
# The address of PyTorch's index of builds for CPUs. Its other packages are not taken from there.
ARG TORCH_INDEX=
RUN test -n "$TORCH_INDEX" || { echo "give --build-arg TORCH_INDEX=, see docs/containers.md"; exit 1; }
RUN pip install --no-deps -c constraints.txt --index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src src
RUN pip install -c constraints.txt '.[serve]'

FROM build AS build-cuda
RUN pip install -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src src
RUN pip install -c constraints.txt '.[serve,quantization]'

# Nothing below belongs to the user that runs it, but /cache for models of the Hub.
FROM base AS run
RUN groupadd --gid 10001 vlv \
    && useradd --uid 10001 --gid vlv --no-create-home --home-dir /tmp vlv \
    && install -d -o vlv -g vlv /cache
ENV HOME=/tmp \
    HF_HOME=/cache/huggingface \
    VLV_CACHE=/cache/vlv \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
VOLUME /cache
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["vlv"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--api-key-file", "/run/secrets/vlv-api-key"]

FROM run AS cuda
COPY --from=build-cuda /opt/vlv /opt/vlv

FROM run AS cpu
COPY --from=build-cpu /opt/vlv /opt/vlv
