"""``python -m prediction_api`` is ``prediction-api``."""

import sys

from prediction_api.cli import main

if __name__ == "__main__":
    sys.exit(main())
