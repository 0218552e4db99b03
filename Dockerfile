# An image with the `pspf` command: build it with `docker build -t pspf .`.
# An app goes on top:  FROM pspf  /  COPY myapp.py .  /  CMD ["worker", "myapp:stream"]

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY pspf pspf
RUN python -m venv /opt/pspf && /opt/pspf/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.11-slim
# The broker file of the embedded broker: a local disk, never a network share.
RUN useradd --create-home --uid 10001 pspf && mkdir -p /app/.pspf && chown -R pspf:pspf /app
COPY --from=build /opt/pspf /opt/pspf
ENV PATH=/opt/pspf/bin:$PATH PYTHONUNBUFFERED=1
USER pspf
WORKDIR /app
VOLUME /app/.pspf
# A worker drains on SIGTERM for 25 s at most: stop the container with a longer grace period.
STOPSIGNAL SIGTERM
ENTRYPOINT ["pspf"]
CMD ["worker"]
