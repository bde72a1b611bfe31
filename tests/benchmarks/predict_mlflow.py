"""
MLflow's own batch command, and the memory that it took:  predict_mlflow.py MODEL IN.json OUT.json

Runs in an environment of its own and so imports nothing of this project.
"""

import sys
from pathlib import Path

from mlflow.cli import cli

model, source, target = sys.argv[1:]
try:
    cli(["models", "predict", "-m", model, "-i", source, "-o", target, "-t", "json", "--env-manager", "local"])
except SystemExit as end:
    if end.code:
        raise
print(Path("/proc/self/status").read_text())
