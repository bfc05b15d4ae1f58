# The command `selftrain`, and the `mlflow` of the same version. docs/docker.md has the commands.
#
#   PYTHON         version of the base image
#   PIP_INDEX_URL  another package index than pip's own
#   TORCH_INDEX    index to take torch and torchvision from, such as PyTorch's for CPUs; without it
#                  pip's own, whose wheels for x86-64 hold CUDA's libraries: the machine adds the driver
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS wheel
ARG PIP_INDEX_URL
WORKDIR /srv/source
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY selftrain selftrain
COPY experiments experiments
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /srv/wheels .

FROM python:${PYTHON}-slim
ARG PIP_INDEX_URL
ARG TORCH_INDEX
ENV MLFLOW_DISABLE_TELEMETRY=true GIT_PYTHON_REFRESH=quiet PYTHONUNBUFFERED=1
WORKDIR /srv/selftrain

# Some gigabytes, and so before our own code, which changes more often.
COPY pyproject.toml .
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > pins.txt \
    && grep -E '^torch(vision)?==' pins.txt > torch.txt \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement torch.txt \
    && pip install --no-cache-dir --requirement pins.txt \
    && rm pyproject.toml pins.txt torch.txt

COPY --from=wheel /srv/wheels /srv/wheels
RUN pip install --no-cache-dir --no-deps /srv/wheels/*.whl && pip check && rm -r /srv/wheels

# A volume takes over who owns the folder that it is mounted on.
RUN useradd --uid 1000 --create-home selftrain \
    && mkdir --parents data outputs /srv/artifacts \
    && chown --recursive selftrain: /srv/selftrain /srv/artifacts
USER selftrain
ENTRYPOINT ["selftrain"]
CMD ["--help"]
