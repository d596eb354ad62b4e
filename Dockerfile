# The operator's image: the decision, the simulator for dry runs, and the clients of Kubernetes and Prometheus; no
# learning stack. Every package is pinned by constraints/ and held to its hash; the base is pinned by version, for a
# digest would be that of one registry's copy (docker build --build-arg BASE=python@sha256:... pins it for yours).
#
#   docker build --tag rlscaler:0.1.0 .
#   docker run --rm --volume "$PWD/examples:/examples:ro" rlscaler:0.1.0 dry-run -f /examples/web.yaml

ARG BASE=python:3.13.13-slim-trixie

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
COPY constraints/build.txt constraints/operator.txt constraints/
RUN pip install --require-hashes --requirement constraints/build.txt
# The asyncio half of the Kubernetes client is a third of all that is installed, and nothing here imports it.
RUN uv venv --python "$(command -v python)" /opt/rlscaler \
 && uv pip install --python /opt/rlscaler --compile-bytecode --require-hashes --requirement constraints/operator.txt \
 && rm -r /opt/rlscaler/lib/python3.*/site-packages/kubernetes/aio
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY sim sim
COPY training training
COPY operator operator
# The extra's packages are there already; without an index none can be added, and one that is missed ends the build.
RUN hatchling build -t wheel -d /wheel \
 && uv pip install --python /opt/rlscaler --compile-bytecode --no-index "$(ls /wheel/*.whl)[operator]"

FROM ${BASE}
LABEL org.opencontainers.image.title="rlscaler" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/rlscaler /opt/rlscaler
# The root may be read-only: bytecode was compiled above, and nothing is written while it runs.
ENV PATH=/opt/rlscaler/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["rlscaler"]
CMD ["run"]
