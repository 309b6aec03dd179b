FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir '.[server,cli]' && useradd --create-home metered
USER metered
EXPOSE 7880
HEALTHCHECK --interval=10s --timeout=3s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7880/healthz', timeout=2)"]
ENTRYPOINT ["metered-realtime"]
CMD ["serve", "--host", "0.0.0.0", "--port", "7880"]
