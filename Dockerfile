# The operator's image: the decision, the simulator for dry runs, and the clients of Kubernetes and Prometheus; no
# learning stack. Every package is pinned by constraints/ and held to its hash.
#
#   docker build --tag rlscaler .
#   docker run --rm --volume "$PWD/examples:/examples:ro" rlscaler dry-run -f /examples/web.yaml
#
# The command that it starts with, `rlscaler run`, is not part of this version yet (see CHANGELOG.md).

FROM python:3.13.13-slim-trixie AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY constraints/build.txt constraints/operator.txt constraints/
RUN pip install --require-hashes --requirement constraints/build.txt \
 && python -m venv --without-pip /opt/rlscaler \
 && pip --python /opt/rlscaler/bin/python install --require-hashes --requirement constraints/operator.txt
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY sim sim
COPY training training
COPY operator operator
# The extra's packages are there already; without an index and with the check below none can be added or missed.
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
 && pip --python /opt/rlscaler/bin/python install --no-index "$(ls /wheel/*.whl)[operator]"

FROM python:3.13.13-slim-trixie
COPY --from=build /opt/rlscaler /opt/rlscaler
ENV PATH=/opt/rlscaler/bin:$PATH PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["rlscaler"]
CMD ["run"]
