"""A client made with PyPI's `websockets`: what it saw of a server goes to standard output, one
JSON object a line. Usage: websockets_client.py URL SILENT_SECONDS"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

SIXTEEN_MIB = 16 << 20


def report(step, **what):
    print(json.dumps({"step": step, **what}), flush=True)


async def echoed(ws, message, expected=None):
    await ws.send(message)
    answer = await ws.recv()
    assert answer == (message if expected is None else expected), f"{len(answer)} others"


async def main(url, silent_seconds):
    # Its default is 1 MiB.
    limit = SIXTEEN_MIB + 1
    async with connect(url, max_size=limit) as ws:
        await echoed(ws, "grüße, 世界, 🌊")
        await echoed(ws, "")
        await echoed(ws, bytes(range(256)))
        report("short")
        await echoed(ws, ["grü", "", "ße, ", "🌊"], "grüße, 🌊")
        await echoed(ws, [b"\x00\x01", b"\x02"], b"\x00\x01\x02")
        report("fragmented")
        await echoed(ws, "ü" * (SIXTEEN_MIB // 2))
        await echoed(ws, bytes(range(256)) * (SIXTEEN_MIB // 256))
        report("long")
        pong = await ws.ping(b"are you there")
        await asyncio.wait_for(pong, 10)
        report("ping_answered")
        # The library answers the server's pings by itself; without, this would be too long.
        await asyncio.sleep(silent_seconds)
        await echoed(ws, "still here")
        report("stayed")
    report("closed", code=ws.close_code)

    async with connect(url, max_size=limit) as ws:
        await echoed(ws, "one message")
        report("waiting")
        texts = []
        try:
            while True:
                texts.append(await ws.recv())
        except ConnectionClosed as closed:
            report("told", texts=texts, code=closed.rcvd and closed.rcvd.code)


asyncio.run(main(sys.argv[1], float(sys.argv[2])))
