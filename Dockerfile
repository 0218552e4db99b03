# An image with the `pspf` command: build it with `docker build -t pspf .`.
# An app goes on top:  FROM pspf  /  COPY myapp.py .  /  CMD ["worker", "myapp:stream"]

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY pspf pspf
RUN pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir /wheels . \
 && python -m venv /opt/pspf \
 && /opt/pspf/bin/pip install --no-cache-dir --disable-pip-version-check /wheels/*.whl

FROM python:${PYTHON}-slim
# .pspf holds the file of the embedded broker, where no other is set: a local disk, never a network share.
RUN useradd --create-home --uid 10001 pspf && mkdir -p /app/.pspf && chown -R pspf:pspf /app
COPY --from=build /opt/pspf /opt/pspf
ENV PATH=/opt/pspf/bin:$PATH PYTHONUNBUFFERED=1
# A number, so that an orchestrator can see that it is not root.
USER 10001
WORKDIR /app
VOLUME /app/.pspf
# A worker drains on SIGTERM for 25 s at most: stop the container with a longer grace period.
STOPSIGNAL SIGTERM
# It asks the broker that PSPF_BACKEND names, as the worker does, and needs no port.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["pspf", "health", "ready"]
ENTRYPOINT ["pspf"]
CMD ["worker"]
