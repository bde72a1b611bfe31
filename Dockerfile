# One image for serving and for batch:  docker run IMAGE  serves,  docker run IMAGE batch job.json  scores.
#
# BASE is any Debian with Python 3.11 or newer. Where builds must repeat, name it by digest:
#   docker build --build-arg BASE=debian:trixie-slim@sha256:... .
# EXTRAS are optional dependencies of pyproject.toml, comma-separated. Without the JVM and the SDKs of the clouds:
#   docker build --build-arg EXTRAS=signing,lightgbm,xgboost .
ARG BASE=debian:trixie-slim
ARG EXTRAS=all

FROM ${BASE} AS build
ARG EXTRAS
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/prediction-api
ENV PATH=/opt/prediction-api/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# First the dependencies alone: this layer stays as long as they do.
COPY pyproject.toml hatch_build.py constraints.txt README.md LICENSE ./
COPY batch/jdbc batch/jdbc
RUN --mount=type=cache,target=/root/.cache/pip \
    mkdir -p batch model_repository prediction_api \
 && pip install --quiet --constraint constraints.txt ".[${EXTRAS}]" \
 && pip uninstall --quiet --yes portable-prediction-server
COPY . .
# With JDBC, its bridge is compiled here, so that the image needs no compiler.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --no-deps . \
 && case ",${EXTRAS}," in *,jdbc,*|*,all,*) \
        apt-get update && apt-get install -y --no-install-recommends libecj-java && (cd / && python3 -m batch.jdbc.bridge_jar) ;; esac \
 && pip check \
 && pip uninstall --quiet --yes pip \
 && tools/prune.sh /opt/prediction-api \
 && python3 -m compileall -q /opt/prediction-api

FROM ${BASE}
ARG EXTRAS
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Portable Prediction Server" \
      org.opencontainers.image.description="Serves packaged tabular models over HTTP and scores tables in batch." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# libgomp1 is the OpenMP of the tree libraries; Microsoft's driver for Synapse needs Kerberos and ltdl.
RUN case ",${EXTRAS}," in *,all,*|*,synapse,*) synapse="libgssapi-krb5-2 libkrb5-3 libltdl7" ;; esac \
 && apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libgomp1 python3 tini ${synapse:-} \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/* \
 && useradd --uid 10001 --gid 0 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin prediction-api \
 && install -d -o 10001 -g 0 -m 0775 /opt/ml \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=build /opt/prediction-api /opt/prediction-api
RUN --mount=type=bind,from=build,source=/src/tools,target=/tools \
    python3 /tools/dependencies.py sbom --prefix /opt/prediction-api > /opt/prediction-api/sbom.cdx.json
# /tmp is all that must be writable; HOME is there for libraries that insist on one.
ENV PATH=/opt/prediction-api/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PREDICTION_API_HOST=0.0.0.0
# By number, so that Kubernetes can see that it is not root. Group 0, so that any other number can serve what is mounted.
USER 10001:0
WORKDIR /tmp
# /opt/ml/model and /opt/ml/config are left out on purpose: where nothing is, a directory and a file can both be mounted.
# For the same reason there is no VOLUME; a volume for uploads is mounted at /opt/ml, whose owner it then has.
EXPOSE 8080 8443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["prediction-api", "health"]
# tini reaps whatever is orphaned, and passes signals on from the first moment: a PID 1 without handlers is deaf to them.
ENTRYPOINT ["tini", "--", "prediction-api"]
