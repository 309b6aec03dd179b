# The signalling server and the room page. `docker build -t metered-realtime .`

# What builds the package stays in this stage.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/metered-realtime \
    && /opt/metered-realtime/bin/pip install --no-cache-dir '.[cli,redis,otel]' \
    && /opt/metered-realtime/bin/pip uninstall --yes --quiet pip setuptools

FROM python:3.11-slim
LABEL org.opencontainers.image.title="metered-realtime" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/metered-realtime /opt/metered-realtime
ENV PATH=/opt/metered-realtime/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes can check that it is not root. The server writes no file.
USER 10001:10001
EXPOSE 7880
STOPSIGNAL SIGTERM
# The image has no curl. `/healthz` answers while the process works, also while it drains.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7880/healthz', timeout=2)"]
ENTRYPOINT ["metered-realtime"]
CMD ["serve", "--host", "0.0.0.0", "--port", "7880"]
