# One image for serving and for batch. BASE may be any Debian with Python 3.11 or newer.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/prediction-api
ENV PATH=/opt/prediction-api/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Names of optional dependencies, comma-separated: s3, azure, gcs, jdbc, snowflake, synapse, signing, explain, lightgbm, xgboost, all
ARG EXTRAS=lightgbm,xgboost
COPY . .
# With JDBC, its bridge is compiled here, so that the image needs no compiler.
RUN pip install --constraint constraints.txt ".[${EXTRAS}]" \
 && case ",${EXTRAS}," in *,jdbc,*|*,all,*) \
        apt-get update && apt-get install -y --no-install-recommends libecj-java && cd / && python3 -m batch.jdbc.bridge_jar ;; esac \
 && pip uninstall -y pip \
 && python3 -m compileall -q /opt/prediction-api

FROM ${BASE}
# libgomp1: OpenMP of the tree libraries, for packages whose estimator itself must serve
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libgomp1 python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --gid 0 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin prediction-api \
 && install -d -o 10001 -g 0 -m 0750 /opt/ml/model
COPY --from=build /opt/prediction-api /opt/prediction-api
ENV PATH=/opt/prediction-api/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PREDICTION_API_HOST=0.0.0.0
USER 10001
WORKDIR /opt/ml
VOLUME /opt/ml/model
EXPOSE 8080 8443
STOPSIGNAL SIGTERM
# Asks whichever of the two ports is in use; the certificate is the operator's own, so it is not checked here.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python3", "-c", "\
import os, ssl, urllib.request as u; \
tls = os.environ.get('PREDICTION_API_TLS_ENABLED', '').lower() in ('1', 'y', 'yes', 'true'); \
port = os.environ.get('PREDICTION_API_HTTPS_PORT', '8443') if tls else os.environ.get('PREDICTION_API_HTTP_PORT', '8080'); \
u.urlopen(f\"http{'s' * tls}://127.0.0.1:{port}/ping\", timeout=4, context=ssl._create_unverified_context() if tls else None)"]
ENTRYPOINT ["prediction-api"]
