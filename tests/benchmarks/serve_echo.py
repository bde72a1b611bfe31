"""The floor of any Python server: uvicorn reads the body and answers a fixed one.  serve_echo.py PORT ANSWER_FILE"""

import sys
from pathlib import Path
from typing import Any

import uvicorn

ANSWER = Path(sys.argv[2]).read_bytes()
HEAD: dict[str, Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))],
}
BODY: dict[str, Any] = {"type": "http.response.body", "body": ANSWER}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read all, answer."""
    while (await receive()).get("more_body"):
        pass
    await send(HEAD)
    await send(BODY)


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, lifespan="off")
