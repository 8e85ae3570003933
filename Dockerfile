# The operator. PYTHON_IMAGE is any image of Debian with Python 3.11 or later as python3.
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG UV_VERSION=0.13.9
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/mlenv
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --quiet "uv==${UV_VERSION}"
WORKDIR /src
# The lock speaks of every part of the workspace, so uv wants to see them all; only two are installed.
COPY pyproject.toml uv.lock ./
COPY api/pyproject.toml api/
COPY operator/pyproject.toml operator/
COPY trainer_image/pyproject.toml trainer_image/
COPY sdk/pyproject.toml sdk/
COPY local/pyproject.toml local/
RUN /opt/uv/bin/uv sync --locked --package mlenv-operator --no-dev --no-install-workspace --python "$(command -v python3)"
COPY api api
COPY operator operator
RUN /opt/uv/bin/uv sync --locked --package mlenv-operator --no-dev --no-editable --python "$(command -v python3)"
# The client's typed models of every API, 100 MB, are loaded lazily and never by the operator: it sends raw objects.
RUN find /opt/mlenv/lib/python3*/site-packages/kubernetes \
      -path '*/client/models/*' -not -name __init__.py -type f -delete -o \
      -path '*/client/api/*' -not -name __init__.py -type f -delete

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="mlenv/operator" \
      org.opencontainers.image.description="TCP, the training compute platform of MLEnv: the operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
COPY --from=build /opt/mlenv /opt/mlenv
# USER, as libraries ask who they are and the number has no entry in /etc/passwd.
ENV PATH=/opt/mlenv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    USER=mlenv \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["python", "-m", "mlenv_operator"]
CMD ["run"]
